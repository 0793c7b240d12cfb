package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// What one part of a model costs under a technique, for one micro-batch.
package struct PartCosts: Sendable, Equatable {
  /// A part: what a planner puts on a device as a whole.
  package enum Part: Sendable, Hashable {
    /// Words, positions and what follows them of one stack.
    case embedding(StackKind)
    /// One block of a stack, with the side block that reads it.
    case layer(StackKind, Int)
    /// Everything behind the last block.
    case head
  }

  /// Which part.
  package var part: Part
  /// Operations of the backbone's forward, with what a technique adds inside it.
  package var forward = 0
  /// Operations of the backbone's backward.
  package var backward = 0
  /// Operations of the side network's forward: all that is left of it in a cached epoch.
  package var sideForward = 0
  /// Operations of the side network's backward.
  package var sideBackward = 0
  /// Parameters that are read only; the word table counts in the encoder's embedding alone.
  package var frozenParameters = 0
  /// Parameters that are trained.
  package var trainableParameters = 0
  /// Bytes that the engine keeps for the backward.
  package var activationBytes = 0
  /// Bytes that PyTorch's autograd keeps for the backward, with dropout.
  package var autogradBytes = 0
  /// Bytes that cross to the next part in a forward while training.
  package var forwardBoundaryBytes = 0
  /// Bytes that cross back in a backward.
  package var backwardBoundaryBytes = 0
  /// Bytes that cross to the next part when the backbone only fills the cache.
  package var fillBoundaryBytes = 0
  /// Bytes that the part's tap takes in the cache.
  package var cacheBytes = 0
}

/// What a model costs under a technique, in closed form: no weights are needed.
///
/// Products are counted with two operations for each multiplication with its addition. Memory is in float32 except for the
/// cache and the taps read from it.
package struct TechniqueCosts: Sendable, Equatable {
  /// How the costs are counted.
  package struct Counting: Sendable, Equatable {
    /// Cross-attention is computed against the encoder's states where that is cheaper, as the engine does; the paper
    /// and PyTorch project keys and values of every encoder token.
    package var absorbsCrossAttention = true
    /// Only the input of each block is kept for the backward.
    package var checkpointsActivations = false
    /// Element of cached activations.
    package var cacheElement = ActivationElement.float16
    /// How finely gradients are rounded before they are added up.
    package var gradientPrecision = GradientPrecision.full

    /// As the engine computes.
    package static let engine = Counting()
    /// As the paper's figures count.
    package static let paper = Counting(absorbsCrossAttention: false, cacheElement: .float32)

    /// A way of counting.
    package init(
      absorbsCrossAttention: Bool = true, checkpointsActivations: Bool = false,
      cacheElement: ActivationElement = .float16, gradientPrecision: GradientPrecision = .full
    ) {
      self.absorbsCrossAttention = absorbsCrossAttention
      self.checkpointsActivations = checkpointsActivations
      self.cacheElement = cacheElement
      self.gradientPrecision = gradientPrecision
    }
  }

  /// The parts from the input to the output.
  package let parts: [PartCosts]
  /// How the technique keeps its gradient sums.
  package let gradientSums: GradientSumFormat

  /// The costs of one micro-batch.
  ///
  /// - Parameters:
  ///   - architecture: the backbone; its language-model head is taken to be the word table.
  ///   - technique: what is trained.
  ///   - head: what is predicted.
  ///   - workload: lengths of the micro-batch.
  ///   - counting: see there.
  package init(
    _ architecture: BackboneArchitecture, technique: TechniqueConfiguration, head: TaskHead,
    workload: CostWorkload, counting: Counting = .engine
  ) throws(SideNetworkFailure) {
    var side: SideNetworkShape?
    if case .parallel(let configuration) = technique {
      side = try SideNetworkShape(configuration, head: head, backbone: architecture)
    }
    let builder = CostBuilder(
      architecture: architecture, technique: technique, head: head, workload: workload, counting: counting,
      side: side)
    parts = builder.parts()
    gradientSums = technique.gradientSums(counting.gradientPrecision)
  }

  private func sum(_ value: (PartCosts) -> Int) -> Int { parts.reduce(0) { $0 + value($1) } }

  /// Operations of a forward, backbone and side network.
  package var forward: Int { sum { $0.forward + $0.sideForward } }
  /// Operations of a backward.
  package var backward: Int { sum { $0.backward + $0.sideBackward } }
  /// Operations of a forward from cached activations.
  package var cachedForward: Int { sum(\.sideForward) }
  /// Operations of a backward from cached activations.
  package var cachedBackward: Int { sum(\.sideBackward) }
  /// All parameters.
  package var parameters: Int { sum { $0.frozenParameters + $0.trainableParameters } }
  /// Parameters that are trained.
  package var trainableParameters: Int { sum(\.trainableParameters) }
  /// Bytes of all parameters in float32.
  package var weightBytes: Int { 4 * parameters }
  /// Bytes of gradients in float32.
  package var gradientBytes: Int { 4 * trainableParameters }
  /// Bytes of the engine's gradient sums.
  package var gradientSumBytes: Int { gradientSums.bytesPerParameter * trainableParameters }
  /// Bytes of AdamW's two moments.
  package var optimizerBytes: Int { 8 * trainableParameters }
  /// Bytes that the engine keeps for the backward.
  package var activationBytes: Int { sum(\.activationBytes) }
  /// Bytes that PyTorch's autograd keeps for the backward.
  package var autogradBytes: Int { sum(\.autogradBytes) }
  /// Bytes of the micro-batch in the cache.
  package var cacheBytes: Int { sum(\.cacheBytes) }
}
