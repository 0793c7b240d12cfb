package import ParallelPlanner

/// Plans a household device by device where its best plan cannot be proven, so that one more device never gives a worse
/// plan.
///
/// The plan without the last device is a start of the search with it. Devices that are added go to the end of a
/// household file, so what a person was shown before is the least that the larger household does.
package enum PlanGrowth {
  /// Households of up to this size grow device by device; of larger ones the last device alone.
  static let mostDevices = 16

  /// Plans a job.
  package static func plan(
    _ costs: ModelCosts, household: HouseholdProfile, job: PlanningJob
  ) throws -> PlanningResult {
    let whole = Result { try ParallelPlanner().plan(costs, household: household, job: job) }
    if let whole = try? whole.get(), whole.isProven { return whole }
    let count = household.devices.count
    var smaller: [HouseholdProfile] = []
    var next = household
    while next.devices.count > 1, smaller.count < (count <= mostDevices ? count : 1) {
      next = next.removing(next.devices.count - 1)
      smaller.append(next)
    }
    var earlier: Plan?
    for part in smaller.reversed() {
      earlier = (try? best(costs, part, job, earlier, nil))?.plan
    }
    return try best(costs, household, job, earlier, whole)
  }

  /// The better of the plans with and without an earlier one.
  private static func best(
    _ costs: ModelCosts, _ household: HouseholdProfile, _ job: PlanningJob, _ earlier: Plan?,
    _ known: Result<PlanningResult, any Error>?
  ) throws -> PlanningResult {
    let alone = known ?? Result { try ParallelPlanner().plan(costs, household: household, job: job) }
    guard let earlier else { return try alone.get() }
    let found = try? alone.get()
    if let found, found.isProven { return found }
    let grown = try ParallelPlanner().plan(costs, household: household, job: job, earlier: earlier)
    if let found, found.plan.predicted.total <= grown.plan.predicted.total { return found }
    return grown
  }
}
