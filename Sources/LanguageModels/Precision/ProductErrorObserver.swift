import NeuralNetworks
import Synchronization
import TensorKernels

/// Lets a forward go on in float32 and measures how far the converted matrix is from it on the rows it sees.
final class ProductErrorObserver: FrozenProductObserver {
  private let exact: Parameter
  private let candidate: FrozenWeight
  private let sums = Mutex(Sums())

  private struct Sums {
    var rows = 0
    /// Σ over rows of ‖converted − exact‖² / ‖exact‖².
    var squares = 0.0
  }

  init(exact: Parameter, candidate: FrozenWeight) {
    self.exact = exact
    self.candidate = candidate
  }

  /// Root mean square over the rows of a row's relative error; 0 before any row.
  var relativeError: Double {
    sums.withLock { $0.rows == 0 ? 0 : ($0.squares / Double($0.rows)).squareRoot() }
  }

  func multiply(_ x: Matrix, into c: Matrix, epilogue: Epilogue) {
    let plain = Arena(floatCount: 2 * c.rows * c.columns)
    let first = Matrix(plain.base, rows: c.rows, columns: c.columns)
    let second = Matrix(plain.base + c.rows * c.columns, rows: c.rows, columns: c.columns)
    matrixMultiply(x, .none, exact.matrix, .transposed, into: first)
    candidate.multiply(x, into: second, epilogue: Epilogue())
    var own = Sums()
    for row in 0..<c.rows {
      let values = first.base + row * c.columns
      let norm = sumOfSquares(values, count: c.columns)
      guard norm > 0 else { continue }
      let difference = second.base + row * c.columns
      for column in 0..<c.columns { difference[column] -= values[column] }
      own.rows += 1
      own.squares += sumOfSquares(difference, count: c.columns) / norm
    }
    withExtendedLifetime(plain) {}
    sums.withLock {
      $0.rows += own.rows
      $0.squares += own.squares
    }
    matrixMultiply(x, .none, exact.matrix, .transposed, into: c, epilogue: epilogue)
  }
}
