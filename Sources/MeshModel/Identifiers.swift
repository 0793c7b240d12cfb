package import WireCoding

/// The name of a device: the first 16 bytes of the BLAKE2b-256 of its signing key.
///
/// It names, it does not prove; only the handshake proves that the other side is this device. Orders like its bytes.
package struct DeviceID: Hashable, Comparable, Sendable, CustomStringConvertible, WireCodable {
  /// Bytes of a device's name.
  package static let byteCount = 16

  private let high, low: UInt64

  /// The name with these bytes; nil unless there are exactly 16.
  package init?(bytes: some Collection<UInt8>) {
    guard let words = bigEndianWords(bytes) else { return nil }
    (high, low) = words
  }

  /// The 16 bytes.
  package var bytes: [UInt8] { bigEndianBytes(high, low) }

  /// The name as 32 hexadecimal digits.
  package var description: String { hexadecimalDigits(high) + hexadecimalDigits(low) }

  /// The first eight hexadecimal digits, for people: enough to tell the devices of a home apart.
  package var short: String { String(hexadecimalDigits(high).prefix(8)) }

  /// Whether the bytes of `left` come before those of `right`.
  package static func < (left: DeviceID, right: DeviceID) -> Bool {
    (left.high, left.low) < (right.high, right.low)
  }

  /// Reads 16 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    (high, low) = try sixteenBytes(&reader, "device")
  }

  /// Writes 16 bytes.
  package func encode(to writer: inout ByteWriter) { writer.raw(bytes) }
}

/// The name of a household: 128 random bits, made when it is created.
package struct HouseholdID: Hashable, Comparable, Sendable, CustomStringConvertible, WireCodable {
  private let high, low: UInt64

  /// The name with these bytes; nil unless there are exactly 16.
  package init?(bytes: some Collection<UInt8>) {
    guard let words = bigEndianWords(bytes) else { return nil }
    (high, low) = words
  }

  /// The 16 bytes.
  package var bytes: [UInt8] { bigEndianBytes(high, low) }

  /// The name as 32 hexadecimal digits.
  package var description: String { hexadecimalDigits(high) + hexadecimalDigits(low) }

  /// Whether the bytes of `left` come before those of `right`.
  package static func < (left: HouseholdID, right: HouseholdID) -> Bool {
    (left.high, left.low) < (right.high, right.low)
  }

  /// Reads 16 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    (high, low) = try sixteenBytes(&reader, "household")
  }

  /// Writes 16 bytes.
  package func encode(to writer: inout ByteWriter) { writer.raw(bytes) }
}

/// One start of a device's daemon: a counter that is kept on disk and raised before anything is sent, and 32
/// random bits that tell two copies of one disk apart.
package struct BootID: Hashable, Comparable, Sendable, CustomStringConvertible, WireCodable {
  /// How often the daemon has started on this disk.
  package let counter: UInt32
  /// Drawn anew at every start.
  package let nonce: UInt32

  /// The start with this number and these random bits.
  package init(counter: UInt32, nonce: UInt32) {
    self.counter = counter
    self.nonce = nonce
  }

  /// The counter and the nonce in hexadecimal.
  package var description: String { "\(counter).\(String(nonce, radix: 16))" }

  /// Whether `left` started earlier; equal counters order by their nonce.
  package static func < (left: BootID, right: BootID) -> Bool {
    (left.counter, left.nonce) < (right.counter, right.nonce)
  }

  /// Reads the counter and the nonce.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    counter = try reader.integer("boot counter")
    nonce = try reader.integer("boot nonce")
  }

  /// Writes the counter and the nonce.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(counter)
    writer.integer(nonce)
  }
}

/// How recent a statement about a device is (SWIM §4.2): only the device itself raises it.
///
/// The boot counter stands in the upper half, so that a restarted device beats everything said of its earlier life.
package struct Incarnation: Hashable, Comparable, Sendable, CustomStringConvertible, WireCodable {
  /// The boot counter in the upper 32 bits, the refutations since then in the lower.
  package let value: UInt64

  /// The first incarnation of a start.
  package init(boot: BootID) { value = UInt64(boot.counter) << 32 }

  /// The incarnation with this value.
  package init(value: UInt64) { self.value = value }

  /// The next one of the same start; stays at the last.
  package var next: Incarnation { Incarnation(value: value == .max ? value : value + 1) }

  /// The boot counter and the refutations.
  package var description: String { "\(value >> 32).\(value & 0xFFFF_FFFF)" }

  /// Whether `left` is older.
  package static func < (left: Incarnation, right: Incarnation) -> Bool { left.value < right.value }

  /// Reads 8 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    value = try reader.integer("incarnation")
  }

  /// Writes 8 bytes.
  package func encode(to writer: inout ByteWriter) { writer.integer(value) }
}

private func sixteenBytes(
  _ reader: inout ByteReader, _ field: StaticString
) throws(DecodingFailure) -> (UInt64, UInt64) {
  let part = try reader.bytes(field, count: 16)
  guard let words = bigEndianWords(part) else { preconditionFailure("16 bytes are two words") }
  return words
}

private func bigEndianWords(_ bytes: some Collection<UInt8>) -> (UInt64, UInt64)? {
  guard bytes.count == 16 else { return nil }
  var high: UInt64 = 0
  var low: UInt64 = 0
  for (index, byte) in bytes.enumerated() {
    if index < 8 { high = high << 8 | UInt64(byte) } else { low = low << 8 | UInt64(byte) }
  }
  return (high, low)
}

private func bigEndianBytes(_ words: UInt64...) -> [UInt8] {
  words.flatMap { word in
    stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
  }
}

private func hexadecimalDigits(_ word: UInt64) -> String {
  let digits = String(word, radix: 16)
  return String(repeating: "0", count: 16 - digits.count) + digits
}
