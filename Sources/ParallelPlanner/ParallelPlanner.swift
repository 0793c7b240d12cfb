import PipelineSchedules

/// Why another shape of plan was not chosen.
package enum Rejection: Sendable, Hashable {
  /// It fits and is slower: the whole job's time in nanoseconds, and the idle share of the slowest stage in a
  /// mini-batch, in thousandths.
  case slower(total: Int64, bubbleThousandths: Int)
  /// It does not fit: the stage counted from the input, the device that lacks most, and the bytes it lacks.
  case doesNotFit(stage: Int, device: Int, missingBytes: Int64)
}

/// A shape of plan that was looked at and not chosen.
package struct RejectedAlternative: Sendable, Hashable {
  /// How its epochs would have run.
  package var mode: PlanMode
  /// Devices of its stages from the input, as in `[3-3-2]`.
  package var grouping: String
  /// Its number of stages.
  package var stages: Int
  /// Its number of pipeline micro-batches.
  package var microBatches: Int
  /// Why it lost.
  package var reason: Rejection
}

/// What the planner found.
package struct PlanningResult: Sendable, Hashable {
  /// The plan.
  package var plan: Plan
  /// Whether every plan was considered: no better one exists under these profiles.
  package var isProven: Bool
  /// The best of each other shape that was looked at, by mode and number of stages.
  package var rejected: [RejectedAlternative]
}

/// From measured profiles and a model's costs to the fastest plan that fits (PAC §5, completed).
///
/// Small households are searched completely, large ones by improvement from good guesses. Equal inputs give the
/// same plan on every machine: all costs are integers, and limits count candidates, not time.
package struct ParallelPlanner {
  /// A planner; it has no state.
  package init() {}

  /// Plans a job.
  ///
  /// `earlier` is a plan for the same household and job whose profiles may have changed: the result is never
  /// worse than it. `provesSmall` false uses the search of large households for small ones too, to measure it.
  package func plan(
    _ costs: ModelCosts, household: HouseholdProfile, job: PlanningJob, earlier: Plan? = nil,
    provesSmall: Bool = true
  ) throws(PlanningFailure) -> PlanningResult {
    try costs.validate()
    try household.validate(kinds: costs.kinds.count)
    try job.validate()
    let costing = StageCosting(costs: costs, household: household, job: job)
    let classes = DeviceClasses(household)
    let proves = provesSmall && ExactSearch.isSmallEnough(costing, classes: classes)
    let scorer = PlanScorer(
      costing, earlier: earlier, looksAtAll: proves || costing.deviceCount <= ExactSearch.fewDevices)
    var search = LocalSearch(costing, scorer: scorer)
    var incumbent = Incumbent()
    var start: CandidatePlan?
    if let earlier {
      let candidate = try candidate(earlier, household)
      start = candidate
      if let (fitted, total) = asDivided(candidate, earlier, costing, scorer) {
        incumbent.consider(fitted, total: total)
      }
    }
    let found = search.run(earlier: start)
    if let found, found.rank.missingBytes == 0 {
      incumbent.consider(found.candidate, total: found.rank.total)
    }
    var isProven = false
    if proves {
      var exact = ExactSearch(costing, scorer: scorer, classes: classes, incumbent: incumbent)
      (incumbent, isProven) = exact.run()
    }
    guard let best = incumbent.candidate else {
      throw .doesNotFit(planner: job.planner, nearest: nearest(search, costing))
    }
    let plan = PlanAssembly(costing, scorer).assemble(best)
    let rejected = search.bestByShape.compactMap { shape -> RejectedAlternative? in
      guard shape.mode != plan.mode || shape.stages != plan.stages.count else { return nil }
      return rejection(shape.best, costing, scorer)
    }
    return PlanningResult(plan: plan, isProven: isProven, rejected: rejected)
  }

  func candidate(_ plan: Plan, _ household: HouseholdProfile) throws(PlanningFailure) -> CandidatePlan {
    var used: UInt64 = 0
    var stages: [CandidateStage] = []
    for stage in plan.stages {
      var group: UInt64 = 0
      for member in stage.members {
        guard household.devices.indices.contains(member.device), used & .device(member.device) == 0 else {
          throw .inconsistent(
            what: "an earlier plan names device \(member.device), which is not there or there twice")
        }
        used |= .device(member.device)
        group |= .device(member.device)
      }
      stages.append(
        CandidateStage(lower: stage.layers.lowerBound, upper: stage.layers.upperBound, group: group))
    }
    return CandidatePlan(mode: plan.mode, microBatches: plan.microBatches, stages: stages)
  }

  /// An earlier plan with its own division of units, if the job allows it and it fits still.
  func asDivided(
    _ candidate: CandidatePlan, _ earlier: Plan, _ costing: StageCosting, _ scorer: PlanScorer
  ) -> (CandidatePlan, Int64)? {
    guard costing.job.modes(canCache: costing.costs.canCache).contains(candidate.mode),
      costing.job.allowedMicroBatchCounts.contains(candidate.microBatches),
      candidate.stages.last?.upper == costing.layerCount
    else { return nil }
    costing.prepare(mode: candidate.mode, microBatches: candidate.microBatches)
    var divided = candidate
    for (index, stage) in candidate.stages.enumerated() {
      let members = earlier.stages[index].members.sorted { $0.device < $1.device }
      guard
        let split = costing.split(
          costing.range(stage.lower, stage.upper), group: stage.group,
          fromEnd: candidate.stages.count - 1 - index, shares: members.map(\.units))
      else { return nil }
      divided.stages[index].split = split
    }
    var scorer = scorer
    scorer.connect(&divided)
    return scorer.score(divided).map { (divided, $0.total) }
  }

  /// An earlier plan's stages and groups with the units divided as the devices are now; nil when that does not fit.
  func dividedAnew(
    _ costs: ModelCosts, household: HouseholdProfile, job: PlanningJob, earlier: Plan
  ) -> Plan? {
    let costing = StageCosting(costs: costs, household: household, job: job)
    let scorer = PlanScorer(
      costing, earlier: earlier, looksAtAll: costing.deviceCount <= ExactSearch.fewDevices)
    guard var divided = try? candidate(earlier, household), divided.stages.last?.upper == costing.layerCount
    else { return nil }
    costing.prepare(mode: divided.mode, microBatches: divided.microBatches)
    for (index, stage) in divided.stages.enumerated() {
      guard
        let split = costing.balancedSplit(
          costing.range(stage.lower, stage.upper), group: stage.group,
          fromEnd: divided.stages.count - 1 - index)
      else { return nil }
      divided.stages[index].split = split
    }
    var connected = scorer
    connected.connect(&divided)
    guard connected.score(divided) != nil else { return nil }
    return PlanAssembly(costing, connected).assemble(divided)
  }

  /// Why a candidate lost.
  private func rejection(
    _ ranked: RankedCandidate, _ costing: StageCosting, _ scorer: PlanScorer
  ) -> RejectedAlternative {
    let candidate = ranked.candidate
    costing.prepare(mode: candidate.mode, microBatches: candidate.microBatches)
    let sizes = candidate.stages.map { String($0.group.nonzeroBitCount) }
    var reason = Rejection.slower(total: ranked.rank.total, bubbleThousandths: 0)
    if ranked.rank.missingBytes > 0 {
      let worst = worstStage(candidate, costing)
      reason = .doesNotFit(stage: worst.stage, device: worst.device, missingBytes: worst.bytes)
    } else {
      var scorer = scorer
      let step = scorer.pipelineTime(candidate).step
      let busy = Int64(candidate.microBatches) * (candidate.stages.map(\.split.work).max() ?? 0)
      let idle = step > 0 ? Int(Int128(max(0, step - busy)) * 1000 / Int128(step)) : 0
      reason = .slower(total: ranked.rank.total, bubbleThousandths: idle)
    }
    return RejectedAlternative(
      mode: candidate.mode, grouping: "[" + sizes.joined(separator: "-") + "]", stages: sizes.count,
      microBatches: candidate.microBatches, reason: reason)
  }

  private func worstStage(
    _ candidate: CandidatePlan, _ costing: StageCosting
  ) -> (stage: Int, device: Int, bytes: Int64) {
    var worst = (stage: 0, device: 0, bytes: Int64(0))
    for (index, stage) in candidate.stages.enumerated() {
      let fromEnd = candidate.stages.count - 1 - index
      let range = costing.range(stage.lower, stage.upper)
      if costing.balancedSplit(range, group: stage.group, fromEnd: fromEnd) != nil { continue }
      let missing = costing.missingMemory(range, group: stage.group, fromEnd: fromEnd)
      if missing.deviceBytes > worst.bytes { worst = (index, missing.device, missing.deviceBytes) }
    }
    return worst
  }

  /// What the plan that comes closest lacks, in words.
  private func nearest(_ search: LocalSearch, _ costing: StageCosting) -> String {
    guard let closest = search.bestByShape.min(by: { $0.best.rank < $1.best.rank })?.best else {
      return "the activation cache fits on no disk, and the job allows no plan without it"
    }
    costing.prepare(mode: closest.candidate.mode, microBatches: closest.candidate.microBatches)
    let worst = worstStage(closest.candidate, costing)
    let stage = closest.candidate.stages[worst.stage]
    let name = costing.household.devices[worst.device].name
    return
      "stage \(worst.stage + 1) of \(closest.candidate.stages.count), layers \(stage.lower) to \(stage.upper - 1), "
      + "needs \((worst.bytes + 999_999) / 1_000_000) MB more on \(name)"
  }
}

/// Makes a plan of the winning candidate.
private struct PlanAssembly {
  private let costing: StageCosting
  private let scorer: PlanScorer

  init(_ costing: StageCosting, _ scorer: PlanScorer) {
    self.costing = costing
    self.scorer = scorer
  }

  func assemble(_ candidate: CandidatePlan) -> Plan {
    costing.prepare(mode: candidate.mode, microBatches: candidate.microBatches)
    var scorer = scorer
    let (times, boundaries) = scorer.stageTimes(candidate)
    guard let score = scorer.score(candidate) else {
      preconditionFailure("the chosen plan \(candidate) has no score")
    }
    let last = candidate.stages.count - 1
    let stages = candidate.stages.enumerated().map { index, stage in
      let range = costing.range(stage.lower, stage.upper)
      let shares = costing.shares(range, group: stage.group, fromEnd: last - index, split: stage.split)
      let members = zip(DeviceSet(stage.group), shares).map { device, units in
        StageMember(
          device: device, units: units,
          memoryBytes: costing.memory(range, device: device, units: units, fromEnd: last - index))
      }
      return PlanStage(layers: stage.lower..<stage.upper, members: members, times: times[index])
    }
    return Plan(
      mode: candidate.mode, microBatches: candidate.microBatches, stages: stages, boundaries: boundaries,
      cached: cachedMembers(score), predicted: predicted(score, candidate.mode))
  }

  private func cachedMembers(_ score: CandidateScore) -> [CachedMember] {
    guard let option = score.cachedOption.map({ scorer.cachedPhase.options[$0] }) else { return [] }
    return DeviceSet(option.group).map { device in
      let units = option.units[device]
      return CachedMember(
        device: device, units: units,
        memoryBytes: CachedPhase.memory(costing, device: device, units: units),
        cacheBytes: repeated(Int64(units) * costing.costs.cacheBytes, costing.job.stepsPerEpoch))
    }
  }

  private func predicted(_ score: CandidateScore, _ mode: PlanMode) -> PredictedTimes {
    let cachedStep = score.cachedOption.map { scorer.cachedPhase.options[$0].step } ?? 0
    return PredictedTimes(
      step: score.step, firstEpoch: score.firstEpoch, redistribution: score.redistribution,
      cachedStep: cachedStep, cachedEpoch: repeated(cachedStep, costing.job.stepsPerEpoch), total: score.total
    )
  }
}
