/// Which plans are looked at.
package enum PlannerKind: String, Sendable, Codable, CaseIterable {
  /// Any stages, any groups: hybrid pipeline and data parallel (PAC §5).
  case pac
  /// One stage on every device used: data parallel (EDDL).
  case eddl
  /// One device a stage: straight pipeline (Eco-FL).
  case ecofl
}

/// How the first epoch may run.
package enum FirstEpochPolicy: String, Sendable, Codable, CaseIterable {
  /// Whatever is fastest.
  case auto
  /// Train and fill the cache at once (PAC §5.1).
  case hybrid
  /// Fill the cache first, then train every epoch from it.
  case fill
}

/// How a plan runs its epochs.
package enum PlanMode: String, Sendable, Codable, CaseIterable {
  /// Every epoch runs the backbone; there is no cache.
  case live
  /// The first epoch trains and fills the cache, the others read it.
  case hybrid
  /// The cache is filled by forward passes, and every epoch reads it.
  case fill
}

/// What is to be planned.
package struct PlanningJob: Sendable, Hashable {
  /// Passes over the training samples.
  package var epochs: Int
  /// Optimizer steps of one epoch.
  package var stepsPerEpoch: Int
  /// Units (lanes' micro-batches) of one mini-batch.
  package var unitsPerMiniBatch: Int
  /// Numbers of pipeline micro-batches to choose from; each divides the units; empty means all divisors.
  package var microBatchCounts: [Int]
  /// Which plans are looked at.
  package var planner: PlannerKind
  /// How the first epoch may run.
  package var firstEpoch: FirstEpochPolicy
  /// Whether later epochs may read cached activations.
  package var usesCache: Bool

  /// A job for the planner.
  package init(
    epochs: Int, stepsPerEpoch: Int, unitsPerMiniBatch: Int, microBatchCounts: [Int] = [],
    planner: PlannerKind = .pac, firstEpoch: FirstEpochPolicy = .auto, usesCache: Bool = true
  ) {
    self.epochs = epochs
    self.stepsPerEpoch = stepsPerEpoch
    self.unitsPerMiniBatch = unitsPerMiniBatch
    self.microBatchCounts = microBatchCounts
    self.planner = planner
    self.firstEpoch = firstEpoch
    self.usesCache = usesCache
  }

  /// The numbers of micro-batches that plans may have, ascending.
  package var allowedMicroBatchCounts: [Int] {
    if !microBatchCounts.isEmpty { return microBatchCounts.sorted() }
    return (1...unitsPerMiniBatch).filter { unitsPerMiniBatch % $0 == 0 }
  }

  /// The modes that a technique allows under this job, in order of preference among equals.
  func modes(canCache: Bool) -> [PlanMode] {
    guard canCache && usesCache else { return [.live] }
    switch firstEpoch {
    case .auto: return epochs > 1 ? [.hybrid, .fill, .live] : [.live, .fill]
    case .hybrid: return epochs > 1 ? [.hybrid] : [.live]
    case .fill: return [.fill]
    }
  }
}
