/// A borrowed row-major float32 matrix: it never owns the memory that it points at.
///
/// Hot paths hold these inside execution plans, which `Span` cannot do (it may not be stored), hence a
/// pointer. The owner is an `Arena`, a mapped file or a parameter vector that outlives the plan.
/// A matrix over a mapped file is read-only by convention: kernels write only to the operand named `into`.
///
/// - Safety: the creator guarantees `rows * stride` floats at `base` for the life of the value.
package struct Matrix: @unchecked Sendable {
  /// The first element.
  package var base: UnsafeMutablePointer<Float>
  /// Number of rows.
  package var rows: Int
  /// Number of columns in use.
  package var columns: Int
  /// Distance between the starts of two rows, in floats; at least `columns`.
  package var stride: Int

  /// A view of `rows` × `columns` floats at `base`; `stride` defaults to `columns`.
  package init(_ base: UnsafeMutablePointer<Float>, rows: Int, columns: Int, stride: Int? = nil) {
    precondition(rows >= 0 && columns >= 0, "a matrix of \(rows) x \(columns) cannot be")
    precondition((stride ?? columns) >= columns, "stride \(stride ?? columns) is under \(columns) columns")
    self.base = base
    self.rows = rows
    self.columns = columns
    self.stride = stride ?? columns
  }

  /// A read-only view, for operands only.
  package init(reading base: UnsafePointer<Float>, rows: Int, columns: Int, stride: Int? = nil) {
    self.init(UnsafeMutablePointer(mutating: base), rows: rows, columns: columns, stride: stride)
  }

  /// The view of `count` rows from `first`.
  package func rowRange(_ first: Int, count: Int) -> Matrix {
    precondition(first >= 0 && count >= 0 && first + count <= rows, "rows \(first)+\(count) of \(rows)")
    return Matrix(base + first * stride, rows: count, columns: columns, stride: stride)
  }

  /// The view of `count` columns from `first`.
  package func columnRange(_ first: Int, count: Int) -> Matrix {
    precondition(
      first >= 0 && count >= 0 && first + count <= columns, "columns \(first)+\(count) of \(columns)")
    return Matrix(base + first, rows: rows, columns: count, stride: stride)
  }

  /// One element, for tests and cold code.
  package subscript(row: Int, column: Int) -> Float {
    get { base[row * stride + column] }
    nonmutating set { base[row * stride + column] = newValue }
  }
}
