package import Determinism
package import MeshModel
import WireCoding

/// One device's view of the household: SWIM with Lifeguard, anti-entropy and a leader suggestion.
///
/// SWIM: Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership Protocol",
/// DSN 2002. Lifeguard: arXiv 1707.00788. What differs from them, because homes differ from data centres: nobody is
/// ever "dead" (unreachable members stay in the view and are compared with), incarnations survive restarts, views
/// are reconciled all the time, and a device that was asleep or frozen notices it and accuses nobody.
///
/// A value: the same inputs at the same instants give the same effects. Time-outs are measured with the clock that
/// stops while the machine sleeps; the other clock serves to notice that it slept.
package struct Membership: Sendable {
  /// A member as this device sees it.
  package struct Member: Hashable, Sendable {
    /// What the member says of itself, and what is believed of it.
    package internal(set) var record: MemberRecord
    /// Since when its state holds, by this device's monotonic clock.
    package internal(set) var since: MonotonicInstant
    /// When something authenticated was last heard from it.
    package internal(set) var lastHeard: MonotonicInstant?
    /// Whether a control session with it stands.
    package internal(set) var hasPath = false
    /// Whether only the control session reaches it, because something blocks datagrams.
    package var datagramsAreBlocked: Bool { sessionOnlyAnswers >= Membership.blockedAfterAnswers }

    /// Whether `record` holds the statements of its incarnation, or those of an earlier one.
    var hasCurrentStatements = true
    var suspicion: Suspicion?
    var roundTrips: [Duration] = []
    var sessionOnlyAnswers = 0
    var lastExchange: MonotonicInstant?
    var lastExchangedDigests: [ViewDigest] = []
    var lastAccused: MonotonicInstant?

    /// A member that is heard of for the first time.
    init(record: MemberRecord, since: MonotonicInstant) {
      self.record = record
      self.since = since
    }

    /// The median of its recent round trips.
    package var roundTrip: Duration? {
      roundTrips.isEmpty ? nil : roundTrips.sorted()[roundTrips.count / 2]
    }

    var claim: MemberClaim {
      MemberClaim(
        device: record.device, incarnation: record.incarnation, state: record.state,
        capabilityHash: hasCurrentStatements ? record.capabilityHash : 0)
    }
  }

  /// Probes in a row that only the session answered, after which datagrams count as blocked.
  static let blockedAfterAnswers = 3

  /// The numbers in use.
  package let profile: GossipProfile
  /// What this device says of itself.
  package internal(set) var own: MemberRecord
  /// The other members, in ascending order of their names, removed ones among them.
  package internal(set) var members: [Member] = []
  /// When the next `.tick` is due.
  package internal(set) var nextDeadline: MonotonicInstant
  /// Whom the household should follow, as this device sees it.
  package var suggestedLeader: DeviceID? { own.leader }
  /// How much this device distrusts its own haste: 0 is well, 7 the worst (Lifeguard §IV-A).
  package var healthScore: Int { health.score }

  var roster: [DeviceID] = []
  var revokedDevices: [DeviceID] = []
  var paths: [DeviceID] = []
  var generator: SeededGenerator
  var health: LocalHealth
  var queue = NewsQueue()
  var lastReading: ClockReading

  var nextProbe: MonotonicInstant
  var probeOrder: [DeviceID] = []
  var probes: [Probe] = []
  var relays: [Relay] = []
  var nextSequence: UInt32

  var nextGossip: MonotonicInstant?
  var nextExchange: MonotonicInstant
  var answers: [(device: DeviceID, count: Int)] = []
  var awaitedLeader: (device: DeviceID?, since: MonotonicInstant)?

  var cachedDigest: ViewDigest? { didSet { leaderIsStale = leaderIsStale || cachedDigest == nil } }
  var leaderIsStale = true
  var effects: [GossipEffect] = []
  private var drops = [Int](repeating: 0, count: GossipDrop.allCases.count)

  /// The view of a device that knows only itself.
  ///
  /// `own` carries the incarnation of this start, which comes from a counter on disk: it beats whatever was said of
  /// the device's earlier life.
  package init(
    own: MemberRecord, profile: GossipProfile = .household, generator: SeededGenerator, at now: ClockReading
  ) {
    self.own = own
    self.profile = profile
    self.generator = generator
    health = LocalHealth(maximum: profile.healthMaximum)
    lastReading = now
    nextSequence = UInt32(truncatingIfNeeded: self.generator.next())
    // A random first instant keeps devices that start together out of step.
    let share = Double(self.generator.uniformFloat())
    nextProbe = now.monotonic.advanced(by: profile.probeInterval * share)
    nextExchange = now.monotonic.advanced(by: profile.exchangeInterval * share)
    nextDeadline = now.monotonic
    nextDeadline = earliestDeadline(after: now.monotonic)
  }

  /// Takes in what happened and answers with what to do, in this order.
  package mutating func handle(_ input: GossipInput, at now: ClockReading) -> [GossipEffect] {
    effects.removeAll(keepingCapacity: true)
    noticeAbsence(now)
    take(input, at: now.monotonic)
    if own.state.takesPart { runTimers(now.monotonic) }
    nextDeadline = earliestDeadline(after: now.monotonic)
    return effects
  }

  /// How often something was dropped for this reason.
  package func dropCount(_ reason: GossipDrop) -> Int {
    GossipDrop.allCases.firstIndex(of: reason).map { drops[$0] } ?? 0
  }

  /// The member with this name.
  package func member(_ device: DeviceID) -> Member? { index(of: device).map { members[$0] } }

  /// Whether a control session with the device stands.
  package func hasPath(to device: DeviceID) -> Bool { paths.sortedContains(device) }

  /// Whether the member has been unreachable for so long that it is not worth showing.
  package func isLongGone(_ member: Member, at now: MonotonicInstant) -> Bool {
    member.record.state == .unreachable && member.since.duration(to: now) >= profile.unreachableRetention
  }

  /// Sixteen bytes that are equal on devices with equal views.
  package mutating func digest() -> ViewDigest {
    if let cachedDigest { return cachedDigest }
    let digest = ViewDigest(claims: claims)
    cachedDigest = digest
    return digest
  }

  // MARK: - Inputs

  private mutating func take(_ input: GossipInput, at now: MonotonicInstant) {
    guard own.state != .revoked else { return }
    switch input {
    case .tick: break
    case .message(let bytes, let sender, let path):
      receive(bytes, from: sender, over: path, isExchange: false, at: now)
    case .viewExchange(let bytes, let sender):
      receive(bytes, from: sender, over: .session, isExchange: true, at: now)
    case .heard(let device): hear(from: device, at: now)
    case .measured(let device, let roundTrip):
      if let index = index(of: device) { remember(roundTrip, of: index) }
    case .reachable(let device): openPath(to: device, at: now)
    case .unreachablePath(let device): closePath(to: device)
    case .roster(let devices): setRoster(devices, at: now)
    case .revoked(let device): revoke(device, at: now)
    case .ownTraits(let traits): if own.restate(traits: traits) { raiseIncarnation() }
    case .ownAddresses(let addresses): if own.restate(addresses: addresses) { raiseIncarnation() }
    case .leave: leave()
    }
  }

  private mutating func receive(
    _ bytes: [UInt8], from sender: DeviceID, over path: MessagePath, isExchange: Bool,
    at now: MonotonicInstant
  ) {
    guard isMember(sender) else { return drop(.strangerSender, from: sender) }
    let message: GossipMessage
    do {
      message = try GossipMessage(decoding: bytes)
    } catch {
      return drop(.malformed, from: sender)
    }
    guard message.isOfExchange == isExchange else { return drop(.malformed, from: sender) }
    guard own.state.takesPart else { return }
    hear(from: sender, at: now)
    switch message {
    case .ping(let sequence, let news):
      takeNews(news, from: sender, at: now)
      send(.ack(sequence: sequence, digest(), []), to: sender, over: path)
    case .ack(let sequence, let digest, let news):
      takeNews(news, from: sender, at: now)
      takeAck(sequence, digest, from: sender, over: path, at: now)
    case .pingRequest(let sequence, let target, let news):
      takeNews(news, from: sender, at: now)
      relay(sequence, to: target, for: sender, over: path, at: now)
    case .nack(let sequence): takeNack(sequence, from: sender)
    case .news(let news): takeNews(news, from: sender, at: now)
    case .viewDigest(let digest):
      if digest != self.digest() { answerDigest(to: sender, at: now) }
    case .viewPart(let part): answer(part, to: sender, at: now)
    case .records(let records, let wanted): takeRecords(records, wanted: wanted, from: sender, at: now)
    }
    if index(of: sender) == nil { exchange(with: sender, at: now) }
  }

  /// Proof of life.
  ///
  /// A member that is believed gone is told so, that it may refute (Lifeguard §IV-C, Buddy System).
  private mutating func hear(from device: DeviceID, at now: MonotonicInstant) {
    guard let index = index(of: device) else { return }
    members[index].lastHeard = now
    let state = members[index].record.state
    guard state == .suspect || state == .unreachable, own.state.takesPart, hasPath(to: device) else { return }
    if let last = members[index].lastAccused, last.duration(to: now) < profile.probeInterval { return }
    members[index].lastAccused = now
    send(.news([]), to: device)
  }

  private mutating func openPath(to device: DeviceID, at now: MonotonicInstant) {
    guard isMember(device) else { return drop(.strangerSender, from: device) }
    paths.sortedInsert(device)
    if let index = index(of: device) { members[index].hasPath = true }
    guard own.state.takesPart else { return }
    hear(from: device, at: now)
    effects.append(.viewExchange(to: device, GossipMessage.records([own], wanted: []).encoded))
    exchange(with: device, at: now, evenIfRecent: true)
  }

  /// A broken session is no proof of anything, but a good reason to probe at once.
  private mutating func closePath(to device: DeviceID) {
    paths.sortedRemove(device)
    guard let index = index(of: device) else { return }
    members[index].hasPath = false
    guard members[index].record.state.takesPart else { return }
    members[index].lastHeard = nil
    probeOrder.removeAll { $0 == device }
    probeOrder.append(device)
  }

  private mutating func setRoster(_ devices: [DeviceID], at now: MonotonicInstant) {
    var names: [DeviceID] = []
    for device in devices.sorted() where device != own.device && names.last != device {
      guard names.count < GossipLimits.members - 1 else {
        drop(.overLimit, from: device)
        continue
      }
      names.append(device)
    }
    roster = names
    // Who was missing from the roster without being revoked may come back.
    members = members.filter { $0.record.state != .revoked || !isMember($0.record.device) }
    for member in members where member.record.state != .revoked && !names.sortedContains(member.record.device)
    {
      remove(member.record.device, at: now)
    }
  }

  private mutating func revoke(_ device: DeviceID, at now: MonotonicInstant) {
    if device == own.device {
      own.state = .revoked
      silence()
      return
    }
    if revokedDevices.count < GossipLimits.revokedDevices { revokedDevices.sortedInsert(device) }
    roster.sortedRemove(device)
    remove(device, at: now)
  }

  private mutating func remove(_ device: DeviceID, at now: MonotonicInstant) {
    paths.sortedRemove(device)
    queue.remove(device)
    probeOrder.removeAll { $0 == device }
    probes.removeAll { $0.target == device }
    relays.removeAll { $0.target == device || $0.requester == device }
    if let index = index(of: device) {
      members[index].hasPath = false
      setState(.revoked, of: index, at: now)
    }
    let gone = members.filter { $0.record.state == .revoked }
    if gone.count > GossipLimits.members, let oldest = gone.min(by: { $0.since < $1.since }) {
      members.removeAll { $0.record.device == oldest.record.device }
    }
  }

  private mutating func leave() {
    guard own.state.takesPart else { return }
    own.incarnation = own.incarnation.next
    own.state = .left
    for device in paths {
      // Over both ways: nobody repeats it when it is lost.
      send(.news([.record(own)]), to: device, over: .datagram)
      effects.append(.viewExchange(to: device, GossipMessage.records([own], wanted: []).encoded))
    }
    silence()
  }

  private mutating func silence() {
    cachedDigest = nil
    probes = []
    relays = []
    queue = NewsQueue()
  }

  // MARK: - Shared

  /// Says something new about this device itself.
  mutating func raiseIncarnation() {
    guard own.state.takesPart else { return }
    own.incarnation = own.incarnation.next
    cachedDigest = nil
    queue.add(.record(own))
  }

  /// Whether the device is a member by trust.
  func isMember(_ device: DeviceID) -> Bool {
    roster.sortedContains(device) && !revokedDevices.sortedContains(device)
  }

  /// The place of the member in `members`.
  func index(of device: DeviceID) -> Int? {
    let place = place(of: device)
    return place < members.count && members[place].record.device == device ? place : nil
  }

  /// Where the member is, or would be put.
  ///
  /// A search of its own, because a closure would copy each member that it looks at.
  func place(of device: DeviceID) -> Int {
    var low = 0
    var high = members.count
    while low < high {
      let middle = (low + high) / 2
      if members[middle].record.device < device { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Changes what is believed of a member.
  mutating func setState(_ state: MemberState, of index: Int, at now: MonotonicInstant) {
    let before = members[index].record.state
    guard before != state else { return }
    members[index].record.state = state
    members[index].since = now
    if state != .suspect { members[index].suspicion = nil }
    cachedDigest = nil
    effects.append(.changed(members[index].record, from: before))
    if state.takesPart, !before.takesPart { insertIntoProbeOrder(members[index].record.device) }
  }

  /// This device and all members that are not removed, as claims in ascending order.
  var claims: [MemberClaim] {
    var claims = members.compactMap { $0.record.state == .revoked ? nil : $0.claim }
    let mine = MemberClaim(
      device: own.device, incarnation: own.incarnation, state: own.state, capabilityHash: own.capabilityHash)
    claims.insert(mine, at: claims.partition { $0.device >= mine.device })
    return claims
  }

  /// Members that take part, this device included: SWIM's n.
  var memberCount: Int {
    var count = own.state.takesPart ? 1 : 0
    for index in members.indices where members[index].record.state.takesPart { count += 1 }
    return count
  }

  /// Sends a message with what news fit in, over the way that works.
  mutating func send(_ message: GossipMessage, to device: DeviceID) {
    let isBlocked = index(of: device).map { members[$0].datagramsAreBlocked } ?? false
    send(message, to: device, over: isBlocked ? .session : .datagram)
  }

  /// Sends a message with what news fit in.
  ///
  /// A member that is doubted gets the accusation first (Lifeguard §IV-C, Buddy System).
  mutating func send(_ message: GossipMessage, to device: DeviceID, over path: MessagePath) {
    guard hasPath(to: device) else { return }
    let bytes = filled(message, for: device).encoded
    effects.append(
      path == .datagram ? .datagram(to: device, bytes) : .sessionMessage(to: device, bytes))
  }

  /// Counts and reports something that is dropped.
  mutating func drop(_ reason: GossipDrop, from device: DeviceID) {
    if let index = GossipDrop.allCases.firstIndex(of: reason) { drops[index] += 1 }
    effects.append(.dropped(reason, from: device))
  }
}
