import CryptoPrimitives
import Determinism
import FineTuning
import MeshModel
import MeshTransport
import ParallelPlanner
import TrainingCoordination

/// What people see of jobs.
extension JobService {
  /// A job as this device sees it.
  func report(_ job: OpenJob) -> JobReport {
    let coordinator = job.coordinator
    let specification = job.specification
    var report = JobReport(
      id: job.id.description, name: specification.name, owner: name(of: specification.owner),
      isOwn: coordinator.isOwner, epochs: specification.epochs)
    report.state = JobReport.State(coordinator.state)
    let end = job.ended ?? DeviceClocks.now().monotonic
    report.seconds = max(0, job.opened.duration(to: end).inSeconds)
    report.devices = devices(of: job)
    report.plan = summary(of: job)
    report.finishedEpochs = job.epochs.keys.sorted().compactMap { job.epochs[$0].map(EpochSummary.init) }
    report.doneEpochs = job.doneEpochs
    report.metrics = job.metrics.keys.sorted().flatMap { epoch in
      (job.metrics[epoch] ?? []).map {
        JobReport.Measured(name: $0.name, value: $0.value, epoch: Int(epoch))
      }
    }
    report.notes = job.notes.report(name: name)
    report.pauseReason = coordinator.pausedReason
    // Who was not used under a plan stands in the notes.
    report.warnings =
      job.warnings
      + coordinator.declines.keys.sorted().filter { !job.notes.tellRefusal(of: $0) }.map {
        "'\(name(of: $0))' does not take part: \(coordinator.declines[$0] ?? "")"
      }
    if report.state == .training { fill(&report, from: job) }
    report.result = job.summary
    report.failure = failure(of: coordinator.record.outcome)
    return report
  }

  private func fill(_ report: inout JobReport, from job: OpenJob) {
    guard let slowest = job.slowest else { return }
    report.phase = RunPhase(slowest.phase)
    report.epoch = Int(slowest.epoch)
    report.step = Int(clamping: slowest.step)
    report.steps = Int(clamping: slowest.steps)
    report.samplesPerSecond = slowest.samplesPerSecond > 0 ? slowest.samplesPerSecond : nil
    report.loss = slowest.loss
    report.etaSeconds = slowest.etaSeconds
  }

  private func devices(of job: OpenJob) -> [JobReport.Device] {
    let coordinator = job.coordinator
    let plan = coordinator.certificate?.proposal
    var listed = plan?.household ?? []
    let known =
      job.specification.roster + (coordinator.devices.keys.sorted() + coordinator.declines.keys.sorted())
    for id in known where !listed.contains(id) && household.names[id] != nil { listed.append(id) }
    return listed.map { id in
      var device = JobReport.Device(name: name(of: id), device: id.description)
      let progress = coordinator.progress(of: id)
      if let plan, let place = plan.place(of: id) {
        device.place = place
        if let stage = plan.plan.stages.first(where: { $0.members.contains { $0.device == place } }) {
          device.units = stage.members.first { $0.device == place }?.units ?? 0
          device.layers = layerText(stage.layers, job)
        }
        device.cachedUnits = plan.plan.cached.first { $0.device == place }?.units ?? 0
      }
      device.state = state(of: id, progress, job)
      device.note = coordinator.declines[id] ?? progress?.reason
      guard let progress else { return device }
      device.memoryBytes = progress.memoryBytes > 0 ? Int64(clamping: progress.memoryBytes) : nil
      device.budgetBytes = progress.budgetBytes > 0 ? Int64(clamping: progress.budgetBytes) : nil
      device.fetchedBytes = Int64(clamping: progress.fetchedBytes)
      device.fetchBytes = Int64(clamping: progress.fetchBytes)
      device.waitingShare = progress.waitingShare
      if let transition = progress.transition {
        device.transitionSeconds = transition.seconds
        device.transitionFreedBytes =
          Int64(clamping: transition.residentBefore) - Int64(clamping: transition.residentAfter)
      }
      device.samplesPerSecond = samplesPerSecond(of: device, progress, job)
      device.links = progress.links.map {
        JobReport.Link(
          place: Int($0.place), sentBytes: Int64(clamping: $0.sent),
          receivedBytes: Int64(clamping: $0.received))
      }
      return device
    }
  }

  /// A device's part of the household's rate.
  private func samplesPerSecond(
    of device: JobReport.Device, _ progress: DeviceProgress, _ job: OpenJob
  ) -> Double? {
    guard let plan = job.coordinator.certificate?.proposal.plan, progress.samplesPerSecond > 0 else {
      return nil
    }
    let (own, all) =
      progress.phase == .cached
      ? (device.cachedUnits, plan.cached.reduce(0) { $0 + $1.units })
      : (device.units, plan.stages.first?.members.reduce(0) { $0 + $1.units } ?? 0)
    guard own > 0, all > 0 else { return nil }
    return progress.samplesPerSecond * Double(own) / Double(all)
  }

  private func state(of device: DeviceID, _ progress: DeviceProgress?, _ job: OpenJob)
    -> JobReport.Device.State
  {
    let coordinator = job.coordinator
    if case .failed(device, _) = coordinator.record.outcome { return .lost }
    let isLeaving = progress?.isLeaving ?? false
    if device != own, !household.membership.alive.contains(device) { return isLeaving ? .left : .lost }
    let proposal = coordinator.certificate?.proposal
    let isParticipant = proposal?.participants.contains(device) ?? true
    switch progress?.phase {
    case .paused: return .paused
    case .handedOver: return .left
    case .completed: return .done
    case .learning, .learned: return .learning
    case nil, .waiting: return isParticipant ? .asked : .idle
    case .preparing, .fetching: return .fetching
    case .prepared, .planning, .deciding, .ready, .interrupted: return isParticipant ? .ready : .idle
    case .filling, .live, .transition, .cached, .evaluating: return isParticipant ? .computing : .idle
    }
  }

  private func layerText(_ layers: Range<Int>, _ job: OpenJob) -> String? {
    guard let first = layers.first, let last = layers.last else { return nil }
    guard let names = job.layerNames, names.indices.contains(last) else { return "\(first) to \(last)" }
    return first == last ? names[first] : "\(names[first]) to \(names[last])"
  }

  private func summary(of job: OpenJob) -> JobPlanSummary? {
    guard let certificate = job.coordinator.certificate else { return nil }
    let plan = certificate.proposal.plan
    let layers = plan.stages.last?.layers.upperBound ?? 0
    return JobPlanSummary(
      plan, names: certificate.proposal.household.map(name),
      budgets: certificate.proposal.household.map {
        Int64(clamping: job.coordinator.progress(of: $0)?.budgetBytes ?? 0)
      },
      layerNames: job.layerNames.flatMap { $0.count >= layers ? $0 : nil }
        ?? (0..<layers).map { "layer \($0)" },
      unitsPerMiniBatch: plan.microBatches * (plan.stages.first?.members.reduce(0) { $0 + $1.units } ?? 0),
      planEpoch: certificate.stamp.epoch, leader: name(of: certificate.ballot.proposer))
  }

  private func failure(of outcome: JobOutcome?) -> JobReport.Failure? {
    switch outcome {
    case nil, .finished: nil
    case .stopped(let device):
      JobReport.Failure(
        message: "stopped on '\(name(of: device))'", device: name(of: device), reason: .interrupted)
    case .failed(let device?, let reason):
      JobReport.Failure(
        message: "'\(name(of: device))': \(reason); mend that and run the same command again",
        device: name(of: device),
        reason: .unreachable)
    case .failed(nil, let reason):
      JobReport.Failure(message: reason, reason: .insufficientResources)
    }
  }
}

extension OpenJob {
  /// Finished epochs, as far as this device was told or has read from its disk.
  var doneEpochs: Int {
    if case .finished = coordinator.record.outcome { return specification.epochs }
    return Int(epochs.keys.max() ?? 0)
  }

  /// Where the device is that is furthest back: the others wait for it.
  var slowest: DeviceProgress? {
    coordinator.participants.compactMap { coordinator.progress(of: $0) }
      .filter { $0.phase >= .filling && $0.phase < .handedOver }
      .min { ($0.epoch, $0.phase, $0.step) < ($1.epoch, $1.phase, $1.step) }
  }

  /// How far that device is in a phase that has steps.
  var position: JobPace.Position? {
    guard let slowest, let phase = RunPhase(slowest.phase) else { return nil }
    return JobPace.Position(
      phase: phase, epoch: Int(slowest.epoch), step: Int(clamping: slowest.step),
      steps: Int(clamping: slowest.steps))
  }

  /// Takes in what happened to the job's devices, and how fast it is.
  mutating func takeNotes() {
    var moment = JobNotes.Moment()
    moment.notes = coordinator.notes
    moment.seconds = opened.duration(to: DeviceClocks.now().monotonic).inSeconds
    if let certificate = coordinator.certificate {
      let plan = certificate.proposal.plan
      moment.epoch = certificate.stamp.epoch
      moment.participants = coordinator.participants.count
      moment.cachedEpochSeconds = plan.mode == .live ? nil : PlanReport.seconds(plan.predicted.cachedEpoch)
    }
    if coordinator.state == .running { moment.position = position }
    if !notes.isMeasuring, let settings = material?.package.settings {
      notes.measure(JobPace(samplesPerStep: settings.batch, epochs: settings.epochs))
    }
    notes.take(moment)
  }
}

extension JobReport.State {
  /// The state as people know it.
  init(_ state: JobState) {
    switch state {
    case .preparing: self = .gathering
    case .planning, .deciding: self = .planning
    case .fetching: self = .preparing
    case .running: self = .training
    case .recovering: self = .recovering
    case .paused: self = .paused
    case .saving: self = .saving
    case .finished: self = .finished
    case .failed: self = .failed
    case .stopped: self = .stopped
    }
  }
}

extension RunPhase {
  /// The phase as a run on one device names it; nil where such a run has none.
  init?(_ phase: DevicePhase) {
    switch phase {
    case .filling: self = .fill
    case .live: self = .liveEpoch
    case .cached: self = .cachedEpoch
    case .evaluating: self = .evaluation
    case .waiting, .preparing, .prepared, .planning, .deciding, .fetching, .ready, .transition, .completed,
      .interrupted, .learning, .learned, .paused, .handedOver:
      return nil
    }
  }
}
