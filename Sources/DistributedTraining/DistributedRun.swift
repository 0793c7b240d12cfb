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
/// - Safety: `run` is called once, on a thread that may block; the closures are called on that thread.
package final class DistributedRun {
  /// Bytes under which a part of the gradients is not worth a ring of its own.
  package static let defaultBucketBytes = 1 << 20

  let context: RunContext
  let plan: Plan
  let technique: DeviceTechnique
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
  private var flow: TapFlow?
  private let entry: RunEntry
  private let checkpoint: (TrainingState) -> Void
  private let stopRequest = StopRequest()

  /// The states that this device has, newest first; also after `run` has thrown. On the thread that called `run`.
  package var held: [TrainingState] { entry.held }

  /// Asks all devices of the plan to stop after the step at hand; any thread may call.
  package func requestStop() { stopRequest.raise() }

  /// This device's part of a job.
  ///
  /// - Parameters:
  ///   - devices: devices of the plan's household; places count up to it.
  ///   - collector: the job's owner, if the plan has it; gets all parameters at the end of a job without cached epochs.
  ///   - technique: how this device gets at the technique.
  ///   - channel: to the other devices; it is aborted when this run fails, so that nobody waits for it.
  ///   - leastBucketBytes: gradients are reduced in buckets of at least so many bytes; the same on every device.
  ///   - isCancelled: looked at between pieces of work; whoever sets it aborts the channel too, which ends all waiting.
  package init(
    _ job: DistributedJob, plan: Plan, entry: RunEntry = RunEntry(), devices: Int, collector: Int?,
    technique: DeviceTechnique, channel: any JobChannel, team: ComputeTeam,
    leastBucketBytes: Int = defaultBucketBytes, isCancelled: @escaping () -> Bool,
    checkpoint: @escaping (TrainingState) -> Void = { _ in },
    report: @escaping (DistributedEvent) -> Void
  ) throws {
    let division = try WorkDivision(
      plan, lanes: job.lanePlan.lanes.count, validationUnits: job.validation.count)
    guard division.devices.contains(channel.place), division.devices.allSatisfy({ $0 < devices }) else {
      throw DistributedRunFailure.unfitPlan(
        "device \(channel.place) of \(devices) has no part in the devices \(division.devices)")
    }
    guard plan.mode == .live || technique.taps != nil else {
      throw DistributedRunFailure.unfitPlan("it reads cached activations, and the technique has none")
    }
    if let taps = technique.taps, division.isPipeline {
      try Self.checkLayers(plan.stages.map(\.layers), of: taps.shape.depths.reduce(0, +))
    }
    self.plan = plan
    self.entry = entry
    self.checkpoint = checkpoint
    self.technique = technique
    self.collector = collector.flatMap { division.devices.contains($0) ? $0 : nil } ?? division.devices[0]
    context = RunContext(
      job: job, division: division, links: JobLinks(channel, devices: devices), team: team,
      leastBucketBytes: leastBucketBytes, isCancelled: isCancelled, report: report)
    let parameters = try technique.parameters()
    result = DistributedResult(
      isComplete: false, parameters: parameters, digest: ContentHasher().finalize(), steps: 0, epochs: [])
  }

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

  /// Runs to the end of this device's part; a failure aborts the channel and ends every thread of the run.
  package func run() throws -> DistributedResult {
    do {
      try runPhases()
    } catch {
      context.links.abort("device \(context.place) of the plan failed: \(error)")
      first.training?.cancel()
      cached?.cancel()
      flow?.cancel()
      throw error
    }
    return result
  }

  private func runPhases() throws {
    first = try makeFirstPhase()
    if plan.mode == .live {
      guard let phase = first.training else { preconditionFailure("a live plan without a stage") }
      try evaluate(0, phase, audience: context.division.devices)
      try trainEpochs(0..<context.job.epochs, phase, .live)
      try phase.finish()
      return finish(isComplete: try collect(), steps: phase.trainer.optimizer.step)
    }
    try fillOrTrain()
    let steps = first.training?.trainer.optimizer.step ?? 0
    guard let cached = try enterCachedEpochs() else { return finish(isComplete: false, steps: steps) }
    let start = plan.mode == .fill ? 0 : 1
    try evaluate(start, cached, audience: context.division.cachedDevices)
    try trainEpochs(start..<context.job.epochs, cached, .cached)
    try cached.finish()
    finish(isComplete: true, steps: cached.trainer.optimizer.step)
  }

  /// The first phase while its taps go to their owners: trains one epoch, or only fills the cache.
  private func fillOrTrain() throws {
    guard let kept = technique.taps else { preconditionFailure("a plan with a cache, without taps") }
    let flow = TapFlow(links: context.links)
    self.flow = flow
    let routes = TapRoutes(context, plan: plan, kept: kept, flow: flow)
    flow.start(expected: routes.expected, keep: routes.keep)
    routes.attach(to: first)
    if plan.mode == .fill {
      try fill(first, routes)
    } else {
      try trainAndKeep(first, routes)
    }
    context.report(.phase(.transition))
    transitionClock = PhaseClock(context.links)
    try flow.finish()
    self.flow = nil
  }

  /// Nanoseconds that the driver has waited for the way of the taps.
  var tapWaits: UInt64 { flow?.waits ?? 0 }

  func beginStep(_ index: Int) { beginMiniBatch?(index) }

  private func finish(isComplete: Bool, steps: Int) {
    result.isComplete = isComplete
    result.steps = steps
    var hasher = ContentHasher()
    hasher.update(
      UnsafeRawBufferPointer(
        UnsafeBufferPointer(start: result.parameters.vector, count: result.parameters.vectorCount)))
    result.digest = hasher.finalize()
  }
}
