import Foundation
import NeuralNetworks
import TensorKernels

/// Rows of doubles: the plain form of a matrix in the reference.
typealias Rows = [[Double]]

/// The same block written once more, in double precision, one obvious loop after another.
///
/// Its values are the oracle of the forward; its finite differences, which double precision makes good to
/// nine digits, are the oracle of the hand-written backward.
struct ReferenceBlock {
  let configuration: BlockConfiguration
  var leaves: [String: [Double]]

  func forward(
    _ input: Rows, lengths: [Int], bias: [Double]?, span: Int, encoder: Rows?, encoderLengths: [Int]
  ) -> Rows {
    var stream = subLayer(input, norm: "P.selfAttention.norm") { rows in
      attention(
        rows, rows, "P.selfAttention", lengths, lengths, causal: configuration.causal, bias: bias, span)
    }
    if let encoder {
      stream = subLayer(stream, norm: "P.crossAttention.norm") { rows in
        attention(
          rows, encoder, "P.crossAttention", lengths, encoderLengths, causal: false, bias: nil, span)
      }
    }
    return subLayer(stream, norm: "P.feedForward.norm") { rows in
      let up = linear(rows, "P.feedForward.up", outputs: configuration.hidden)
      var hidden = up
      let gate =
        configuration.gated ? linear(rows, "P.feedForward.gate", outputs: configuration.hidden) : nil
      for (i, row) in up.enumerated() {
        for (j, value) in row.enumerated() {
          hidden[i][j] = gate.map { activate($0[i][j]) * value } ?? activate(value)
        }
      }
      return linear(hidden, "P.feedForward.down", outputs: configuration.width)
    }
  }

  private func subLayer(_ x: Rows, norm: String, _ body: (Rows) -> Rows) -> Rows {
    switch configuration.placement {
    case .pre: return add(x, body(normalize(x, norm)))
    case .post: return normalize(add(x, body(x)), norm)
    }
  }

  private func add(_ a: Rows, _ b: Rows) -> Rows {
    zip(a, b).map { zip($0, $1).map { $0 + $1 } }
  }

  private func activate(_ x: Double) -> Double {
    switch configuration.activation {
    case .none: x
    case .relu: max(x, 0)
    case .gelu: 0.5 * x * (1 + erf(x / 2.0.squareRoot()))
    case .geluTanh: 0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    }
  }

  private func normalize(_ x: Rows, _ name: String) -> Rows {
    let weight = leaves["\(name).weight"] ?? []
    let shift = leaves["\(name).bias"]
    return x.map { row in
      let mean = configuration.norm == .layer ? row.reduce(0, +) / Double(row.count) : 0
      let variance = row.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(row.count)
      let scale = 1 / (variance + Double(configuration.epsilon)).squareRoot()
      return row.indices.map { (row[$0] - mean) * scale * weight[$0] + (shift?[$0] ?? 0) }
    }
  }

  private func linear(_ x: Rows, _ name: String, outputs: Int) -> Rows {
    let weight = leaves["\(name).weight"] ?? []
    let bias = leaves["\(name).bias"]
    return x.map { row in
      (0..<outputs).map { output in
        var sum = bias?[output] ?? 0
        for (input, value) in row.enumerated() { sum += value * weight[output * row.count + input] }
        return sum
      }
    }
  }

  private func attention(
    _ x: Rows, _ y: Rows, _ name: String, _ lengths: [Int], _ keyLengths: [Int], causal: Bool,
    bias: [Double]?, _ span: Int
  ) -> Rows {
    let size = configuration.headSize
    let query = linear(x, "\(name).query", outputs: configuration.inner)
    let key = linear(y, "\(name).key", outputs: configuration.inner)
    let value = linear(y, "\(name).value", outputs: configuration.inner)
    var context = Rows(
      repeating: [Double](repeating: 0, count: configuration.inner), count: x.count)
    var (start, keyStart) = (0, 0)
    for (length, keyLength) in zip(lengths, keyLengths) {
      for i in 0..<length {
        for head in 0..<configuration.heads {
          let columns = head * size..<(head + 1) * size
          let visible = causal ? i + 1 : keyLength
          let scores = (0..<visible).map { j in
            var sum = 0.0
            for c in columns { sum += query[start + i][c] * key[keyStart + j][c] }
            sum *= Double(configuration.attentionScale)
            return sum + (bias.map { $0[head * (2 * span - 1) + span - 1 + j - i] } ?? 0)
          }
          let top = scores.max() ?? 0
          let weights = scores.map { exp($0 - top) }
          let total = weights.reduce(0, +)
          for (j, weight) in weights.enumerated() {
            for c in columns { context[start + i][c] += weight / total * value[keyStart + j][c] }
          }
        }
      }
      start += length
      keyStart += keyLength
    }
    return linear(context, "\(name).output", outputs: configuration.width)
  }
}
