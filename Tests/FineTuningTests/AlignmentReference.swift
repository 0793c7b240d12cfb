import Foundation
import NeuralNetworks
import TensorKernels
import Testing

/// What aligned texts add to the logits, in doubles and loops, of a network whose block adds nothing to its input.
struct AlignmentReference {
  private let values: [String: [Double]]
  private let taps: [(number: Int, rows: [[Double]])]
  private let texts: [[Range<Int>]]
  private let width: Int
  private let narrow: Int

  /// - Parameter texts: the tokens of each sample's two texts.
  init(_ tree: ParameterTree, taps: [(number: Int, rows: EncodedRows)], texts: [[Range<Int>]]) throws {
    self.texts = texts
    width = taps[0].rows.width
    narrow = try #require(tree.parameter(named: "alignment.bias")).count
    values = Dictionary(
      uniqueKeysWithValues: tree.parameters.map { parameter in
        (parameter.name, (0..<parameter.count).map { Double(parameter.values[$0]) })
      })
    self.taps = taps.map { number, rows in
      let arena = Arena(floatCount: rows.rows * rows.width)
      let states = arena.matrix(0, rows: rows.rows, columns: rows.width)
      decodeRows(rows, into: states)
      return (number, (0..<rows.rows).map { row in (0..<rows.width).map { Double(states[row, $0]) } })
    }
  }

  private func value(_ name: String) throws -> [Double] { try #require(values[name], "\(name)") }

  private func gelu(_ x: Double) -> Double { x * 0.5 * (1 + erf(x / 2.0.squareRoot())) }

  private func norm(_ x: [Double], _ name: String) throws -> [Double] {
    let mean = x.reduce(0, +) / Double(x.count)
    let deviation = (x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(x.count) + 1e-6).squareRoot()
    let (weight, bias) = (try value("\(name).weight"), try value("\(name).bias"))
    return x.indices.map { (x[$0] - mean) / deviation * weight[$0] + bias[$0] }
  }

  /// `[|x − y|, x ⊙ y, x]` and the scaled closeness of a token whose cosines with the other text's tokens count.
  private func features(_ x: [[Double]], _ token: Int, _ other: Range<Int>) -> (all: [Double], close: Double)
  {
    let own = x[token]
    let cosines = other.map { zip(own, x[$0]).reduce(0) { $0 + $1.0 * $1.1 } / Double(width) }
    let weights = cosines.map { exp(20 * $0) }
    let y = (0..<width).map { column in
      zip(other, weights).reduce(0.0) { $0 + x[$1.0][column] * $1.1 } / max(1e-300, weights.reduce(0, +))
    }
    let all = zip(own, y).map { abs($0 - $1) } + zip(own, y).map { $0 * $1 } + own
    return (all, cosines.max().map { 4 * ($0 - 0.7) } ?? 0)
  }

  /// The sums over the taps, a row a token, with the bias.
  private func sums() throws -> [[Double]] {
    var sums = Array(repeating: try value("alignment.bias"), count: taps[0].rows.count)
    for tap in taps {
      let prefix = "encoder.layers.\(tap.number - 1).alignment"
      let (weight, closeness) = (try value("\(prefix).weight"), try value("\(prefix).closeness"))
      let x = tap.rows.map { row -> [Double] in
        let length = row.reduce(0) { $0 + $1 * $1 }.squareRoot()
        return row.map { $0 * Double(width).squareRoot() / length }
      }
      for (own, other) in texts.flatMap({ [($0[0], $0[1]), ($0[1], $0[0])] }) {
        for token in own {
          let (all, close) = features(x, token, other)
          for row in 0..<narrow {
            sums[token][row] +=
              close * closeness[row]
              + all.indices.reduce(0.0) { $0 + weight[row * all.count + $1] * all[$1] }
          }
        }
      }
    }
    return sums
  }

  /// What is added to each sample's logits.
  func logits() throws -> [[Double]] {
    let norms = ["alignment.norm", "alignment.block.selfAttention.norm", "alignment.block.feedForward.norm"]
    let states = try sums().map { sum in try norms.reduce(sum.map(gelu)) { try norm($0, $1) } }
    let (dense, bias) = (try value("alignment.dense.weight"), try value("alignment.dense.bias"))
    let head = try value("head.alignment.weight")
    return texts.map { pair in
      func summary(_ column: Int, _ fold: ([Double]) -> Double) -> [Double] {
        pair.map { text in text.isEmpty ? 0 : fold(text.map { states[$0][column] }) }
      }
      let means = (0..<narrow).map { summary($0) { $0.reduce(0, +) / Double($0.count) } }
      let largest = (0..<narrow).map { summary($0) { $0.max() ?? 0 } }
      let features = [means, largest].flatMap { one in
        one.map { $0[0] + $0[1] } + one.map { abs($0[0] - $0[1]) }
      }
      let active = (0..<narrow).map { row in
        gelu(
          bias[row] + features.indices.reduce(0.0) { $0 + dense[row * features.count + $1] * features[$1] })
      }
      return (0..<head.count / narrow).map { output in
        (0..<narrow).reduce(0.0) { $0 + head[output * narrow + $1] * active[$1] }
      }
    }
  }
}
