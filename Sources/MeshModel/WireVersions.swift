package import WireCoding

/// The wire versions that a device speaks, from the oldest to the newest.
package struct WireVersions: Hashable, Sendable, CustomStringConvertible, WireCodable {
  /// What this build speaks.
  package static let current = WireVersions(oldest: 1, newest: 1)

  /// The oldest version that is still spoken.
  package let oldest: UInt8
  /// The newest version that is spoken.
  package let newest: UInt8

  /// The versions from `oldest` to `newest`, which may not be below it.
  package init(oldest: UInt8, newest: UInt8) {
    precondition(oldest <= newest, "wire versions \(oldest) to \(newest)")
    self.oldest = oldest
    self.newest = newest
  }

  /// The newest version that both sides speak; nil when there is none.
  package func common(with other: WireVersions) -> UInt8? {
    let version = min(newest, other.newest)
    return version >= max(oldest, other.oldest) ? version : nil
  }

  /// `3` or `2-3`.
  package var description: String { oldest == newest ? "\(newest)" : "\(oldest)-\(newest)" }

  /// Reads two bytes; the second may not be below the first.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    oldest = try reader.integer("oldest wire version")
    newest = try reader.integer("newest wire version")
    guard oldest <= newest else { throw .invalid(field: "newest wire version", value: UInt64(newest)) }
  }

  /// Writes two bytes.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(oldest)
    writer.integer(newest)
  }
}
