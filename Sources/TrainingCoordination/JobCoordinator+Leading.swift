import Determinism
import MeshModel
import ParallelPlanner

/// What the device does that leads: it looks for plans, and lets the others vote on them.
extension JobCoordinator {
  mutating func lead(at now: MonotonicInstant) {
    perform(decree.tick(keys: keys, at: now), at: now)
    let isStanding = current == nil || situation.interruption != nil
    if isStanding { watchQuorum(at: now) }
    guard !isResultThere(at: now), ownReport != nil || isOut, leader(at: now) == own else {
      if leading.request?.cause == .first, progress.phase == .planning { progress.phase = .prepared }
      leading.request = nil
      leading.since = nil
      return
    }
    leading.since = leading.since ?? now
    askForReports(at: now)
    if isStanding { return gather(at: now) }
    improve(at: now)
  }

  /// Whether this device cannot compute, and can plan for those that can.
  private var isOut: Bool { declines[own] != nil && current != nil }

  /// Says that a job stands still when too few of those who decide are there.
  private mutating func watchQuorum(at now: MonotonicInstant) {
    guard isActive else { return }
    let quorum = quorum(at: now)
    let isStuck =
      quorum.isEnough && decree.isProposing
      && leading.proposedSince.map { $0.duration(to: now) >= JobLimits.quorumWait } ?? false
    guard !quorum.isEnough || isStuck else {
      situation.minoritySince = nil
      if situation.isMinority { (situation.isMinority, situation.pausedReason) = (false, nil) }
      return
    }
    let since = situation.minoritySince ?? now
    situation.minoritySince = since
    guard hasPassed(JobLimits.quorumWait, since: since, at: now) else { return }
    situation.isMinority = true
    let weight = isStuck ? decree.answeredWeight : quorum.present
    pause("no quorum (weight \(weight) of \(quorum.total))", at: now)
  }

  /// The job stands still for a reason that only the leader knows.
  private mutating func pauseAll(_ reason: String, at now: MonotonicInstant) {
    guard situation.pausedReason != reason else { return }
    pause(reason, at: now)
    for device in others { say(.notUsed([], reason: reason), to: device) }
  }

  mutating func pause(_ reason: String, at now: MonotonicInstant) {
    guard situation.pausedReason != reason else { return }
    situation.pausedReason = reason
    note(.paused(reason: reason), at: now)
  }

  private mutating func askForReports(at now: MonotonicInstant) {
    let missing = others.filter {
      reports[$0] == nil && declines[$0] == nil && devices[$0]?.isPrepared ?? false && isThere($0, at: now)
    }
    guard !missing.isEmpty else { return }
    let due = leading.nextAsk ?? now
    guard due <= now else { return wake(at: due) }
    leading.nextAsk = now.advanced(by: JobLimits.decreeResend)
    for device in missing { say(.reportWanted, to: device) }
  }

  // MARK: - A plan that must be

  /// Devices that can take part, ascending.
  private func able(at now: MonotonicInstant) -> [DeviceID] {
    reports.keys.sorted().filter { isAble($0, at: now) }
  }

  private func isAble(_ device: DeviceID, at now: MonotonicInstant) -> Bool {
    guard reports[device] != nil, let told = progress(of: device), declines[device] == nil,
      isThere(device, at: now)
    else { return false }
    return told.isPrepared && !told.isLeaving
  }

  /// Collects those that are there, and asks for a plan for them.
  private mutating func gather(at now: MonotonicInstant) {
    guard !decree.isProposing, quorum(at: now).isEnough else {
      leading.majoritySince = nil
      leading.request = nil
      return
    }
    let since = leading.majoritySince ?? now
    leading.majoritySince = since
    guard hasGathered(since, at: now) else { return }
    accuse(at: now)
    var candidates = able(at: now).filter { hasStopped($0) }
    var cooling: [DeviceID] = []
    let rested = candidates.filter { device in
      guard let end = cooldown.end(for: device, at: now) else { return true }
      wake(at: end)
      cooling.append(device)
      return false
    }
    if rested.isEmpty { cooling = [] } else { candidates = rested }
    candidates = Array(candidates.prefix(JobLimits.roster))
    guard !candidates.isEmpty else {
      let there = ([own] + others).filter { isThere($0, at: now) && progress(of: $0) != nil }
      let haveAllLeft = there.allSatisfy { progress(of: $0)?.isLeaving ?? false }
      return pauseAll(
        haveAllLeft ? "all its devices are paused" : "no device that is there can take part", at: now)
    }
    if let unplanned = leading.unplanned, unplanned.candidates == candidates {
      guard unplanned.until <= now else {
        wake(at: unplanned.until)
        return pauseAll(unplanned.reason, at: now)
      }
    }
    if let request = leading.request {
      // A plan for devices that are gone is of no use.
      if request.candidates.allSatisfy(candidates.contains) { return }
    }
    if !situation.isMinority { situation.pausedReason = nil }
    if !cooling.isEmpty { refuse(cooling, "it broke the run off again and again", at: now) }
    request(certificate == nil ? .first : .lost, candidates, at: now)
  }

  /// Counts the devices that are there although others could not go on with them: of two that blame each other only
  /// one, and never this device.
  private mutating func accuse(at now: MonotonicInstant) {
    guard !situation.hasAccused, let current, situation.interruption != nil else { return }
    situation.hasAccused = true
    let participants = current.proposal.participants.sorted()
    func blamed(by device: DeviceID) -> DeviceID? {
      guard let named = progress(of: device)?.culprit, named != device, participants.contains(named) else {
        return nil
      }
      return named
    }
    var accused: Set<DeviceID> = []
    for device in participants where situation.stopped.contains(device) {
      guard let named = blamed(by: device), situation.stopped.contains(named) else { continue }
      let back = blamed(by: named)
      if named == own {
        if back == nil || back == device { accused.insert(device) }
      } else if back == nil || back == device && (device == own || named > device) {
        // Whoever blames a third device was only the first to stop.
        accused.insert(named)
      }
    }
    for device in accused.sorted() { cooldown.note(device, at: now) }
  }

  /// Whether a device's run of the present plan is over, if it had one.
  private func hasStopped(_ device: DeviceID) -> Bool {
    guard let current, current.proposal.participants.contains(device) else { return true }
    return situation.stopped.contains(device)
  }

  /// Whether everybody has reported that is there, or had the time to.
  private mutating func hasGathered(_ since: MonotonicInstant, at now: MonotonicInstant) -> Bool {
    let expected: [DeviceID]
    let end: MonotonicInstant
    if let interruption = situation.interruption {
      let watching = isOut ? others.filter(mayTakePart) : []
      expected = Set((current?.proposal.participants ?? []) + decree.roster.devices + watching).sorted()
      end =
        situation.isRestored
        ? since.advanced(by: JobLimits.gatherWait) : interruption.since.advanced(by: JobLimits.stopWait)
    } else {
      expected = decree.roster.devices
      end = (leading.since ?? now).advanced(by: JobLimits.reportWait)
    }
    let isWaiting = expected.contains { device in
      guard device != own, declines[device] == nil else { return false }
      // After a power loss devices come back one after the other.
      if situation.isRestored, !isThere(device, at: now) { return true }
      guard isPresent(device, at: now), membership.reachable.contains(device) else { return false }
      if devices[device]?.isLeaving ?? false { return !hasStopped(device) }
      return !isAble(device, at: now) || !hasStopped(device)
    }
    if !isWaiting || end <= now { return true }
    wake(at: end)
    // A device whose connection ended is given up sooner than the others.
    if let interruption = situation.interruption {
      let early = interruption.since.advanced(by: JobLimits.culpritWait)
      if early > now { wake(at: early) }
    }
    return false
  }

  private mutating func request(_ cause: PlanCause, _ candidates: [DeviceID], at now: MonotonicInstant) {
    leading.number += 1
    leading.request = LeaderWork.Request(number: leading.number, cause: cause, candidates: candidates)
    if cause == .first { progress.phase = .planning }
    nextBeat = now
    var times: [DeviceID: Double] = [:]
    for device in participants { times[device] = progress(of: device)?.secondsPerStep }
    let isNeeded = cause == .first || cause == .lost
    let isBeingLearned = current.map { $0.proposal.learners.contains(where: isLearning) } ?? false
    effects.append(
      .plan(
        PlanRequest(
          number: leading.number,
          reports: candidates.compactMap { device in
            reports[device].map { JobDeviceReport(device: device, report: $0) }
          }, cause: cause, household: certificate?.proposal.household ?? [],
          plan: certificate?.proposal.plan, committedStep: committedStep, secondsPerStep: times,
          learning: !isNeeded && !isBeingLearned)))
  }

  // MARK: - A plan that may pay

  /// While the run goes on: puts what was learned into force, lets devices leave, and looks for better plans.
  private mutating func improve(at now: MonotonicInstant) {
    guard let current, !decree.isProposing else { return }
    let proposal = current.proposal
    if let request = leading.request, !request.candidates.allSatisfy({ isAble($0, at: now) }) {
      leading.request = nil
    }
    let leaving = proposal.participants.filter { progress(of: $0)?.isLeaving ?? false }
    // Whoever has not said a word under this plan may be gone.
    let candidates = able(at: now).filter {
      cooldown.end(for: $0, at: now) == nil
        && ($0 == own || stamps[$0] == position && membership.reachable.contains($0))
    }
    let isWaiting = proposal.participants.contains { !leaving.contains($0) && reports[$0] == nil }
    if isWaiting, let since = leading.since, !hasPassed(JobLimits.stopWait, since: since, at: now) {
      // Whoever has just begun to lead has not got their reports yet.
      return
    }
    if !leaving.isEmpty {
      if leading.request?.cause != .left, leading.unplanned == nil, !candidates.isEmpty {
        request(.left, candidates, at: now)
      }
      return
    }
    guard mayBeReplaced(proposal, at: now) else { return }
    if let next = proposal.next, hasLearned(proposal),
      proposal.household.allSatisfy({ device in
        !next.places.contains { proposal.household[$0] == device } || isAble(device, at: now)
      })
    {
      return propose(
        witnessed(PlanProposal(stamp: decree.stamp, household: proposal.household, plan: next), at: now),
        at: now)
    }
    let isComputing = run?.stamp == position || !proposal.participants.contains(own)
    guard leading.request == nil, situation.startedAt != nil, isComputing else { return }
    lookForGain(candidates, proposal, at: now)
  }

  /// Whether a plan has brought something, so that another one may follow.
  ///
  /// Plans that are replaced before their first step, again and again, never do. What fills a cache is kept unit by unit;
  /// yet after a loss all wait for the first step, and what is missing is mostly there sooner than under another plan.
  private mutating func mayBeReplaced(_ proposal: PlanProposal, at now: MonotonicInstant) -> Bool {
    if situation.hasStepped { return true }
    guard proposal.participants.contains(where: { progress(of: $0)?.phase == .filling }) else { return false }
    guard situation.recovering != nil, let started = situation.startedAt else { return true }
    return hasPassed(JobLimits.recoveryWait, since: started, at: now)
  }

  /// Whether all devices that gain something under the next plan hold it.
  private func hasLearned(_ proposal: PlanProposal) -> Bool {
    guard let next = proposal.next else { return false }
    func units(_ plan: Plan, _ place: Int) -> Int {
      plan.cached.first { $0.device == place }?.units ?? 0
    }
    return next.places.allSatisfy { place in
      let device = proposal.household[place]
      let isGaining =
        !proposal.plan.places.contains(place) || units(next, place) > units(proposal.plan, place)
      guard isGaining else { return true }
      return device == own
        ? progress.hasLearned : stamps[device] == position && devices[device]?.hasLearned ?? false
    }
  }

  private mutating func lookForGain(
    _ candidates: [DeviceID], _ proposal: PlanProposal, at now: MonotonicInstant
  ) {
    let roles = proposal.participants + (proposal.next == nil ? [] : proposal.learners.filter(isLearning))
    var newcomers: [DeviceID] = []
    for device in candidates where !roles.contains(device) {
      if let refusal = leading.refused[device], refusal.until > now {
        wake(at: refusal.until)
      } else {
        newcomers.append(device)
      }
    }
    if !newcomers.isEmpty { return request(.joined, Array(candidates.prefix(JobLimits.roster)), at: now) }
    guard proposal.next == nil, let since = situation.phaseSince ?? situation.startedAt,
      hasPassed(JobLimits.stragglerWait, since: since, at: now)
    else { return }
    // A phase that is almost over is not worth other shares.
    let isShort = progress.steps > 0 && 10 * progress.step >= 9 * progress.steps
    if progress.phase < .cached, isShort { return }
    if let until = leading.rebalancing?.until, until > now { return wake(at: until) }
    let times = proposal.participants.compactMap { progress(of: $0)?.secondsPerStep }.filter { $0 > 0 }
    guard times.count == proposal.participants.count, times.count > 1, let slowest = times.max() else {
      return
    }
    // Who computes units whole has as many as its speed allows, so that times are about equal, and is compared with the
    // others: of two devices none is half as slow again as the average of both unless three times as slow as the other.
    // The stages of a pipeline differ by themselves.
    let isWhole = proposal.plan.stages.count == 1 || progress.phase == .cached
    let compared = isWhole ? times.sorted().dropLast() : times[...]
    let mean = compared.reduce(0, +) / Double(compared.count)
    guard slowest > JobLimits.stragglerRatio * mean else { return }
    leading.rebalancing = LeaderWork.refusal(after: leading.rebalancing, at: now)
    request(.straggler, candidates, at: now)
  }

  /// Whether a learner is still at it.
  private func isLearning(_ device: DeviceID) -> Bool {
    device == own || stamps[device] == position && !situation.stopped.contains(device)
  }

  // MARK: - The answers

  mutating func planned(
    _ number: UInt64, _ household: [DeviceID], _ plan: Plan, _ next: Plan?, at now: MonotonicInstant
  ) {
    guard let request = leading.request, request.number == number, !decree.isProposing,
      household.count <= JobLimits.roster, Set(household).count == household.count, !plan.places.isEmpty,
      plan.fits(devices: household.count), next?.fits(devices: household.count) ?? true
    else { return drop() }
    leading.request = nil
    var listed = household
    if let current {
      // Whoever holds something of the run, and is there, hands it over; one on which something does not work is only
      // asked when nobody else can.
      let isAnyWilling = current.proposal.participants.contains {
        declines[$0] == nil && isThere($0, at: now)
      }
      let holders = current.proposal.household.filter { device in
        !household.contains(device) && (declines[device] == nil || !isAnyWilling) && isThere(device, at: now)
          && (device == own || membership.reachable.contains(device))
          && (situation.interruption == nil || hasStopped(device))
      }
      listed += holders.prefix(JobLimits.roster - listed.count)
    }
    // The owner votes even when it computes nothing: a plan of one other device must not hang on that one alone.
    let owner = specification.owner
    if !listed.contains(owner), listed.count < JobLimits.roster, isThere(owner, at: now),
      !(progress(of: owner)?.isLeaving ?? false),
      owner == own || membership.reachable.contains(owner)
    {
      listed.append(owner)
    }
    let proposal = witnessed(
      PlanProposal(stamp: decree.stamp, household: listed, plan: plan, next: next), at: now)
    var unused: [DeviceID] = []
    for device in request.candidates {
      if proposal.participants.contains(device) || proposal.learners.contains(device) {
        leading.refused[device] = nil
      } else {
        unused.append(device)
      }
    }
    if !unused.isEmpty { refuse(unused, "the plan is faster without it", at: now) }
    propose(proposal, at: now)
  }

  /// The proposal with as many idle devices as witnesses as it lacks voters; with none when there are too few.
  private func witnessed(_ proposal: PlanProposal, at now: MonotonicInstant) -> PlanProposal {
    let missing = PlanProposal.leastVoters - proposal.voters(owner: specification.owner).count
    let idle = able(at: now).filter {
      !proposal.household.contains($0) && cooldown.end(for: $0, at: now) == nil
        && ($0 == own || membership.reachable.contains($0))
    }
    guard missing > 0, idle.count >= missing, proposal.household.count + missing <= JobLimits.roster else {
      return proposal
    }
    return PlanProposal(
      stamp: proposal.stamp, household: proposal.household, plan: proposal.plan, next: proposal.next,
      witnesses: Array(idle.prefix(missing)))
  }

  mutating func kept(_ number: UInt64, _ reason: String, at now: MonotonicInstant) {
    guard let request = leading.request, request.number == number else { return drop() }
    if request.cause.isNeeded { return unplanned(number, reason, at: now) }
    leading.request = nil
    if request.cause == .straggler { return }
    refuse(request.candidates.filter { !participants.contains($0) }, reason, at: now)
  }

  /// Devices that could take part are not used for now, and everybody gets to know why.
  private mutating func refuse(_ refused: [DeviceID], _ reason: String, at now: MonotonicInstant) {
    for device in refused {
      leading.refused[device] = LeaderWork.refusal(after: leading.refused[device], at: now)
      noteRefusal(of: device, reason, at: now)
    }
    for device in others { say(.notUsed(refused, reason: reason), to: device) }
  }

  mutating func unplanned(_ number: UInt64, _ reason: String, at now: MonotonicInstant) {
    guard let request = leading.request, request.number == number else { return drop() }
    leading.request = nil
    switch request.cause {
    case .first: end(.failure(of: nil, reason))
    case .lost, .left:
      leading.unplanned = (
        reason: reason, candidates: request.candidates, until: now.advanced(by: JobLimits.replanInterval)
      )
      if request.cause == .lost { pauseAll(reason, at: now) }
    case .joined: refuse(request.candidates.filter { !participants.contains($0) }, reason, at: now)
    case .straggler: break
    }
  }
}
