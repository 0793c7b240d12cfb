import CryptoPrimitives
package import ParallelPlanner
import PipelineSchedules

/// A plan with the names that people know, as `hearth plan --json` writes it.
package struct PlanReport: Sendable, Encodable {
  /// One device's part of a stage or of the cached epochs.
  package struct Device: Sendable, Codable, Equatable {
    /// What the device is called.
    package var name: String
    /// Units of a pipeline micro-batch, or of a mini-batch in the cached epochs.
    package var share: Int
    /// The most memory that it needs.
    package var memoryBytes: Int64
    /// Memory that it may use.
    package var budgetBytes: Int64
    /// Bytes of the activation cache on its disk; only in the cached epochs.
    package var cacheBytes: Int64?
  }

  /// One stage.
  package struct Stage: Sendable, Codable, Equatable {
    /// Its first and last layer by name.
    package var layers: [String]
    /// The number of its layers.
    package var layerCount: Int
    /// Its group.
    package var devices: [Device]
  }

  /// Predicted times in seconds.
  package struct Seconds: Sendable, Codable, Equatable {
    /// The first pass over the samples.
    package var firstEpoch: Double
    /// Moving cached activations.
    package var redistribution: Double
    /// One epoch from the cache.
    package var cachedEpoch: Double
    /// The whole job.
    package var total: Double

    init(_ times: PredictedTimes) {
      firstEpoch = PlanReport.seconds(times.firstEpoch)
      redistribution = PlanReport.seconds(times.redistribution)
      cachedEpoch = PlanReport.seconds(times.cachedEpoch)
      total = PlanReport.seconds(times.total)
    }
  }

  /// What a stage's slowest device does in one mini-batch, in seconds.
  package struct Parts: Sendable, Encodable, Equatable {
    /// Passes through its layers.
    package var passes: Double
    /// Boundaries and activations on their way.
    package var exchange: Double
    /// The sum of gradients.
    package var ring: Double
    /// The optimizer's update.
    package var update: Double

    init(_ stage: PlanBreakdown.Stage) {
      passes = PlanReport.seconds(stage.passes)
      exchange = PlanReport.seconds(stage.exchange)
      ring = PlanReport.seconds(stage.ring)
      update = PlanReport.seconds(stage.update)
    }
  }

  /// What the predicted times are made of, in seconds.
  package struct Breakdown: Sendable, Encodable, Equatable {
    /// A mini-batch of the first pass, by stage.
    package var stages: [Parts]
    /// What it takes beyond its slowest stage.
    package var waiting: Double
    /// The first touch of weights and memory.
    package var once: Double
    /// A mini-batch from the cache.
    package var cached: Parts?

    init(_ breakdown: PlanBreakdown) {
      stages = breakdown.stages.map(Parts.init)
      waiting = PlanReport.seconds(breakdown.waiting)
      once = PlanReport.seconds(breakdown.once)
      cached = breakdown.cached.map(Parts.init)
    }
  }

  /// A shape that lost, and why.
  package struct Rejected: Sendable, Encodable {
    /// How its epochs would have run.
    package var mode: String
    /// Devices of its stages.
    package var grouping: String
    /// In words.
    package var because: String
  }

  /// Model and technique.
  package var model: String
  /// The household.
  package var household: String
  /// Which plans were looked at.
  package var planner: String
  /// How the epochs run: `hybrid`, `fill` or `live`.
  package var mode: String
  /// Passes over the samples.
  package var epochs: Int
  /// Training samples.
  package var samples: Int
  /// Units of a mini-batch.
  package var unitsPerMiniBatch: Int
  /// Pipeline micro-batches of a mini-batch.
  package var microBatches: Int
  /// The stages.
  package var stages: [Stage]
  /// Who trains from the cache.
  package var cachedDevices: [Device]
  /// Devices without work.
  package var idle: [String]
  /// What it takes.
  package var predictedSeconds: Seconds
  /// What that is made of.
  package var breakdown: Breakdown
  /// Whether no better plan exists under these profiles.
  package var proven: Bool
  /// How long planning took.
  package var planningSeconds: Double
  /// What devices compare to agree on the plan.
  package var planDigest: String
  /// Shapes that lost.
  package var rejected: [Rejected]
  /// The plan itself.
  package var plan: Plan

  private enum CodingKeys: String, CodingKey {
    case model, household, planner, mode, epochs, samples, unitsPerMiniBatch, microBatches, stages,
      cachedDevices, idle
    case predictedSeconds, breakdown, proven, planningSeconds, planDigest, rejected
  }

  init(_ prepared: PreparedPlanning, _ result: PlanningResult, seconds: Double) {
    let plan = result.plan
    let devices = prepared.household.devices
    self.plan = plan
    model = prepared.model.costs.name
    household = prepared.householdName
    planner = prepared.job.planner.rawValue
    mode = plan.mode.rawValue
    epochs = prepared.job.epochs
    samples = prepared.samples
    unitsPerMiniBatch = prepared.job.unitsPerMiniBatch
    microBatches = plan.microBatches
    let names = devices.map(\.name)
    let budgets = devices.map(\.memoryBudget)
    stages = PlanReport.stages(
      of: plan, names: names, budgets: budgets, layerNames: prepared.model.layerNames)
    cachedDevices = PlanReport.cachedDevices(of: plan, names: names, budgets: budgets)
    idle = PlanReport.idle(in: plan, names: names)
    predictedSeconds = Seconds(
      plan.toldTimes(
        costs: prepared.model.costs, household: prepared.household, job: prepared.job))
    breakdown = Breakdown(
      PlanBreakdown(plan, costs: prepared.model.costs, household: prepared.household, job: prepared.job))
    proven = result.isProven
    planningSeconds = seconds
    planDigest = plan.digest.description
    rejected = result.rejected.sorted { PlanReport.order($0) < PlanReport.order($1) }.map { alternative in
      Rejected(
        mode: alternative.mode.rawValue, grouping: alternative.grouping,
        because: PlanReport.words(alternative, plan, devices))
    }
  }

  /// The stages of a plan; names and budgets are by place in the household.
  static func stages(
    of plan: Plan, names: [String], budgets: [Int64], layerNames: [String]
  ) -> [Stage] {
    plan.stages.map { stage in
      Stage(
        layers: [layerNames[stage.layers.lowerBound], layerNames[stage.layers.upperBound - 1]],
        layerCount: stage.layers.count,
        devices: stage.members.map { member in
          Device(
            name: names[member.device], share: member.units, memoryBytes: member.memoryBytes,
            budgetBytes: budgets[member.device])
        })
    }
  }

  /// Who trains from the cache.
  static func cachedDevices(of plan: Plan, names: [String], budgets: [Int64]) -> [Device] {
    plan.cached.map { member in
      Device(
        name: names[member.device], share: member.units, memoryBytes: member.memoryBytes,
        budgetBytes: budgets[member.device], cacheBytes: member.cacheBytes)
    }
  }

  /// Devices without work.
  static func idle(in plan: Plan, names: [String]) -> [String] {
    let used = Set(plan.stages.flatMap(\.members).map(\.device) + plan.cached.map(\.device))
    return names.indices.filter { !used.contains($0) }.map { names[$0] }
  }

  /// Fitting shapes by their time, then the others by what they lack.
  private static func order(_ alternative: RejectedAlternative) -> (Int, Int64) {
    switch alternative.reason {
    case .slower(let total, _): (0, total)
    case .doesNotFit(_, _, let bytes): (1, bytes)
    }
  }

  private static func words(
    _ alternative: RejectedAlternative, _ plan: Plan, _ devices: [DeviceProfile]
  ) -> String {
    switch alternative.reason {
    case .doesNotFit(let stage, let device, let bytes):
      return "stage \(stage + 1) on \(devices[device].name) needs \(ByteCount(Int(bytes))) more"
    case .slower(let total, let bubbles):
      let slower = Double(total) / Double(max(1, plan.predicted.total)) - 1
      let more = "takes \(duration(seconds(total))), \(decimal(slower * 100, slower < 0.1 ? 1 : 0)) % more"
      guard alternative.stages > 1, alternative.mode != .fill, bubbles >= 10 else { return more }
      return more + "; \(alternative.stages) stages lose \(bubbles / 10) % to bubbles"
    }
  }

  static func seconds(_ nanoseconds: Int64) -> Double { Double(nanoseconds) / 1e9 }
}
