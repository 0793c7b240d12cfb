import ComputeRuntime
import FineTuning
import ParallelPlanner
import Synchronization

/// Which taps of the first phase this device sends and keeps, unit by unit, in the one order of all devices.
final class TapRoutes {
  /// Units that this device keeps and has not computed whole.
  let expected: [TapUnit]
  /// Puts the stages' parts of a unit together and appends them to this device's cache.
  let keep: @Sendable (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  /// The mini-batches of the first epoch.
  let miniBatches: [MiniBatch]
  /// The mini-batch at hand.
  var miniBatch = 0
  /// What sends this device's boundaries; nil in a plan of one stage.
  private var boundaries: Outbox?

  private let context: RunContext
  private let flow: TapFlow
  private let own: CachedTaps

  init(_ context: RunContext, plan: Plan, kept: KeptTaps, flow: TapFlow) {
    self.context = context
    self.flow = flow
    own = CachedTaps(kept, capacity: context.job.capacity)
    miniBatches = context.job.miniBatches(epoch: 0)
    expected = Self.expected(context, miniBatches)
    let assembly = TapAssembly(
      shape: kept.shape, element: kept.element,
      stages: context.division.isPipeline
        ? plan.stages.map(\.layers) : [0..<kept.shape.depths.reduce(0, +)])
    let cache = kept.cache
    keep = { (unit, parts) throws(TrainingFailure) in
      try assembly.append(unit.batch, parts: parts, to: cache)
    }
  }

  private static func expected(_ context: RunContext, _ miniBatches: [MiniBatch]) -> [TapUnit] {
    let division = context.division
    let stages = 0..<division.stages
    func isMissing(_ computers: [Int]) -> Bool { division.isPipeline || computers[0] != context.place }
    var units: [TapUnit] = []
    for (unit, batch) in context.job.validation.enumerated()
    where division.owner(validation: unit) == context.place {
      let computers = stages.map { division.computer(validation: unit, stage: $0) }
      guard isMissing(computers) else { continue }
      units.append(TapUnit(step: 0, unit: UInt32(unit), batch: batch, computers: computers))
    }
    for (index, miniBatch) in miniBatches.enumerated() {
      let ascending = zip(miniBatch.lanes, miniBatch.batches).sorted { $0.0 < $1.0 }
      for (lane, batch) in ascending where division.owner(lane: lane) == context.place {
        let computers = stages.map { division.computer(lane: lane, stage: $0) }
        guard isMissing(computers) else { continue }
        units.append(TapUnit(step: UInt64(index + 1), unit: UInt32(lane), batch: batch, computers: computers))
      }
    }
    return units
  }

  /// Lets a pipeline's stage give its taps away as it makes them.
  func attach(to first: FirstPhase) {
    guard case .pipeline(let stage) = first else { return }
    let number = UInt32(stage.seat.stage)
    boundaries = stage.forwards
    stage.keepTaps { [self] (lane, _, taps) throws(DistributedRunFailure) in
      try put(taps, lane: lane, stage: number)
    }
    stage.keepValidationTaps = { [self] (unit, taps) throws(DistributedRunFailure) in
      try put(taps, validation: unit, stage: number)
    }
  }

  func put(_ taps: [UInt8], lane: Int, stage: UInt32) throws(DistributedRunFailure) {
    try flow.put(
      taps, tag: JobTag(.taps, step: UInt64(miniBatch + 1), unit: UInt32(lane), part: stage),
      to: context.division.owner(lane: lane), after: boundaries?.moment)
  }

  func put(_ taps: [UInt8], validation unit: Int, stage: UInt32) throws(DistributedRunFailure) {
    try flow.put(
      taps, tag: JobTag(.taps, step: 0, unit: UInt32(unit), part: stage),
      to: context.division.owner(validation: unit), after: boundaries?.moment)
  }

  // MARK: Plans of one stage

  /// Gives those of the held-out units away that this device has computed and another one keeps.
  func giveValidationAway() throws(DistributedRunFailure) {
    for (unit, batch) in context.job.validation.enumerated()
    where context.division.computer(validation: unit) == context.place
      && context.division.owner(validation: unit) != context.place
    {
      try put(read(batch), validation: unit, stage: 0)
    }
  }

  /// Gives those of the mini-batch's units away that this device has computed and another one keeps.
  func giveAway(_ miniBatch: MiniBatch) throws(DistributedRunFailure) {
    for (lane, batch) in zip(miniBatch.lanes, miniBatch.batches).sorted(by: { $0.0 < $1.0 })
    where context.division.computer(lane: lane) == context.place
      && context.division.owner(lane: lane) != context.place
    {
      try put(read(batch), lane: lane, stage: 0)
    }
  }

  private func read(_ batch: PackedMicroBatch) throws(DistributedRunFailure) -> [UInt8] {
    do throws(TrainingFailure) {
      return try own.read(batch)
    } catch {
      throw .training(error)
    }
  }
}
