package import ActivationCache
package import FineTuning
package import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// The technique of a run or an adapter: the one place that knows which one it is.
package struct TrainedTechnique: Sendable {
  /// The technique with its settings.
  package let configuration: TechniqueConfiguration
  /// What the adapted model produces.
  package let head: TaskHead
  /// Storage of the activations that a side network reads.
  package let element: ActivationElement
  /// True computes activations again in the backward in place of keeping them.
  package private(set) var checkpointsActivations: Bool
  /// How finely gradients are rounded before they are added up.
  package let gradientPrecision: GradientPrecision
  /// Shapes of the side network; nil for techniques that run the backbone itself.
  package let sideShape: SideNetworkShape?

  /// A technique for a backbone.
  ///
  /// - Throws: `SideNetworkFailure` or `TechniqueFailure` when the settings do not fit the backbone.
  package init(
    _ configuration: TechniqueConfiguration, head: TaskHead, backbone: any Backbone,
    element: ActivationElement, checkpointsActivations: Bool = false,
    gradientPrecision: GradientPrecision = .full
  ) throws {
    self.configuration = configuration
    self.head = head
    self.element = element
    self.checkpointsActivations = checkpointsActivations
    self.gradientPrecision = gradientPrecision
    let architecture = backbone.architecture
    if head == .languageModel, !(backbone is any EncoderDecoderBackbone) {
      throw TechniqueFailure.noDecoder(family: architecture.name)
    }
    switch configuration {
    case .parallel(let parallel):
      sideShape = try SideNetworkShape(parallel, head: head, backbone: architecture)
      return
    case .lora(let lora):
      for layer in backbone.adaptableLayers where lora.targets.contains(layer.target) {
        let most = min(layer.weight.rows, layer.weight.columns)
        guard lora.rank <= most else {
          throw TechniqueFailure.rank(found: lora.rank, layer: layer.name, most: most)
        }
      }
      if let target = lora.targets.first(where: { target in
        !backbone.adaptableLayers.contains { $0.target == target }
      }) {
        throw TechniqueFailure.noTarget(target.rawValue, family: architecture.name)
      }
    case .houlsby(let houlsby):
      guard houlsby.reduction <= architecture.width else {
        throw TechniqueFailure.reduction(found: houlsby.reduction, width: architecture.width)
      }
    case .full: break
    }
    sideShape = nil
  }

  /// The same technique with activations computed again in the backward; nil when it does so, or keeps none.
  package var withCheckpoints: TrainedTechnique? {
    guard sideShape == nil, !checkpointsActivations else { return nil }
    var copy = self
    copy.checkpointsActivations = true
    return copy
  }

  /// True when activations can be cached: a tuned backbone's change with every step.
  package var readsCachedActivations: Bool { sideShape != nil }

  /// True when all values of the backbone are copied into the tree, so that its own pages may leave memory.
  package var replacesBackbone: Bool { if case .full = configuration { true } else { false } }

  // MARK: Parameters

  /// Number of trained values.
  package func parameterCount(_ backbone: any Backbone) -> Int {
    parameterShapes(backbone).reduce(0) { $0 + $1.count }
  }

  private func parameterShapes(_ backbone: any Backbone) -> [ParameterShape] {
    sideShape?.parameterShapes()
      ?? BackboneTuning.parameterShapes(configuration: configuration, head: head, backbone: backbone)
  }

  /// A tree at its starting values.
  ///
  /// - Parameters:
  ///   - weights: lets each block go again after it was read, for a backbone that does not fit into memory.
  ///   - layers: those of the only stage whose values are needed; a side network's are all there.
  package func initialParameters(
    _ backbone: any Backbone, seed: UInt64, weights: (any WeightResidency)? = nil, layers: Range<Int>? = nil
  ) -> ParameterTree {
    sideShape?.initialParameters(seed: seed, backbone: backbone, weights: weights)
      ?? BackboneTuning.initialParameters(
        configuration: configuration, head: head, backbone: backbone, seed: seed, layers: layers)
  }

  /// A tree of zeros, to be filled from a file.
  package func emptyParameters(_ backbone: any Backbone) -> ParameterTree {
    sideShape?.emptyParameters()
      ?? BackboneTuning.emptyParameters(configuration: configuration, head: head, backbone: backbone)
  }

  // MARK: Computation

  /// A technique at work: what the trainer drives, and where a side network's activations come from.
  package struct AtWork {
    /// What computes.
    package let computation: any TechniqueComputation
    /// Where a side network's activations come from; nil for techniques that run the backbone itself.
    package let source: BackboneTapSource?
  }

  /// Makes the buffers of every worker.
  ///
  /// - Parameters:
  ///   - cachedOnly: true when all activations come from the cache and the backbone never runs.
  ///   - taps: where a side network's activations come from in place of backbone and cache.
  package func start(
    _ backbone: any Backbone, parameters: ParameterTree, cache: ActivationCacheStore?,
    capacity: MicroBatchCapacity, workers: Int, training: Bool, dropoutSeed: UInt64 = 0,
    cachedOnly: Bool = false, taps: (any TapSource)? = nil
  ) -> AtWork {
    guard let sideShape else {
      return AtWork(
        computation: BackboneTuning(
          configuration: configuration, head: head, backbone: backbone, parameters: parameters,
          capacity: capacity, workers: workers, training: training,
          checkpointsActivations: checkpointsActivations, dropoutSeed: dropoutSeed,
          gradientPrecision: gradientPrecision), source: nil)
    }
    let source = BackboneTapSource(
      shape: sideShape, backbone: cachedOnly || taps != nil ? nil : backbone, cache: cache,
      capacity: capacity, workers: workers)
    return AtWork(
      computation: ParallelAdapters(
        shape: sideShape, parameters: parameters, frozen: FrozenOutput(copying: backbone, head: head),
        source: taps ?? source, element: element, capacity: capacity, workers: workers, training: training,
        gradientPrecision: gradientPrecision),
      source: taps == nil ? source : nil)
  }

  /// Bytes of everything that `start` and a trainer make, the backbone's weights not counted; with `runsBackbone`
  /// false, of a side network that only reads taps.
  package func memoryBytes(
    _ backbone: any Backbone, capacity: MicroBatchCapacity, workers: Int, training: Bool,
    runsBackbone: Bool = true
  ) -> Int {
    let parameters = parameterCount(backbone)
    let values = parameters * MemoryLayout<Float>.stride
    let trainer =
      training ? MiniBatchTrainer.byteCount(parameters: parameters, workers: workers, sums: sums) : 0
    return values + trainer + workers
      * workerBytes(backbone, capacity: capacity, training: training, runsBackbone: runsBackbone)
      + frozenBytes(backbone)
  }

  private var sums: GradientSumFormat { configuration.gradientSums(gradientPrecision) }

  private func workerBytes(
    _ backbone: any Backbone, capacity: MicroBatchCapacity, training: Bool, runsBackbone: Bool
  ) -> Int {
    guard let sideShape else {
      return BackboneTuning.workerBytes(
        configuration: configuration, head: head, backbone: backbone, capacity: capacity, training: training,
        checkpointsActivations: checkpointsActivations)
    }
    return ParallelAdapters.workerBytes(
      shape: sideShape, element: element, capacity: capacity, training: training)
      + (runsBackbone ? BackboneTapSource.workspaceFloats(backbone, capacity: capacity) : 0)
      * MemoryLayout<Float>.stride
  }

  /// Bytes of what outlives the backbone.
  private func frozenBytes(_ backbone: any Backbone) -> Int {
    guard sideShape != nil else { return 0 }
    return FrozenOutput.floatCount(copying: backbone, head: head) * MemoryLayout<Float>.stride
  }

  // MARK: Writing

  /// Something that writes texts with the adapted model, for one thread.
  func generator(
    _ backbone: any EncoderDecoderBackbone, parameters: ParameterTree, settings: GenerationSettings,
    maximumSource: Int
  ) -> any TextGenerating {
    guard let sideShape else {
      return TextGenerator(
        tuned(backbone, parameters), settings: settings, maximumSource: maximumSource)
    }
    return SideTextGenerator(
      backbone, shape: sideShape, parameters: parameters, element: element, settings: settings,
      maximumSource: maximumSource)
  }

  private func tuned(
    _ backbone: some EncoderDecoderBackbone, _ parameters: ParameterTree
  ) -> any EncoderDecoderBackbone {
    configuration.tunedBackbone(backbone, parameters: parameters)
  }

  /// Bytes of the buffers of one such generator.
  func generatorBytes(
    _ backbone: any EncoderDecoderBackbone, settings: GenerationSettings, maximumSource: Int
  ) -> Int {
    guard let sideShape else {
      return TextGenerator.byteCount(backbone, settings: settings, maximumSource: maximumSource)
    }
    return SideTextGenerator.byteCount(
      backbone, shape: sideShape, element: element, settings: settings, maximumSource: maximumSource)
  }
}

/// Why a technique cannot be used with a backbone.
package enum TechniqueFailure: UserFacingFailure, Equatable {
  /// A text is to be written and the model has no decoder.
  case noDecoder(family: String)
  /// LoRA's rank is more than a layer's width.
  case rank(found: Int, layer: String, most: Int)
  /// LoRA is to change layers that the model does not have.
  case noTarget(String, family: String)
  /// A bottleneck would have no width.
  case reduction(found: Int, width: Int)

  /// Decides the exit code.
  package var reason: ExitReason { .usage }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .noDecoder(let family):
      "--task seq2seq needs a model that writes, and \(family.uppercased()) only reads; choose T5 or BART, "
        + "or make a BART of it with: hearth convert bert-to-bart"
    case .rank(let found, let layer, let most):
      "--rank is \(found), and layer \(layer) is only \(most) wide; give at most \(most)"
    case .noTarget(let target, let family):
      "--lora-targets names '\(target)', which this \(family.uppercased()) does not have"
    case .reduction(let found, let width):
      "--reduction is \(found), and the model is only \(width) wide; give at most \(width)"
    }
  }
}
