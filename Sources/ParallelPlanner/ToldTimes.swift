import PipelineSchedules

extension Plan {
  /// Mini-batches that are simulated until every further one counts as long as the last.
  private static let simulated = 8

  /// What this plan is told to take from its job's beginning: with what the first stage of its pipeline runs ahead, and
  /// with a step that is computed twice.
  package func toldTimes(
    costs: ModelCosts, household: HouseholdProfile, job: PlanningJob
  ) -> PredictedTimes {
    var told = predictedRunningAhead(costs: costs, household: household, job: job)
    guard costs.repeatsFirstStep, mode != .fill else { return told }
    // Whatever the plan: it changes nothing between two plans that a search could see.
    told.firstEpoch += told.step
    told.total += told.step
    return told
  }

  /// What this plan is predicted to take, with what the first stage of its pipeline runs ahead.
  ///
  /// A search does not count that (docs/decisions/0014): how much it gains depends on gaps that are shorter or longer in
  /// truth, and plans that lean on them come out slower. Here the plan has been chosen, and is only told. It is the plan's
  /// own prediction where nothing is run ahead.
  private func predictedRunningAhead(
    costs: ModelCosts, household: HouseholdProfile, job: PlanningJob
  ) -> PredictedTimes {
    let most = schedule.microBatchesAhead(stage: 0)
    guard costs.runsAhead, mode != .fill, stages.count > 1, most > 0, predicted.step > 0 else {
      return predicted
    }
    let costing = StageCosting(costs: costs, household: household, job: job)
    costing.prepare(mode: mode, microBatches: microBatches)
    let range = costing.range(stages[0].layers.lowerBound, stages[0].layers.upperBound)
    // The member that is done with the least ahead decides.
    let frozen = stages[0].members.map { costing.frozenTime(range, $0.device, $0.units) }.min() ?? 0
    var simulator = ScheduleSimulator()
    let durations = simulator.durations(
      schedule, stages: stages.map(\.times), boundaries: boundaries,
      ahead: AheadWork(frozen: min(frozen, stages[0].times.forward), most: most),
      miniBatches: Plan.simulated)
    let step = durations.last ?? predicted.step
    // A pass that is finished although its gradient is there may cost a little; it is never counted as a loss.
    func gain(_ steps: Int) -> Int64 {
      let first = durations.prefix(steps).reduce(0, +)
      let all = first + repeated(step, max(0, steps - durations.count))
      return max(0, repeated(predicted.step, steps) - all)
    }
    var told = predicted
    told.step = min(step, predicted.step)
    told.firstEpoch -= gain(mode == .live ? job.stepsPerEpoch : job.firstPassSteps)
    told.total -= gain(job.backboneSteps(mode))
    return told
  }
}
