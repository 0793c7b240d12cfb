import Determinism
import TensorKernels

/// Owned storage behind a `Matrix` view, with a margin that tests watch for writes out of bounds.
final class MatrixFixture {
  static let margin = 64
  static let untouched: Float = -123.5
  let storage: UnsafeMutableBufferPointer<Float>
  let matrix: Matrix

  /// `offset` shifts the start by floats, to vary the alignment.
  init(rows: Int, columns: Int, stride: Int? = nil, offset: Int = 0, _ value: () -> Float = { 0 }) {
    let stride = stride ?? columns
    storage = .allocate(capacity: rows * stride + 2 * Self.margin + offset)
    storage.initialize(repeating: Self.untouched)
    matrix = Matrix(
      storage.baseAddress! + Self.margin + offset, rows: rows, columns: columns, stride: stride)
    for row in 0..<rows { for column in 0..<columns { matrix[row, column] = value() } }
  }

  convenience init(rows: Int, columns: Int, stride: Int? = nil, random: inout SeededGenerator) {
    var generator = random
    self.init(rows: rows, columns: columns, stride: stride) { generator.normalFloat() }
    random = generator
  }

  deinit { storage.deallocate() }

  /// The values row after row, without the gaps of the stride.
  var values: [Float] {
    (0..<matrix.rows).flatMap { row in (0..<matrix.columns).map { matrix[row, $0] } }
  }

  /// True when nothing outside the matrix was written.
  var marginsAreUntouched: Bool {
    let first = matrix.base - storage.baseAddress!
    return storage.indices.allSatisfy { index in
      let place = index - first
      let inside = place >= 0 && place < matrix.rows * matrix.stride && place % matrix.stride < matrix.columns
      return inside || storage[index] == Self.untouched
    }
  }
}

/// The largest |a − b| / (1 + |b|).
func largestError(_ a: [Float], _ b: [Float]) -> Float {
  precondition(a.count == b.count, "\(a.count) values against \(b.count)")
  return zip(a, b).reduce(0) { worst, pair in
    let error = (pair.0 - pair.1).magnitude / (1 + pair.1.magnitude)
    return error.isNaN ? .infinity : max(worst, error)
  }
}
