import CryptoPrimitives
package import ParallelPlanner

/// A job's plan with the names that people know.
package struct JobPlanSummary: Codable, Sendable, Equatable {
  /// Number of the plan.
  package var planEpoch: UInt64
  /// The name of the device that made it.
  package var leader: String
  /// How the epochs run: `hybrid`, `fill` or `live`.
  package var mode: String
  /// Units of a mini-batch.
  package var unitsPerMiniBatch: Int
  /// Pipeline micro-batches of a mini-batch.
  package var microBatches: Int
  /// The stages of the first epoch.
  package var stages: [PlanReport.Stage]
  /// Who trains from the cache.
  package var cachedDevices: [PlanReport.Device]
  /// Devices without work.
  package var idle: [String]
  /// What it is expected to take.
  package var predictedSeconds: PlanReport.Seconds
  /// One mini-batch of the first epoch as a chart, a line a stage and then the legend.
  package var chart: [String]
  /// What devices compare to agree on the plan.
  package var planDigest: String

  /// Gives a plan its names.
  ///
  /// - Parameters:
  ///   - names: what the plan's devices are called, by place.
  ///   - budgets: memory that each may use, by place.
  ///   - layerNames: what the layers are called, as `PlanningModel` has them.
  package init(
    _ plan: Plan, names: [String], budgets: [Int64], layerNames: [String], unitsPerMiniBatch: Int,
    planEpoch: UInt64, leader: String
  ) {
    self.planEpoch = planEpoch
    self.leader = leader
    self.unitsPerMiniBatch = unitsPerMiniBatch
    mode = plan.mode.rawValue
    microBatches = plan.microBatches
    stages = PlanReport.stages(of: plan, names: names, budgets: budgets, layerNames: layerNames)
    cachedDevices = PlanReport.cachedDevices(of: plan, names: names, budgets: budgets)
    idle = PlanReport.idle(in: plan, names: names)
    predictedSeconds = PlanReport.Seconds(plan.predicted)
    chart = plan.chartLines()
    planDigest = plan.digest.description
  }
}
