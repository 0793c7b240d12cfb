/// Writes little-endian fields; what `ByteReader` reads back.
///
/// The encoding is canonical: one value has one sequence of bytes, so that it can be signed.
package struct ByteWriter: Sendable {
  /// What has been written.
  package private(set) var bytes: [UInt8] = []

  /// A writer that has written nothing.
  package init(reserving capacity: Int = 0) {
    bytes.reserveCapacity(capacity)
  }

  /// Writes an integer of at most 64 bits, little-endian, in its type's width.
  package mutating func integer<Integer: FixedWidthInteger>(_ value: Integer) {
    // One generic operation for all bytes: this is not specialised for other modules, and every frame has ten fields.
    precondition(Integer.bitWidth <= 64, "an integer of \(Integer.bitWidth) bits")
    var rest = UInt64(truncatingIfNeeded: value)
    for _ in 0..<(Integer.bitWidth / 8) {
      bytes.append(UInt8(truncatingIfNeeded: rest))
      rest >>= 8
    }
  }

  /// Writes bytes as they are; the reader must know how many.
  package mutating func raw(_ part: some Sequence<UInt8>) {
    bytes.append(contentsOf: part)
  }

  /// Writes a 16-bit length and the bytes.
  package mutating func lengthPrefixed(_ part: some Collection<UInt8>) {
    count(part.count)
    bytes.append(contentsOf: part)
  }

  /// Writes a 16-bit length and the text's UTF-8.
  package mutating func text(_ text: String) {
    lengthPrefixed(Array(text.utf8))
  }

  /// Writes a 16-bit count.
  package mutating func count(_ count: Int) {
    precondition((0...Int(UInt16.max)).contains(count), "a count of \(count) does not fit 16 bits")
    integer(UInt16(count))
  }

  /// Writes one byte, 0 or 1.
  package mutating func flag(_ value: Bool) {
    integer(UInt8(value ? 1 : 0))
  }
}

/// A value with one canonical sequence of bytes.
package protocol WireCodable: Sendable {
  /// Reads the value; the reader stands behind it afterwards.
  init(from reader: inout ByteReader) throws(DecodingFailure)
  /// Writes the value.
  func encode(to writer: inout ByteWriter)
}

extension WireCodable {
  /// The value's bytes.
  package var encoded: [UInt8] {
    var writer = ByteWriter()
    encode(to: &writer)
    return writer.bytes
  }

  /// Reads the value from exactly these bytes.
  package init(decoding bytes: some Collection<UInt8>) throws(DecodingFailure) {
    var reader = ByteReader(Array(bytes))
    try self.init(from: &reader)
    try reader.finish()
  }
}
