package import ActivationCache
package import FineTuning
package import NeuralNetworks
package import TensorKernels

/// What is trained: the same values on every device.
package struct DistributedJob: Sendable {
  /// Which sample is trained with which others, and when.
  package var lanePlan: LanePlan
  /// For each lane, its micro-batches; ordinals are unique in the job.
  package var batches: [[PackedMicroBatch]]
  /// Micro-batches of the held-out samples; their samples are indices into the held-out set.
  package var validation: [PackedMicroBatch]
  /// Held-out samples.
  package var validationSamples: Int
  /// Predicted values a sample; 0 for a language-model head, which has only a loss.
  package var outputs: Int
  /// Passes over the training samples.
  package var epochs: Int
  /// How the optimizer is driven.
  package var optimization: OptimizationSettings
  /// Largest micro-batch of all.
  package var capacity: MicroBatchCapacity

  /// A job.
  package init(
    lanePlan: LanePlan, batches: [[PackedMicroBatch]], validation: [PackedMicroBatch],
    validationSamples: Int, outputs: Int, epochs: Int, optimization: OptimizationSettings,
    capacity: MicroBatchCapacity
  ) {
    self.lanePlan = lanePlan
    self.batches = batches
    self.validation = validation
    self.validationSamples = validationSamples
    self.outputs = outputs
    self.epochs = epochs
    self.optimization = optimization
    self.capacity = capacity
  }

  /// Optimizer steps of the whole job.
  package var totalSteps: Int { lanePlan.stepsPerEpoch * epochs }

  /// Training samples.
  var sampleCount: Int { lanePlan.lanes.reduce(0) { $0 + $1.reduce(0) { $0 + $1.count } } }

  /// The mini-batches of an epoch: lanes and micro-batches in the order in which one device computes them.
  ///
  /// Long micro-batches come first: a thread that draws the last piece should draw a short one.
  func miniBatches(epoch: Int) -> [MiniBatch] {
    lanePlan.miniBatches(epoch: epoch).map { ids in
      let ordered = ids.map { (lane: $0.lane, batch: batches[$0.lane][$0.index]) }.enumerated()
        .sorted { ($1.element.batch.tokens, $0.offset) < ($0.element.batch.tokens, $1.offset) }
      return MiniBatch(lanes: ordered.map(\.element.lane), batches: ordered.map(\.element.batch))
    }
  }
}

/// The units of one optimizer step.
struct MiniBatch: Sendable {
  /// The lane of each unit.
  let lanes: [Int]
  /// The units, long ones first.
  let batches: [PackedMicroBatch]
  /// Losses that the step sums over.
  var units: Int { batches.reduce(0) { $0 + $1.units } }
  /// Samples of the step.
  var samples: Int { batches.reduce(0) { $0 + $1.samples.count } }

  /// Whether the other has the same samples in the same lanes.
  func isSame(as other: MiniBatch) -> Bool {
    lanes == other.lanes && batches.map(\.samples) == other.batches.map(\.samples)
  }
}

/// A technique that computes whole units on this device.
package struct WorkingTechnique: Sendable {
  /// What computes.
  package var computation: any TechniqueComputation
  /// Where a side network's activations come from; nil for techniques that run the backbone itself.
  package var source: BackboneTapSource?

  /// A technique at work.
  package init(computation: any TechniqueComputation, source: BackboneTapSource?) {
    self.computation = computation
    self.source = source
  }
}

/// The stage of a pipeline that is to be made.
package struct StageRequest: Sendable, Equatable {
  /// Its layers, through all stacks.
  package var layers: Range<Int>
  /// Units that are between their forward and their backward at once.
  package var slots: Int
  /// Units of the next mini-batch whose frozen layers may be run while the stage would wait; only in a first stage.
  package var ahead: Int
  /// Threads that compute.
  package var workers: Int
  /// False when it only goes forward.
  package var trains: Bool
}

/// How this device gets at the technique of the job; each is called at most once, on the driver's thread.
package struct DeviceTechnique {
  /// The trained parameters at their first values, the same bits on every device; given some layers, other layers' leaves may
  /// be without values.
  package var parameters: (Range<Int>?) throws -> ParameterTree
  /// The whole technique over the whole backbone; a side network appends the activations to the cache.
  package var whole: (ParameterTree) throws -> WorkingTechnique
  /// One stage of a pipeline.
  package var stage: (ParameterTree, StageRequest) throws -> any StageComputation
  /// A side network that only reads the cache.
  package var cached: (ParameterTree) throws -> WorkingTechnique
  /// Lets go of the backbone, if it is there: nothing computes with it any more.
  package var releaseBackbone: () -> Void
  /// What activations are kept and how; nil for techniques that keep none.
  package var taps: KeptTaps?
  /// The leaves of a stage of any device; nil when every stage is to be given all of them.
  package var leaves: ((ParameterTree, Range<Int>) throws -> StageLeaves)?
  /// Has a file hold the parameters, in place, before other stages' are collected in them.
  package var spill: (ParameterTree) throws -> Void

  /// Access to a technique.
  package init(
    parameters: @escaping (Range<Int>?) throws -> ParameterTree,
    whole: @escaping (ParameterTree) throws -> WorkingTechnique,
    stage: @escaping (ParameterTree, StageRequest) throws -> any StageComputation,
    cached: @escaping (ParameterTree) throws -> WorkingTechnique,
    releaseBackbone: @escaping () -> Void, taps: KeptTaps?,
    leaves: ((ParameterTree, Range<Int>) throws -> StageLeaves)? = nil,
    spill: @escaping (ParameterTree) throws -> Void
  ) {
    self.leaves = leaves
    self.spill = spill
    self.parameters = parameters
    self.whole = whole
    self.stage = stage
    self.cached = cached
    self.releaseBackbone = releaseBackbone
    self.taps = taps
  }
}

/// The activations that a job keeps on this device.
package struct KeptTaps: Sendable {
  /// The side network that reads them.
  package var shape: SideNetworkShape
  /// How they are stored.
  package var element: ActivationElement
  /// Where.
  package var cache: ActivationCacheStore

  /// Taps of `shape`, kept in `cache`.
  package init(shape: SideNetworkShape, element: ActivationElement, cache: ActivationCacheStore) {
    self.shape = shape
    self.element = element
    self.cache = cache
  }
}
