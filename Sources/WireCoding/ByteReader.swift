/// Reads little-endian fields from bytes that came from outside; every length has a limit, nothing traps.
///
/// The caller reads the fields in their order and then calls `finish()`, which refuses trailing bytes.
package struct ByteReader: Sendable {
  private let bytes: ArraySlice<UInt8>
  private var position: Int

  /// Reads from the start of `bytes`.
  package init(_ bytes: [UInt8]) { self.init(bytes[...]) }

  /// Reads from the start of a part of some bytes.
  package init(_ bytes: ArraySlice<UInt8>) {
    self.bytes = bytes
    position = bytes.startIndex
  }

  /// Bytes that are not read yet.
  package var remaining: Int { bytes.endIndex - position }

  /// Bytes that have been read so far.
  package var consumed: Int { position - bytes.startIndex }

  /// The next integer, little-endian, of its type's width.
  package mutating func integer<Integer: FixedWidthInteger>(
    _ field: StaticString, as type: Integer.Type = Integer.self
  ) throws(DecodingFailure) -> Integer {
    precondition(Integer.bitWidth <= 64, "an integer of \(Integer.bitWidth) bits")
    let part = try take(Integer.bitWidth / 8, field)
    var value: UInt64 = 0
    for byte in part.reversed() { value = value << 8 | UInt64(byte) }
    return Integer(truncatingIfNeeded: value)
  }

  /// The next `count` bytes.
  package mutating func bytes(_ field: StaticString, count: Int) throws(DecodingFailure) -> ArraySlice<UInt8>
  {
    try take(count, field)
  }

  /// All bytes that are left.
  package mutating func rest() -> ArraySlice<UInt8> {
    defer { position = bytes.endIndex }
    return bytes[position...]
  }

  /// A 16-bit length of at most `limit`, then that many bytes.
  package mutating func lengthPrefixed(
    _ field: StaticString, limit: Int
  ) throws(DecodingFailure) -> ArraySlice<UInt8> {
    try take(count(field, limit: limit), field)
  }

  /// A 16-bit length of at most `limit`, then that many bytes of UTF-8.
  package mutating func text(_ field: StaticString, limit: Int) throws(DecodingFailure) -> String {
    let part = try lengthPrefixed(field, limit: limit)
    guard let text = String(validating: part, as: UTF8.self) else { throw .notText(field: "\(field)") }
    return text
  }

  /// A 16-bit count of at most `limit`.
  package mutating func count(_ field: StaticString, limit: Int) throws(DecodingFailure) -> Int {
    let value = try integer(field, as: UInt16.self)
    guard value <= limit else { throw .overLimit(field: "\(field)", value: UInt64(value), limit: limit) }
    return Int(value)
  }

  /// A byte that is 0 or 1.
  package mutating func flag(_ field: StaticString) throws(DecodingFailure) -> Bool {
    let value = try integer(field, as: UInt8.self)
    guard value <= 1 else { throw .invalid(field: "\(field)", value: UInt64(value)) }
    return value == 1
  }

  /// Refuses bytes after the last field.
  package func finish() throws(DecodingFailure) {
    guard remaining == 0 else { throw .trailingBytes(count: remaining) }
  }

  private mutating func take(_ count: Int, _ field: StaticString) throws(DecodingFailure) -> ArraySlice<UInt8>
  {
    precondition(count >= 0, "a field of \(count) bytes")
    guard count <= remaining else {
      throw .truncated(field: "\(field)", needed: count, available: remaining)
    }
    defer { position += count }
    return bytes[position..<(position + count)]
  }
}
