import Determinism
import MeshModel

/// Whom to dial and when.
extension DiscoveryPlan {
  /// Takes a hint to the device that it names or that its daemon turned out to be, else to the strangers.
  mutating func take(_ hint: DiscoveryHint, at now: MonotonicInstant) {
    if let instance = hint.instance, isOwn(instance) { return }
    guard canDial(hint) else {
      refusedHints += 1
      return
    }
    if seeksPairing, let discriminator = hint.pairing, let instance = hint.instance {
      add(PairingOffer(discriminator: discriminator, address: hint.address, instance: instance))
      if keys.isEmpty { return }
    }
    if let tag = hint.householdTag, !keys.contains(where: { $0.householdTag == tag }) {
      refusedHints += 1
      return
    }
    let named = hint.device.flatMap(listedIndex)
    let identified = instances.device(of: hint.instance).flatMap(listedIndex)
    if hint.source.isAnnouncement, hear(hint, onlyOf: identified, at: now) { return }
    guard let index = named ?? identified else {
      takeStranger(hint, at: now)
      return
    }
    if hear(hint, onlyOf: index, at: now) { return }
    var candidate = Candidate(hint, at: now)
    if !devices[index].isConnected { candidate.due = now }
    // Multicast DNS proves nothing; a beacon's authentication shows at least a member.
    if !devices[index].add(candidate, isProven: hint.source != .avahi) { takeStranger(hint, at: now) }
  }

  /// Refreshes an address that is known already, of one device or of whoever has it; false when nobody has.
  private mutating func hear(_ hint: DiscoveryHint, onlyOf only: Int?, at now: MonotonicInstant) -> Bool {
    var isKnown = false
    for index in devices.indices where only == nil || only == index {
      for place in devices[index].candidates.indices
      where devices[index].candidates[place].address == hint.address {
        devices[index].candidates[place].hear(hint, wanted: !devices[index].isConnected, at: now)
        isKnown = true
      }
    }
    return isKnown
  }

  /// Keeps an address of which no device is known; the fullest source gives way, so that a flood from one source
  /// drives out nothing of the others.
  private mutating func takeStranger(_ hint: DiscoveryHint, at now: MonotonicInstant) {
    if let known = strangers.firstIndex(where: { $0.address == hint.address }) {
      strangers[known].hear(hint, wanted: true, at: now)
      return
    }
    // A session stands there: the hint leads to a device that is in.
    if devices.contains(where: { $0.isConnected && $0.candidates.contains { $0.address == hint.address } }) {
      return
    }
    if strangers.count >= DiscoveryLimits.strangers {
      var counts: [DiscoveryHint.Source: Int] = [hint.source: 1]
      for stranger in strangers { counts[stranger.source, default: 0] += 1 }
      let most = counts.values.max() ?? 0
      let oldest = strangers.indices.filter { counts[strangers[$0].source] == most }.min {
        strangers[$0].lastHeard < strangers[$1].lastHeard
      }
      guard let oldest else { return }
      strangers.remove(at: oldest)
    }
    var candidate = Candidate(hint, at: now)
    candidate.due = now
    strangers.append(candidate)
  }

  /// Whether an address can lead to another device at all.
  private func canDial(_ hint: DiscoveryHint) -> Bool {
    let address = hint.address
    guard address.port != 0 else { return false }
    if address.isLoopback, hint.source == .avahi || hint.source == .beacon || hint.source == .gossip {
      return false
    }
    switch address.host {
    case .v4(let bits):
      // This network, groups, reserved and broadcast (RFC 1122, 5771).
      if bits >> 24 == 0 || bits >> 28 >= 0xE { return false }
    case .v6(let high, let low, let scope):
      if high == 0 && low == 0 || high >> 56 == 0xFF { return false }
      if address.isLinkLocal && scope == 0 { return false }
    }
    guard address.port == settings.port else { return true }
    return !interfaces.contains { $0.addresses.contains { $0.host == address.host } }
  }

  private func listedIndex(_ device: DeviceID) -> Int? {
    index(of: device).flatMap { devices[$0].isListed ? $0 : nil }
  }

  /// Notes that a control session stands and what it teaches about addresses.
  mutating func connect(
    _ device: DeviceID, dialled: NetworkAddress?, listening: NetworkAddress, at now: MonotonicInstant
  ) {
    guard device != own else { return }
    if let dialled { flights.removeAll { $0.address == dialled } }
    let index = insert(device)
    devices[index].isConnected = true
    devices[index].wasConnected = true
    devices[index].said = nil
    var instances: Set<InstanceTag> = []
    for address in Set([dialled, listening].compactMap(\.self)).sorted() {
      instances.formUnion(strangers.filter { $0.address == address }.compactMap(\.instance))
      let hint = DiscoveryHint(address: address, source: .persisted, device: device)
      // Loopback and the like are as good as the session that stands there.
      if !devices[index].candidates.contains(where: { $0.address == address }) {
        _ = devices[index].add(Candidate(hint, at: now), isProven: true)
      }
      for place in devices[index].candidates.indices
      where devices[index].candidates[place].address == address {
        devices[index].candidates[place].lastHeard = now
        devices[index].candidates[place].source = .persisted
        if address == dialled { devices[index].candidates[place].lastGood = now }
      }
    }
    for tag in instances.sorted() { self.instances.identify(tag, as: device, at: now) }
    // What else the same daemon announced belongs to it too.
    let found = strangers.filter { stranger in
      stranger.address == dialled || stranger.address == listening
        || stranger.instance.map(instances.contains) == true
    }
    strangers.removeAll { stranger in found.contains { $0.address == stranger.address } }
    for stranger in found
    where !devices[index].candidates.contains(where: { $0.address == stranger.address }) {
      _ = devices[index].add(stranger, isProven: false)
    }
    for place in devices[index].candidates.indices {
      devices[index].candidates[place].due = nil
      devices[index].candidates[place].failures = 0
      devices[index].candidates[place].outcome = nil
      devices[index].candidates[place].isAnnounced = false
    }
  }

  /// Notes that no control session stands any more, and dials again: at once, or slowly after a farewell.
  mutating func disconnect(_ device: DeviceID, said: AbsenceReason?, at now: MonotonicInstant) {
    guard let index = index(of: device), devices[index].isConnected else { return }
    guard devices[index].isListed else {
      devices.remove(at: index)
      return
    }
    devices[index].isConnected = false
    devices[index].said = said
    for place in devices[index].candidates.indices {
      devices[index].candidates[place].renew(at: now)
      if said != nil {
        // It will announce itself when it is back.
        devices[index].candidates[place].failures = 16
        devices[index].candidates[place].due = now.advanced(
          by: redialWait(afterFailures: 16, generator: &generator))
      }
    }
  }

  /// Notes how a dial ended, at every device that is looked for at the address.
  mutating func endDial(of address: NetworkAddress, _ outcome: DialOutcome, at now: MonotonicInstant) {
    guard let flight = flights.firstIndex(where: { $0.address == address }) else { return }
    let isOutdated = flights.remove(at: flight).isOutdated
    for index in devices.indices where !devices[index].isConnected {
      for place in devices[index].candidates.indices
      where devices[index].candidates[place].address == address {
        if outcome == .otherDevice(devices[index].id) {
          devices[index].candidates[place].renew(at: now)
          devices[index].candidates[place].isAnnounced = true
          continue
        }
        devices[index].candidates[place].fail(outcome, keepsTrying: true, generator: &generator, at: now)
        if isOutdated { devices[index].candidates[place].renew(at: now) }
      }
    }
    for place in strangers.indices where strangers[place].address == address {
      // An announcement comes again when something changes there; a listed address says nothing by itself.
      let keepsTrying = !strangers[place].source.isAnnouncement
      strangers[place].fail(outcome, keepsTrying: keepsTrying, generator: &generator, at: now)
      if isOutdated { strangers[place].renew(at: now) }
    }
    if case .otherDevice(let actual) = outcome, let index = listedIndex(actual), !devices[index].isConnected,
      !devices[index].candidates.contains(where: { $0.address == address })
    {
      var candidate = Candidate(
        DiscoveryHint(address: address, source: .persisted, device: actual), at: now)
      candidate.due = now
      candidate.isAnnounced = true
      _ = devices[index].add(candidate, isProven: true)
    }
  }

  /// Dials everybody who is not in as if nothing had been tried: after a change of the network, or sleep.
  mutating func renewAll(at now: MonotonicInstant) {
    for index in devices.indices where !devices[index].isConnected {
      for place in devices[index].candidates.indices { devices[index].candidates[place].renew(at: now) }
    }
    for place in strangers.indices { strangers[place].renew(at: now) }
    for index in flights.indices { flights[index].isOutdated = true }
    if nextResolution != nil { nextResolution = now }
    beacons.restart(at: now)
  }

  /// Drops addresses that only exist on interfaces which are gone.
  mutating func forgetScopes(except indices: Set<UInt32>) {
    func isGone(_ candidate: Candidate) -> Bool {
      guard case .v6(_, _, let scope) = candidate.address.host, scope != 0 else { return false }
      return !indices.contains(scope)
    }
    for index in devices.indices { devices[index].candidates.removeAll(where: isGone) }
    strangers.removeAll(where: isGone)
  }

  /// Drops addresses of no known device that nobody has named for long.
  mutating func forgetStrangers(at now: MonotonicInstant) {
    strangers.removeAll { $0.lastHeard.advanced(by: DiscoveryLimits.strangerLifetime) <= now }
  }

  /// Takes what a listed peer resolved to.
  mutating func take(resolved peer: StaticPeer, _ addresses: [NetworkAddress], at now: MonotonicInstant) {
    guard settings.staticPeers.contains(peer) else { return }
    let kept = Set(addresses).sorted().prefix(DiscoveryLimits.addressesPerStaticPeer)
    listedAddresses[peer] = kept.count
    for address in kept { take(DiscoveryHint(address: address, source: .staticPeer), at: now) }
  }

  /// Asks for the listed peers' addresses when it is time.
  mutating func resolveListed(into effects: inout [DiscoveryEffect], at now: MonotonicInstant) {
    guard let due = nextResolution, due <= now else { return }
    nextResolution = now.advanced(by: DiscoveryLimits.staticPeerResolution)
    effects += settings.staticPeers.map { .resolve($0) }
  }

  /// A candidate that wants to be dialled, and the order in which they are.
  private struct Turn {
    /// Announced ones first, then those without failure.
    let rank: Int
    let due: MonotonicInstant
    /// How many addresses of its device are better.
    let place: Int
    let device: Int?
    let candidate: Int
    let address: NetworkAddress

    func precedes(_ other: Turn) -> Bool {
      if rank != other.rank { return rank < other.rank }
      if due != other.due { return due < other.due }
      if place != other.place { return place < other.place }
      if device != other.device { return (device ?? .max) < (other.device ?? .max) }
      return address < other.address
    }
  }

  /// Starts the dials that are due: one every 50 ms, eight in flight, one an address.
  mutating func dial(into effects: inout [DiscoveryEffect], at now: MonotonicInstant) {
    let late = flights.filter { $0.since.advanced(by: DiscoveryLimits.dialReport) <= now }
    for flight in late { endDial(of: flight.address, .noAnswer, at: now) }
    // Without a key no handshake can succeed.
    while !keys.isEmpty, flights.count < DiscoveryLimits.dialsInFlight, nextDial <= now,
      let turn = nextTurn(dueBy: now)
    {
      let device = turn.device.map { devices[$0].id }
      if let index = turn.device {
        devices[index].candidates[turn.candidate].lastDialled = now
        devices[index].candidates[turn.candidate].due = nil
      } else {
        strangers[turn.candidate].lastDialled = now
        strangers[turn.candidate].due = nil
      }
      flights.append(Flight(address: turn.address, device: device, since: now))
      effects.append(.dial(turn.address, expecting: device))
      nextDial = now.advanced(by: DiscoveryLimits.dialStagger)
    }
  }

  /// The next dial that is due by an instant and not in flight.
  private func nextTurn(dueBy now: MonotonicInstant) -> Turn? {
    var best: Turn?
    for turn in turns() where turn.due <= now {
      if let found = best, !turn.precedes(found) { continue }
      best = turn
    }
    return best
  }

  private func turns() -> [Turn] {
    var turns: [Turn] = []
    func append(_ candidates: [Candidate], device: Int?) {
      for (index, candidate) in candidates.enumerated() {
        guard let due = candidate.due, !flights.contains(where: { $0.address == candidate.address }) else {
          continue
        }
        let place = device == nil ? 0 : candidates.count { $0.isBetter(than: candidate) }
        turns.append(
          Turn(
            rank: candidate.isAnnounced ? 0 : candidate.failures == 0 ? 1 : 2, due: due, place: place,
            device: device, candidate: index, address: candidate.address))
      }
    }
    for index in devices.indices where devices[index].isListed && !devices[index].isConnected {
      append(devices[index].candidates, device: index)
    }
    append(strangers, device: nil)
    return turns
  }

  /// When dialling has something to do.
  var dialDeadline: MonotonicInstant? {
    var deadline = flights.map { $0.since.advanced(by: DiscoveryLimits.dialReport) }.min()
    if !keys.isEmpty, flights.count < DiscoveryLimits.dialsInFlight, let due = turns().map(\.due).min() {
      let start = max(due, nextDial)
      deadline = min(deadline ?? start, start)
    }
    return deadline
  }
}
