package import Determinism
package import GossipMembership
package import HouseholdTrust
package import MeshModel
import MeshProtocol
package import PeerDiscovery

/// A device in the mesh: joins what discovery hints at, what trust allows and what gossip believes, over sessions.
///
/// It decides and does nothing itself. Its owner drives it so:
///
///     var effects = peer.handle(.start, at: now)
///     loop: do the effects in their order; wait for an event or for nextDeadline;
///           effects = peer.handle(event, at: now)
///
/// A late tick is harmless and is noticed; a tick too many costs nothing. The owner performs `storeLog`
/// durably and `updateTrust` before the effects that follow them.
package struct MeshPeer: Sendable {
  /// What a person can set, and what the system says about this device.
  package struct Settings: Sendable {
    /// Where this device listens, peers that the person listed, and which interfaces are used.
    package var discovery: DiscoveryPlan.Settings
    /// What this device tells about itself.
    package var traits: DeviceTraits
    /// The numbers of the gossip.
    package var gossip: GossipProfile

    /// Settings.
    package init(
      discovery: DiscoveryPlan.Settings, traits: DeviceTraits, gossip: GossipProfile = .household
    ) {
      self.discovery = discovery
      self.traits = traits
      self.gossip = gossip
    }
  }

  /// This device.
  package let own: DeviceID
  /// Which start of its daemon this is.
  package let boot: BootID
  /// What this device holds of the household.
  package internal(set) var household: Household
  /// What this device believes of the others.
  package internal(set) var membership: Membership

  let settings: Settings
  var discovery: DiscoveryPlan
  var table = SessionTable()
  var known: [DeviceID: KnownPeer]
  var knownSince: [DeviceID: MonotonicInstant] = [:]
  var quarantine: [DeviceID: MonotonicInstant] = [:]
  var lastSaid: [DeviceID: AbsenceReason] = [:]
  var lastVersions: [DeviceID: WireVersions] = [:]
  var usable: Set<DeviceID> = []
  var drops: [DropReason: Int] = [:]
  var isOut = false
  var hasStarted = false

  var effects: [MeshEffect] = []
  var inputCount: UInt64 = 0
  var nextRequest: UInt32 = 1
  var nextLogSync: MonotonicInstant
  var lastSynced: DeviceID?
  var nextRenewal: MonotonicInstant
  var linkSurvey = LinkSurvey()
  var burstReceiver = BurstReceiver()
  /// In the order in which they were dialled.
  var bulkDials: [BulkDial] = []

  /// A device that has not started yet; `known` is what it remembers of the others.
  package init(
    household: Household, boot: BootID, settings: Settings, known: [KnownPeer] = [],
    generator: SeededGenerator, at now: ClockReading
  ) {
    var streams = generator
    own = household.device
    self.boot = boot
    self.household = household
    self.settings = settings
    discovery = DiscoveryPlan(
      own: own, settings: settings.discovery, generator: SeededGenerator(seed: streams.next()),
      at: now.monotonic)
    let record = MemberRecord(
      device: own, incarnation: Incarnation(boot: boot), addresses: [], traits: settings.traits)
    membership = Membership(
      own: record, profile: settings.gossip, generator: SeededGenerator(seed: streams.next()), at: now)
    self.known = [:]
    for peer in known.prefix(MeshLimits.devices) { self.known[peer.device] = peer }
    nextLogSync = now.monotonic.advanced(by: MeshLimits.logSyncInterval)
    nextRenewal = now.monotonic
  }

  /// What the transport needs to know of trust.
  package var trust: TrustSnapshot { household.snapshot }

  /// When the next `tick` is due, by the monotonic clock; nil before the start and after the end.
  package var nextDeadline: MonotonicInstant? {
    guard hasStarted, !isOut else { return nil }
    var deadline = min(membership.nextDeadline, nextLogSync)
    if let next = discovery.nextDeadline { deadline = min(deadline, next) }
    if let next = table.nextDeadline { deadline = min(deadline, next) }
    for until in quarantine.values { deadline = min(deadline, until) }
    if let next = linkSurvey.nextDeadline { deadline = min(deadline, next) }
    if let next = burstReceiver.nextDeadline { deadline = min(deadline, next) }
    return deadline
  }

  /// Takes in what happened and answers with what to do, in this order.
  package mutating func handle(_ input: MeshInput, at now: ClockReading) -> [MeshEffect] {
    effects = []
    inputCount += 1
    guard !isOut else { return [] }
    guard hasStarted || input.isStart else { return [] }
    runTimers(at: now)
    switch input {
    case .start: start(at: now)
    case .tick: break
    case .transport(let event): handle(event, at: now)
    case .hint(let hint): discover(.hint(hint), at: now)
    case .beacon(let bytes, let address): discover(.beacon(bytes, from: address), at: now)
    case .interfaces(let interfaces): useInterfaces(interfaces, at: now)
    case .resolved(let peer, let addresses): discover(.resolved(peer, addresses), at: now)
    case .pairing(let discriminator): discover(.pairing(discriminator), at: now)
    case .trust(let entries): merge(entries, from: nil, at: now)
    case .traits(let traits): gossip(.ownTraits(traits), at: now)
    case .resumed: wakeUp(at: now)
    case .measureLinks: measureLinks(at: now)
    case .openBulk(let device): openBulk(device)
    case .job(let device, let body): sendJob(body, to: device)
    case .leave(let reason): leave(reason, at: now)
    }
    let done = effects
    effects = []
    return done
  }

  // MARK: - Start and end

  private mutating func start(at now: ClockReading) {
    guard !hasStarted else { return }
    hasStarted = true
    noteTrust(at: now)
    for device in known.keys.sorted() where household.view.isMember(device) {
      for address in known[device]?.addresses ?? [] {
        discover(.hint(DiscoveryHint(address: address, source: .persisted, device: device)), at: now)
      }
    }
  }

  private mutating func useInterfaces(_ interfaces: [LocalInterface], at now: ClockReading) {
    let used = settings.discovery.filter.usable(interfaces)
    let addresses = used.flatMap { interface in
      interface.addresses.map { NetworkAddress($0.host, port: settings.discovery.port) }
    }
    gossip(.ownAddresses(addresses), at: now)
    discover(.interfaces(interfaces), at: now)
  }

  private mutating func leave(_ reason: CloseReason, at now: ClockReading) {
    gossip(.leave, at: now)
    for entry in table.entries { effects.append(.transport(.close(entry.id, reason))) }
    effects.append(.publish(nil))
    table = SessionTable()
    for dial in bulkDials where !dial.isForSurvey { effects.append(.bulkFailed(dial.device)) }
    bulkDials = []
    isOut = true
  }

  // MARK: - Timers

  private mutating func runTimers(at now: ClockReading) {
    guard hasStarted else { return }
    if membership.nextDeadline <= now.monotonic { gossip(.tick, at: now) }
    if let next = discovery.nextDeadline, next <= now.monotonic { discover(.tick, at: now) }
    for device in quarantine.keys.sorted() {
      if let until = quarantine[device], until <= now.monotonic { quarantine[device] = nil }
    }
    if nextLogSync <= now.monotonic {
      nextLogSync = now.monotonic.advanced(by: MeshLimits.logSyncInterval)
      syncNext()
      maintainIfDue()
    }
    checkEchoes(at: now)
    checkLinks(at: now.monotonic)
    renewOldSessions(at: now)
  }

  /// This device was asleep: every session may be dead, and every address old.
  mutating func wakeUp(at now: ClockReading) {
    for entry in table.entries where entry.info.purpose == .control {
      sendEcho(on: entry.id, timeout: MeshLimits.urgentEchoTimeout, at: now.monotonic)
    }
    discover(.resumed, at: now)
  }

  // MARK: - Words

  mutating func report(_ report: MeshReport) { effects.append(.report(report)) }

  mutating func drop(_ reason: DropReason) {
    drops[reason, default: 0] += 1
    report(.dropped(reason))
  }
}

extension MeshInput {
  /// Whether it is `start`.
  var isStart: Bool {
    if case .start = self { return true }
    return false
  }
}
