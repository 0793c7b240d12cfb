package import WireCoding

/// The Fowler–Noll–Vo hash FNV-1a (draft-eastlake-fnv), for telling views apart.
///
/// It guards against chance, not against malice: every message it stands in is authenticated, and a member that lies
/// about its view only costs itself an exchange.
package enum FowlerNollVo {
  /// The 64-bit hash of the bytes.
  package static func hash64(_ bytes: [UInt8]) -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
    return hash
  }

  /// The 128-bit hash of the bytes.
  package static func hash128(_ bytes: [UInt8]) -> UInt128 {
    let prime = UInt128(1) << 88 | 0x13B
    var hash = UInt128(0x6C62_272E_07BB_0142) << 64 | UInt128(0x62B8_2175_6295_C58D)
    for byte in bytes { hash = (hash ^ UInt128(byte)) &* prime }
    return hash
  }
}

/// Sixteen bytes that are equal when two devices believe the same of the same members at the same incarnations.
package struct ViewDigest: Hashable, Sendable, WireCodable, CustomStringConvertible {
  private let value: UInt128

  /// The digest of a view; `claims` are all its members in ascending order, the device itself among them.
  package init(claims: [MemberClaim]) {
    var writer = ByteWriter(reserving: claims.count * MemberClaim.byteCount)
    for claim in claims { claim.encode(to: &writer) }
    value = FowlerNollVo.hash128(writer.bytes)
  }

  /// Reads 16 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let low = try reader.integer("view digest", as: UInt64.self)
    value = UInt128(try reader.integer("view digest", as: UInt64.self)) << 64 | UInt128(low)
  }

  /// Writes 16 bytes.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(UInt64(truncatingIfNeeded: value))
    writer.integer(UInt64(truncatingIfNeeded: value >> 64))
  }

  /// The digest in hexadecimal.
  package var description: String { String(value, radix: 16) }
}
