/// What a plan's predicted times are made of, in nanoseconds: for people who compare them with what was measured.
package struct PlanBreakdown: Sendable, Hashable {
  /// What the slowest member of a stage does in one mini-batch.
  package struct Stage: Sendable, Hashable {
    /// Passes through the layers, and the cache's writing where that takes longer.
    package var passes: Int64
    /// What its processor has to do for boundaries and activations on their way.
    package var exchange: Int64
    /// The sum of gradients over the group.
    package var ring: Int64
    /// The optimizer's update.
    package var update: Int64

    /// All of it.
    package var total: Int64 { passes + exchange + ring + update }
  }

  /// One mini-batch of the first pass, stage by stage.
  package var stages: [Stage]
  /// What one mini-batch takes beyond its slowest stage: bubbles and links.
  package var waiting: Int64
  /// What is done once: the first touch of weights and memory.
  package var once: Int64
  /// One mini-batch from the cache; nil without one.
  package var cached: Stage?

  /// Takes a plan apart that was made for this household and job.
  package init(_ plan: Plan, costs: ModelCosts, household: HouseholdProfile, job: PlanningJob) {
    let costing = StageCosting(costs: costs, household: household, job: job)
    costing.prepare(mode: plan.mode, microBatches: plan.microBatches)
    var once: Int64 = 0
    stages = plan.stages.map { stage in
      let range = costing.range(stage.layers.lowerBound, stage.layers.upperBound)
      let group = stage.members.reduce(UInt64(0)) { $0 | .device($1.device) }
      once = max(once, costing.firstTouch(range, group: group))
      var slowest: (passes: Int64, exchange: Int64) = (0, 0)
      for member in stage.members {
        let exchange = costing.exchangeTime(range, member.device, units: member.units)
        let all =
          costing.forwardTime(range, member.device, member.units)
          + costing.backwardTime(range, member.device, member.units)
        if all >= slowest.passes + slowest.exchange { slowest = (all - exchange, exchange) }
      }
      let bytes = plan.mode == .fill ? 0 : range.trainableBytes
      let ring = costing.ringTime(bytes: bytes, group: group)
      return Stage(
        passes: repeated(slowest.passes, plan.microBatches),
        exchange: repeated(slowest.exchange, plan.microBatches), ring: ring,
        update: costing.stepEnd(bytes: bytes, group: group) - ring)
    }
    self.once = once
    waiting = max(0, plan.predicted.step - (stages.map(\.total).max() ?? 0))
    guard !plan.cached.isEmpty else { return }
    let group = plan.cached.reduce(UInt64(0)) { $0 | .device($1.device) }
    let ring = costing.ringTime(bytes: costs.trainableBytes, group: group)
    cached = Stage(
      passes: plan.cached.reduce(0) { max($0, CachedPhase.time(costing, $1.device, $1.units)) },
      exchange: 0, ring: ring, update: costing.cachedStepEnd(group) - ring)
  }
}
