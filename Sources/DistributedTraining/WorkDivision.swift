import ParallelPlanner
import PipelineSchedules

/// Which device computes and owns which units of a job, from the plan alone: the same on every device.
///
/// Training units are named by their lane, validation units by their number. In a plan of one stage the members take
/// contiguous lanes in the order of the members, as the cached epochs do, so that little has to move between the two.
struct WorkDivision: Sendable {
  let plan: Plan
  /// Lanes of the job; a plan may have room for more.
  let lanes: Int
  let validationUnits: Int
  private let shares: [UnitShares]
  /// For each lane, its device in a plan of one stage.
  private let contiguous: [Int]
  /// For each lane, its owner in the cached epochs; empty without any.
  private let owners: [Int]

  init(_ plan: Plan, lanes: Int, validationUnits: Int) throws(DistributedRunFailure) {
    self.plan = plan
    self.lanes = lanes
    self.validationUnits = validationUnits
    shares = plan.stages.map { UnitShares(counts: $0.members.map(\.units)) }
    guard let first = plan.stages.first, plan.microBatches > 0 else { throw .unfitPlan("it has no stage") }
    var seen: Set<Int> = []
    for (stage, share) in zip(plan.stages, shares) {
      guard share.unitsPerMicroBatch == shares[0].unitsPerMicroBatch else {
        throw .unfitPlan("its stages compute different numbers of units")
      }
      guard stage.members.allSatisfy({ seen.insert($0.device).inserted }) else {
        throw .unfitPlan("a device is in two stages")
      }
    }
    guard shares[0].unitsPerMicroBatch * plan.microBatches >= lanes else {
      throw .unfitPlan(
        "it has \(plan.microBatches) micro-batches of \(shares[0].unitsPerMicroBatch) units for \(lanes) lanes"
      )
    }
    guard plan.mode == .live || plan.cached.reduce(0, { $0 + $1.units }) >= lanes else {
      throw .unfitPlan("nobody owns some of its \(lanes) lanes")
    }
    contiguous = first.members.flatMap { Array(repeating: $0.device, count: $0.units * plan.microBatches) }
    owners = plan.mode == .live ? [] : plan.cached.flatMap { Array(repeating: $0.device, count: $0.units) }
  }

  var stages: Int { plan.stages.count }
  var isPipeline: Bool { stages > 1 }
  /// Units of a pipeline micro-batch.
  var unitsPerMicroBatch: Int { shares[0].unitsPerMicroBatch }

  /// Devices of the first phase, stage by stage.
  var stageDevices: [Int] { plan.stages.flatMap { $0.members.map(\.device) } }
  /// Devices of the cached epochs.
  var cachedDevices: [Int] { plan.mode == .live ? [] : plan.cached.map(\.device) }
  /// All devices of the plan, ascending.
  var devices: [Int] { Set(stageDevices + cachedDevices).sorted() }

  /// The stage of a device and its number among the members; nil when it has none.
  func seat(of device: Int) -> (stage: Int, member: Int)? {
    for (index, stage) in plan.stages.enumerated() {
      if let member = stage.members.firstIndex(where: { $0.device == device }) { return (index, member) }
    }
    return nil
  }

  /// Devices of a stage.
  func members(stage: Int) -> [Int] { plan.stages[stage].members.map(\.device) }

  /// The position in a micro-batch of a member's units.
  func positions(stage: Int, member: Int) -> Range<Int> { shares[stage].units(member: member, microBatch: 0) }

  /// The device that computes position `position` of every pipeline micro-batch in a stage.
  func device(stage: Int, position: Int) -> Int {
    for member in plan.stages[stage].members.indices
    where positions(stage: stage, member: member).contains(position) {
      return plan.stages[stage].members[member].device
    }
    preconditionFailure("position \(position) of a micro-batch of \(unitsPerMicroBatch) units")
  }

  /// The device that computes a lane's units in the first phase; in a pipeline, by stage.
  func computer(lane: Int, stage: Int = 0) -> Int {
    isPipeline ? device(stage: stage, position: lane % unitsPerMicroBatch) : contiguous[lane]
  }

  /// The device that computes a validation unit in the first phase; in a pipeline, by stage.
  func computer(validation unit: Int, stage: Int = 0) -> Int {
    isPipeline ? device(stage: stage, position: unit % unitsPerMicroBatch) : contiguous[lane(near: unit)]
  }

  /// The device that keeps a lane's activations.
  func owner(lane: Int) -> Int { owners[lane] }
  /// The device that keeps a validation unit's activations.
  func owner(validation unit: Int) -> Int { owners[lane(near: unit)] }

  /// Validation units are divided as the lanes are.
  private func lane(near unit: Int) -> Int { unit * lanes / max(1, validationUnits) }
}
