/// How one element of a cached activation is stored.
public enum ActivationElement: String, Sendable, Equatable, Codable, CaseIterable {
  /// IEEE 754 single precision, 4 bytes.
  case float32
  /// IEEE 754 half precision, 2 bytes, round to nearest even.
  case float16
  /// Signed 8-bit integers under one float32 scale a row (a token of a layer).
  case int8

  /// Bytes of one encoded row of `width` elements.
  ///
  /// An int8 row is its scale (4 bytes) followed by the elements, padded to a multiple of 4.
  package func rowBytes(width: Int) -> Int {
    switch self {
    case .float32: 4 * width
    case .float16: 2 * width
    case .int8: 4 + (width + 3) / 4 * 4
    }
  }
}

/// A borrowed block of encoded activation rows: what the backbone writes and the side network reads.
///
/// Live and cached training both read taps through this type, so both see the same rounded values
/// (docs/ARCHITECTURE.md, "rounded taps").
///
/// - Safety: the creator guarantees `rows * rowBytes` bytes at `base` for the life of the value.
package struct EncodedRows: @unchecked Sendable {
  /// First byte of the first row; aligned to 4 bytes.
  package var base: UnsafeMutableRawPointer
  /// Number of rows (tokens).
  package var rows: Int
  /// Elements a row.
  package var width: Int
  /// Storage of an element.
  package var element: ActivationElement

  /// A view of `rows` encoded rows at `base`.
  package init(_ base: UnsafeMutableRawPointer, rows: Int, width: Int, element: ActivationElement) {
    self.base = base
    self.rows = rows
    self.width = width
    self.element = element
  }

  /// Bytes from one row to the next.
  package var rowBytes: Int { element.rowBytes(width: width) }
  /// Bytes of the whole block.
  package var byteCount: Int { rows * rowBytes }

  /// The view of `count` rows from `first`.
  package func rowRange(_ first: Int, count: Int) -> EncodedRows {
    precondition(first >= 0 && count >= 0 && first + count <= rows, "rows \(first)+\(count) of \(rows)")
    return EncodedRows(base + first * rowBytes, rows: count, width: width, element: element)
  }
}
