import AvahiDiscovery
import CryptoPrimitives
import Determinism
import HearthStorage
import HouseholdTrust
package import Logging
import MeshModel
import MeshPeer
package import MeshProtocol
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
    /// Compute threads of jobs; nil uses the cores that the process may use.
    package var jobThreads: Int?
    /// Most memory that jobs may take; nil uses what is available.
    package var jobMemory: Int?
    /// Whether the device takes no part in jobs while it is on battery.
    package var pausesOnBattery: Bool
    /// Where the kernel lists the power supplies.
    package var powerFolder: String

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
      pausesOnBattery = false
      powerFolder = PowerSupplies.folder
    }
  }

  /// What a daemon holds of the outside world, opened before it exists.
  struct Doors: Sendable {
    let directory: HouseholdDirectory
    let transport: NetworkTransport
    let control: LocalControlServer
    let beacon: BeaconSocket?
    let beaconFailure: String?
    let avahi: AvahiDiscovery?
    /// Blobs of jobs; nil when their directory cannot be used, and this device trains nothing.
    let blobs: BlobStore?
  }

  nonisolated let lane: MeshLane
  /// The daemon's own thread.
  package nonisolated var unownedExecutor: UnownedSerialExecutor { lane.asUnownedSerialExecutor() }

  let options: Options
  let log: Logger
  let doors: Doors
  let desk: PairingDesk
  var peer: MeshPeer
  var known: [DeviceID: KnownPeer]
  var interfaces: [LocalInterface] = []
  var heard = HeardBeacons()
  let started: MonotonicInstant
  /// Members that closed a session because they hold this device for revoked.
  var turnedAway: Set<String> = []
  var watchers: [UInt64: Watcher] = [:]
  var nextWatcher: UInt64 = 0
  var invitations = Invitations()
  /// Commands that wait for the link survey under way.
  var linkWaiters: [CheckedContinuation<[LinkMeasurement]?, Never>] = []
  /// What trains the household's jobs; nil while it is not up.
  var jobService: (any JobServing)?
  /// Why the log could not be stored last; nil when it is on the disk.
  var storeFailure: HouseholdStorageFailure?
  private let beaconOrders: AsyncStream<BeaconOrder>.Continuation
  private let beaconQueue: AsyncStream<BeaconOrder>
  private var interfaceWatch: InterfaceWatch?
  private var traits: DeviceTraits
  private var traitsRead: MonotonicInstant
  private var hasUnsavedPeers = false
  private(set) var isLeaving = false
  private(set) var isOver = false
  private var ended: [CheckedContinuation<Void, Never>] = []

  /// What happens to the household's jobs on this device; nil while it is not up.
  var jobs: JobService?
  /// Whether it is still to be seen if this device trains; the mesh and its commands are up before.
  var isStartingJobs = true
  /// What the jobs say to the other members.
  nonisolated let jobMail: Mailbox<JobFarewell>
  /// Commands that wait until that is known.
  var jobStartWaiters: [CheckedContinuation<Void, Never>] = []
  /// Bulk sessions of jobs.
  var bulk: BulkDesk?
  /// Whether the household changed since the jobs were told.
  var jobsAreStale = false
  /// Whether this device takes part in jobs.
  var pause: DevicePause
  /// The reason that jobs and household were told last.
  var toldPause: String?
  var isTellingPause = false

  private struct BeaconOrder: Sendable {
    let bytes: [UInt8]
    let target: BeaconTarget
  }

  /// Beacons that wait to be sent; the newest replace older ones, which they repeat anyway.
  private static let waitingBeacons = 64
  /// Devices on one machine whose connections count as from as many addresses.
  private static let loopbackDevices = 16
  /// Events of the transport that are taken in one after the other.
  private static let eventsOfATurn = 64
  /// How often power and memory are looked at again.
  private static let traitsInterval: Duration = .seconds(30)

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
    if options.loopbackOnly {
      configuration.hosts = [.v4(0x7F00_0001)]
      // All devices of this household have one address, which would be one stranger's rate.
      configuration.limits.connectionsPerSecond *= Self.loopbackDevices
      configuration.limits.connectionBurst *= Self.loopbackDevices
    }
    let transport = try await NetworkTransport.start(configuration, trust: household.snapshot)
    let control: LocalControlServer
    do { control = try await LocalControlServer.listen(at: options.controlSocket) } catch {
      await transport.shutdown()
      throw error
    }
    var beacon: BeaconSocket?
    var beaconFailure: String?
    if !options.loopbackOnly {
      do throws(BeaconFailure) { beacon = try await BeaconSocket(port: Beacon.port) } catch {
        beaconFailure = error.description
      }
    }
    let doors = Doors(
      directory: directory, transport: transport, control: control, beacon: beacon,
      beaconFailure: beaconFailure,
      avahi: options.usesAvahi && !options.loopbackOnly ? AvahiDiscovery() : nil,
      blobs: await openBlobs(options.stateDirectory, log: log))
    // Before the actor: nothing of it runs without its thread.
    let lane = MeshLane()
    lane.start(name: "hearth-mesh")
    let daemon = HouseholdDaemon(
      options, log: log, lane: lane, doors: doors, household: household, boot: boot, known: known,
      seed: entropy.integer())
    await daemon.begin()
    await daemon.startJobs(seed: entropy.integer())
    return daemon
  }

  private init(
    _ options: Options, log: Logger, lane: MeshLane, doors: Doors, household: Household, boot: BootID,
    known: [KnownPeer], seed: UInt64
  ) {
    self.lane = lane
    jobMail = Mailbox(limit: Self.waitingJobMessages, lane: lane)
    self.options = options
    self.log = log
    self.doors = doors
    desk = PairingDesk(trust: household.snapshot) { [directory = doors.directory, log] in
      Self.keepFailure(in: directory, log: log)
    }
    (beaconQueue, beaconOrders) = AsyncStream.makeStream(
      of: BeaconOrder.self, bufferingPolicy: .bufferingNewest(Self.waitingBeacons))
    self.known = [:]
    for peer in known { self.known[peer.device] = peer }
    let now = DeviceClocks.now()
    pause = DevicePause(
      words: PauseRecord(stateDirectory: options.stateDirectory).words,
      pausesOnBattery: options.pausesOnBattery)
    pause.note(PowerSupplies(folder: options.powerFolder).power, at: now.monotonic)
    toldPause = pause.reason
    traits = MachineFacts.traits(
      interfaces: [], isAvailable: options.isAvailable, isPaused: pause.reason != nil)
    traitsRead = now.monotonic
    started = now.monotonic
    let discovery = DiscoveryPlan.Settings(
      port: doors.transport.localPort, staticPeers: options.staticPeers,
      filter: InterfaceFilter(listed: options.interfaces))
    peer = MeshPeer(
      household: household, boot: boot, settings: MeshPeer.Settings(discovery: discovery, traits: traits),
      known: known, generator: SeededGenerator(seed: seed), at: now)
  }

  deinit { lane.stop() }

  /// Starts everything that tells this actor what happens.
  private func begin() {
    lane.onAlarm { [weak self] in self?.assumeIsolated { $0.tick() } }
    doors.transport.receivePairing(at: desk)
    openBulkDesk()
    restoreInvitations()
    let port = doors.transport.localPort
    log.info("up", metadata: ["port": "\(port)", "device": "\(peer.own.short)"])
    if let reason = pause.reason { log.info("paused", metadata: ["reason": "\(reason)"]) }
    if let beaconFailure = doors.beaconFailure {
      log.warning("no-beacons", metadata: ["error": "\(beaconFailure)"])
    }
    handle(.start)
    listen()
    if options.loopbackOnly { return }
    // Before anything is awaited, so that the first dials know the ways.
    use(InterfaceWatch.current())
    do {
      let watch = try InterfaceWatch()
      interfaceWatch = watch
      Task { [changes = watch.changes] in for await interfaces in changes { use(interfaces) } }
    } catch {
      log.warning("interfaces-not-watched", metadata: ["error": "\(error)"])
    }
  }

  private func listen() {
    lane.onMail { [weak self] in
      self?.assumeIsolated { daemon in
        daemon.sendJobMail()
        daemon.takeEvents()
      }
    }
    doors.transport.tellOfEvents { [lane] in lane.ringBell() }
    Task { for await request in desk.requests { await ask(request) } }
    Task { for await request in doors.control.requests { Task { await answer(request) } } }
    if let beacon = doors.beacon {
      Task { for await beacon in beacon.received { take(beacon) } }
      Task { [beaconQueue] in
        for await order in beaconQueue {
          await beacon.send(order.bytes, to: order.target.address, interface: order.target.interface)
        }
      }
    }
    if let avahi = doors.avahi {
      Task {
        for await event in avahi.events {
          switch event {
          case .hint(let hint): handle(.hint(hint))
          case .report(let report):
            log.debug(
              "avahi",
              metadata: ["daemon": "\(report.daemon.rawValue)", "publication": "\(report.publication)"])
          }
        }
      }
    }
  }

  /// Takes in what the transport has; a part of it when there is much, so that commands and alarms have their turn.
  private func takeEvents() {
    for _ in 0..<Self.eventsOfATurn {
      guard let event = doors.transport.nextEvent() else { return }
      handle(.transport(event))
    }
    lane.ringBell()
  }

  private func use(_ interfaces: [LocalInterface]) {
    guard self.interfaces != interfaces else { return }
    self.interfaces = interfaces
    updateTraits()
    handle(.interfaces(interfaces))
  }

  private func take(_ received: ReceivedBeacon) {
    heard.note(received.source, at: DeviceClocks.now().monotonic)
    offerTokens(to: received.bytes)
    handle(.beacon(received.bytes, from: received.source))
  }

  private func tick() {
    let now = DeviceClocks.now().monotonic
    if traitsRead.duration(to: now) > Self.traitsInterval { updateTraits() }
    watchInvitations()
    watchPower()
    handle(.tick)
  }

  /// Looks at this machine again, and tells the household what has changed.
  func updateTraits() {
    traitsRead = DeviceClocks.now().monotonic
    let new = MachineFacts.traits(
      interfaces: interfaces, isAvailable: options.isAvailable, isPaused: pause.reason != nil)
    guard new != traits else { return }
    traits = new
    handle(.traits(new))
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
    lane.setAlarm([peer.nextDeadline, pause.nextDeadline].compactMap { $0 }.min())
    tellWatchers()
    if jobsAreStale { tellJobs() }
  }

  /// Performs one effect; what it leads to at once is the next input.
  private func perform(_ effect: MeshEffect) -> MeshInput? {
    switch effect {
    case .storeLog: storeLog()
    case .storePeer(let peer): remember(peer)
    case .maintainHousehold: return maintain()
    case .updateTrust:
      doors.transport.update(trust: peer.trust)
      desk.update(trust: peer.trust)
    case .transport(let command): doors.transport.perform([command])
    case .sendBeacon(let bytes, let target): beaconOrders.yield(BeaconOrder(bytes: bytes, target: target))
    case .listen(let indexes): joinBeaconGroups(indexes)
    case .publish(let announcement): doors.avahi?.publish(announcement)
    case .resolve(let peer): resolve(peer)
    case .linksMeasured(let links): tellLinkWaiters(links)
    case .bulkOpened(let session, let device): bulk?.dialled(session, device)
    case .bulkFailed(let device): bulk?.dialFailed(device)
    case .job(let device, let body): jobs?.receive(body, from: device)
    case .report(let report):
      note(report)
      if case .dropped = report {} else { jobsAreStale = true }
    }
    return nil
  }

  private func storeLog() {
    do throws(HouseholdStorageFailure) {
      try doors.directory.store(peer.household.log)
      storeFailure = nil
    } catch {
      storeFailure = error
      log.error("log-not-stored", metadata: ["error": "\(error)"])
    }
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
    let used = interfaces.filter { indexes.contains($0.index) }.map(BeaconInterface.init)
    for failure in doors.beacon?.update(interfaces: used) ?? [] {
      log.warning("no-beacons", metadata: ["error": "\(failure)"])
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
      try doors.directory.store(known.keys.sorted().compactMap { known[$0] })
    } catch {
      log.warning("peers-not-stored", metadata: ["error": "\(error)"])
    }
  }

  // MARK: - The end

  /// Says goodbye to the others, keeps what is worth keeping, and gives everything back.
  package func stop(_ reason: CloseReason = .shuttingDown) async {
    guard !isLeaving else { return await waitUntilStopped() }
    await withdraw(reason)
    await end()
  }

  /// Leaves the mesh; commands that wait are still answered.
  func withdraw(_ reason: CloseReason) async {
    isLeaving = true
    closeInvitation("the daemon stops")
    await stopJobs()
    handle(.leave(reason))
    isOver = true
    lane.setAlarm(nil)
    if hasUnsavedPeers { savePeers() }
    for watcher in watchers.values { watcher.continuation.finish() }
    watchers = [:]
    tellLinkWaiters(nil)
    interfaceWatch = nil
    desk.close()
    await doors.transport.shutdown()
    await doors.avahi?.stop()
    beaconOrders.finish()
    await doors.beacon?.shutdown()
  }

  /// Closes the local socket, the last thing that is open.
  func end() async {
    await doors.control.shutdown()
    log.info("down", metadata: [:])
    hasEnded = true
    for waiting in ended { waiting.resume() }
    ended = []
  }

  private var hasEnded = false

  /// Returns when the daemon has ended.
  package func waitUntilStopped() async {
    if hasEnded { return }
    await withCheckedContinuation { ended.append($0) }
  }
}

extension BeaconInterface {
  /// The part of an interface that beacons need.
  init(_ interface: LocalInterface) {
    self.init(
      name: interface.name, index: interface.index,
      broadcast: interface.addresses.compactMap(\.broadcast).first,
      hasIPv6: interface.addresses.contains { address in
        if case .v6 = address.host { NetworkAddress(address.host, port: 0).isLinkLocal } else { false }
      })
  }
}

/// From whom beacons came lately, for `hearth doctor`.
struct HeardBeacons: Sendable {
  /// Senders that are remembered; the one that was silent longest gives way.
  static let limit = 64

  /// One sender.
  struct Sender: Sendable {
    let address: NetworkAddress
    var count: Int
    var last: MonotonicInstant
  }

  private(set) var senders: [Sender] = []

  mutating func note(_ address: NetworkAddress, at now: MonotonicInstant) {
    let place = NetworkAddress(address.host, port: 0)
    if let index = senders.firstIndex(where: { $0.address == place }) {
      senders[index].count += 1
      senders[index].last = now
      return
    }
    if senders.count == Self.limit,
      let oldest = senders.indices.min(by: { senders[$0].last < senders[$1].last })
    {
      senders.remove(at: oldest)
    }
    senders.append(Sender(address: place, count: 1, last: now))
  }
}
