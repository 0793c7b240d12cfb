import CryptoPrimitives

/// Names a sample by its content: BLAKE2b-128 of its token ids.
///
/// Equal texts share one key and one record. 128 bits keep accidental collisions below 1 in 10^20 for a
/// billion samples.
package struct SampleKey: Hashable, Sendable, Comparable, CustomStringConvertible {
  /// Bytes of a key.
  package static let byteCount = 16

  // Big-endian words, so that comparing words compares bytes.
  let high, low: UInt64

  /// The key of a sample with these encoder ids, segment types and decoder ids.
  package init(encoderIDs: [Int32], types: [Int32], decoderIDs: [Int32]) {
    var hasher = ContentHasher(digestByteCount: Self.byteCount)
    hasher.update(encoderIDs)
    hasher.update(types)
    hasher.update(decoderIDs)
    let bytes = hasher.finalizeBytes()
    high = bytes[..<8].reduce(0) { $0 << 8 | UInt64($1) }
    low = bytes[8...].reduce(0) { $0 << 8 | UInt64($1) }
  }

  init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// The key as 32 lower-case hexadecimal digits.
  package var description: String {
    hexadecimal(
      [high, low].flatMap { word in
        stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
      })
  }

  /// Whether the bytes of `left` come before those of `right`.
  package static func < (left: SampleKey, right: SampleKey) -> Bool {
    (left.high, left.low) < (right.high, right.low)
  }
}
