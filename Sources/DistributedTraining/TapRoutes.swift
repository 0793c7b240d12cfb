import Collectives
import ComputeRuntime
import FineTuning
import ParallelPlanner
import Synchronization

/// Which taps of the first phase this device sends and keeps, unit by unit, in the one order of all devices.
///
/// First come the units that are filled in (held-out units, then mini-batch by mini-batch), then those of the mini-batches
/// that are trained live; in the job's first steps the held-out units come with the evaluation before them.
final class TapRoutes {
  /// Units that this device keeps and has not computed whole.
  let expected: [TapUnit]
  /// Puts the stages' parts of a unit together and appends them to this device's cache.
  let keep: @Sendable (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  /// The mini-batches of the first epoch.
  let miniBatches: [MiniBatch]
  /// Held-out units whose taps are made.
  let validation: [Int]
  /// For each mini-batch that is filled in, the units of it that are, by lane.
  let filled: [[(lane: Int, batch: PackedMicroBatch)]]
  /// Mini-batches that are trained while their taps are kept.
  let live: Range<Int>
  /// Whether the job begins with the first phase, and its evaluation makes the held-out units.
  var isLiveFromStart: Bool { !live.isEmpty && live.lowerBound == 0 }
  /// The mini-batch at hand.
  var miniBatch = 0
  /// What sends this device's boundaries; nil in a plan of one stage.
  private var boundaries: Outbox?

  private let context: RunContext
  private let flow: TapFlow
  private let own: CachedTaps

  /// - Parameters:
  ///   - missing: units that are filled in.
  ///   - live: mini-batches that are trained; from 0 on, the held-out units are made too.
  init(
    _ context: RunContext, plan: Plan, kept: KeptTaps, flow: TapFlow, units: JobUnits, missing: UnitSet,
    live: Range<Int>
  ) {
    self.context = context
    self.flow = flow
    self.live = live
    own = CachedTaps(kept, capacity: context.job.capacity)
    let miniBatches = context.job.miniBatches(epoch: 0)
    self.miniBatches = miniBatches
    let validation =
      !live.isEmpty && live.lowerBound == 0
      ? Array(context.job.validation.indices) : units.validation(missing)
    self.validation = validation
    let filled = units.byMiniBatch(missing, stepsPerEpoch: miniBatches.count).enumerated().map {
      index, list in
      live.contains(index) ? [] : list.map { (lane: $0.lane, batch: units.batches[$0.number]) }
    }
    self.filled = filled
    expected = Self.expected(context, validation: validation) { index in
      live.contains(index)
        ? zip(miniBatches[index].lanes, miniBatches[index].batches).map { (lane: $0, batch: $1) }
        : filled[index]
    }
    let assembly = TapAssembly(
      shape: kept.shape, element: kept.element,
      stages: context.division.isPipeline
        ? plan.stages.map(\.layers) : [0..<kept.shape.depths.reduce(0, +)])
    let cache = kept.cache
    keep = { (unit, parts) throws(TrainingFailure) in
      try assembly.append(unit.batch, parts: parts, to: cache)
    }
  }

  private static func expected(
    _ context: RunContext, validation: [Int], _ units: (Int) -> [(lane: Int, batch: PackedMicroBatch)]
  ) -> [TapUnit] {
    let division = context.division
    var expected: [TapUnit] = []
    for unit in validation where division.owner(validation: unit) == context.place {
      let computers = (0..<division.stages).map { division.computer(validation: unit, stage: $0) }
      guard travels(computers, to: context.place, division) else { continue }
      expected.append(
        TapUnit(step: 0, unit: UInt32(unit), batch: context.job.validation[unit], computers: computers))
    }
    for index in 0..<context.job.lanePlan.stepsPerEpoch {
      for (lane, batch) in units(index).sorted(by: { $0.lane < $1.lane })
      where division.owner(lane: lane) == context.place {
        let computers = (0..<division.stages).map { division.computer(lane: lane, stage: $0) }
        guard travels(computers, to: context.place, division) else { continue }
        expected.append(
          TapUnit(step: UInt64(index + 1), unit: UInt32(lane), batch: batch, computers: computers))
      }
    }
    return expected
  }

  /// A unit that one device computes whole and keeps goes nowhere.
  private static func travels(_ computers: [Int], to owner: Int, _ division: WorkDivision) -> Bool {
    division.isPipeline || computers[0] != owner
  }

  /// Lets a pipeline's stage give its taps away as it makes them.
  func attach(to first: FirstPhase) {
    guard case .pipeline(let stage) = first else { return }
    let number = UInt32(stage.seat.stage)
    boundaries = stage.forwards
    stage.keepTaps { [self] (lane, _, taps) throws(DistributedRunFailure) in
      try put(taps, lane: lane, stage: number)
    }
    guard isLiveFromStart else { return }
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

  /// Tells every owner that waits for taps of later mini-batches that there will be none.
  func stop(after miniBatch: Int) throws(DistributedRunFailure) {
    let division = context.division
    for owner in division.cachedDevices {
      next: for index in miniBatch + 1..<max(miniBatch + 1, live.upperBound) {
        for lane in miniBatches[index].lanes.sorted() where division.owner(lane: lane) == owner {
          let computers = (0..<division.stages).map { division.computer(lane: lane, stage: $0) }
          guard Self.travels(computers, to: owner, division) else { continue }
          if computers[0] == context.place {
            self.miniBatch = index
            try put(TapFlow.stopMark, lane: lane, stage: 0)
          }
          break next
        }
      }
    }
  }

  // MARK: Plans of one stage

  /// Gives those of the held-out units away that this device has computed and another one keeps.
  func giveValidationAway() throws(DistributedRunFailure) {
    for unit in validation
    where context.division.computer(validation: unit) == context.place
      && context.division.owner(validation: unit) != context.place
    {
      try put(read(context.job.validation[unit]), validation: unit, stage: 0)
    }
  }

  /// Gives those of some units of the mini-batch at hand away that this device has computed and another one keeps.
  func giveAway(_ units: [(lane: Int, batch: PackedMicroBatch)]) throws(DistributedRunFailure) {
    for (lane, batch) in units.sorted(by: { $0.lane < $1.lane })
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
