import AvahiDiscovery
import CryptoPrimitives
import Determinism
import HearthStorage
import HouseholdTrust
package import Logging
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport
package import PeerDiscovery
import SecureChannel

/// One device's daemon: owns the pure `MeshPeer` and performs what it wants, in its order, on a thread of its own.
///
/// Everything that happens (sessions, beacons, multicast DNS, interfaces, commands, alarms) comes to this actor one
/// after the other; nothing here decides what only `MeshPeer` may decide.
package actor HouseholdDaemon {
  /// How a daemon is started.
  package struct Options: Sendable {
    /// Where keys and state lie.
    package var stateDirectory: String
    /// The local socket.
    package var controlSocket: String
    /// The port for TCP and UDP; 0 takes a free one.
    package var port: UInt16
    /// Peers that the person listed.
    package var staticPeers: [StaticPeer]
    /// Interfaces that are used although their names look virtual; empty uses all that look real.
    package var interfaces: [String]
    /// Whether only this machine's own addresses are used, for several daemons on one machine.
    package var loopbackOnly: Bool
    /// Whether multicast DNS is used.
    package var usesAvahi: Bool
    /// Whether the household may use this device.
    package var isAvailable: Bool

    /// Options with the defaults of `hearth up`.
    package init(stateDirectory: String, controlSocket: String) {
      self.stateDirectory = stateDirectory
      self.controlSocket = controlSocket
      port = MeshPaths.defaultPort
      staticPeers = []
      interfaces = []
      loopbackOnly = false
      usesAvahi = true
      isAvailable = true
    }
  }

  nonisolated let lane: MeshLane
  package nonisolated var unownedExecutor: UnownedSerialExecutor { lane.asUnownedSerialExecutor() }

  let options: Options
  let log: Logger
  let directory: HouseholdDirectory
  let transport: NetworkTransport
  let desk: PairingDesk
  let beacon: BeaconSocket?
  let beaconFailure: String?
  let avahi: AvahiDiscovery?
  let control: LocalControlServer
  var peer: MeshPeer
  var known: [DeviceID: KnownPeer]
  var interfaces: [LocalInterface] = []
  var watchers: [UInt64: AsyncStream<HouseholdReport>.Continuation] = [:]
  var nextWatcher: UInt64 = 0
  var admissions: [String: PairingRequest] = [:]
  var inviting: InvitingCommand?
  private let beaconOrders: AsyncStream<(bytes: [UInt8], target: BeaconTarget)>.Continuation
  private let beaconQueue: AsyncStream<(bytes: [UInt8], target: BeaconTarget)>
  private var hasUnsavedPeers = false
  private var isLeaving = false
  private var ended: [CheckedContinuation<Void, Never>] = []
  private var isOver = false

  /// Beacons that wait to be sent; the newest replace older ones, which they repeat anyway.
  private static let waitingBeacons = 64

  /// Opens the state, takes the ports, and begins to look for the others.
  package static func start(_ options: Options, log: Logger) async throws -> HouseholdDaemon {
    let directory = try HouseholdDirectory.open(
      stateDirectory: options.stateDirectory, machineID: MachineFacts.machineID(), access: .exclusive)
    var entropy = SystemEntropy()
    let boot = try directory.raiseBootCounter(entropy: &entropy)
    let household = try directory.household()
    let known = try directory.knownPeers()
    var configuration = TransportConfiguration(boot: boot)
    configuration.port = options.port
    if options.loopbackOnly { configuration.hosts = [.v4(0x7F00_0001)] }
    let transport = try await NetworkTransport.start(configuration, trust: household.snapshot)
    do {
      let control = try await LocalControlServer.listen(at: options.controlSocket)
      let daemon = await HouseholdDaemon(
        options, log: log, directory: directory, household: household, boot: boot, known: known,
        transport: transport, control: control, seed: entropy.integer())
      await daemon.begin()
      return daemon
    } catch {
      await transport.shutdown()
      throw error
    }
  }

  private init(
    _ options: Options, log: Logger, directory: HouseholdDirectory, household: Household, boot: BootID,
    known: [KnownPeer], transport: NetworkTransport, control: LocalControlServer, seed: UInt64
  ) async {
    lane = MeshLane()
    self.options = options
    self.log = log
    self.directory = directory
    self.transport = transport
    self.control = control
    desk = PairingDesk(trust: household.snapshot)
    var failure: String?
    if options.loopbackOnly {
      beacon = nil
    } else {
      do throws(BeaconFailure) { beacon = try await BeaconSocket(port: Beacon.port) } catch {
        beacon = nil
        failure = error.description
      }
    }
    beaconFailure = failure
    avahi = options.usesAvahi && !options.loopbackOnly ? AvahiDiscovery() : nil
    (beaconQueue, beaconOrders) = AsyncStream.makeStream(
      bufferingPolicy: .bufferingNewest(Self.waitingBeacons))
    self.known = [:]
    for peer in known { self.known[peer.device] = peer }
    let discovery = DiscoveryPlan.Settings(
      port: transport.localPort, staticPeers: options.staticPeers,
      filter: InterfaceFilter(listed: options.interfaces))
    let traits = MachineFacts.traits(interfaces: [], isAvailable: options.isAvailable)
    peer = MeshPeer(
      household: household, boot: boot, settings: MeshPeer.Settings(discovery: discovery, traits: traits),
      known: known, generator: SeededGenerator(seed: seed), at: DeviceClocks.now())
  }

  /// Starts the thread and everything that tells this actor what happens.
  private func begin() {
    lane.start(onAlarm: { [weak self] in
      guard let self else { return }
      Task { await self.handle(.tick) }
    })
    transport.receivePairing(at: desk)
    restoreInvitations()
    log.info("up", metadata: ["port": "\(transport.localPort)", "device": "\(peer.own.short)"])
    handle(.start)
    listen()
  }

  private func listen() {
    Task { for await event in transport.events { await handle(.transport(event)) } }
    Task { for await request in desk.requests { await ask(request) } }
    Task { for await request in control.requests { Task { await answer(request) } } }
    if let beacon {
      Task {
        for await received in beacon.received { await handle(.beacon(received.bytes, from: received.source)) }
      }
      Task { [beaconQueue] in
        for await order in beaconQueue { await beacon.send(order.bytes, to: order.target.address) }
      }
    }
    if let avahi {
      Task {
        for await event in avahi.events {
          if case .hint(let hint) = event { await handle(.hint(hint)) }
        }
      }
    }
    if options.loopbackOnly { return }
    do {
      let watch = try InterfaceWatch()
      Task { for await interfaces in watch.changes { await use(interfaces) } }
    } catch {
      log.warning("interfaces-not-watched", metadata: ["error": "\(error)"])
      use(InterfaceWatch.current())
    }
  }

  private func use(_ interfaces: [LocalInterface]) {
    self.interfaces = interfaces
    handle(.traits(MachineFacts.traits(interfaces: interfaces, isAvailable: options.isAvailable)))
    handle(.interfaces(interfaces))
  }

  // MARK: - The loop

  /// Lets the device take in what happened, does what it wants, and sets the alarm.
  func handle(_ input: MeshInput) {
    guard !isOver else { return }
    var inputs = [input]
    while !inputs.isEmpty {
      let effects = peer.handle(inputs.removeFirst(), at: DeviceClocks.now())
      for effect in effects { if let next = perform(effect) { inputs.append(next) } }
    }
    lane.setAlarm(peer.nextDeadline)
    tellWatchers()
    if peer.household.isRevoked, !isLeaving { log.error("self-revoked", metadata: [:]) }
  }

  /// Performs one effect; what it leads to at once is the next input.
  private func perform(_ effect: MeshEffect) -> MeshInput? {
    switch effect {
    case .storeLog:
      do throws(HouseholdStorageFailure) { try directory.store(peer.household.log) } catch {
        log.error("log-not-stored", metadata: ["error": "\(error)"])
      }
    case .storePeer(let peer): remember(peer)
    case .maintainHousehold: return maintain()
    case .updateTrust:
      transport.update(trust: peer.trust)
      desk.update(trust: peer.trust)
    case .transport(let command): transport.perform([command])
    case .sendBeacon(let bytes, let target): beaconOrders.yield((bytes, target))
    case .listen(let indexes): joinBeaconGroups(indexes)
    case .publish(let announcement): avahi?.publish(announcement)
    case .resolve(let peer): resolve(peer)
    case .report(let report): note(report)
    }
    return nil
  }

  private func maintain() -> MeshInput? {
    var household = peer.household
    var entropy = SystemEntropy()
    do throws(TrustFailure) {
      let entries = try household.maintain(entropy: &entropy)
      return entries.isEmpty ? nil : .trust(entries)
    } catch {
      log.warning("household-not-maintained", metadata: ["error": "\(error)"])
      return nil
    }
  }

  private func joinBeaconGroups(_ indexes: [UInt32]) {
    let used = interfaces.filter { indexes.contains($0.index) }.map { interface in
      BeaconInterface(
        name: interface.name, index: interface.index,
        broadcast: interface.addresses.compactMap(\.broadcast).first,
        hasIPv6: interface.addresses.contains { if case .v6 = $0.host { true } else { false } })
    }
    for failure in beacon?.update(interfaces: used) ?? [] {
      log.warning("beacon", metadata: ["error": "\(failure)"])
    }
  }

  private func resolve(_ listed: StaticPeer) {
    resolveAddresses(of: listed) { [weak self] addresses in
      Task { await self?.handle(.resolved(listed, addresses)) }
    }
  }

  private func remember(_ peer: KnownPeer) {
    var peer = peer
    peer.lastContact = DeviceClocks.wallSeconds()
    let before = known[peer.device]
    known[peer.device] = peer
    // New addresses are what the next start needs; the rest may wait for the end.
    if before?.addresses != peer.addresses { savePeers() } else { hasUnsavedPeers = true }
  }

  private func savePeers() {
    hasUnsavedPeers = false
    do throws(HouseholdStorageFailure) {
      try directory.store(known.keys.sorted().compactMap { known[$0] })
    } catch {
      log.warning("peers-not-stored", metadata: ["error": "\(error)"])
    }
  }

  // MARK: - The end

  /// Says goodbye to the others, keeps what is worth keeping, and gives everything back.
  package func stop(_ reason: CloseReason = .shuttingDown) async {
    guard !isLeaving else { return }
    isLeaving = true
    handle(.leave(reason))
    isOver = true
    lane.setAlarm(nil)
    if hasUnsavedPeers { savePeers() }
    for continuation in watchers.values { continuation.finish() }
    watchers = [:]
    await control.shutdown()
    await avahi?.stop()
    beaconOrders.finish()
    await beacon?.shutdown()
    desk.close()
    await transport.shutdown()
    log.info("down", metadata: [:])
    for waiting in ended { waiting.resume() }
    ended = []
  }

  /// Returns when the daemon has ended.
  package func waitUntilStopped() async {
    if isOver { return }
    await withCheckedContinuation { ended.append($0) }
  }
}
