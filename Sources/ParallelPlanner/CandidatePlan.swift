import PipelineSchedules

/// One stage of a plan that is being looked at.
struct CandidateStage: Equatable {
  var lower: Int
  var upper: Int
  var group: UInt64
  var split = StageSplit(forward: 0, backward: 0)
  var reduction: Int64 = 0
  /// What one micro-batch takes from here to the next stage; nothing after the last one.
  var boundary = BoundaryTimes(forward: 0, backward: 0)
}

/// A plan that is being looked at: everything but the cached phase, which follows from it.
struct CandidatePlan: Equatable {
  var mode: PlanMode
  var microBatches: Int
  /// From the model's input.
  var stages: [CandidateStage]
}

/// What a candidate takes.
struct CandidateScore {
  var step: Int64
  var firstEpoch: Int64
  var redistribution: Int64
  /// The place of the cached option; nil without a cache.
  var cachedOption: Int?
  var total: Int64
}

/// Scores candidates by simulating their schedule: the objective of every search.
struct PlanScorer {
  let costing: StageCosting
  let cachedPhase: CachedPhase
  private var simulator = ScheduleSimulator()
  private var times: [StageTimes] = []
  private var boundaries: [BoundaryTimes] = []

  /// A scorer that looks at all cached phases, or at the most promising ones only.
  init(_ costing: StageCosting, earlier: Plan? = nil, looksAtAll: Bool) {
    self.costing = costing
    cachedPhase = CachedPhase(costing, earlier: earlier?.cached ?? [], looksAtAll: looksAtAll)
  }

  /// How often a mini-batch of the first epoch's kind runs.
  func repeats(_ mode: PlanMode) -> Int { costing.job.backboneSteps(mode) }

  /// The time of a pass over the samples in a candidate's stages: the whole of a live job, else the first
  /// epoch.
  mutating func pipelineTime(_ candidate: CandidatePlan) -> (step: Int64, time: Int64) {
    times.removeAll(keepingCapacity: true)
    boundaries.removeAll(keepingCapacity: true)
    for (index, stage) in candidate.stages.enumerated() {
      times.append(
        StageTimes(
          forward: stage.split.forward, backward: stage.split.backward, reduction: stage.reduction))
      if index + 1 < candidate.stages.count { boundaries.append(stage.boundary) }
    }
    if candidate.mode == .fill {
      // Micro-batches follow each other without a pause through the whole epoch: nothing waits for an update.
      let stream = candidate.microBatches * costing.job.firstPassSteps
      let time = fillDuration(
        stages: times.map(\.forward), boundaries: boundaries.map(\.forward), microBatches: stream)
      return (time / Int64(costing.job.firstPassSteps), min(time, .max / 8))
    }
    let schedule = PipelineSchedule(
      .oneForwardOneBackward, stages: times.count, microBatches: candidate.microBatches)
    let step = simulator.duration(schedule, stages: times, boundaries: boundaries)
    return (step, repeated(step, repeats(candidate.mode)))
  }

  /// What the devices of a candidate do once, before the first step is as fast as the others.
  func firstTouch(_ candidate: CandidatePlan) -> Int64 {
    candidate.stages.reduce(0) {
      max($0, costing.firstTouch(costing.range($1.lower, $1.upper), group: $1.group))
    }
  }

  /// The whole score of a candidate; nil when its mode needs a cache that fits nowhere, or the job does not end before
  /// `limit`.
  mutating func score(_ candidate: CandidatePlan, below limit: Int64 = .max) -> CandidateScore? {
    let (step, pass) = pipelineTime(candidate)
    guard pass < limit else { return nil }
    let once = firstTouch(candidate)
    let time = pass + once
    guard time < limit else { return nil }
    guard candidate.mode != .live else {
      return CandidateScore(
        step: step, firstEpoch: repeated(step, costing.job.stepsPerEpoch) + once, redistribution: 0,
        cachedOption: nil,
        total: time)
    }
    guard
      let cached = cachedPhase.best(
        after: candidate.stages, mode: candidate.mode, firstEpoch: pass, below: limit - time)
    else { return nil }
    return CandidateScore(
      step: step, firstEpoch: time, redistribution: cached.redistribution, cachedOption: cached.option,
      total: time + cached.time)
  }

  /// A time that the whole job under a candidate takes at least, without simulation.
  func leastTotal(_ candidate: CandidatePlan) -> Int64 {
    let last = candidate.stages[candidate.stages.count - 1]
    var bound = StepBound(last: last.split, reduction: last.reduction, microBatches: candidate.microBatches)
    for index in candidate.stages.indices.dropLast().reversed() {
      let stage = candidate.stages[index]
      bound = bound.preceded(
        by: stage.split, reduction: stage.reduction, boundary: stage.boundary,
        fromEnd: candidate.stages.count - 1 - index, microBatches: candidate.microBatches)
    }
    let cached = cachedPhase.leastTime(candidate.mode) ?? 0
    guard candidate.mode == .fill else { return repeated(bound.end, repeats(candidate.mode)) + cached }
    let stream = candidate.microBatches * costing.job.firstPassSteps
    return bound.way + repeated(bound.slowest, stream - 1) + cached
  }

  /// Sets the reductions and boundaries of a candidate's stages from their layers and groups.
  func connect(_ candidate: inout CandidatePlan) {
    for index in candidate.stages.indices {
      let stage = candidate.stages[index]
      candidate.stages[index].reduction = costing.reduction(
        costing.range(stage.lower, stage.upper), group: stage.group)
      guard index + 1 < candidate.stages.count else { continue }
      candidate.stages[index].boundary = costing.boundary(
        from: stage.group, to: candidate.stages[index + 1].group, layer: stage.upper)
    }
  }

  /// Times of a candidate's stages and boundaries.
  mutating func stageTimes(_ candidate: CandidatePlan) -> ([StageTimes], [BoundaryTimes]) {
    _ = pipelineTime(candidate)
    return (times, boundaries)
  }
}

/// The best candidate so far; of equals the first one stays.
struct Incumbent {
  var candidate: CandidatePlan?
  var total = Int64.max

  mutating func consider(_ candidate: CandidatePlan, total: Int64) {
    guard total < self.total else { return }
    self.total = total
    self.candidate = candidate
  }
}
