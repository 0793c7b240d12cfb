import CryptoPrimitives
import Determinism
import MeshModel
import ParallelPlanner

/// A device's part of a plan: from the fetching of what it needs to the end of its run.
extension JobCoordinator {
  // MARK: - Preparation

  mutating func prepared(_ report: [UInt8], at now: MonotonicInstant) {
    guard report.count <= JobLimits.reportBytes else { return drop() }
    ownReport = report
    reports[own] = report
    declines[own] = nil
    preparation = Preparation()
    toldReport = nil
    progress.isPrepared = true
    if progress.phase == .preparing || progress.phase == .waiting { progress.phase = .prepared }
    (nextBeat, nextResend) = (now, now)
  }

  /// This device cannot take part for now; it tries again later.
  mutating func decline(_ reason: String, at now: MonotonicInstant) {
    declines[own] = reason
    ownReport = nil
    reports[own] = nil
    progress.isPrepared = false
    let wait = min(
      JobLimits.declineRetry * (1 << min(preparation.failures, 10)), JobLimits.longestRetry)
    preparation.failures += 1
    preparation.retryAt = now.advanced(by: wait)
    (nextBeat, nextResend) = (now, now)
  }

  mutating func prepareAgain(at now: MonotonicInstant) {
    guard let due = preparation.retryAt, leave == nil else { return }
    guard due <= now else { return wake(at: due) }
    preparation.retryAt = nil
    effects.append(.prepare)
  }

  // MARK: - A role

  /// Fetches what a role needs, once the run of the plan before has ended.
  mutating func takeUpRole(at now: MonotonicInstant) {
    guard situation.needsFetch, run == nil, situation.interruption == nil, !hasResult,
      let current
    else { return }
    situation.needsFetch = false
    progress.phase = .fetching
    nextBeat = now
    effects.append(.fetch(current))
  }

  mutating func ready(_ stamp: JobStamp, at now: MonotonicInstant) {
    guard stamp == position, progress.phase == .fetching else { return drop() }
    progress.phase = .ready
    nextBeat = now
  }

  private func isReady(_ device: DeviceID) -> Bool {
    if device == own { return progress.phase >= .ready }
    guard stamps[device] == position, let told = devices[device] else { return false }
    return told.phase >= .ready && (told.phase != .completed || completions[device]?.digest != nil)
  }

  mutating func startWhenAllAreReady(at now: MonotonicInstant) {
    guard let current, situation.startedAt == nil, run == nil, progress.phase == .ready else { return }
    let proposal = current.proposal
    guard proposal.participants.allSatisfy(isReady) else { return }
    let since = situation.readySince ?? now
    situation.readySince = since
    if proposal.participants.contains(own) {
      // What only a donor holds is worth a moment; a donor that is gone is not waited for.
      let isWaiting = proposal.donors.contains { !isReady($0) && isPresent($0, at: now) }
      if isWaiting, !hasPassed(JobLimits.donorWait, since: since, at: now) { return }
    }
    (situation.startedAt, situation.movedAt, situation.phaseSince) = (now, now, now)
    run = RunSlot(stamp: position, participants: proposal.participants)
    if proposal.learners.contains(own) { progress.phase = .learning }
    nextBeat = now
    effects.append(.start(current))
  }

  // MARK: - What the run says

  mutating func progressed(_ stamp: JobStamp, _ new: DeviceProgress, at now: MonotonicInstant) {
    guard let run, run.stamp == stamp else { return drop() }
    commit(new.committedStep, of: stamp, at: now)
    guard stamp == position, situation.interruption == nil, completions[own] == nil else { return }
    if new.phase != progress.phase || new.epoch != progress.epoch { nextBeat = now }
    // Neither an epoch's end nor its evaluation changes what a step takes.
    if [.filling, .live, .cached].contains(new.phase), new.phase != situation.timedPhase {
      (situation.timedPhase, situation.phaseSince) = (new.phase, now)
    }
    if new.hasMoved(since: progress) { situation.movedAt = now }
    let old = progress
    progress = new
    if current?.proposal.learners.contains(own) ?? false {
      progress.phase = old.hasLearned ? .learned : .learning
    }
    progress.budgetBytes = max(new.budgetBytes, old.budgetBytes)
    (progress.culprit, progress.reason) = (nil, leave?.reason)
    (progress.isLeaving, progress.isPrepared) = (leave != nil, old.isPrepared)
    progress.hasLearned = old.hasLearned
    if new.samplesPerSecond > 0 { situation.samplesPerSecond = new.samplesPerSecond }
  }

  /// Remembers how far this device is; on the disk now and then.
  private mutating func commit(_ step: UInt64, of stamp: JobStamp, at now: MonotonicInstant) {
    if step > progress.committedStep, let recovering = situation.recovering, stamp == position {
      situation.recovering = nil
      note(.recovered(step: step, seconds: seconds(from: recovering.since, to: now)), at: now)
    }
    if stamp == position, step > progress.committedStep { situation.hasStepped = true }
    progress.committedStep = step
    guard record.ledger.committedStep != step else { return }
    record.ledger.committedStep = step
    record.ledger.epoch = stamp.epoch
    if storedLedgerAt.duration(to: now) >= JobLimits.ledgerInterval { storeLedger(at: now) }
  }

  private mutating func storeLedger(at now: MonotonicInstant) {
    storedLedgerAt = now
    effects.append(.persist(record))
  }

  mutating func learned(_ stamp: JobStamp, at now: MonotonicInstant) {
    guard stamp == position, run?.stamp == stamp, current?.proposal.next != nil else { return drop() }
    progress.hasLearned = true
    if current?.proposal.learners.contains(own) ?? false { progress.phase = .learned }
    nextBeat = now
  }

  mutating func completed(_ stamp: JobStamp, _ completion: RunCompletion, at now: MonotonicInstant) {
    guard run?.stamp == stamp else { return drop() }
    run = nil
    nextBeat = now
    // A stage's end without all trained values is no end of the part that the newer plan has for this device.
    if stamp != position, completion.digest == nil { return }
    completions[own] = completion
    record.completion = completion
    situation.interruption = nil
    situation.needsFetch = false
    progress.phase = .completed
    (progress.reason, progress.culprit) = (leave?.reason, nil)
    effects.append(.persist(record))
    (nextBeat, nextResend) = (now, now)
  }

  mutating func stopped(_ stamp: JobStamp, _ stop: RunStop, at now: MonotonicInstant) {
    guard run?.stamp == stamp else { return drop() }
    run = nil
    commit(stop.committedStep, of: stamp, at: now)
    storeLedger(at: now)
    nextBeat = now
    if stop.culprit == .job { return end(.failure(of: own, stop.reason)) }
    if stop.culprit == .own { return dropOut(stop.reason, at: now) }
    guard stamp == position, let current else { return }
    switch stop.culprit {
    case .device(let device):
      interrupt(stop.reason, culprit: device, at: now)
    case .elsewhere: interrupt(stop.reason, culprit: nil, at: now)
    case nil where current.proposal.participants.contains(own):
      situation.boundarySince = now
    case nil: progress.phase = isLeaving ? .paused : .handedOver
    case .own, .job: break
    }
  }

  mutating func failed(
    _ stamp: JobStamp?, _ culprit: RunCulprit, _ reason: String, at now: MonotonicInstant
  ) {
    if let stamp, stamp != position { return drop() }
    if delivery.isUnderWay, stamp == nil, culprit != .job { return deliveryFailed(reason, at: now) }
    switch culprit {
    case .job: end(.failure(of: own, reason))
    case .own:
      // A record that is not on the disk: what only this device decides would not outlast its daemon.
      if stamp == nil, decree.roster.devices == [own] { return end(.failure(of: own, reason)) }
      dropOut(reason, at: now)
    case .device(let device): interrupt(reason, culprit: device, at: now)
    case .elsewhere: interrupt(reason, culprit: nil, at: now)
    }
  }

  /// Something does not work on this device: the others go on without it, and it tries again later.
  ///
  /// It still votes, and leads when nobody else may: the next plan can be one of other devices.
  private mutating func dropOut(_ reason: String, at now: MonotonicInstant) {
    guard canDoWithout else { return end(.failure(of: own, reason)) }
    decline(reason, at: now)
    interrupt(reason, culprit: own, at: now)
  }

  // MARK: - Interruption

  /// Asks the run for something, unless it was asked for more already.
  mutating func ask(_ wish: RunSlot.Wish, reason: String = "") {
    guard var run, run.wish != wish, run.wish != .breakOff else { return }
    run.wish = wish
    self.run = run
    effects.append(wish == .drain ? .drain : .interrupt(reason: cut(reason, to: JobLimits.reasonBytes)))
  }

  /// This device's run of the present plan cannot go on; everybody is told, and the next plan is waited for.
  mutating func interrupt(_ reason: String, culprit: DeviceID?, at now: MonotonicInstant) {
    guard situation.interruption == nil, !hasResult, current != nil else { return }
    situation.interruption = PlanSituation.Interruption(since: now, reason: reason, culprit: culprit)
    leading.request = nil
    nextBeat = now
    guard hasRole else { return }
    forgetPart()
    situation.stopped.insert(own)
    situation.needsFetch = false
    progress.phase = .interrupted
    progress.reason = cut(reason, to: JobLimits.reasonBytes)
    progress.culprit = culprit
    ask(.breakOff, reason: reason)
  }

  /// A stage's end without all trained values is of no use under another plan.
  mutating func forgetPart() {
    guard !hasResult else { return }
    completions[own] = nil
    record.completion = nil
  }

  /// Whether a device of the plan is lost, or has said that it cannot go on.
  mutating func checkLosses(at now: MonotonicInstant) {
    guard situation.interruption == nil, let current, !isResultThere(at: now), isActive else { return }
    for device in current.proposal.participants where device != own && completions[device] == nil {
      if let reason = absence(of: device, at: now) { return interrupt(reason, culprit: device, at: now) }
      if situation.stopped.contains(device) {
        // Whom that device blames it says itself.
        return interrupt(devices[device]?.reason ?? "its run was broken off", culprit: nil, at: now)
      }
      wake(at: lastWord(of: device).advanced(by: silenceLimit(of: device)))
    }
    if let since = situation.boundarySince, hasPassed(JobLimits.boundaryWait, since: since, at: now) {
      interrupt("the run stopped, and no plan came", culprit: nil, at: now)
    }
    checkStall(at: now)
  }

  /// A run that does not move although all its devices are there is broken off; the next time it has twice as long.
  private mutating func checkStall(at now: MonotonicInstant) {
    guard run?.stamp == position, completions[own] == nil, let moved = situation.movedAt else { return }
    let slowest = participants.compactMap { progress(of: $0)?.secondsPerStep }.max() ?? 0
    let limit = max(stallLimit, .seconds(min(JobLimits.stallSteps * slowest, 86_400)))
    guard hasPassed(limit, since: moved, at: now) else { return }
    stallLimit = min(stallLimit * 2, JobLimits.longestStall)
    interrupt("nothing has moved for \(limit.components.seconds) seconds", culprit: nil, at: now)
  }

  /// A run of an earlier plan that comes to no boundary is broken off: soon when some device of that plan is gone, or has
  /// said under the present one that it has no run.
  mutating func checkDrain(at now: MonotonicInstant) {
    guard let run, run.stamp != position, run.wish == .drain else { return }
    let isShort = run.participants.contains {
      $0 != own && (!membership.reachable.contains($0) || situation.stopped.contains($0))
    }
    // Whoever comes to the boundary first may have gone already: the others need no more than a moment then.
    if isShort, hasPassed(JobLimits.boundaryWait, since: situation.since, at: now) {
      return ask(.breakOff, reason: "it came to no boundary before a device of its plan was gone")
    }
    let slowest = specification.roster.compactMap { progress(of: $0)?.secondsPerStep }.max() ?? 0
    let limit = JobLimits.drainWait + .seconds(min(JobLimits.stallSteps * slowest, 86_400))
    guard hasPassed(limit, since: situation.since, at: now) else { return }
    ask(.breakOff, reason: "it came to no boundary in \(limit.components.seconds) seconds")
  }

  private func lastWord(of device: DeviceID) -> MonotonicInstant {
    max(heard[device] ?? started, situation.since)
  }

  /// Why a device counts as lost; nil when it does not.
  func absence(of device: DeviceID, at now: MonotonicInstant) -> String? {
    if !membership.alive.contains(device) { return "it cannot be reached any more" }
    let limit = silenceLimit(of: device)
    guard lastWord(of: device).duration(to: now) >= limit else { return nil }
    return "it has said nothing for \(limit.components.seconds) seconds"
  }

  func seconds(from start: MonotonicInstant, to end: MonotonicInstant) -> Double {
    let (seconds, attoseconds) = start.duration(to: end).components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }

  // MARK: - Leaving

  mutating func leave(_ reason: String, at now: MonotonicInstant) {
    guard leave == nil else { return }
    leave = Leave(reason: cut(reason, to: JobLimits.reasonBytes), since: now)
    progress.isLeaving = true
    progress.reason = leave?.reason
    nextBeat = now
  }

  /// A device without a run and without a role has left; one for which no plan comes stops its run itself.
  mutating func finishLeaving(at now: MonotonicInstant) {
    guard let leave, !hasResult else { return }
    guard let current, hasRole else {
      if run == nil { progress.phase = .paused }
      return
    }
    if situation.interruption != nil {
      // It may still be a donor of the next plan, if one comes.
      let isNeeded = current.proposal.participants.contains(own) && hasSuccessor(at: now)
      if run == nil, !isNeeded || hasPassed(JobLimits.leaveWait, since: leave.since, at: now) {
        progress.phase = .paused
      }
      return
    }
    guard current.proposal.participants.contains(own) else {
      // A learner just goes; a donor hands over first, if that begins soon.
      if current.proposal.learners.contains(own)
        || hasPassed(JobLimits.leaveWait, since: max(leave.since, situation.since), at: now)
      {
        interrupt(leave.reason, culprit: nil, at: now)
      }
      return
    }
    guard !decree.isProposing else { return }
    if !hasSuccessor(at: now) || hasPassed(JobLimits.leaveWait, since: leave.since, at: now) {
      if situation.boundarySince != nil || situation.startedAt == nil {
        interrupt(leave.reason, culprit: nil, at: now)
        if run == nil { progress.phase = .paused }
      } else {
        ask(.drain)
      }
    }
  }

  /// Whether some other device could go on with the job.
  private func hasSuccessor(at now: MonotonicInstant) -> Bool {
    devices.keys.contains { device in
      guard let told = devices[device] else { return false }
      return told.isPrepared && !told.isLeaving && declines[device] == nil && isThere(device, at: now)
    }
  }

  mutating func rejoin(at now: MonotonicInstant) {
    guard leave != nil else { return }
    leave = nil
    progress.isLeaving = false
    progress.reason = nil
    nextBeat = now
    if progress.phase == .paused {
      progress.phase = hasRole ? .interrupted : .preparing
      progress.isPrepared = false
      ownReport = nil
      reports[own] = nil
      effects.append(.prepare)
    }
  }
}
