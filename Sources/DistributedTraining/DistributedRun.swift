import ActivationCache
import Collectives
package import ComputeRuntime
import CryptoPrimitives
import FineTuning
import NeuralNetworks
package import ParallelPlanner

/// One device's part of a distributed job, from its first unit to the final parameters (PAC §5).
///
/// The plan says everything: which stage of which units this device computes in the first phase, which lanes it keeps and
/// trains afterwards. Every device of the plan runs one of these over the same job; the parameters are the same bits on
/// all of them, and the same as one device's.
///
/// A run begins wherever the job is: the devices tell each other what they have, hand over what is missing, compute again
/// what nobody has, and go on from the newest state that is whole among them (`Handover`). It can stop between two steps,
/// and it can be broken off anywhere: what it holds then is where the next one begins.
///
/// - Safety: `run` is called once, on a thread that may block; the closures are called on that thread.
package final class DistributedRun {
  /// Bytes under which a part of the gradients is not worth a ring of its own.
  package static let defaultBucketBytes = 1 << 20
  /// In the reason of a channel that was aborted to stop in order, while no step was under way.
  package static let stopReason = "stopped in order while nothing was trained"

  let context: RunContext
  let plan: Plan
  let technique: DeviceTechnique
  let roles: RunRoles
  let units: JobUnits
  /// Everything that is trained, as a part of the flat vector.
  let leaves: VectorSelection
  let entry: RunEntry
  let states: HeldStates
  let checkpoints: (any CheckpointSink)?
  let boundary: StepBoundary
  /// Bytes of the vectors of a whole state.
  let stateBytes: Int
  /// The device that ends with all parameters when no cached epochs follow a pipeline.
  let collector: Int
  var result: DistributedResult
  /// What this device does before the cached epochs; dropped with all its buffers when they begin.
  var first = FirstPhase.absent
  /// Runs since the end of the first phase.
  var transitionClock: PhaseClock?
  /// The cached epochs' phase, once it has begun.
  var cached: WholeUnits?
  /// True once everything comes from the cache.
  var isInCachedEpochs = false
  /// Told the number of every mini-batch of an epoch whose taps are kept.
  var beginMiniBatch: ((Int) -> Void)?
  var flow: TapFlow?
  /// What is prepared for the next plan.
  var lessons: Lessons?
  var hasReportedLearned = false
  private let next: WorkDivision?

  /// This device's part of a job.
  ///
  /// - Parameters:
  ///   - entry: what this device has of the job so far.
  ///   - devices: devices of the plan's household; places count up to it. All of them run, whatever their role.
  ///   - collector: the job's owner, if the plan has it; gets all parameters at the end of a job without cached epochs.
  ///   - technique: how this device gets at the technique.
  ///   - channel: to the other devices; it is aborted when the run of a device with a role in the plan fails, so that
  ///     nobody waits for it.
  ///   - leastBucketBytes: gradients are reduced in buckets of at least so many bytes; the same on every device.
  ///   - isCancelled: looked at between pieces of work; whoever sets it aborts the channel too, which ends all waiting.
  ///   - checkpoints: takes the state between two steps now and then, to write it to a disk.
  package init(
    _ job: DistributedJob, plan: Plan, entry: RunEntry = RunEntry(), devices: Int, collector: Int?,
    technique: DeviceTechnique, channel: any JobChannel, team: ComputeTeam,
    leastBucketBytes: Int = defaultBucketBytes, isCancelled: @escaping () -> Bool,
    checkpoints: (any CheckpointSink)? = nil,
    report: @escaping (DistributedEvent) -> Void
  ) throws {
    let (lanes, held) = (job.lanePlan.lanes.count, job.validation.count)
    let division = try WorkDivision(plan, lanes: lanes, validationUnits: held)
    next = try entry.next.map { try WorkDivision($0, lanes: lanes, validationUnits: held) }
    roles = RunRoles(division, next: next, devices: devices)
    guard 0..<devices ~= channel.place,
      (division.devices + (next?.devices ?? [])).allSatisfy({ $0 < devices })
    else {
      throw DistributedRunFailure.unfitPlan(
        "device \(channel.place) of \(devices) has no part in the devices \(division.devices)")
    }
    guard plan.mode == .live || technique.taps != nil || roles.roles[channel.place] != .participant else {
      throw DistributedRunFailure.unfitPlan("it reads cached activations, and the technique has none")
    }
    if let taps = technique.taps, division.isPipeline {
      try Self.checkLayers(plan.stages.map(\.layers), of: taps.shape.depths.reduce(0, +))
    }
    self.plan = plan
    self.entry = entry
    self.technique = technique
    self.collector = collector.flatMap { division.devices.contains($0) ? $0 : nil } ?? division.devices[0]
    context = RunContext(
      job: job, division: division, links: JobLinks(channel, devices: devices), team: team,
      leastBucketBytes: leastBucketBytes, isCancelled: isCancelled, report: report)
    // A stage of a pipeline that keeps no cache never sees what the others train.
    let isStage = plan.mode == .live && division.isPipeline
    let layers = isStage ? division.seat(of: channel.place).map { plan.stages[$0.stage].layers } : nil
    let parameters = try technique.parameters(layers)
    result = DistributedResult(
      isComplete: false, parameters: parameters, digest: ContentHasher().finalize(), steps: 0, epochs: [])
    units = JobUnits(job)
    leaves = VectorSelection(
      DeviceReduction.ranges(parameters, Array(parameters.parameters.indices)))
    let (steps, count) = (job.totalSteps, parameters.vectorCount)
    // What belongs to another job would be refused by all.
    states = HeldStates(entry.held.filter { $0.fits(steps: steps, vector: count) })
    self.checkpoints = checkpoints
    stateBytes = 3 * MemoryLayout<Float>.stride * leaves.count
    boundary = StepBoundary(stateBytes: stateBytes)
  }

  /// The states that this device has, newest first; also after `run` has thrown.
  ///
  /// To be read on the thread that calls `run`.
  package var held: [TrainingState] { states.all }

  /// The same, for whom comes next: the result's parameters are not there any more, and the memory of the training is gone.
  package func surrenderHeld() -> [TrainingState] { states.surrender() }

  /// Asks all devices of the plan to stop between two steps; any thread may call.
  ///
  /// A device that trains says so in its next share, and all stop after that step. While the cache is filled, whole units of
  /// held-out samples are predicted or things are handed over, the run is broken off. A device that waits for others to
  /// train asks when its own part begins. Nothing stops once the last step is done.
  package func requestStop() { context.stopRequest.raise() }

  /// The stages must be the whole model, one after another.
  private static func checkLayers(_ stages: [Range<Int>], of layers: Int) throws {
    var end = 0
    for stage in stages {
      guard stage.lowerBound == end, !stage.isEmpty else {
        throw DistributedRunFailure.unfitPlan("its stages have the layers \(stages)")
      }
      end = stage.upperBound
    }
    guard end == layers else {
      throw DistributedRunFailure.unfitPlan("its stages have \(end) of the model's \(layers) layers")
    }
  }

  /// Runs to the end of this device's part.
  ///
  /// A failure of a device with a role aborts the channel; a failure of any ends every thread of its run.
  package func run() throws -> DistributedResult {
    defer { lessons?.close() }
    do {
      switch roles.roles[context.place] {
      case .participant: try participate()
      case .learner: try learn()
      case .donor:
        _ = try enter()
        result.ending = .handedOver
      }
    } catch {
      if roles.roles[context.place] == .participant {
        context.links.abort("device \(context.place) of the plan failed: \(error)")
      }
      first.training?.cancel()
      cached?.cancel()
      flow?.cancel()
      guard Self.isStop(error) else { throw error }
      try technique.taps?.cache.flush()
      finish(isComplete: false, ending: .stopped(step: states.newestStep))
    }
    return result
  }

  private static func isStop(_ error: any Error) -> Bool {
    guard case .channel(.aborted(let reason), _) = error as? DistributedRunFailure else { return false }
    return reason.contains(stopReason)
  }

  // MARK: Roles

  private func participate() throws {
    guard let start = try enter() else { preconditionFailure("a device with a role is left out") }
    beginLessons()
    try context.breakOffIfAsked()
    switch plan.mode {
    case .live: try runLive(start)
    case .hybrid, .fill: try runCached(start)
    }
  }

  private func learn() throws {
    if let next, let kept = technique.taps {
      let lessons = Lessons(context, units: units, next: next, kept: kept)
      self.lessons = lessons
      try lessons.learnAll()
      try kept.cache.flush()
    }
    try context.checkCancellation(step: 0)
    context.report(.learned)
    result.ending = .handedOver
  }

  private func beginLessons() {
    hasReportedLearned = next == nil
    guard let next, let kept = technique.taps else { return }
    let lessons = Lessons(context, units: units, next: next, kept: kept)
    self.lessons = lessons
    lessons.begin()
  }

  // MARK: Phases

  private func runLive(_ start: EntryHandover.Outcome) throws {
    first = try makeFirstPhase(trains: true, start)
    guard let phase = first.training else { preconditionFailure("a live plan without a stage") }
    try establish(phase, start)
    let step = start.handover.start
    if step % context.job.lanePlan.stepsPerEpoch == 0 {
      try evaluate(step / context.job.lanePlan.stepsPerEpoch, phase, audience: context.division.devices)
    }
    let isDone = try trainEpochs(from: step, phase, .live)
    try phase.finish()
    if isDone {
      finish(isComplete: try collect(), ending: .finished)
    } else {
      finish(isComplete: false, ending: .stopped(step: states.newestStep))
    }
  }

  private func runCached(_ start: EntryHandover.Outcome) throws {
    let stepsPerEpoch = context.job.lanePlan.stepsPerEpoch
    var step = start.handover.start
    let isLive = plan.mode == .hybrid && step < stepsPerEpoch
    if isLive || !start.handover.missing.isEmpty {
      if let stop = try runFirstPhase(start, trains: isLive) {
        try first.training?.finish()
        try technique.taps?.cache.flush()
        return finish(isComplete: false, ending: .stopped(step: stop))
      }
    }
    guard let cached = try enterCachedEpochs(start, afterTraining: isLive) else {
      return finish(isComplete: false, ending: .finished)
    }
    if isLive { step = stepsPerEpoch }
    checkpointIfDue()
    if step % stepsPerEpoch == 0 {
      try evaluate(step / stepsPerEpoch, cached, audience: context.division.cachedDevices)
    }
    let isDone = try trainEpochs(from: step, cached, .cached)
    try cached.finish()
    finish(isComplete: isDone, ending: isDone ? .finished : .stopped(step: states.newestStep))
  }

  /// The first phase while its taps go to their owners: trains the rest of one epoch, fills the cache, or both.
  ///
  /// - Returns: the step after which all devices stop; nil when the phase is over.
  private func runFirstPhase(_ start: EntryHandover.Outcome, trains: Bool) throws -> Int? {
    guard let kept = technique.taps else { preconditionFailure("a plan with a cache, without taps") }
    first = try makeFirstPhase(trains: trains, start)
    if trains, let phase = first.training { try establish(phase, start) }
    let flow = TapFlow(links: context.links)
    self.flow = flow
    let routes = TapRoutes(
      context, plan: plan, kept: kept, flow: flow, units: units, missing: start.handover.missing,
      live: trains ? start.handover.start..<context.job.lanePlan.stepsPerEpoch : 0..<0)
    flow.start(expected: routes.expected, keep: routes.keep)
    routes.attach(to: first)
    if !start.handover.missing.isEmpty { try fill(first, routes) }
    let isDone = trains ? try trainAndKeep(first, routes) : true
    if isDone { context.report(.phase(.transition)) }
    transitionClock = PhaseClock(context.links)
    try flow.finish()
    self.flow = nil
    return trains ? try agreeOnEnd(isDone ? nil : states.newestStep) : nil
  }

  /// Nanoseconds that the driver has waited for the way of the taps.
  var tapWaits: UInt64 { flow?.waits ?? 0 }

  func beginStep(_ index: Int) { beginMiniBatch?(index) }

  private func finish(isComplete: Bool, ending: RunEnding) {
    result.isComplete = isComplete
    result.ending = ending
    result.steps = states.newestStep
    var hasher = ContentHasher()
    result.parameters.forEachPiece { hasher.update($0) }
    result.digest = hasher.finalize()
  }
}
