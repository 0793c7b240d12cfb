package import CryptoPrimitives
package import WireCoding

/// Ties a device's state to the machine that it was made on, so that a copied disk shows.
///
/// It is a hash of the machine's id (systemd's /etc/machine-id) keyed with random bytes of its own: the id itself is
/// not to be told or stored by applications. It stops accidents, not a thief, who can copy the id too.
package struct MachineBinding: Hashable, Sendable, WireCodable {
  private static let saltByteCount = 32
  private static let domain = "hearth machine binding 1"
  private let salt: [UInt8]
  private let tag: ContentDigest

  /// The binding to the machine with this id.
  package init(machineID: [UInt8], entropy: inout some EntropySource) {
    salt = entropy.bytes(Self.saltByteCount)
    tag = Self.tag(machineID, salt)
  }

  /// Whether the machine with this id is the one.
  package func matches(machineID: [UInt8]) -> Bool { Self.tag(machineID, salt) == tag }

  /// Reads the salt and the hash.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    salt = Array(try reader.bytes("machine salt", count: Self.saltByteCount))
    tag = try readDigest(&reader, "machine binding")
  }

  /// Writes the salt and the hash.
  package func encode(to writer: inout ByteWriter) {
    writer.raw(salt)
    writer.raw(tag.bytes)
  }

  private static func tag(_ machineID: [UInt8], _ salt: [UInt8]) -> ContentDigest {
    var hasher = ContentHasher(key: salt)
    hasher.update(domain)
    // The file ends with a line break, a machine's id from elsewhere may not.
    hasher.update(bytes: Array(machineID.filter { !$0.isBlank }))
    return hasher.finalize()
  }
}

extension UInt8 {
  fileprivate var isBlank: Bool { self == 0x20 || (0x09...0x0D).contains(self) }
}
