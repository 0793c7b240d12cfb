import CryptoPrimitives
import Determinism
import MeshModel
import ParallelPlanner
import TrainingCoordination

/// What a daemon does for a run: the channel it talks over, the disk it keeps its state on, what it tells.
extension JobSimulation {
  mutating func startRun(_ certificate: PlanCertificate, _ device: Int) {
    checkUsed(certificate, device, "starts")
    if devices[device].process?.run != nil {
      violate(.effectsFit, "device \(device) starts plan \(certificate.stamp.epoch) while a run is under way")
      dropRun(device, tells: true)
    }
    var proposal = certificate.proposal
    if devices[device].misbehaviour == .startsAnotherPlan {
      proposal = PlanProposal(
        stamp: proposal.stamp, household: proposal.household.reversed(), plan: proposal.plan,
        next: proposal.next,
        witnesses: proposal.witnesses)
    }
    let household = proposal.household.compactMap { places[$0] }
    guard household.count == proposal.household.count, let place = household.firstIndex(of: device) else {
      return violate(.effectsFit, "device \(device) starts a plan that does not name it")
    }
    note(
      7, device, Int(certificate.stamp.epoch),
      "\(device) starts t\(certificate.stamp.term)e\(certificate.stamp.epoch) as place \(place) of \(household): "
        + "\(proposal.plan.mode.rawValue) \(proposal.plan.grouping)"
        + " cached \(proposal.plan.cached.map { household[$0.device] })\(proposal.next == nil ? "" : " + next")"
    )
    let memory = devices[device].process?.held ?? []
    let disk = devices[device].disk.held(trustingTorn: devices[device].misbehaviour == .trustsTornCheckpoints)
    var run = StandInRun(
      model, plan: proposal.plan, next: proposal.next, place: place, places: household.count,
      collector: collector(household, proposal), held: memory + disk)
    run.misbehaviour = devices[device].misbehaviour
    devices[device].process?.run = run
    openChannel(certificate, household: household, place: place, device)
    stepRun(device) { $0.start(&$1) }
  }

  /// Who gets all values at the end of a job without a cache: the owner if it computes, else the first that does.
  private func collector(_ household: [Int], _ proposal: PlanProposal) -> Int {
    let places = proposal.plan.places
    return places.first { household[$0] == plan.owner } ?? places[0]
  }

  mutating func stepRun(
    _ device: Int, _ body: (inout StandInRun, inout StandInCache) -> [StandInEffect]
  ) {
    guard let effects = devices[device].withRun(body) else { return }
    perform(effects, device)
  }

  private mutating func perform(_ effects: [StandInEffect], _ device: Int) {
    guard let number = devices[device].process?.channel?.number else { return }
    for effect in effects {
      // A killed process, or a run that has ended, does nothing more.
      guard devices[device].process?.channel?.number == number else { return }
      switch effect {
      case .send(let message, let place):
        if message.tag.kind == .reduceScatter, strike(.ring, device) { return }
        if !tear(message, to: place, device) { send(message, to: place, device) }
      case .compute(let units):
        beginTask(seconds: units * devices[device].unitSeconds, channel: number, device)
      case .entered(let step):
        note(8, device, step, "\(device) goes on after step \(step)")
        checkEntered(step, device)
      case .filled(let unit):
        note(15, device, unit, "\(device) has computed unit \(unit) again")
        checks.advances += 1
      case .committed(let step): commit(step, device)
      case .learned:
        note(9, device, 0, "\(device) has learned")
        if let stamp = devices[device].process?.channel?.stamp { give(.learned(stamp), to: device) }
      case .missed(let place):
        let other = devices[device].process?.channel?.devices[place] ?? device
        stopRun(device, .device(devices[other].id), "what device \(other) was to give is lost")
      case .ended(let ending): endRun(ending, device)
      case .broken(let reason):
        violate(.runFits, "device \(device): \(reason)")
        stopRun(device, .own, reason)
      }
    }
  }

  // MARK: - Computing

  private mutating func beginTask(seconds: Double, channel: Int, _ device: Int) {
    guard let last = devices[device].process?.tasks else { return }
    devices[device].process?.tasks = last + 1
    devices[device].process?.task = JobTask(number: last + 1, channel: channel, seconds: seconds, since: now)
    let needed = seconds * Double(devices[device].slowness)
    plan(
      .computed(device, life: devices[device].life, task: last + 1), after: .nanoseconds(Int64(needed * 1e9)))
  }

  /// Lets a device compute so many times slower than it should; what it is busy with goes on at the new pace.
  mutating func slow(_ device: Int, times: Int) {
    let before = devices[device].slowness
    guard times != before else { return }
    devices[device].slowness = times
    guard let task = devices[device].process?.task else { return }
    let left = max(0, task.seconds - task.since.duration(to: now).inSeconds / Double(before))
    beginTask(seconds: left, channel: task.channel, device)
  }

  mutating func finishTask(_ number: Int, _ device: Int) {
    guard let task = devices[device].process?.task, task.number == number else { return }
    devices[device].process?.task = nil
    guard devices[device].process?.channel?.number == task.channel else { return }
    stepRun(device) { $0.computed(&$1) }
  }

  // MARK: - Steps

  private mutating func commit(_ step: Int, _ device: Int) {
    note(10, device, step, "\(device) has applied step \(step)")
    checkCommitted(step, device)
    guard let run = devices[device].process?.run, let channel = devices[device].process?.channel else {
      return
    }
    checkpoint(device, run)
    guard devices[device].process?.channel?.number == channel.number else { return }
    let isCached = run.phase == .cached
    var progress = DeviceProgress(isCached ? .cached : .live)
    progress.epoch = UInt32((step - 1) / plan.job.stepsPerEpoch + 1)
    progress.step = UInt64((step - 1) % plan.job.stepsPerEpoch + 1)
    progress.steps = UInt64(plan.job.stepsPerEpoch)
    progress.committedStep = UInt64(step)
    progress.secondsPerStep = devices[device].unitSeconds * Double(devices[device].slowness)
    give(.progressed(channel.stamp, progress), to: device)
    _ = strike(.commit, device)
  }

  private mutating func checkpoint(_ device: Int, _ run: StandInRun) {
    guard let last = devices[device].process?.lastCheckpoint,
      last.duration(to: now) >= plan.checkpointInterval
    else { return }
    devices[device].process?.lastCheckpoint = now
    // Without space the older ones stay, and the run goes on.
    guard devices[device].disk.begin(StandInCheckpoint(states: run.held)) else { return }
    plan(.written(device, life: devices[device].life), after: milliseconds(5...120))
  }

  // MARK: - Ends

  private mutating func endRun(_ ending: StandInEnding, _ device: Int) {
    guard let run = devices[device].process?.run, let stamp = devices[device].process?.channel?.stamp else {
      return
    }
    let isDone = ending == .finished && run.state.step == plan.job.totalSteps
    let whole = isDone && run.state.isWhole ? run.state : nil
    note(11, device, run.state.step, "\(device) ends its run: \(ending)")
    if let whole {
      checkResult(whole, device)
      guard !devices[device].disk.isFull else {
        return stopRun(device, .own, "there is no space for the result")
      }
      devices[device].disk.result = whole
    }
    dropRun(device, tells: false)
    switch ending {
    case .finished:
      let blob = whole.map { BlobReference(digest: $0.digest, byteCount: UInt64(8 * $0.values.count)) }
      give(
        .completed(
          stamp, RunCompletion(digest: whole?.digest, result: blob, results: [], cacheBytes: 0)), to: device)
    case .stopped(let step):
      give(.stopped(stamp, RunStop(committedStep: UInt64(step))), to: device)
    case .handedOver:
      give(.stopped(stamp, RunStop(committedStep: UInt64(run.state.step))), to: device)
    }
  }

  /// Lets a run stop at the next boundary.
  mutating func drainRun(_ device: Int) { stepRun(device) { $0.requestStop(&$1) } }

  /// Breaks a run off because the coordinator wants it.
  mutating func interruptRun(_ device: Int, _ reason: String) {
    note(12, device, 0, "\(device) breaks its run off: \(reason)")
    stopRun(device, .elsewhere, reason)
  }

  /// Breaks a run off; the answer comes a moment later.
  mutating func stopRun(_ device: Int, _ culprit: RunCulprit, _ reason: String) {
    guard let run = devices[device].process?.run, let stamp = devices[device].process?.channel?.stamp else {
      return
    }
    note(13, device, run.state.step, "\(device) stops its run: \(culprit) \(reason)")
    let step = run.held.map(\.step).max() ?? 0
    dropRun(device, tells: true)
    devices[device].process?.request += 1
    plan(
      .input(
        device, life: devices[device].life, request: devices[device].process?.request ?? 0,
        .stopped(stamp, RunStop(committedStep: UInt64(step), culprit: culprit, reason: reason))),
      after: milliseconds(1...30))
  }

  /// Keeps what a run held and closes its channel.
  mutating func dropRun(_ device: Int, tells: Bool) {
    if let run = devices[device].process?.run {
      checkMemory(run, device)
      devices[device].process?.held = run.held
    }
    closeChannel(device, tells: tells)
    devices[device].process?.run = nil
  }
}

extension JobDevice {
  /// Lets the run do something with the cache at hand; nil when there is no run.
  mutating func withRun(
    _ body: (inout StandInRun, inout StandInCache) -> [StandInEffect]
  ) -> [StandInEffect]? {
    guard process?.run != nil else { return nil }
    return body(&process!.run!, &disk.cache)
  }
}
