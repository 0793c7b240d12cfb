import Determinism
import MeshModel
import WireCoding

// Timers, the guard against sleep, and the leader suggestion.
extension Membership {
  /// Does what is due.
  mutating func runTimers(_ now: MonotonicInstant) {
    advanceProbes(now)
    if nextProbe <= now { startProbe(at: now) }
    concludeSuspicions(now)
    if nextExchange <= now { exchangeByTime(now) }
    suggestLeader(now)
    if !queue.isEmpty, nextGossip == nil { nextGossip = now }
    if let due = nextGossip, due <= now { gossip(at: now) }
  }

  /// When something is due next.
  func earliestDeadline(after now: MonotonicInstant) -> MonotonicInstant {
    guard own.state.takesPart else { return now.advanced(by: .seconds(3600)) }
    var earliest = min(nextProbe, nextExchange)
    if let nextGossip { earliest = min(earliest, nextGossip) }
    for probe in probes { earliest = min(earliest, probe.deadline) }
    for relay in relays { earliest = min(earliest, relay.nackDue ?? relay.end) }
    for index in members.indices {
      if let suspicion = members[index].suspicion { earliest = min(earliest, suspicion.deadline(profile)) }
    }
    if let awaitedLeader {
      earliest = min(earliest, awaitedLeader.since.advanced(by: profile.leaderHysteresis))
    }
    return max(earliest, now)
  }

  // MARK: - The guard against sleep

  /// Notices that this device was not listening: it slept, was frozen, or its timer came late.
  ///
  /// CLOCK_MONOTONIC stops in sleep and CLOCK_BOOTTIME goes on, so their difference grows; a frozen process sees
  /// its timer late. Either way silence of the others meant nothing, so nobody is accused for it.
  mutating func noticeAbsence(_ now: ClockReading) {
    let slept = now.asleep - lastReading.asleep
    let late = max(.zero, nextDeadline.duration(to: now.monotonic))
    lastReading = now
    guard own.state.takesPart else { return }
    if slept > profile.sleepTolerance || late > profile.probeInterval * profile.awayIntervals {
      comeBack(after: max(slept, .zero) + late, at: now.monotonic)
    } else if late > profile.lateTick {
      health.worsen()
      // What has arrived meanwhile waits to be read.
      postponeDeadlines(by: late + profile.lateTick)
    }
  }

  private mutating func postponeDeadlines(by duration: Duration) {
    for index in members.indices { members[index].suspicion?.postpone(by: duration) }
    for index in probes.indices {
      probes[index].deadline = probes[index].deadline.advanced(by: duration)
      probes[index].wasPostponed = true
    }
    for index in relays.indices { relays[index].end = relays[index].end.advanced(by: duration) }
  }

  /// Starts all doubts anew and tells everybody that this device is back, before anybody is asked anything.
  private mutating func comeBack(after absence: Duration, at now: MonotonicInstant) {
    health.worsen()
    probes = []
    relays = []
    for index in members.indices {
      members[index].suspicion?.restart(at: now)
      members[index].lastHeard = nil
    }
    nextProbe = now.advanced(by: profile.probeInterval)
    awaitedLeader = nil
    effects.append(.away(absence))
    raiseIncarnation()
    for device in paths { send(.news([.record(own)]), to: device) }
    // The view is as old as the absence.
    var others = paths
    generator.shuffle(&others)
    for device in others.prefix(profile.gossipFanOut) { exchange(with: device, at: now, evenIfRecent: true) }
  }

  // MARK: - The leader suggestion

  /// Follows another leader once it has been the better one for a while.
  private mutating func suggestLeader(_ now: MonotonicInstant) {
    guard leaderIsStale || awaitedLeader != nil else { return }
    leaderIsStale = false
    let choice = LeaderChoice.leader(of: members.map(\.record) + [own])
    guard choice != own.leader else {
      awaitedLeader = nil
      return
    }
    guard let awaited = awaitedLeader, awaited.device == choice else {
      awaitedLeader = (choice, now)
      return
    }
    guard awaited.since.duration(to: now) >= profile.leaderHysteresis else { return }
    awaitedLeader = nil
    if own.restate(leader: .some(choice)) { raiseIncarnation() }
    effects.append(.leaderSuggestion(choice))
  }
}
