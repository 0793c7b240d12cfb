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

/// Which devices read the cache in the epochs after the first.
package enum CachedEpochsPolicy: String, Sendable, Codable, CaseIterable {
  /// As many as make these epochs fastest; one may be best.
  case auto
  /// As many as the cache and a mini-batch's units allow (PAC §5.2), whether or not that is faster; so there are such
  /// epochs also where running the backbone again would be.
  case all
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

/// What is left of a job that has begun.
package struct RemainingSteps: Sendable, Hashable {
  /// Mini-batches that have to go through the backbone before everything comes from the cache.
  package var firstPass: Int
  /// Optimizer steps.
  package var training: Int

  /// What is left.
  package init(firstPass: Int, training: Int) {
    self.firstPass = firstPass
    self.training = training
  }
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
  /// Which devices read the cache in the epochs after the first.
  package var cachedEpochs: CachedEpochsPolicy
  /// Whether later epochs may read cached activations.
  package var usesCache: Bool
  /// What is left of a job that has begun; nil for a whole job.
  package var remaining: RemainingSteps?

  /// A job for the planner.
  package init(
    epochs: Int, stepsPerEpoch: Int, unitsPerMiniBatch: Int, microBatchCounts: [Int] = [],
    planner: PlannerKind = .pac, firstEpoch: FirstEpochPolicy = .auto,
    cachedEpochs: CachedEpochsPolicy = .auto, usesCache: Bool = true, remaining: RemainingSteps? = nil
  ) {
    self.epochs = epochs
    self.stepsPerEpoch = stepsPerEpoch
    self.unitsPerMiniBatch = unitsPerMiniBatch
    self.microBatchCounts = microBatchCounts
    self.planner = planner
    self.firstEpoch = firstEpoch
    self.cachedEpochs = cachedEpochs
    self.usesCache = usesCache
    self.remaining = remaining
  }

  /// Optimizer steps of the whole job, or of what is left of it.
  package var trainingSteps: Int { remaining?.training ?? epochs * stepsPerEpoch }

  /// Mini-batches of the first pass over the samples that are still to be done.
  package var firstPassSteps: Int { remaining?.firstPass ?? stepsPerEpoch }

  /// How often a mini-batch goes through the backbone.
  func backboneSteps(_ mode: PlanMode) -> Int { mode == .live ? trainingSteps : firstPassSteps }

  /// Optimizer steps that read the cache.
  func cachedSteps(_ mode: PlanMode) -> Int {
    switch mode {
    case .live: 0
    case .hybrid: trainingSteps - firstPassSteps
    case .fill: trainingSteps
    }
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
    case .auto:
      guard epochs > 1 else { return [.live, .fill] }
      return cachedEpochs == .all ? [.hybrid, .fill] : [.hybrid, .fill, .live]
    case .hybrid: return epochs > 1 ? [.hybrid] : [.live]
    case .fill: return [.fill]
    }
  }
}
