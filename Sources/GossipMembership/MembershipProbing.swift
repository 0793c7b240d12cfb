import Determinism
import MeshModel

/// A probe that is under way (SWIM §3.1).
struct Probe: Hashable, Sendable {
  let target: DeviceID
  let sequence: UInt32
  let start: MonotonicInstant
  let timeout: Duration
  /// When the next stage begins: others are asked, then the probe fails.
  var deadline: MonotonicInstant
  /// Who was asked, once the direct answer was late.
  var asked: [DeviceID] = []
  /// How many of them told that they got no answer either.
  var nacks: [DeviceID] = []
  var isIndirect = false
  var wasPostponed = false
}

/// A probe on another's behalf.
struct Relay: Hashable, Sendable {
  let requester: DeviceID
  let requesterSequence: UInt32
  let path: MessagePath
  let target: DeviceID
  let sequence: UInt32
  var nackDue: MonotonicInstant?
  var end: MonotonicInstant
}

// Failure detection: SWIM §3.1 and §4.3 with Lifeguard §IV-A.
extension Membership {
  /// Probes the next member; time to the next probe grows with this device's own troubles (Lifeguard §IV-A).
  mutating func startProbe(at now: MonotonicInstant) {
    nextProbe = now.advanced(by: profile.probeInterval * health.multiplier)
    answers.removeAll(keepingCapacity: true)
    guard let target = nextTarget(at: now), let index = index(of: target) else {
      // Nobody is there, or everybody has been heard.
      health.improve()
      return
    }
    let member = members[index]
    guard probes.count < GossipLimits.probes, !probes.contains(where: { $0.target == target }) else { return }
    let timeout = probeTimeout(of: member) * health.multiplier
    let probe = Probe(
      target: target, sequence: takeSequence(), start: now, timeout: timeout,
      deadline: now.advanced(by: timeout))
    probes.append(probe)
    guard hasPath(to: target) else { return askOthers(probes.count - 1, at: now) }
    if member.datagramsAreBlocked { send(.ping(sequence: probe.sequence, []), to: target, over: .session) }
    send(.ping(sequence: probe.sequence, []), to: target, over: .datagram)
  }

  /// The members in a random order, each once, then in another order: a crash is noticed within two rounds by
  /// everybody (SWIM §4.3, time-bounded completeness).
  ///
  /// A member that was heard of late has answered already, and its turn passes to the next; nil when all have been.
  private mutating func nextTarget(at now: MonotonicInstant) -> DeviceID? {
    for isFresh in [false, true] {
      while let target = probeOrder.popLast() {
        guard let index = index(of: target), members[index].record.state.takesPart else { continue }
        // A doubted member has to refute all the same.
        if members[index].record.state == .suspect || !isFreshlyHeard(members[index], at: now) {
          return target
        }
      }
      guard !isFresh else { break }
      probeOrder = members.filter(\.record.state.takesPart).map(\.record.device)
      generator.shuffle(&probeOrder)
    }
    return nil
  }

  /// Puts a newcomer at a random place of the round (SWIM §4.3).
  mutating func insertIntoProbeOrder(_ device: DeviceID) {
    guard !probeOrder.contains(device) else { return }
    probeOrder.insert(device, at: generator.uniform(below: probeOrder.count + 1))
  }

  private func probeTimeout(of member: Member) -> Duration {
    // The slowest of the few that are remembered stands for the 99th percentile.
    guard let slowest = member.roundTrips.max(), slowest < profile.fastPath else {
      return profile.probeTimeout
    }
    return profile.fastProbeTimeout
  }

  private mutating func takeSequence() -> UInt32 {
    nextSequence &+= 1
    return nextSequence
  }

  /// Moves probes and relays on whose time has come.
  mutating func advanceProbes(_ now: MonotonicInstant) {
    for index in probes.indices where probes[index].deadline <= now && !probes[index].isIndirect {
      askOthers(index, at: now)
    }
    let failed = probes.filter { $0.deadline <= now }
    probes.removeAll { $0.deadline <= now }
    for probe in failed { conclude(probe, at: now) }

    for index in relays.indices {
      guard let due = relays[index].nackDue, due <= now else { continue }
      relays[index].nackDue = nil
      let relay = relays[index]
      send(.nack(sequence: relay.requesterSequence), to: relay.requester, over: relay.path)
    }
    relays.removeAll { $0.end <= now }
  }

  /// No direct answer: asks others to try, and tries the control session itself.
  ///
  /// Many hosts at home block datagrams; a session that answers is life.
  private mutating func askOthers(_ index: Int, at now: MonotonicInstant) {
    let probe = probes[index]
    var candidates = members.filter {
      $0.record.state == .alive && $0.record.device != probe.target && hasPath(to: $0.record.device)
    }.map(\.record.device)
    generator.shuffle(&candidates)
    let asked = Array(candidates.prefix(profile.indirectProbes))
    probes[index].isIndirect = true
    probes[index].asked = asked
    probes[index].deadline = now.advanced(by: probe.timeout)
    for relay in asked {
      send(.pingRequest(sequence: probe.sequence, target: probe.target, []), to: relay)
    }
    send(.ping(sequence: probe.sequence, []), to: probe.target, over: .session)
  }

  /// The probe failed: whoever was asked and did not even say no makes this device doubt itself.
  private mutating func conclude(_ probe: Probe, at now: MonotonicInstant) {
    guard let index = index(of: probe.target) else { return }
    if let heard = members[index].lastHeard, heard > probe.start { return health.improve() }
    health.worsen(by: probe.asked.count - probe.nacks.count)
    guard members[index].record.state.takesPart else { return }
    let accusation = Accusation(
      device: probe.target, incarnation: members[index].record.incarnation, isFinal: false,
      accuser: own.device)
    take(accusation, from: own.device, isExchange: false, at: now)
  }

  /// An answer: to an own probe, or to a probe on another's behalf.
  mutating func takeAck(
    _ sequence: UInt32, _ digest: ViewDigest, from sender: DeviceID, over path: MessagePath,
    at now: MonotonicInstant
  ) {
    if path == .datagram, let index = index(of: sender) { members[index].sessionOnlyAnswers = 0 }
    if let place = relays.firstIndex(where: { $0.sequence == sequence && $0.target == sender }) {
      let relay = relays.remove(at: place)
      send(
        .ack(sequence: relay.requesterSequence, self.digest(), []), to: relay.requester, over: relay.path)
    } else if let place = probes.firstIndex(where: {
      $0.sequence == sequence && ($0.target == sender || $0.asked.contains(sender))
    }) {
      let probe = probes.remove(at: place)
      health.improve()
      if probe.target == sender { recordAnswer(to: probe, over: path, at: now) }
    } else {
      return drop(.unexpectedAnswer, from: sender)
    }
    compare(digest, with: sender, at: now)
  }

  private mutating func recordAnswer(to probe: Probe, over path: MessagePath, at now: MonotonicInstant) {
    guard let index = index(of: probe.target) else { return }
    guard path == .datagram else {
      members[index].sessionOnlyAnswers = min(members[index].sessionOnlyAnswers + 1, Self.blockedAfterAnswers)
      return
    }
    if !probe.wasPostponed { remember(probe.start.duration(to: now), of: index) }
  }

  /// Remembers a round trip to a member.
  mutating func remember(_ roundTrip: Duration, of index: Int) {
    members[index].roundTrips.append(roundTrip)
    if members[index].roundTrips.count > profile.roundTripSamples { members[index].roundTrips.removeFirst() }
  }

  /// Somebody who was asked has had no answer either: the path from here to there works.
  mutating func takeNack(_ sequence: UInt32, from sender: DeviceID) {
    guard let place = probes.firstIndex(where: { $0.sequence == sequence && $0.asked.contains(sender) })
    else {
      return drop(.unexpectedAnswer, from: sender)
    }
    probes[place].nacks.sortedInsert(sender)
  }

  /// Probes on another's behalf, or says at once that it can't.
  mutating func relay(
    _ sequence: UInt32, to target: DeviceID, for requester: DeviceID, over path: MessagePath,
    at now: MonotonicInstant
  ) {
    guard relays.count < GossipLimits.relays else { return drop(.overLimit, from: requester) }
    guard target != own.device else {
      return send(.ack(sequence: sequence, digest(), []), to: requester, over: path)
    }
    guard let index = index(of: target), hasPath(to: target) else {
      return send(.nack(sequence: sequence), to: requester, over: path)
    }
    let timeout = probeTimeout(of: members[index])
    let relay = Relay(
      requester: requester, requesterSequence: sequence, path: path, target: target,
      sequence: takeSequence(), nackDue: now.advanced(by: profile.fastProbeTimeout * profile.nackShare),
      end: now.advanced(by: timeout * 2))
    relays.append(relay)
    send(.ping(sequence: relay.sequence, []), to: target)
  }
}
