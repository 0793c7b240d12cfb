import CryptoPrimitives
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel

/// What this device shows in a handshake.
struct OwnSide: Sendable {
  var trust: TrustSnapshot
  var boot: BootID
  var versions: WireVersions
  var listeningPort: UInt16
  var entropy: any EntropySource = SystemEntropy()

  /// The same with entropy of its own, so that two handshakes draw different bytes.
  mutating func forked() -> OwnSide {
    var fork = self
    if !(entropy is SystemEntropy) { fork.entropy = SeededEntropy(seed: entropy.integer()) }
    return fork
  }
}

/// A connection between members: the pure `SessionHandshake`, with an index for its datagrams.
final class SessionMachine: HandshakeMachine {
  private var handshake: SessionHandshake
  private let hub: SessionHub
  private let index: UInt32
  private let remote: NetworkAddress

  /// The machine of a connection to or from `remote`; with a request, this side dials.
  init(_ own: OwnSide, dial: DialRequest?, remote: NetworkAddress, hub: SessionHub) {
    self.hub = hub
    self.remote = remote
    index = hub.reserveIndex()
    let identity = HandshakeIdentity(
      trust: own.trust, boot: own.boot, versions: own.versions, listeningPort: own.listeningPort,
      receiverIndex: index)
    handshake = Self.handshake(identity, dial, own.entropy)
  }

  deinit { hub.release(index: index) }

  func start() -> [HandshakeStep] { steps(handshake.start()) }

  func receive(_ bytes: UnsafeRawBufferPointer) -> [HandshakeStep] { steps(handshake.receive(Array(bytes))) }

  private static func handshake(
    _ identity: HandshakeIdentity, _ dial: DialRequest?, _ entropy: some EntropySource
  ) -> SessionHandshake {
    var entropy = entropy
    if let dial {
      return SessionHandshake(
        dialling: dial.purpose, expecting: dial.expecting, offering: dial.offering, as: identity,
        entropy: &entropy)
    }
    return SessionHandshake(accepting: identity, entropy: &entropy)
  }

  private func steps(_ effects: [HandshakeEffect]) -> [HandshakeStep] {
    effects.map { effect in
      switch effect {
      case .send(let bytes): .send(bytes)
      case .established(let session): .established(peer(of: session))
      // The door has sorted these out; whoever still comes here has no business.
      case .pairing: .failed(.notOfHousehold, .handshakeRefused)
      case .failed(let failure): .failed(failure.dialFailure, failure.dropReason)
      }
    }
  }

  private func peer(of session: EstablishedSession) -> ProvedPeer {
    ProvedPeer(
      device: session.peer.device, boot: session.boot, standing: session.standing,
      wireVersion: session.wireVersion, offeredVersions: session.offeredVersions,
      listeningPort: session.listeningPort, keys: SessionKeys(session.takeRecords()),
      datagrams: datagramKeys(of: session), leftover: session.leftover)
  }

  private func datagramKeys(of session: EstablishedSession) -> DatagramKeys? {
    guard session.purpose == .control, session.standing == .full else { return nil }
    return DatagramKeys(
      session.takeDatagrams(), index: index,
      path: NetworkAddress(remote.host, port: session.listeningPort))
  }
}
