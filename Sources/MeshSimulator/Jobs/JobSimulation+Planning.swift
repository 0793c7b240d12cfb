import Determinism
import MeshModel
import ParallelPlanner
import PipelineSchedules
import TrainingCoordination

/// The stand-in for the planner: any plan that fits, as the seed decides.
extension JobSimulation {
  mutating func makePlan(_ request: PlanRequest, _ device: Int) -> JobInput {
    let able = request.reports.compactMap { places[$0.device] }
    guard !able.isEmpty else { return .unplanned(request: request.number, reason: "no device can take part") }
    let isCached = plan.job.usesCache && request.committedStep >= UInt64(plan.job.stepsPerEpoch)
    guard !request.cause.isNeeded, let present = request.plan else {
      return .planned(
        request: request.number, household: able.map { devices[$0].id },
        plan: makePlan(able.count, isCached: isCached, isFirst: request.cause == .first), next: nil)
    }
    // A switch that nobody has to make pays or not.
    if chance.uniform(below: 3) == 0 { return .kept(request: request.number, reason: "it does not pay") }
    guard request.learning, chance.uniform(below: 2) == 0 else {
      return .planned(
        request: request.number, household: able.map { devices[$0].id },
        plan: makePlan(able.count, isCached: isCached, isFirst: false), next: nil)
    }
    // The present plan goes on, with its devices at the head, while the others are fed for the next one.
    let used = present.places.map { request.household[$0] }
    let household = used + able.map { devices[$0].id }.filter { !used.contains($0) }
    let moved = present.moved { place in used.firstIndex(of: request.household[place]) ?? place }
    return .planned(
      request: request.number, household: household, plan: moved,
      next: makePlan(household.count, isCached: isCached, isFirst: false))
  }

  private mutating func makePlan(_ count: Int, isCached: Bool, isFirst: Bool) -> Plan {
    let usesCache = plan.job.usesCache
    var mode = usesCache ? PlanMode.hybrid : .live
    if usesCache, isCached || chance.uniform(below: 4) == 0 { mode = .fill }
    let stages = makeStages(count)
    var cached: [CachedMember] = []
    if usesCache {
      var members = Array(0..<count)
      // Not everybody has room for activations.
      while members.count > 1, chance.uniform(below: 4) == 0 || members.count > plan.job.lanes {
        members.remove(at: chance.uniform(below: members.count))
      }
      cached = zip(members, shares(plan.job.lanes, members.count)).map {
        CachedMember(device: $0, units: $1, memoryBytes: 1, cacheBytes: 1)
      }
    }
    let boundaries = stages.dropFirst().map { _ in BoundaryTimes(forward: 1, backward: 1) }
    return Plan(
      mode: mode, microBatches: stages.isEmpty ? 1 : microBatches(stages), stages: stages,
      boundaries: boundaries,
      cached: cached,
      predicted: PredictedTimes(
        step: 1, firstEpoch: 1, redistribution: 1, cachedStep: 1, cachedEpoch: 1, total: 1))
  }

  private func microBatches(_ stages: [PlanStage]) -> Int {
    plan.job.lanes / stages[0].members.reduce(0) { $0 + $1.units }
  }

  /// Equal shares, the first ones larger.
  private func shares(_ units: Int, _ members: Int) -> [Int] {
    (0..<members).map { units / members + ($0 < units % members ? 1 : 0) }
  }

  /// One stage on some devices, or several with a part of the layers each.
  private mutating func makeStages(_ count: Int) -> [PlanStage] {
    let lanes = plan.job.lanes
    var stageCount = 1
    if count > 1, plan.job.layers > 1, chance.uniform(below: 5) < 3 {
      stageCount = 2 + chance.uniform(below: min(3, count, plan.job.layers) - 1)
    }
    // Units of a micro-batch bound the members of a stage.
    let sizes = (1...lanes).filter { lanes % $0 == 0 }
    let units = stageCount == 1 ? lanes : sizes[chance.uniform(below: sizes.count)]
    var order = Array(0..<count)
    chance.shuffle(&order)
    var stages: [PlanStage] = []
    var next = 0
    for stage in 0..<stageCount {
      let rest = count - next - (stageCount - stage - 1)
      let members = 1 + chance.uniform(below: max(1, min(units, rest)))
      let chosen = order[next..<next + members].sorted()
      next += members
      let layers = plan.job.layers * stage / stageCount..<plan.job.layers * (stage + 1) / stageCount
      stages.append(
        PlanStage(
          layers: layers,
          members: zip(chosen, shares(units, members)).map {
            StageMember(device: $0, units: $1, memoryBytes: 1)
          }, times: StageTimes(forward: 1, backward: 1)))
    }
    return stages
  }
}

extension Plan {
  /// The same plan in a household in which its places are others.
  func moved(_ place: (Int) -> Int) -> Plan {
    var plan = self
    for stage in plan.stages.indices {
      for member in plan.stages[stage].members.indices {
        plan.stages[stage].members[member].device = place(plan.stages[stage].members[member].device)
      }
    }
    for member in plan.cached.indices { plan.cached[member].device = place(plan.cached[member].device) }
    return plan
  }
}
