package import PipelineSchedules

/// One device's part of a stage.
package struct StageMember: Sendable, Hashable {
  /// The device's place in the household.
  package var device: Int
  /// Units that it computes of every pipeline micro-batch.
  package var units: Int
  /// The most memory that it needs.
  package var memoryBytes: Int64

  /// A device's part of a stage.
  package init(device: Int, units: Int, memoryBytes: Int64) {
    self.device = device
    self.units = units
    self.memoryBytes = memoryBytes
  }
}

/// One stage of a pipeline: consecutive layers on a group of devices.
package struct PlanStage: Sendable, Hashable {
  /// The layers, from the model's input.
  package var layers: Range<Int>
  /// The group, ascending by device.
  package var members: [StageMember]
  /// What one micro-batch takes, and the reduction at the end of a mini-batch.
  package var times: StageTimes

  /// A stage.
  package init(layers: Range<Int>, members: [StageMember], times: StageTimes) {
    self.layers = layers
    self.members = members
    self.times = times
  }
}

/// One device's part of the cached epochs.
package struct CachedMember: Sendable, Hashable {
  /// The device's place in the household.
  package var device: Int
  /// Units that it computes of every mini-batch.
  package var units: Int
  /// The most memory that it needs.
  package var memoryBytes: Int64
  /// Bytes of the activation cache on its disk.
  package var cacheBytes: Int64

  /// A device's part of the cached epochs.
  package init(device: Int, units: Int, memoryBytes: Int64, cacheBytes: Int64) {
    self.device = device
    self.units = units
    self.memoryBytes = memoryBytes
    self.cacheBytes = cacheBytes
  }
}

/// What a plan is expected to take, in nanoseconds.
package struct PredictedTimes: Sendable, Hashable {
  /// One mini-batch of the first epoch.
  package var step: Int64
  /// The first pass over the samples: training, or only filling the cache.
  package var firstEpoch: Int64
  /// Moving cached activations to the devices that will read them, as far as it outlasts the first pass.
  package var redistribution: Int64
  /// One mini-batch from the cache.
  package var cachedStep: Int64
  /// One epoch from the cache.
  package var cachedEpoch: Int64
  /// The whole job.
  package var total: Int64

  /// Predicted times.
  package init(
    step: Int64, firstEpoch: Int64, redistribution: Int64, cachedStep: Int64, cachedEpoch: Int64, total: Int64
  ) {
    self.step = step
    self.firstEpoch = firstEpoch
    self.redistribution = redistribution
    self.cachedStep = cachedStep
    self.cachedEpoch = cachedEpoch
    self.total = total
  }
}

/// A complete decision about a job: who computes which layers of which units, and in which order.
package struct Plan: Sendable, Hashable {
  /// How the epochs run.
  package var mode: PlanMode
  /// Pipeline micro-batches of a mini-batch.
  package var microBatches: Int
  /// The stages, from the model's input.
  package var stages: [PlanStage]
  /// What one micro-batch takes between stages.
  package var boundaries: [BoundaryTimes]
  /// Who trains from the cache; empty without one.
  package var cached: [CachedMember]
  /// What all of it takes.
  package var predicted: PredictedTimes

  /// A plan.
  package init(
    mode: PlanMode, microBatches: Int, stages: [PlanStage], boundaries: [BoundaryTimes],
    cached: [CachedMember], predicted: PredictedTimes
  ) {
    self.mode = mode
    self.microBatches = microBatches
    self.stages = stages
    self.boundaries = boundaries
    self.cached = cached
    self.predicted = predicted
  }

  /// The order of work of one mini-batch of the first epoch.
  package var schedule: PipelineSchedule {
    PipelineSchedule(
      mode == .fill ? .fill : .oneForwardOneBackward, stages: stages.count, microBatches: microBatches)
  }

  /// The sizes of the groups from the input, as the paper writes them: `[3-3-2]`.
  package var grouping: String { "[" + stages.map { String($0.members.count) }.joined(separator: "-") + "]" }
}
