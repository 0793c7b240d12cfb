package import CryptoPrimitives
import Glibc
package import HouseholdTrust
package import MeshModel
package import MeshProtocol
import NIOCore
import SecureChannel
import Synchronization

/// A network inside one process: the same sessions, handshakes and records as over sockets, without sockets.
///
/// Work runs in the order in which it was asked for, on whichever thread asks while nobody works, one piece at a
/// time; so one thread that drives all endpoints sees the same events in every run.
package final class InProcessNetwork: Sendable {
  private struct State {
    var work: [@Sendable () -> Void] = []
    var isWorking = false
    var endpoints: [NetworkAddress: InProcessTransport] = [:]
    var nextPort: UInt16 = 49_152
  }

  private let state = Mutex(State())

  /// A network without endpoints.
  package init() {}

  /// Joins the network at `address`, which nobody else has.
  package func join(
    at address: NetworkAddress, trust: TrustSnapshot, boot: BootID, versions: WireVersions = .current,
    limits: TransportLimits = TransportLimits(), entropy: some EntropySource
  ) -> InProcessTransport {
    let endpoint = InProcessTransport(
      network: self, address: address, trust: trust, boot: boot, versions: versions, limits: limits,
      entropy: entropy)
    state.withLock { state in
      precondition(state.endpoints[address] == nil, "\(address) is taken")
      state.endpoints[address] = endpoint
    }
    return endpoint
  }

  func leave(_ address: NetworkAddress) { state.withLock { $0.endpoints[address] = nil } }

  func endpoint(at address: NetworkAddress) -> InProcessTransport? {
    state.withLock { $0.endpoints[address] }
  }

  /// A port that nobody listens at, for the dialling side of a connection.
  func ephemeralPort() -> UInt16 {
    state.withLock { state in
      defer { state.nextPort = state.nextPort == .max ? 49_152 : state.nextPort + 1 }
      return state.nextPort
    }
  }

  /// Runs `body` when all that was asked for before has run.
  func run(_ body: @escaping @Sendable () -> Void) {
    let isMine = state.withLock { state in
      state.work.append(body)
      defer { state.isWorking = true }
      return !state.isWorking
    }
    guard isMine else { return }
    while let batch = nextBatch() {
      for piece in batch { piece() }
    }
  }

  private func nextBatch() -> [@Sendable () -> Void]? {
    state.withLock { state in
      guard !state.work.isEmpty else {
        state.isWorking = false
        return nil
      }
      defer { state.work = [] }
      return state.work
    }
  }
}

/// An endpoint of an in-process network.
package final class InProcessTransport: MeshEndpoint {
  /// What happened, for one reader.
  package let events: AsyncStream<TransportEvent>
  /// The port on which sessions are accepted.
  package let localPort: UInt16
  /// Where others reach it.
  package let address: NetworkAddress

  private let network: InProcessNetwork
  let hub: SessionHub
  private let carrier: InProcessCarrier

  init(
    network: InProcessNetwork, address: NetworkAddress, trust: TrustSnapshot, boot: BootID,
    versions: WireVersions, limits: TransportLimits, entropy: some EntropySource
  ) {
    self.network = network
    self.address = address
    localPort = address.port
    var entropy: any EntropySource = entropy
    hub = SessionHub(limits: limits, firstIndex: entropy.integer())
    events = hub.events.makeStream()
    carrier = InProcessCarrier(
      network: network, address: address, hub: hub,
      own: OwnSide(
        trust: trust, boot: boot, versions: versions, listeningPort: address.port, entropy: entropy))
  }

  /// What has been counted since the start.
  package var counters: TransportCounters { hub.counters }

  /// Does what is asked, in order.
  package func perform(_ commands: [TransportCommand]) { hub.perform(commands, over: carrier) }

  /// Bytes of frames that a session takes before it is full.
  package func room(in session: SessionID) -> Int { hub.room(in: session) }

  /// From now on bulk frames go to this receiver.
  package func receiveBulk(at receiver: any BulkReceiver) { hub.receiveBulk(at: receiver) }

  /// Reads a session on that its receiver has stopped.
  package func resume(_ session: SessionID) { hub.resume(session) }

  /// Counts and reports something that the owner dropped.
  package func drop(_ reason: DropReason) { hub.drop(reason) }

  /// Takes a newer state of the household.
  package func update(trust: TrustSnapshot) {
    carrier.update(trust: trust)
    hub.closeRevoked { [log = trust.log] in log.isRevoked($0) }
  }

  /// Says goodbye on all sessions and ends `events`.
  package func shutdown() async {
    network.leave(address)
    await hub.closeAll(.shuttingDown)
    hub.events.finish()
  }

  /// Takes one end of a new connection.
  func accept(_ link: InProcessLink, purpose: SessionPurpose) {
    hub.countAccepted()
    carrier.begin(link, purpose: purpose, dial: nil)
  }
}

/// Dials and carries datagrams inside the process.
private final class InProcessCarrier: Carrier {
  private let network: InProcessNetwork
  private let address: NetworkAddress
  private let hub: SessionHub
  private let own: Mutex<OwnSide>

  init(network: InProcessNetwork, address: NetworkAddress, hub: SessionHub, own: OwnSide) {
    self.network = network
    self.address = address
    self.hub = hub
    self.own = Mutex(own)
  }

  func update(trust: TrustSnapshot) { own.withLock { $0.trust = trust } }

  func dial(_ request: DialRequest) {
    connect(
      hub.withSecondTry(
        request, ring: { [self] in own.withLock { $0.trust.ring } }, dial: { [self] in connect($0) }))
  }

  private func connect(_ request: DialRequest) {
    network.run { [self] in
      guard let other = network.endpoint(at: request.address) else {
        return hub.events.put(.dialFailed(request.address, request.purpose, .refused))
      }
      let here = InProcessLink(network: network, remote: request.address)
      let there = InProcessLink(
        network: network, remote: NetworkAddress(address.host, port: network.ephemeralPort()))
      here.connect(to: there)
      other.accept(there, purpose: request.purpose)
      begin(here, purpose: request.purpose, dial: request)
    }
  }

  func begin(_ link: InProcessLink, purpose: SessionPurpose, dial: DialRequest?) {
    let machine = SessionMachine(
      own.withLock { own in own.forked() }, dial: dial, remote: link.remote, hub: hub)
    link.begin(
      SessionCore(
        hub: hub, link: link, machine: machine, purpose: purpose, dial: dial, startedAt: .now()))
  }

  func send(datagram: [UInt8], to address: NetworkAddress) {
    network.run { [self] in
      network.endpoint(at: address)?.hub.receive(datagram: datagram, from: self.address)
    }
  }
}
