/// One piece of work of a pipeline stage: the forward or backward pass of one micro-batch.
package enum PipelineOperation: Sendable, Hashable {
  /// The forward pass of the micro-batch with that number.
  case forward(Int)
  /// The backward pass of the micro-batch with that number.
  case backward(Int)

  /// The number of the micro-batch.
  package var microBatch: Int {
    switch self {
    case .forward(let microBatch), .backward(let microBatch): microBatch
    }
  }
}

/// In which order the stages of a pipeline work on the micro-batches.
package enum ScheduleKind: String, Sendable, Codable, CaseIterable {
  /// PipeDream's order with a flush a mini-batch (PAC §5.1): a few forward passes, then one forward and one
  /// backward in turn.
  case oneForwardOneBackward
  /// All forward passes, then all backward passes (GPipe).
  case fillDrain
  /// Forward passes only: nothing is trained while the activation cache is filled.
  case fill
}

/// Who works on what when, for one mini-batch: an order of operations for every stage.
///
/// The schedule is data: the planner's simulator and the run that trains read the same one. A stage starts its
/// next operation when its input is there: a forward pass needs the output of the stage before, a backward pass
/// the gradient from the stage after.
package struct PipelineSchedule: Sendable, Equatable {
  /// The order that the stages follow.
  package let kind: ScheduleKind
  /// Stages of the pipeline.
  package let stages: Int
  /// Micro-batches of a mini-batch.
  package let microBatches: Int

  /// The schedule of a pipeline; it has at least one stage and one micro-batch.
  package init(_ kind: ScheduleKind, stages: Int, microBatches: Int) {
    precondition(
      stages > 0 && microBatches > 0, "a schedule of \(stages) stages, \(microBatches) micro-batches")
    self.kind = kind
    self.stages = stages
    self.microBatches = microBatches
  }

  /// Operations of every stage.
  package var operationsPerStage: Int { kind == .fill ? microBatches : 2 * microBatches }

  /// Forward passes that a stage makes before its first backward pass can follow, less the one that it follows.
  package func warmUp(stage: Int) -> Int {
    switch kind {
    case .oneForwardOneBackward: min(microBatches, stages - 1 - stage)
    case .fillDrain, .fill: microBatches
    }
  }

  /// The operation that stage `stage` does as its number `index`, counted from 0.
  package func operation(stage: Int, index: Int) -> PipelineOperation {
    let warm = warmUp(stage: stage)
    guard index >= warm else { return .forward(index) }
    let later = index - warm
    let alternating = 2 * (microBatches - warm)
    guard later < alternating else { return .backward(later - (microBatches - warm)) }
    return later % 2 == 0 ? .forward(warm + later / 2) : .backward(later / 2)
  }

  /// All operations of a stage, in order.
  package func operations(stage: Int) -> [PipelineOperation] {
    (0..<operationsPerStage).map { operation(stage: stage, index: $0) }
  }

  /// The most micro-batches that have gone forward and not yet backward in a stage at any time.
  ///
  /// Their activations are in memory together. In a fill there is no backward pass, so nothing is kept.
  package func inFlight(stage: Int) -> Int {
    switch kind {
    case .oneForwardOneBackward:
      PipelineSchedule.inFlight(fromEnd: stages - 1 - stage, microBatches: microBatches)
    case .fillDrain: microBatches
    case .fill: 0
    }
  }

  /// Micro-batches of the next mini-batch whose frozen layers a stage runs while it would wait.
  ///
  /// The first stage has its input at once, and waits for its first gradient for as long as its warm-up passes take the
  /// stages behind it: so many forward passes fill the gap, and one more the time of its group's ring. Only where the
  /// layers are frozen: what they give then does not depend on the step that is not over.
  package func microBatchesAhead(stage: Int) -> Int {
    kind == .oneForwardOneBackward && stage == 0 ? inFlight(stage: 0) : 0
  }

  /// In-flight micro-batches of 1F1B in the stage with `fromEnd` stages after it.
  package static func inFlight(fromEnd: Int, microBatches: Int) -> Int { min(microBatches, fromEnd + 1) }
}
