import CryptoPrimitives
import Glibc
package import HouseholdTrust
package import MeshModel
package import MeshProtocol
import NIOCore
import NIOPosix
import SecureChannel
import Synchronization

/// The mesh over TCP and UDP.
///
/// Two event loops: one accepts, and carries control sessions and datagrams; the other carries bulk, so that a tensor
/// on its way delays no probe.
package final class NetworkTransport: MeshEndpoint {
  /// Dials at once; more fail.
  package static let dialsInFlight = 64

  /// What happened, for one reader.
  package let events: AsyncStream<TransportEvent>
  /// The port on which sessions are accepted.
  package let localPort: UInt16

  private let configuration: TransportConfiguration
  private let hub: SessionHub
  private let door: Door
  private let sockets: SocketCarrier
  private let controlLoop: MultiThreadedEventLoopGroup
  private let bulkLoop: MultiThreadedEventLoopGroup
  private let listeners: Listeners
  private let hasShutDown = Atomic<Bool>(false)

  private init(
    configuration: TransportConfiguration, hub: SessionHub, door: Door, sockets: SocketCarrier,
    controlLoop: MultiThreadedEventLoopGroup, bulkLoop: MultiThreadedEventLoopGroup, listeners: Listeners
  ) {
    self.configuration = configuration
    self.hub = hub
    self.door = door
    self.sockets = sockets
    self.controlLoop = controlLoop
    self.bulkLoop = bulkLoop
    self.listeners = listeners
    localPort = listeners.port
    events = hub.events.makeStream()
  }

  /// Takes the port and accepts sessions from now on.
  package static func start(
    _ configuration: TransportConfiguration, trust: TrustSnapshot
  ) async throws(TransportFailure) -> NetworkTransport {
    let controlLoop = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let bulkLoop = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    var entropy = SystemEntropy()
    let hub = SessionHub(limits: configuration.limits, firstIndex: entropy.integer())
    let door = Door(hub: hub, timing: configuration.timing)
    let sockets = SocketCarrier(
      hub: hub, door: door, configuration: configuration, trust: trust, controlLoop: controlLoop,
      bulkLoop: bulkLoop)
    do throws(TransportFailure) {
      let listeners = try await Listeners.bind(
        configuration, on: controlLoop, accept: { try sockets.accept($0) },
        receive: { hub.receive(datagram: $0, from: $1) })
      sockets.start(listeners)
      raisePriority(of: controlLoop)
      return NetworkTransport(
        configuration: configuration, hub: hub, door: door, sockets: sockets, controlLoop: controlLoop,
        bulkLoop: bulkLoop, listeners: listeners)
    } catch {
      try? await controlLoop.shutdownGracefully()
      try? await bulkLoop.shutdownGracefully()
      throw error
    }
  }

  /// What has been counted since the start.
  package var counters: TransportCounters { hub.counters }

  /// The addresses that are listened at; fewer than asked for when the machine lacks one.
  package var listeningAddresses: [NetworkAddress] {
    listeners.servers.compactMap { $0.localAddress?.networkAddress }
  }

  /// Accepted connections that have not proved themselves yet.
  package var unauthenticatedConnections: Int { door.waitingCount }

  /// From now on `arrived` is called, on any thread, when events wait for `nextEvent`, in place of the stream `events`.
  package func tellOfEvents(_ arrived: @escaping @Sendable () -> Void) { hub.events.tellOfEvents(arrived) }

  /// The oldest event that waits; nil when none does.
  package func nextEvent() -> TransportEvent? { hub.events.takeNext() }

  /// Does what is asked, in order.
  package func perform(_ commands: [TransportCommand]) { hub.perform(commands, over: sockets) }

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
    sockets.update(trust: trust)
    hub.closeRevoked { [log = trust.log] in log.isRevoked($0) }
  }

  /// From now on devices that want to join come to this desk; with nil they are turned away, as at first.
  package func receivePairing(at desk: PairingDesk?) { sockets.receivePairing(at: desk) }

  /// Says goodbye on all sessions and ends `events`.
  package func shutdown() async {
    guard !hasShutDown.exchange(true, ordering: .relaxed) else { return }
    for server in listeners.servers { try? await server.close() }
    await hub.closeAll(.shuttingDown)
    await sockets.closeAll()
    for channel in listeners.datagrams { try? await channel.close() }
    try? await controlLoop.shutdownGracefully()
    try? await bulkLoop.shutdownGracefully()
    hub.events.finish()
  }

  /// Probes must be answered while the machine computes; where that is not allowed the daemon's unit has to do it.
  private static func raisePriority(of loop: MultiThreadedEventLoopGroup) {
    loop.next().execute {
      // On Linux 0 is the calling thread, not the process.
      _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, -5)
    }
  }
}
