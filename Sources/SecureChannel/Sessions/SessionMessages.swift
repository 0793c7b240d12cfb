package import CryptoPrimitives
package import HouseholdTrust
package import MeshModel
package import MeshProtocol
package import WireCoding

/// What each side shows inside the handshake: who it is, and which start.
///
/// Certificate, boot id, number of entries u16, and the entries that prove the certificate's issuer.
package struct IdentityProof: WireCodable, Equatable {
  /// Who it is, as an admin has signed.
  package let certificate: DeviceCertificate
  /// Which start.
  package let boot: BootID
  /// What proves the issuer.
  package let chain: [LogEntry]

  /// The proof of this device; without the chain when the frame would be over its limit.
  package init(_ trust: TrustSnapshot, boot: BootID) {
    let complete = IdentityProof(certificate: trust.certificate, boot: boot, chain: trust.chain)
    // Keys and tags of the message take less than 128 bytes.
    let fits = complete.encoded.count + 128 <= HandshakeLimits.frameByteCount
    self = fits ? complete : IdentityProof(certificate: trust.certificate, boot: boot, chain: [])
  }

  private init(certificate: DeviceCertificate, boot: BootID, chain: [LogEntry]) {
    self.certificate = certificate
    self.boot = boot
    self.chain = chain
  }

  /// Reads a proof; nothing of it is verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    certificate = try DeviceCertificate(from: &reader)
    boot = try BootID(from: &reader)
    let count = try reader.count("chain", limit: TrustLimits.chainEntries)
    var chain: [LogEntry] = []
    for _ in 0..<count { chain.append(try LogEntry(from: &reader)) }
    self.chain = chain
  }

  /// Writes certificate, boot id and entries.
  package func encode(to writer: inout ByteWriter) {
    certificate.encode(to: &writer)
    boot.encode(to: &writer)
    writer.count(chain.count)
    for entry in chain { entry.encode(to: &writer) }
  }
}

/// The first record each way: what the session is for, and the key of the sender's datagrams.
///
/// Purpose u8, features u32, port u16, receiver's index u32, datagram key 32, number of extensions u16, and for
/// each a tag u16 and length-prefixed bytes. A tag with its highest bit set must be understood, others may be
/// skipped.
package struct SessionHello: ~Copyable {
  /// Set in the tags of extensions that a receiver may not skip.
  package static let mustUnderstandBit: UInt16 = 0x8000

  /// What the connection is for.
  package let purpose: SessionPurpose
  /// What the sender can do beside the wire version, as bits.
  package let features: UInt32
  /// Where the sender accepts connections and datagrams.
  package let listeningPort: UInt16
  /// What datagrams to the sender shall carry.
  package let receiverIndex: UInt32
  /// The key of the sender's datagrams.
  package let datagramKey: SecretBytes

  /// A hello.
  package init(
    purpose: SessionPurpose, features: UInt32, listeningPort: UInt16, receiverIndex: UInt32,
    datagramKey: consuming SecretBytes
  ) {
    self.purpose = purpose
    self.features = features
    self.listeningPort = listeningPort
    self.receiverIndex = receiverIndex
    self.datagramKey = datagramKey
  }

  /// Reads a hello from exactly these bytes.
  package init(decoding bytes: [UInt8]) throws(DecodingFailure) {
    var reader = ByteReader(bytes)
    let purpose = try reader.integer("session purpose", as: UInt8.self)
    guard let known = SessionPurpose(rawValue: purpose) else {
      throw .invalid(field: "session purpose", value: UInt64(purpose))
    }
    let features = try reader.integer("features", as: UInt32.self)
    let port = try reader.integer("listening port", as: UInt16.self)
    let index = try reader.integer("receiver's index", as: UInt32.self)
    guard index <= DatagramLimits.largestIndex else {
      throw .invalid(field: "receiver's index", value: UInt64(index))
    }
    var key = Array(try reader.bytes("datagram key", count: ChaChaPoly.keyByteCount))
    let secret = SecretBytes(wiping: &key)
    for _ in 0..<(try reader.count("extensions", limit: HandshakeLimits.extensions)) {
      let tag = try reader.integer("extension", as: UInt16.self)
      _ = try reader.lengthPrefixed("extension", limit: HandshakeLimits.extensionByteCount)
      guard tag & Self.mustUnderstandBit == 0 else { throw .mustUnderstand(tag: tag) }
    }
    try reader.finish()
    self.init(
      purpose: known, features: features, listeningPort: port, receiverIndex: index, datagramKey: secret)
  }

  /// The hello's bytes, which hold a key: wipe them.
  package borrowing func encoded() -> [UInt8] {
    var writer = ByteWriter(reserving: 64)
    writer.integer(purpose.rawValue)
    writer.integer(features)
    writer.integer(listeningPort)
    writer.integer(receiverIndex)
    datagramKey.withUnsafeBytes { writer.raw($0) }
    writer.count(0)
    return writer.bytes
  }
}
