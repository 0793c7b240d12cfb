import Determinism
import GossipMembership
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol

/// What the checkers remember of a run.
struct RunChecks: Sendable {
  /// How much longer the leader may take than the views: it changes only after three seconds of being better.
  static let leaderLimit: Duration = .seconds(5)
  /// How often everything is looked at.
  static let interval: Duration = .milliseconds(100)
  /// How long after the end of the faults views must agree.
  static let agreementLimit: Duration = .seconds(30)
  /// The same for devices of which neither knows where the other is: they wait for the next beacon, a minute at most.
  static let strangerLimit: Duration = .seconds(60)

  struct Pending: Sendable {
    let since: MonotonicInstant
    let kind: DeviceReturn.Kind
  }

  var settledAt: MonotonicInstant?
  /// When the last pair of devices ceased to be strangers; from then on the limits count.
  var agreementFrom: MonotonicInstant?
  var absentSince: [MonotonicInstant?]
  var detectedBy: [Set<Int>]
  var returning: [Pending?]
  var lastBoot: [UInt32]
  var lastIncarnation: [Incarnation]
  var logEntries: [Int]
  var idleStart: (bytes: [Int], multicast: [Int], time: MonotonicInstant)?
  var hasDisagreed: Set<String> = []
  var tickCount = 0
  var blockedSeen: Set<Int> = []

  init(deviceCount: Int) {
    absentSince = Array(repeating: nil, count: deviceCount)
    detectedBy = Array(repeating: [], count: deviceCount)
    returning = Array(repeating: nil, count: deviceCount)
    lastBoot = Array(repeating: 0, count: deviceCount)
    lastIncarnation = Array(repeating: Incarnation(value: 0), count: deviceCount)
    logEntries = Array(repeating: 0, count: deviceCount)
  }

  mutating func expectAbsence(of device: Int, at time: MonotonicInstant) {
    absentSince[device] = time
    detectedBy[device] = []
    returning[device] = nil
  }

  mutating func expectReturn(of device: Int, at time: MonotonicInstant, _ kind: DeviceReturn.Kind) {
    absentSince[device] = nil
    returning[device] = Pending(since: time, kind: kind)
  }
}

/// The checkers.
extension Simulation {
  mutating func violate(_ rule: SimulationRule, _ text: String) {
    guard record.violations.count < RunRecord.violationLimit else { return }
    record.violations.append(Violation(time: now, rule: rule, text: text))
    trace.add(now, 8, 0, 0, bytes: Array(text.utf8), line: "! \(rule.rawValue): \(text)")
  }

  // MARK: - As it happens

  mutating func checkDatagram(_ byteCount: Int, by device: Int) {
    if byteCount > MeshLimits.datagramBody {
      violate(
        .smallDatagrams, "device \(device) sends \(byteCount) B; the limit is \(MeshLimits.datagramBody) B")
    }
  }

  /// Something arrived on a connection that this process has closed.
  ///
  /// Echoes say nothing that could be missed, and an update-only session has done its work when the key has come.
  mutating func checkLateSegment(_ segment: StreamSegment, _ end: SimulatedStream.End) {
    guard case .frame(let frame) = segment, frame.kind != .echoRequest, frame.kind != .echoReply,
      end.closing == .renewed, end.standing == .full
    else { return }
    violate(.renewalLosesNoFrame, "device \(end.device) misses \(frame.kind) of \(frame.body.count) B")
  }

  mutating func checkStart(of device: Int, boot: BootID, entries: Int) {
    if devices[device].identity == device, boot.counter <= checks.lastBoot[device] {
      violate(
        .bootCounterGrows, "device \(device) starts as \(boot.counter) after \(checks.lastBoot[device])")
    }
    checks.lastBoot[device] = boot.counter
    checkLog(of: device, entries: entries)
  }

  private mutating func checkLog(of device: Int, entries: Int) {
    if entries < checks.logEntries[device] {
      violate(
        .logGrowsOnly, "device \(device) has \(entries) entries on disk after \(checks.logEntries[device])")
    }
    checks.logEntries[device] = entries
  }

  /// A device reports something.
  mutating func note(_ report: MeshReport, by device: Int) {
    trace.add(now, 9, device, 0, bytes: Array("\(report)".utf8), line: "\(device) reports \(report)")
    switch report {
    case .unreachable(let id): noteUnreachable(id, by: device)
    case .suspected: record.suspicions += 1
    case .clone: record.cloneReports += 1
    case .disconnected: record.disconnections += 1
    default: break
    }
  }

  private mutating func noteUnreachable(_ id: DeviceID, by device: Int) {
    guard let other = devices.first(where: { $0.id == id })?.index else { return }
    if let since = checks.absentSince[other] {
      if checks.detectedBy[other].insert(device).inserted {
        record.detections.append(since.duration(to: now).inSeconds)
      }
    } else if isRunning(other), network.connects(device, other), comparable().contains(other) {
      record.falseRemovals += 1
      if plan.isLossOnly {
        violate(.noFalseRemoval, "device \(device) takes device \(other) for unreachable")
      }
    }
  }

  // MARK: - Regularly

  mutating func inspect() {
    checks.tickCount += 1
    if checks.returning.contains(where: { $0 != nil }) {
      let present = comparable()
      for device in present where checks.returning[device] != nil { checkReturn(of: device, among: present) }
    }
    measureIdle()
    guard checks.tickCount % 10 == 0 else { return }
    for device in devices.indices {
      let entries = devices[device].disk.durable(SimulatedDisk.logFile)?.log?.entries.count ?? 0
      checkLog(of: device, entries: max(entries, 0))
      guard isRunning(device), let peer = devices[device].peer else { continue }
      checkSessions(of: device, peer)
      checkLoads(of: device, peer)
      checkIncarnation(of: device, peer)
    }
    checkAgreement()
  }

  private mutating func checkSessions(of device: Int, _ peer: MeshPeer) {
    for id in devices[device].streams {
      guard let stream = streams[id] else { continue }
      let end = stream.ends[stream.side(of: device)]
      if end.phase == .open, let other = end.peer, peer.household.log.isRevoked(other) {
        violate(
          .noRevokedSession, "device \(device) has a session with \(other.short), which it knows as revoked")
      }
      if end.phase == .open, let opened = end.opened, opened.duration(to: now) > plan.sessionAgeLimit {
        violate(.sessionsStayYoung, "device \(device) has a session since \(opened)")
      }
    }
  }

  private mutating func checkLoads(of device: Int, _ peer: MeshPeer) {
    for load in peer.loads where load.count > min(load.limit, plan.strictestLimit) {
      violate(.boundedQueues, "device \(device): \(load.name) \(load.count) of at most \(load.limit)")
    }
  }

  private mutating func checkIncarnation(of device: Int, _ peer: MeshPeer) {
    let incarnation = peer.membership.own.incarnation
    if incarnation < checks.lastIncarnation[device] {
      violate(
        .incarnationGrowsOnly, "device \(device) is at \(incarnation) after \(checks.lastIncarnation[device])"
      )
    }
    checks.lastIncarnation[device] = incarnation
  }

  private mutating func checkReturn(of device: Int, among present: [Int]) {
    guard let pending = checks.returning[device] else { return }
    let others = present.filter { $0 != device && network.canConnect($0, device) }
    let isBack = others.allSatisfy { sees($0, device) && sees(device, $0) && hasSession($0, device) }
    guard isBack else { return }
    checks.returning[device] = nil
    record.returns.append(
      DeviceReturn(kind: pending.kind, device: device, seconds: pending.since.duration(to: now).inSeconds))
  }

  private func sees(_ device: Int, _ other: Int) -> Bool {
    devices[device].peer?.presence(of: devices[other].id) == .alive
  }

  private func hasSession(_ device: Int, _ other: Int) -> Bool {
    devices[device].streams.contains { id in
      guard let stream = streams[id] else { return false }
      return stream.ends.allSatisfy { $0.phase == .open && ($0.device == device || $0.device == other) }
    }
  }

  /// The running devices that should be in: neither revoked nor doubled.
  private func comparable() -> [Int] {
    let truth = truth
    return devices.indices.filter { device in
      isRunning(device) && !truth.isRevoked(devices[device].id)
        && !devices.contains { $0.index != device && $0.id == devices[device].id && isRunning($0.index) }
    }
  }

  private mutating func measureIdle() {
    guard let window = plan.idleWindow else { return }
    let seconds = MonotonicInstant.zero.duration(to: now).inSeconds
    if seconds >= window.lowerBound, checks.idleStart == nil {
      checks.idleStart = (network.unicastBytes, network.multicastBytes, now)
    }
    guard seconds >= window.upperBound, record.idleBytesPerSecond == nil, let start = checks.idleStart else {
      return
    }
    let time = start.time.duration(to: now).inSeconds * Double(plan.deviceCount)
    func rate(_ before: [Int], _ after: [Int]) -> Double {
      Double(after.reduce(0, +) - before.reduce(0, +)) / time
    }
    record.idleBytesPerSecond = rate(start.bytes, network.unicastBytes)
    record.idleMulticastBytesPerSecond = rate(start.multicast, network.multicastBytes)
  }

  // MARK: - Agreement

  /// What the household is, for an observer who sees everything: the longest log.
  private var truth: MembershipLog {
    var longest = family.log
    for index in devices.indices {
      guard let count = devices[index].peer?.household.log.entries.count, count > longest.entries.count else {
        continue
      }
      longest = devices[index].peer?.household.log ?? longest
    }
    return longest
  }

  private mutating func checkAgreement() {
    guard let settled = checks.settledAt else { return }
    let disagreements = disagreements()
    if let last = disagreements.last {
      record.agreementTime = settled.duration(to: now).inSeconds
      record.lastDisagreement = last.1
    }
    // What one pair does not know, others hear late as well.
    if settled.duration(to: now) < RunChecks.strangerLimit, hasStrangers() { checks.agreementFrom = now }
    let time = (checks.agreementFrom ?? settled).duration(to: now)
    guard time >= RunChecks.agreementLimit else { return }
    for (rule, text) in disagreements where checks.hasDisagreed.insert(text).inserted { violate(rule, text) }
    guard time >= RunChecks.agreementLimit + RunChecks.leaderLimit else { return }
    for (rule, text) in leaderDisagreements(comparable()) where checks.hasDisagreed.insert(text).inserted {
      violate(rule, text)
    }
  }

  /// Whether two devices that could meet have no session, and neither knows where the other is.
  private func hasStrangers() -> Bool {
    let present = comparable()
    func knows(_ device: Int, _ other: Int) -> Bool {
      devices[device].peer?.knownAddresses(of: devices[other].id).contains(devices[other].address) ?? false
    }
    return present.contains { one in
      present.contains { other in
        one < other && network.canConnect(one, other) && !hasSession(one, other) && !knows(one, other)
          && !knows(other, one)
      }
    }
  }

  /// What devices that can reach each other believe differently, or wrongly.
  private func disagreements() -> [(SimulationRule, String)] {
    let present = comparable()
    var found: [(SimulationRule, String)] = []
    for device in present {
      guard let peer = devices[device].peer else { continue }
      for other in devices.indices where other != device && devices[other].identity == other {
        let state = peer.presence(of: devices[other].id)
        let isIn = state == .alive || state == .suspect
        let absence = peer.absence(of: devices[other].id)
        if present.contains(other), plan.versions(of: device).common(with: plan.versions(of: other)) == nil {
          let isOlder = plan.versions(of: other).newest < plan.versions(of: device).oldest
          if isIn || absence != (isOlder ? .tooOld : .tooNew) {
            found.append(
              (.absenceHasReason, "device \(device) says \(absence?.rawValue ?? "in") of \(other)'s versions")
            )
          }
        } else if present.contains(other), network.canConnect(device, other) {
          if !isIn {
            found.append((.viewsAgree, "device \(device) sees device \(other) as \(state.rawValue)"))
          }
          if isIn, absence != nil, hasSession(device, other) {
            found.append(
              (.absenceHasReason, "device \(device) misses device \(other): \(absence?.rawValue ?? "")"))
          }
          if peer.household.log.summary != devices[other].peer?.household.log.summary {
            found.append((.viewsAgree, "devices \(device) and \(other) have different logs"))
          }
        } else if !isRunning(other), !truth.isRevoked(devices[other].id) {
          if isIn {
            found.append((.viewsAgree, "device \(device) sees device \(other), which is off, as in"))
          }
          if absence == nil {
            found.append((.absenceHasReason, "device \(device) has no reason for \(other)"))
          }
        }
      }
    }
    return found
  }

  /// Where everybody reaches everybody, everybody follows one leader, who is in.
  private func leaderDisagreements(_ present: [Int]) -> [(SimulationRule, String)] {
    guard plan.oddVersions.isEmpty,
      present.allSatisfy({ one in present.allSatisfy { $0 == one || network.canConnect(one, $0) } }),
      let first = present.first, let leader = devices[first].peer?.membership.suggestedLeader
    else { return [] }
    return present.compactMap { device in
      let other = devices[device].peer?.membership.suggestedLeader
      guard other != leader || !present.contains(where: { devices[$0].id == leader }) else { return nil }
      return (
        .viewsAgree, "device \(device) follows \(other?.short ?? "nobody"), device \(first) \(leader.short)"
      )
    }
  }

  // MARK: - At the end

  mutating func finishChecks() {
    if plan.spareCount > 0, record.cloneReports == 0, !plan.steps.isEmpty {
      violate(.cloneIsNoticed, "a cloned identity ran and nobody reported it")
    }
    for device in plan.expectedBlocked where isRunning(device) {
      let id = devices[device].id
      for other in comparable() where other != device && hasSession(device, other) {
        let status = devices[other].peer?.status(at: devices[other].clock.reading(at: now))
        let path = status?.devices.first { $0.device == id }?.path
        if path != .udpBlocked {
          violate(
            .blockedPathIsShown, "device \(other) shows the path to \(device) as \(path?.rawValue ?? "none")")
        }
      }
    }
  }
}
