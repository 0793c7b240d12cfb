import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import ParallelPlanner
import PipelineSchedules
import TensorKernels

/// Training in a pipeline: this device computes one stage of some units (PAC §5.1).
final class StagedUnits: TrainingPhase {
  let trainer: MiniBatchTrainer
  let seat: StageSeat
  /// The leaves of this stage, as a part of the flat vector.
  let selection: VectorSelection
  /// The leaves of every stage.
  let leaves: [HeldLeaves]
  private let context: RunContext
  /// Sends activations; another thread sends gradients, which must not wait behind them.
  let forwards: Outbox
  private let backwards: Outbox
  private let work: PipelineWork
  private let reduction: DeviceReduction
  private let overlapped: OverlappedRing?
  /// The mini-batch after the step that comes.
  private var upcoming: MiniBatch?
  /// Gives the taps of a held-out unit away, in the evaluation that fills the cache.
  var keepValidationTaps: ((Int, [UInt8]) throws(DistributedRunFailure) -> Void)?

  /// Passes that train nothing have numbers that no step has.
  private static let firstPass: UInt64 = 1 << 40

  init(_ stage: any StageComputation, seat: (stage: Int, member: Int), context: RunContext)
    throws(DistributedRunFailure)
  {
    self.context = context
    let division = context.division
    self.seat = StageSeat(division, stage: seat.stage, member: seat.member)
    leaves = try Self.leavesOfAll(stage, at: seat.stage, context: context)
    forwards = Outbox(links: context.links, name: "forwards-out")
    backwards = Outbox(links: context.links, name: "backwards-out")
    work = PipelineWork(
      stage, seat: self.seat,
      schedule: PipelineSchedule(
        .oneForwardOneBackward, stages: division.stages, microBatches: division.plan.microBatches),
      links: context.links, forwards: forwards, backwards: backwards, loop: context.team, firstRound: 0)
    let group = division.members(stage: seat.stage)
    let own = leaves[seat.stage].own
    // As in `WholeUnits`: 32-bit sums do not know their exponents before the shares.
    overlapped =
      group.count > 1 && stage.gradientSums.knowsExponents && !own.isEmpty
      ? OverlappedRing(
        members: group, tree: stage.parameters, own: own,
        bytesPerSum: stage.gradientSums.bytesPerParameter, leastBytes: context.leastBucketBytes,
        links: context.links, firstRound: 0) : nil
    work.observer = overlapped
    reduction = DeviceReduction(
      links: context.links, groups: (0..<division.stages).map { division.members(stage: $0) },
      stage: seat.stage, leaves: leaves, tree: stage.parameters, stopRequest: context.stopRequest,
      overlapped: overlapped, firstRound: 0)
    selection = VectorSelection(
      union: DeviceReduction.ranges(stage.parameters, Array(leaves[seat.stage].all)))
    trainer = MiniBatchTrainer(
      computation: work, settings: context.job.optimization, totalSteps: context.job.totalSteps,
      maximumMicroBatches: context.job.lanePlan.lanes.count, workers: context.team.width,
      leaves: TrainedLeaves(
        counted: DeviceReduction.counted(by: seat.stage, leaves), updated: Array(leaves[seat.stage].all)),
      reduction: reduction)
    reduction.meanwhile = { [unowned self] isOver throws(DistributedRunFailure) in
      try work.runAhead(until: isOver)
    }
  }

  /// Tells the others what leaves this stage has, and hears what theirs have.
  private static func leavesOfAll(
    _ stage: any StageComputation, at index: Int, context: RunContext
  ) throws(DistributedRunFailure) -> [HeldLeaves] {
    let tree = stage.parameters
    var leaves = [HeldLeaves](repeating: HeldLeaves(own: [], shared: []), count: context.division.stages)
    leaves[index] = HeldLeaves(own: stage.ownLeaves.sorted(), shared: stage.sharedLeaves.sorted())
    var writer = MessageWriter()
    writer.words(leaves[index].own.map(UInt32.init))
    writer.words(leaves[index].shared.map(UInt32.init))
    let tag = JobTag(.share, step: 0, part: 4)
    for device in context.division.stageDevices where device != context.place {
      try context.links.send(writer.bytes, tag, to: device)
    }
    for other in leaves.indices {
      for device in context.division.members(stage: other) where device != context.place {
        var reader = MessageReader(
          try context.links.receive(tag, from: device, .share), from: device, "a stage's leaves")
        let most = tree.parameters.count
        let own = try reader.words(atMost: most).map(Int.init)
        let shared = try reader.words(atMost: most).map(Int.init)
        try reader.finish()
        guard (own + shared).allSatisfy({ $0 < most && tree.parameters[$0].isTrainable }) else {
          throw reader.failure("there is no such leaf among \(most)")
        }
        leaves[other] = HeldLeaves(own: own, shared: shared)
      }
    }
    let covered = Set(leaves.flatMap(\.own))
    for (leaf, parameter) in tree.parameters.enumerated()
    where parameter.isTrainable && !covered.contains(leaf) {
      throw .unfitPlan("no stage trains \(parameter.name)")
    }
    return leaves
  }

  var stage: any StageComputation { work.stage }
  var stops: Bool { reduction.stops }
  var ringNanoseconds: UInt64 { reduction.ringNanoseconds }
  var sumTraffic: SumTraffic { reduction.sumTraffic }

  /// Gives the taps of a unit away, on its first way through the stage.
  func keepTaps(
    _ keep: @escaping (Int, PackedMicroBatch, [UInt8]) throws(DistributedRunFailure) -> Void
  ) {
    work.keepTaps = keep
  }

  func step(_ miniBatch: MiniBatch) throws(DistributedRunFailure) -> StepResult {
    work.prepare(miniBatch, followedBy: upcoming)
    upcoming = nil
    reduction.beginStep()
    do throws(TrainingFailure) {
      return try trainer.step(miniBatch.batches, units: miniBatch.units, loop: context.team)
    } catch {
      throw reduction.failure ?? work.failure ?? .training(error)
    }
  }

  func prefetch(_ miniBatch: MiniBatch) { upcoming = miniBatch }

  /// Waits until all boundaries are sent; nothing more may be computed.
  func finish() throws(DistributedRunFailure) {
    try forwards.finish()
    try backwards.finish()
    overlapped?.end()
  }

  /// Ends the sending threads after a failure elsewhere; the channel must have been aborted.
  func cancel() {
    forwards.cancel()
    backwards.cancel()
    overlapped?.end()
  }

  func compareReplicas() throws(DistributedRunFailure) {
    try reduction.compareReplicas(step: trainer.optimizer.step)
  }

  // MARK: Passes without training

  /// Takes units forward through this stage, pipeline micro-batch by micro-batch.
  ///
  /// - Parameters:
  ///   - units: all units of the pass by number; those of this stage's other members are passed over.
  ///   - mayStop: whether a stop breaks the pass off.
  func pass(
    _ pass: StagePass, number: Int, units: [PackedMicroBatch?], withTaps: Bool, mayStop: Bool = true,
    _ finished: (_ unit: Int, StageForward.Result) throws(DistributedRunFailure) -> Void
  ) throws(DistributedRunFailure) {
    let forward = StageForward(
      stage: stage, seat: seat, links: context.links, outbox: forwards, loop: context.team)
    for start in stride(from: 0, to: units.count, by: seat.unitsPerMicroBatch) {
      try context.checkCancellation(step: trainer.optimizer.step)
      if mayStop { try context.breakOffIfAsked() }
      let own = seat.positions.compactMap { place -> StageUnit? in
        guard start + place < units.count, let batch = units[start + place] else { return nil }
        return StageUnit(
          batch: batch, key: start + place, place: place, position: start + place,
          slot: place - seat.positions.lowerBound)
      }
      let results = try forward.run(
        own, pass: pass, round: Self.firstPass + UInt64(number), withTaps: withTaps)
      for (unit, result) in zip(own, results) { try finished(unit.key, result) }
    }
  }

  func evaluate(
    epoch: Int, _ finished: (Int) -> Void
  ) throws(DistributedRunFailure) -> [(unit: Int, prediction: UnitPrediction)] {
    var all: [(unit: Int, prediction: UnitPrediction)] = []
    var done = 0
    let isHead = context.job.outputs > 0
    // Later another stage may still be in the step before, and would lose it.
    try pass(
      .predict, number: epoch, units: context.job.validation, withTaps: keepValidationTaps != nil,
      mayStop: epoch == 0
    ) { (unit, result) throws(DistributedRunFailure) in
      if let taps = result.taps { try keepValidationTaps?(unit, taps) }
      if seat.isLast {
        all.append(
          (
            unit,
            UnitPrediction(
              lossSum: isHead ? 0 : result.output.lossSum, rows: isHead ? result.output.predictions : [])
          ))
      }
      done += 1
      finished(done)
    }
    return all
  }
}
