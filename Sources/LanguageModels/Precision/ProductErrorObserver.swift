import NeuralNetworks
import Synchronization
import TensorKernels

/// Lets a forward go on in float32 and measures, on the rows it sees, how far the converted matrix is from it and how
/// large each input is.
final class ProductErrorObserver: FrozenProductObserver {
  private let exact: Parameter
  private let candidate: FrozenWeight
  private let sums: Mutex<Sums>

  private struct Sums {
    var rows = 0
    /// Σ over rows of ‖converted − exact‖² / ‖exact‖².
    var squares = 0.0
    /// The largest magnitude of each input.
    var largest: [Float]
  }

  init(exact: Parameter, candidate: FrozenWeight) {
    self.exact = exact
    self.candidate = candidate
    sums = Mutex(Sums(largest: Array(repeating: 0, count: exact.columns)))
  }

  /// Root mean square over the rows of a row's relative error; 0 before any row.
  var relativeError: Double {
    sums.withLock { $0.rows == 0 ? 0 : ($0.squares / Double($0.rows)).squareRoot() }
  }

  /// Inputs whose largest magnitude is above `factor` times the median input's, ascending.
  ///
  /// The largest ones, when they are more than `share` of all inputs.
  func outlierColumns(factor: Float, share: Double) -> [Int] {
    let limit = max(1, Int(Double(exact.columns) * share))
    let largest = sums.withLock { $0.largest }
    let bound = factor * largest.sorted()[largest.count / 2]
    let beyond = largest.indices.filter { largest[$0] > bound }
    let ranked = beyond.sorted {
      largest[$0] != largest[$1] ? largest[$0] > largest[$1] : $0 < $1
    }
    return ranked.prefix(limit).sorted()
  }

  func multiply(_ x: Matrix, into c: Matrix, epilogue: Epilogue) {
    let plain = Arena(floatCount: 2 * c.rows * c.columns)
    let first = Matrix(plain.base, rows: c.rows, columns: c.columns)
    let second = Matrix(plain.base + c.rows * c.columns, rows: c.rows, columns: c.columns)
    exact.product(x, into: first)
    candidate.multiply(x, into: second, epilogue: Epilogue())
    sums.withLock { sums in
      for row in 0..<c.rows {
        for column in 0..<x.columns {
          sums.largest[column] = max(sums.largest[column], x[row, column].magnitude)
        }
        let values = first.base + row * c.columns
        let norm = sumOfSquares(values, count: c.columns)
        guard norm > 0 else { continue }
        let difference = second.base + row * c.columns
        for column in 0..<c.columns { difference[column] -= values[column] }
        sums.rows += 1
        sums.squares += sumOfSquares(difference, count: c.columns) / norm
      }
    }
    withExtendedLifetime(plain) {}
    exact.product(x, into: c, epilogue: epilogue)
  }
}
