import CKernels

/// The 16-bit formats of frozen weights.
package enum HalfFormat: Sendable, Equatable {
  /// IEEE 754 half precision: 11 bits of mantissa, magnitudes to 65504.
  case float16
  /// The upper half of a float32: 8 bits of mantissa, its whole range.
  case bfloat16

  var kernelNumber: Int32 {
    switch self {
    case .float16: Int32(HEARTH_FLOAT16)
    case .bfloat16: Int32(HEARTH_BFLOAT16)
    }
  }
}

/// A borrowed row-major matrix of 16-bit weights, [outputs × inputs], which is only ever read.
///
/// - Safety: the creator keeps `rows * columns` elements at `base` for the life of the value.
package struct HalfMatrix: @unchecked Sendable {
  /// The first element.
  package let base: UnsafePointer<UInt16>
  /// Number of rows.
  package let rows: Int
  /// Number of columns.
  package let columns: Int
  /// How an element is stored.
  package let format: HalfFormat

  /// A view of `rows` × `columns` elements at `base`.
  package init(_ base: UnsafePointer<UInt16>, rows: Int, columns: Int, format: HalfFormat) {
    precondition(rows >= 0 && columns >= 0, "a matrix of \(rows) x \(columns) cannot be")
    self.base = base
    self.rows = rows
    self.columns = columns
    self.format = format
  }

  /// The view of `count` rows from `first`.
  package func rowRange(_ first: Int, count: Int) -> HalfMatrix {
    precondition(first >= 0 && count >= 0 && first + count <= rows, "rows \(first)+\(count) of \(rows)")
    return HalfMatrix(base + first * columns, rows: count, columns: columns, format: format)
  }

  /// Writes the elements as float32; exact.
  package func decode(into y: Matrix, using set: KernelSet = .best) {
    precondition(
      y.rows == rows && y.columns == columns, "decoding \(rows) x \(columns) into \(y.rows) x \(y.columns)")
    let decode = format == .float16 ? set.kernels.pointee.decode_float16 : set.kernels.pointee.decode_bfloat16
    for row in 0..<rows { decode(base + row * columns, columns, y.base + row * y.stride) }
  }
}

/// Rounds float32 rows to 16 bits, to nearest even, and returns how many values did not fit.
///
/// A value does not fit float16 when it is not finite or its magnitude is above 65504; bfloat16 has float32's range.
package func encodeHalf(
  _ x: Matrix, _ format: HalfFormat, into y: UnsafeMutablePointer<UInt16>, using set: KernelSet = .best
) -> Int {
  var misfits = 0
  for row in 0..<x.rows {
    let (source, target) = (x.base + row * x.stride, y + row * x.columns)
    switch format {
    case .float16: misfits += set.kernels.pointee.encode_float16(source, x.columns, target)
    case .bfloat16: set.kernels.pointee.encode_bfloat16(source, x.columns, target)
    }
  }
  return misfits
}

/// c = epilogue(x·wᵀ) for 16-bit weights, which are expanded to float32 tile by tile.
///
/// The chains of multiply-adds are those of the packed float32 kernels over the expanded weights, to the bit.
package func matrixMultiply(
  _ x: Matrix, transposed w: HalfMatrix, into c: Matrix, epilogue: Epilogue = Epilogue(),
  using set: KernelSet = .best
) {
  precondition(
    x.rows == c.rows && x.columns == w.columns && w.rows == c.columns,
    "product of \(x.rows) x \(x.columns) and (\(w.rows) x \(w.columns))ᵀ into \(c.rows) x \(c.columns)")
  let weight = hearth_operand(
    base: UnsafeRawPointer(w.base), row_bytes: w.columns * MemoryLayout<UInt16>.stride,
    element: w.format.kernelNumber, transposed: 1)
  multiplyPacked(operand(x, .none), weight, depth: x.columns, into: c, epilogue: epilogue, set: set)
}
