/// Limits of what the planner accepts from outside.
package enum PlanningLimits {
  /// Most devices of a household.
  package static let devices = 64
  /// Most layers of a model.
  package static let layers = 512
  /// Most kinds of layers.
  package static let layerKinds = 64
  /// Most units (lanes' micro-batches) of a mini-batch.
  package static let unitsPerMiniBatch = 1024
  /// Most epochs of a job.
  package static let epochs = 100_000
  /// Most optimizer steps of an epoch.
  package static let stepsPerEpoch = 100_000_000
  /// Most nanoseconds of one layer for one unit (100 s).
  package static let layerNanoseconds: Int64 = 100_000_000_000
  /// Most bytes of anything (1 PB), so that sums of them never overflow.
  package static let bytes: Int64 = 1_000_000_000_000_000
  /// Slowest link or disk that can be planned with, in bytes a second.
  package static let slowestBytesPerSecond: Int64 = 1000
  /// Bits of a gradient sum that travels, in the mean.
  package static let sumBits: ClosedRange<Int64> = 1...128
}

/// What one layer costs in bytes, whichever device computes it.
///
/// "A unit" is the micro-batch of one lane, which one device computes whole.
package struct LayerCosts: Sendable, Hashable {
  /// Which of the model's kinds of layers it is: devices are measured by kind.
  package var kind: Int
  /// Weights that are read and never changed.
  package var frozenBytes: Int64
  /// Weights that are trained, one copy.
  package var trainableBytes: Int64
  /// What the backward pass of one unit needs from its forward pass.
  package var retainedBytes: Int64
  /// What one unit adds to the activation cache.
  package var cacheBytes: Int64
  /// What crosses to the next layer in a forward pass of one unit while training.
  package var forwardBoundaryBytes: Int64
  /// What crosses back in the backward pass of one unit.
  package var backwardBoundaryBytes: Int64
  /// What crosses to the next layer when nothing is trained.
  package var fillBoundaryBytes: Int64

  /// The costs of one layer.
  package init(
    kind: Int, frozenBytes: Int64, trainableBytes: Int64, retainedBytes: Int64, cacheBytes: Int64 = 0,
    forwardBoundaryBytes: Int64, backwardBoundaryBytes: Int64, fillBoundaryBytes: Int64
  ) {
    self.kind = kind
    self.frozenBytes = frozenBytes
    self.trainableBytes = trainableBytes
    self.retainedBytes = retainedBytes
    self.cacheBytes = cacheBytes
    self.forwardBoundaryBytes = forwardBoundaryBytes
    self.backwardBoundaryBytes = backwardBoundaryBytes
    self.fillBoundaryBytes = fillBoundaryBytes
  }
}

/// Frozen weights that several layers use and a device holds once, such as a tied embedding.
package struct SharedWeights: Sendable, Hashable {
  /// Their bytes.
  package var bytes: Int64
  /// The layers that read them, ascending.
  package var layers: [Int]

  /// Weights that `layers` share.
  package init(bytes: Int64, layers: [Int]) {
    self.bytes = bytes
    self.layers = layers
  }
}

/// Trained weights that several layers use, such as a tied embedding under full fine-tuning.
///
/// Every stage that uses them trains a copy of its own, and the copies' gradients are added up.
package struct TiedWeights: Sendable, Hashable {
  /// Their bytes, one copy.
  package var bytes: Int64
  /// The layer in whose `trainableBytes` they are.
  package var home: Int
  /// The other layers that use them, ascending.
  package var layers: [Int]

  /// Weights of `home` that `layers` use too.
  package init(bytes: Int64, home: Int, layers: [Int]) {
    self.bytes = bytes
    self.home = home
    self.layers = layers
  }

  /// What a stage trains of them beside its own layers' weights.
  package func copiedBytes(_ stage: Range<Int>) -> Int64 {
    !stage.contains(home) && layers.contains(where: stage.contains) ? bytes : 0
  }
}

/// What a model under one technique costs: the planner's whole knowledge of it.
package struct ModelCosts: Sendable, Hashable {
  /// For people: model and technique.
  package var name: String
  /// Names of the kinds of layers, for instance `encoder` and `decoder`.
  package var kinds: [String]
  /// The layers from the input to the output.
  package var layers: [LayerCosts]
  /// Frozen weights that layers share.
  package var shared: [SharedWeights]
  /// Trained weights that layers share; nil when there are none.
  package var tied: TiedWeights?
  /// Copies of the trained weights that training holds: weights, gradient, and the optimizer's moments.
  package var trainableCopies: Int64
  /// Copies of the trained weights that a stage of several holds beside: its state before the last step, should another stage
  /// not have made that step, and the state that it ends with.
  package var stageStateCopies: Int64
  /// Bits in which the gradient sum of one trained value (4 bytes of `trainableBytes`) travels round a ring, in the mean.
  package var sumBits: Int64
  /// Memory of one layer's forward pass beyond what is retained, for one unit.
  package var transientBytes: Int64
  /// Memory of a cached step for one unit: activations of the technique and the taps read from the cache.
  package var cachedUnitBytes: Int64
  /// Whether the technique can train from cached activations.
  package var canCache: Bool
  /// Whether a pipeline's first stage runs its frozen layers ahead while it waits, and so holds more; the time that it gains
  /// is not counted (docs/decisions/0014).
  package var runsAhead: Bool
  /// Whether a new job computes its first step twice, since its sums' exponents must be known (docs/decisions/0007).
  package var repeatsFirstStep: Bool

  /// The costs of a model under a technique.
  package init(
    name: String, kinds: [String], layers: [LayerCosts], shared: [SharedWeights] = [],
    tied: TiedWeights? = nil,
    trainableCopies: Int64 = 4, stageStateCopies: Int64 = 0, sumBits: Int64 = 32,
    transientBytes: Int64 = 0, cachedUnitBytes: Int64 = 0, canCache: Bool,
    runsAhead: Bool = false, repeatsFirstStep: Bool = false
  ) {
    self.name = name
    self.kinds = kinds
    self.layers = layers
    self.shared = shared
    self.tied = tied
    self.trainableCopies = trainableCopies
    self.stageStateCopies = stageStateCopies
    self.sumBits = sumBits
    self.transientBytes = transientBytes
    self.cachedUnitBytes = cachedUnitBytes
    self.canCache = canCache
    self.runsAhead = runsAhead
    self.repeatsFirstStep = repeatsFirstStep
  }

  /// Trained weights of all layers, one copy.
  package var trainableBytes: Int64 { layers.reduce(0) { $0 + $1.trainableBytes } }
  /// What one unit occupies in the activation cache.
  package var cacheBytes: Int64 { layers.reduce(0) { $0 + $1.cacheBytes } }

  /// Bytes of the gradient sums of so many bytes of trained weights on a wire.
  package func sumBytes(of trainedBytes: Int64) -> Int64 {
    // The bits of as many layers as there may be, each at its limit, are more than an Int64 counts.
    Int64(clamping: (Int128(trainedBytes) * Int128(sumBits) + 31) / 32)
  }
}
