import CryptoPrimitives
package import HouseholdTrust
package import MeshModel
package import MeshProtocol
import Synchronization

/// A session that both sides have proved: facts to keep, and ciphers to take out once.
package final class EstablishedSession: Sendable {
  /// The device that proved itself.
  package let peer: DeviceCertificate
  /// Which start of its daemon it is.
  package let boot: BootID
  /// What the connection is for.
  package let purpose: SessionPurpose
  /// How far it reaches.
  package let standing: SessionStanding
  /// The wire version in use; the other side's newest when there is none in common.
  package let wireVersion: UInt8
  /// The wire versions that the other side offers.
  package let offeredVersions: WireVersions
  /// What the other side can do beside the wire version, as bits.
  package let features: UInt32
  /// Whether this device dialled.
  package let isInitiator: Bool
  /// The port on which the other side accepts connections and datagrams.
  package let listeningPort: UInt16
  /// What both sides have seen, as one hash, to bind other proofs to this session.
  package let handshakeHash: [UInt8]
  /// Bytes that came behind the handshake: the start of the record stream.
  package let leftover: [UInt8]
  private let records: Mutex<RecordCiphers?>
  private let datagrams: Mutex<DatagramCiphers?>

  init(
    facts: SessionFacts, features: UInt32, listeningPort: UInt16,
    leftover: [UInt8], records: consuming RecordCiphers, datagrams: consuming DatagramCiphers
  ) {
    peer = facts.proof.certificate
    boot = facts.proof.boot
    purpose = facts.purpose
    standing = facts.standing
    wireVersion = facts.wireVersion
    offeredVersions = facts.offeredVersions
    self.features = features
    isInitiator = facts.isInitiator
    self.listeningPort = listeningPort
    handshakeHash = facts.handshakeHash
    self.leftover = leftover
    self.records = Mutex(records)
    self.datagrams = Mutex(datagrams)
  }

  /// The ciphers of the stream; there is one set, taking it twice is a bug.
  package func takeRecords() -> RecordCiphers {
    let taken = records.withLock { $0.take() }
    guard let taken else { preconditionFailure("the record ciphers of a session were taken twice") }
    return taken
  }

  /// The ciphers of the datagrams; there is one set, taking it twice is a bug.
  package func takeDatagrams() -> DatagramCiphers {
    let taken = datagrams.withLock { $0.take() }
    guard let taken else { preconditionFailure("the datagram ciphers of a session were taken twice") }
    return taken
  }
}

/// Both directions of a session's stream.
package struct RecordCiphers: ~Copyable, Sendable {
  /// Seals what this side sends.
  package var sealer: RecordSealer
  /// Opens what the other side sends.
  package var opener: RecordOpener

  init(_ keys: borrowing SessionKeys) {
    sealer = RecordSealer(key: keys.sending.copy())
    opener = RecordOpener(key: keys.receiving.copy())
  }
}

/// Both directions of a session's datagrams.
package struct DatagramCiphers: ~Copyable, Sendable {
  /// Seals what this side sends.
  package var sealer: DatagramSealer
  /// Opens what the other side sends.
  package var opener: DatagramOpener
}

/// What the handshake found out before the first record.
struct SessionFacts {
  let proof: IdentityProof
  let purpose: SessionPurpose
  let standing: SessionStanding
  let wireVersion: UInt8
  let offeredVersions: WireVersions
  let isInitiator: Bool
  let handshakeHash: [UInt8]
}
