package import MeshModel
package import MeshProtocol
package import WireCoding

/// What each side of a connection says first, in clear; the handshake's prologue covers it, so changing it shows.
///
/// 24 bytes: `hearth`, version u8, purpose u8, hint 8, wire versions u8 u8, discriminator u16, reserved u32.
package struct Preamble: Hashable, Sendable, WireCodable {
  /// Bytes of a preamble.
  package static let byteCount = 24
  /// The only version of this layout, and of the handshake that follows.
  package static let version: UInt8 = 1
  /// The largest discriminator: it has 12 bits.
  package static let largestDiscriminator: UInt16 = 0xFFF
  private static let magic = Array("hearth".utf8)

  /// What the connection is for.
  package let purpose: SessionPurpose
  /// Which network key the sender holds, as a keyed hash that only members recognise; zeros when pairing.
  package let epochHint: [UInt8]
  /// The wire versions that the sender offers.
  package let versions: WireVersions
  /// Which of several open invitations is meant; 0 unless pairing by code.
  package let discriminator: UInt16
  // Sent as 0 by this version and not looked at, but covered by the prologue like the rest.
  private let reserved: UInt32

  /// A preamble; the hint has 8 bytes.
  package init(
    purpose: SessionPurpose, epochHint: [UInt8] = [UInt8](repeating: 0, count: 8), versions: WireVersions,
    discriminator: UInt16 = 0
  ) {
    precondition(epochHint.count == 8, "an epoch hint of \(epochHint.count) bytes")
    precondition(discriminator <= Self.largestDiscriminator, "a discriminator of \(discriminator)")
    self.purpose = purpose
    self.epochHint = epochHint
    self.versions = versions
    self.discriminator = discriminator
    reserved = 0
  }

  /// Reads 24 bytes; another magic, version or purpose is refused.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    let magic = try reader.bytes("preamble magic", count: Self.magic.count)
    guard magic.elementsEqual(Self.magic) else {
      throw .invalid(field: "preamble magic", value: UInt64(magic.first ?? 0))
    }
    let version = try reader.integer("preamble version", as: UInt8.self)
    guard version == Self.version else { throw .invalid(field: "preamble version", value: UInt64(version)) }
    let purpose = try reader.integer("preamble purpose", as: UInt8.self)
    guard let known = SessionPurpose(rawValue: purpose) else {
      throw .invalid(field: "preamble purpose", value: UInt64(purpose))
    }
    self.purpose = known
    epochHint = Array(try reader.bytes("preamble epoch hint", count: 8))
    versions = try WireVersions(from: &reader)
    discriminator = try reader.integer("preamble discriminator")
    guard discriminator <= Self.largestDiscriminator else {
      throw .invalid(field: "preamble discriminator", value: UInt64(discriminator))
    }
    reserved = try reader.integer("preamble reserved")
  }

  /// Writes 24 bytes.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(Self.magic)
    writer.integer(Self.version)
    writer.integer(purpose.rawValue)
    writer.raw(epochHint)
    versions.encode(to: &writer)
    writer.integer(discriminator)
    writer.integer(reserved)
  }
}
