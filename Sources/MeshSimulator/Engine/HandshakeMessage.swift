package import HouseholdTrust
package import MeshModel
import MeshProtocol
import SecureChannel
import WireCoding

/// A message of a simulated handshake.
package enum HandshakeMessage: Sendable {
  /// What the real handshake would say, without its cryptography.
  case plain(PlainHello)
  /// The bytes of the real handshake.
  case bytes([UInt8])

  /// Bytes that it takes on the wire.
  package var byteCount: Int {
    switch self {
    case .plain(let hello): hello.byteCount
    case .bytes(let bytes): bytes.count
    }
  }
}

/// The handshake's messages as values: the same steps and the same reasons to fail, none of the cryptography.
package enum PlainHello: Sendable {
  /// Each side's preamble: which network key it would use, by its hint, and the versions that it speaks.
  case preamble(hint: [UInt8], WireVersions)
  /// The dialler's first message, readable with the network key that it chose.
  case ephemeral(NetworkKeyID)
  /// Who the sender is.
  case proof(DeviceCertificate, chain: [LogEntry], BootID)
  /// The first record: where the sender listens.
  case firstRecord(port: UInt16)

  // Of the real messages: preamble 24; ephemeral key and tag 48; keys, tags, certificate, boot; record of a hello.
  var byteCount: Int {
    switch self {
    case .preamble: Preamble.byteCount
    case .ephemeral: 50
    case .proof(let certificate, let chain, _):
      108 + certificate.encoded.count + chain.reduce(0) { $0 + 2 + $1.encoded.count }
    case .firstRecord: 70
    }
  }
}

/// What one end keeps between two messages.
package struct HandshakeState: Sendable {
  /// Which network key this side offers.
  var offered: NetworkKeyID?
  /// Which one both use.
  var agreed: NetworkKeyID?
  /// How far the session will reach.
  var standing = SessionStanding.full
  /// The versions that the other side speaks.
  var versions: WireVersions?
  /// Who the other side has proved to be.
  var peer: DeviceCertificate?
  /// Which start of it.
  var boot: BootID?
  /// Where it listens.
  var port: UInt16?
  /// The real handshake, when it is used.
  var real: RealHandshake?
}
