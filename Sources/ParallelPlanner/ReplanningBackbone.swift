import PipelineSchedules

/// Plans of a job whose first pass is not over: found by the planner, for the steps that are left.
extension Replanning {
  /// The household of some devices of the request.
  func household(_ order: [Int]) -> HouseholdProfile {
    let count = request.devices.count
    return HouseholdProfile(
      devices: order.map { profiles[$0] },
      links: order.flatMap { row in order.map { request.links[row * count + $0] } })
  }

  /// What is left, as the present plan's mode has it.
  private var remainingJob: PlanningJob {
    var job = request.job
    switch request.present.mode {
    case .live:
      job.usesCache = false
      job.remaining = RemainingSteps(firstPass: 1, training: stepsLeft)
    case .hybrid:
      job.firstEpoch = .hybrid
      job.remaining = RemainingSteps(
        firstPass: job.stepsPerEpoch - request.committedStep, training: stepsLeft)
    case .fill:
      job.firstEpoch = .fill
      job.remaining = RemainingSteps(
        firstPass: job.stepsPerEpoch - request.cachedMiniBatches, training: stepsLeft)
    }
    return job
  }

  /// The best plan for the steps that are left.
  ///
  /// A job of which nothing is done is planned like a new one. When the present mode fits no more, as when the disk is
  /// gone that was to hold the cache, any other will do.
  func backbonePlan() throws(PlanningFailure) -> FoundPlan {
    let household = household(workers)
    let isNew = request.committedStep == 0 && request.cachedMiniBatches == 0
    let job = isNew ? request.job : remainingJob
    let earlier = remnant(order: workers)
    var plan: Plan
    do throws(PlanningFailure) {
      plan = try ParallelPlanner().plan(request.costs, household: household, job: job, earlier: earlier).plan
    } catch {
      guard case .doesNotFit = error, mustSwitch, !isNew else { throw error }
      var live = request.job
      live.usesCache = false
      live.remaining = RemainingSteps(firstPass: 1, training: stepsLeft)
      plan = try ParallelPlanner().plan(request.costs, household: household, job: live).plan
    }
    if request.cause == .straggler, let earlier,
      let shares = ParallelPlanner().dividedAnew(
        request.costs, household: household, job: job, earlier: earlier),
      plan.predicted.total > shares.predicted.total / 1000 * Replanning.otherMembersThousandths
    {
      plan = shares
    }
    // Of equal plans the present one: nothing has to move for it.
    if let present = backbonePresent(order: workers), present.predicted.total <= plan.predicted.total {
      plan = present
    }
    return FoundPlan(
      order: workers, plan: plan, cost: SwitchCosting(self, order: workers).cost(of: plan),
      timeLeft: plan.predicted.total)
  }

  /// The present plan with places in `order` and the times of what is left; nil when it cannot go on, or no longer fits.
  func backbonePresent(order: [Int]) -> Plan? {
    guard var plan = moved(order: order) else { return nil }
    let isNew = request.committedStep == 0 && request.cachedMiniBatches == 0
    let costing = StageCosting(
      costs: request.costs, household: household(order), job: isNew ? request.job : remainingJob)
    let planner = ParallelPlanner()
    var scorer = PlanScorer(costing, earlier: plan, looksAtAll: false)
    guard let candidate = try? planner.candidate(plan, costing.household),
      let (divided, _) = planner.asDivided(candidate, plan, costing, scorer)
    else { return nil }
    let (step, pass) = scorer.pipelineTime(divided)
    let once = scorer.firstTouch(divided)
    plan.predicted.step = step
    plan.predicted.firstEpoch =
      once + (plan.mode == .live ? repeated(step, costing.job.stepsPerEpoch) : pass)
    plan.predicted.total = once + pass
    guard plan.mode != .live else { return plan }
    guard let option = CachedPhase.earlierOption(costing, plan.cached) else { return nil }
    let rest = scorer.cachedPhase.time(of: option, after: divided.stages, mode: plan.mode, firstEpoch: pass)
    plan.predicted.cachedStep = option.step
    plan.predicted.cachedEpoch = repeated(option.step, costing.job.stepsPerEpoch)
    plan.predicted.redistribution = rest - repeated(option.step, costing.job.cachedSteps(plan.mode))
    plan.predicted.total = min(.max / 8, once + pass + rest)
    return plan
  }

  /// The present plan with places in `order`; nil when one of its devices is not there.
  private func moved(order: [Int]) -> Plan? {
    let present = request.present
    let isWhole = present.placesAtWork.allSatisfy { place in
      devicesByPlace[place].map(order.contains) ?? false
    }
    guard isWhole else { return nil }
    return present.moved { place in devicesByPlace[place].flatMap(order.firstIndex) }
  }

  /// What is left of the present plan when the devices that are gone are taken out, as a start of the search; layers that
  /// nobody has go to a neighbour.
  private func remnant(order: [Int]) -> Plan? {
    var plan = request.present
    func place(_ old: Int) -> Int? { devicesByPlace[old].flatMap(order.firstIndex) }
    var stages: [PlanStage] = []
    var orphaned = 0
    for stage in plan.stages {
      var left = stage
      left.members = stage.members.compactMap { member in
        place(member.device).map {
          StageMember(device: $0, units: member.units, memoryBytes: member.memoryBytes)
        }
      }
      left.layers = orphaned..<stage.layers.upperBound
      if !left.members.isEmpty {
        stages.append(left)
        orphaned = stage.layers.upperBound
      }
    }
    guard let last = stages.last else { return nil }
    stages[stages.count - 1].layers = last.layers.lowerBound..<request.costs.layers.count
    plan.stages = stages
    plan.cached = plan.cached.compactMap { member in
      place(member.device).map {
        CachedMember(
          device: $0, units: member.units, memoryBytes: member.memoryBytes, cacheBytes: member.cacheBytes)
      }
    }
    return plan
  }
}
