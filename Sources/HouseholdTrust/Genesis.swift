package import CryptoPrimitives
package import MeshModel
package import WireCoding

/// The birth certificate of a household: its name and its root key, signed by that key.
///
/// Every membership log starts from it; two households never share one.
package struct Genesis: Hashable, Sendable, WireCodable {
  /// Bytes of the encoding.
  package static let byteCount = 1 + 16 + SigningPublicKey.byteCount + Signature.byteCount
  static let formatVersion: UInt8 = 1
  private static let domain = "hearth household genesis 1"

  /// The household's name.
  package let household: HouseholdID
  /// The key whose private half is the recovery phrase.
  package let root: SigningPublicKey
  /// The root's signature.
  package let signature: Signature
  /// The digest of the encoding; the first entry of every issuer names it as its predecessor.
  package let digest: ContentDigest

  /// A new household under `root`, with a random name.
  package init(root: borrowing HouseholdRoot, entropy: inout some EntropySource) {
    guard let household = HouseholdID(bytes: entropy.bytes(16)) else {
      preconditionFailure("16 bytes name a household")
    }
    let signature = root.key.sign(Self.message(household, root.publicKey))
    self.init(household: household, root: root.publicKey, signature: signature)
  }

  private init(household: HouseholdID, root: SigningPublicKey, signature: Signature) {
    self.household = household
    self.root = root
    self.signature = signature
    digest = ContentDigest(of: [Self.formatVersion] + household.bytes + root.bytes + signature.bytes)
  }

  /// The place in every issuer's chain before its first entry.
  package var origin: ChainPoint { ChainPoint(sequence: 0, digest: digest) }

  /// Reads the genesis; one that its root did not sign is refused.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    try readFormatVersion(&reader, "genesis version", Self.formatVersion)
    let household = try HouseholdID(from: &reader)
    let root = try readSigningKey(&reader, "root key")
    let signature = try readSignature(&reader)
    guard root.verifies(signature, of: Self.message(household, root)) else {
      throw .invalid(field: "genesis signature", value: 0)
    }
    self.init(household: household, root: root, signature: signature)
  }

  /// Writes the genesis.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(Self.formatVersion)
    household.encode(to: &writer)
    writer.raw(root.bytes)
    writer.raw(signature.bytes)
  }

  private static func message(_ household: HouseholdID, _ root: SigningPublicKey) -> [UInt8] {
    var writer = ByteWriter(reserving: 128)
    writer.text(domain)
    writer.integer(formatVersion)
    household.encode(to: &writer)
    writer.raw(root.bytes)
    return writer.bytes
  }
}
