import PipelineSchedules

/// Plans of a job that reads everything from the cache: data parallel over any devices, one included.
///
/// Lanes go to the members of a plan in the order of their places. So that activations stay where they are, devices
/// that stay keep their order, and for those that have come every place between them is tried.
struct CachedReplanning {
  /// Households up to this size have every place tried for the devices that have come.
  private static let fewDevices = 8

  private let replanning: Replanning
  private let request: ReplanRequest

  /// Who reads what, and what the way there takes.
  private struct Division {
    var order: [Int]
    /// Units by place in `order`.
    var units: [Int]
    var step: Int64
    var cost: SwitchCost
    var total: Int64
    /// Lanes whose activations go to another device: of equal divisions the one that moves less.
    var movedLanes = 0

    func isBefore(_ other: Division) -> Bool { (total, movedLanes) < (other.total, other.movedLanes) }
  }

  init(_ replanning: Replanning) {
    self.replanning = replanning
    request = replanning.request
  }

  /// The plan with the least time to the end of the job, the way to it included.
  func best() throws(PlanningFailure) -> FoundPlan {
    let orders = orders()
    let fillTime = try pipelineFill(order: orders[0])?.predicted.firstEpoch
    var best: Division?
    var sameMembers: Division?
    for order in orders { look(order, fillTime, &best, &sameMembers) }
    if request.cause == .straggler, let same = sameMembers, let other = best,
      other.total > same.total / 1000 * Replanning.otherMembersThousandths
    {
      best = same
    }
    guard let best else { return try withoutCache() }
    return FoundPlan(
      order: best.order, plan: try plan(best), cost: best.cost,
      timeLeft: repeated(best.step, replanning.stepsLeft))
  }

  /// The present division with places in `order` and the time that is left; nil when a device of it is gone.
  func keeping(order: [Int]) -> Plan? {
    let costing = costing(order)
    guard let units = presentUnits(order),
      let option = CachedPhase.earlierOption(costing, members(units))
    else { return nil }
    return ownLanes(
      Division(order: order, units: units, step: option.step, cost: SwitchCost(), total: 0), costing, fill: 0)
  }

  // MARK: Divisions

  /// Orders of the places: those that stay, with those that have come at each place between them.
  private func orders() -> [[Int]] {
    let staying = replanning.workers.filter { request.devices[$0].place != nil }
    let come = replanning.workers.filter { request.devices[$0].place == nil }
    guard !come.isEmpty, !staying.isEmpty else { return [replanning.workers] }
    let places =
      replanning.workers.count <= Self.fewDevices
      ? Array((0...staying.count).reversed()) : [staying.count, staying.count / 2, 0]
    return places.map { Array(staying[..<$0]) + come + Array(staying[$0...]) }
  }

  private func look(
    _ order: [Int], _ fillTime: Int64?, _ best: inout Division?, _ sameMembers: inout Division?
  ) {
    let costing = costing(order)
    let phase = CachedPhase(
      costing, earlier: presentUnits(order).map(members) ?? [],
      looksAtAll: order.count <= CachedPhase.exhaustiveDevices)
    let costs = SwitchCosting(replanning, order: order)
    let old = oldUnits(order)
    let members = old.indices.reduce(UInt64(0)) { old[$1] > 0 ? $0 | .device($1) : $0 }
    func consider(_ option: CachedOption) {
      let training = repeated(option.step, replanning.stepsLeft)
      let isSame = option.group == members
      guard training <= (isSame ? sameMembers : best)?.total ?? .max else { return }
      let ownFill = fillTime == nil || costs.missingLanes == 0 || holdBackbone(option, costing)
      let cost = costs.cost(cachedUnits: option.units, fillTime: ownFill ? nil : fillTime)
      guard let total = sum(training, cost.total) else { return }
      let division = Division(
        order: order, units: option.units, step: option.step, cost: cost, total: total,
        movedLanes: costs.movedLanes(option.units))
      if best.map(division.isBefore) ?? true { best = division }
      if isSame, sameMembers.map(division.isBefore) ?? true { sameMembers = division }
    }
    for option in phase.options {
      let least = repeated(option.step, replanning.stepsLeft)
      // For a slow device the best division of the same members is wanted as well, which may come late.
      if let found = best, least > found.total, request.cause != .straggler { break }
      consider(option)
      if !phase.hasAllDivisions { consider(settled(option, old, costing)) }
    }
  }

  private func sum(_ left: Int64, _ right: Int64) -> Int64? {
    let (sum, overflow) = left.addingReportingOverflow(right)
    return overflow ? nil : sum
  }

  /// A division that is as fast and leaves as many units as it can with the devices that have them.
  private func settled(_ option: CachedOption, _ old: [Int], _ costing: StageCosting) -> CachedOption {
    let group = Array(DeviceSet(option.group))
    let limit = group.reduce(Int64(0)) { max($0, CachedPhase.time(costing, $1, option.units[$1])) }
    func isAllowed(_ device: Int, _ units: Int) -> Bool {
      CachedPhase.fits(costing, device, units) && CachedPhase.time(costing, device, units) <= limit
    }
    var settled = option
    var left = costing.job.unitsPerMiniBatch
    for device in group {
      var units = max(1, old[device])
      while units > 1 && !isAllowed(device, units) { units -= 1 }
      settled.units[device] = units
      left -= units
    }
    // Too many where more devices than before share them; too few where one is gone.
    while left < 0,
      let device = group.filter({ settled.units[$0] > 1 }).max(by: { first, second in
        (CachedPhase.time(costing, first, settled.units[first]), second)
          < (CachedPhase.time(costing, second, settled.units[second]), first)
      })
    {
      settled.units[device] -= 1
      left += 1
    }
    while left > 0,
      let device = group.filter({ isAllowed($0, settled.units[$0] + 1) }).min(by: { first, second in
        (CachedPhase.time(costing, first, settled.units[first] + 1), first)
          < (CachedPhase.time(costing, second, settled.units[second] + 1), second)
      })
    {
      settled.units[device] += 1
      left -= 1
    }
    return left == 0 ? settled : option
  }

  /// Units of the present plan by place in `order`; those of devices that are not there are left out.
  private func oldUnits(_ order: [Int]) -> [Int] {
    order.map { device in
      request.present.cached.first { $0.device == request.devices[device].place }?.units ?? 0
    }
  }

  /// The same when everybody is there.
  private func presentUnits(_ order: [Int]) -> [Int]? {
    let units = oldUnits(order)
    return units.reduce(0, +) == request.job.unitsPerMiniBatch ? units : nil
  }

  private func members(_ units: [Int]) -> [CachedMember] {
    units.indices.filter { units[$0] > 0 }.map {
      CachedMember(device: $0, units: units[$0], memoryBytes: 0, cacheBytes: 0)
    }
  }

  private func costing(_ order: [Int]) -> StageCosting {
    StageCosting(costs: request.costs, household: replanning.household(order), job: request.job)
  }

  // MARK: What is missing

  /// Whether every member of a division can compute whole samples through the backbone.
  private func holdBackbone(_ option: CachedOption, _ costing: StageCosting) -> Bool {
    costing.prepare(mode: .fill, microBatches: 1)
    let range = costing.range(0, costing.layerCount)
    return DeviceSet(option.group).allSatisfy { device in
      costing.memory(range, device: device, units: option.units[device], fromEnd: 0)
        <= costing.household.devices[device].memoryBudget
    }
  }

  /// Stages for what is missing where not every device holds the backbone; nil when nothing is missing or all hold it.
  private func pipelineFill(order: [Int]) throws(PlanningFailure) -> Plan? {
    let costing = costing(order)
    costing.prepare(mode: .fill, microBatches: 1)
    let range = costing.range(0, costing.layerCount)
    let units = request.job.unitsPerMiniBatch
    let hold = order.indices.allSatisfy { device in
      costing.memory(range, device: device, units: units, fromEnd: 0)
        <= costing.household.devices[device].memoryBudget
    }
    if hold { return nil }
    let missing = SwitchCosting(replanning, order: order).missingMiniBatches
    var job = request.job
    job.firstEpoch = .fill
    job.usesCache = true
    job.remaining = RemainingSteps(
      firstPass: min(max(1, missing), job.stepsPerEpoch), training: replanning.stepsLeft)
    do throws(PlanningFailure) {
      return try ParallelPlanner().plan(request.costs, household: costing.household, job: job).plan
    } catch {
      if missing > 0 { throw error }
      return nil
    }
  }

  /// Every step through the backbone, when no disk holds what the cached epochs would need.
  private func withoutCache() throws(PlanningFailure) -> FoundPlan {
    var job = request.job
    job.usesCache = false
    job.remaining = RemainingSteps(firstPass: 1, training: replanning.stepsLeft)
    let order = replanning.workers
    let plan = try ParallelPlanner().plan(
      request.costs, household: replanning.household(order), job: job
    ).plan
    return FoundPlan(
      order: order, plan: plan, cost: SwitchCosting(replanning, order: order).cost(of: plan),
      timeLeft: plan.predicted.total)
  }

  // MARK: The plan

  private func plan(_ division: Division) throws(PlanningFailure) -> Plan {
    let costing = costing(division.order)
    let group = division.units.indices.reduce(UInt64(0)) {
      division.units[$1] > 0 ? $0 | .device($1) : $0
    }
    let option = CachedOption(group: group, units: division.units, step: division.step)
    var plan = ownLanes(division, costing, fill: division.cost.recomputation)
    if !holdBackbone(option, costing), let fill = try pipelineFill(order: division.order) {
      (plan.stages, plan.boundaries, plan.microBatches) = (fill.stages, fill.boundaries, fill.microBatches)
      plan.predicted.step = fill.predicted.step
    }
    return plan
  }

  /// A plan in which each owner computes what is missing of its own lanes.
  private func ownLanes(_ division: Division, _ costing: StageCosting, fill: Int64) -> Plan {
    costing.prepare(mode: .fill, microBatches: 1)
    let range = costing.range(0, costing.layerCount)
    let places = division.units.indices.filter { division.units[$0] > 0 }
    let forward = places.reduce(Int64(0)) {
      max($0, costing.forwardTime(range, $1, division.units[$1]))
    }
    let steps = request.job.stepsPerEpoch
    let training = repeated(division.step, replanning.stepsLeft)
    return Plan(
      mode: .fill, microBatches: 1,
      stages: [
        PlanStage(
          layers: 0..<costing.layerCount,
          members: places.map { place in
            StageMember(
              device: place, units: division.units[place],
              memoryBytes: costing.memory(range, device: place, units: division.units[place], fromEnd: 0))
          }, times: StageTimes(forward: forward, backward: 0, reduction: 0))
      ], boundaries: [],
      cached: places.map { place in
        CachedMember(
          device: place, units: division.units[place],
          memoryBytes: CachedPhase.memory(costing, device: place, units: division.units[place]),
          cacheBytes: repeated(Int64(division.units[place]) * costing.costs.cacheBytes, steps))
      },
      predicted: PredictedTimes(
        step: forward, firstEpoch: fill, redistribution: division.cost.activations,
        cachedStep: division.step, cachedEpoch: repeated(division.step, steps),
        total: min(.max / 8, fill + division.cost.activations + training)))
  }
}
