package import FineTuning
package import LanguageModels

/// What is measured of fine-tuning: the paper's techniques, and its cached phase.
package enum MeasuredTechnique: String, Codable, Sendable, CaseIterable {
  /// Every leaf of the backbone.
  case full
  /// Houlsby's bottlenecks.
  case houlsby
  /// Low-rank pairs beside queries and values.
  case lora
  /// Parallel Adapters with the frozen backbone running.
  case parallel
  /// Parallel Adapters from the activation cache.
  case cached = "parallel-cached"

  /// Whether Hearth offers dropout for it.
  package var offersDropout: Bool { self != .parallel && self != .cached }
}

/// One measurement: a model of true shape under a technique, over mini-batches of equal lengths.
package struct TechniqueCase: Codable, Sendable, Equatable {
  /// The model.
  package var shape: ModelShape
  /// The technique.
  package var technique: MeasuredTechnique
  /// Share of values that is dropped.
  package var dropout: Float
  /// Samples of a mini-batch.
  package var samples = 16
  /// Tokens of each input text.
  package var sourceTokens = 128
  /// Tokens of each target text.
  package var targetTokens = 4
  /// Compute threads of both sides.
  package var threads = 2
  /// Samples of a micro-batch; the default depends on the technique.
  package var microBatch: Int
  /// Rank of LoRA's pairs; alpha is twice that.
  package var rank = 8

  /// A measurement at batch 16 × 128 with four target tokens.
  ///
  /// Full fine-tuning adds a gradient of the whole model for every micro-batch, so there a micro-batch is a thread's
  /// share of the mini-batch.
  package init(
    shape: ModelShape, technique: MeasuredTechnique, dropout: Float, threads: Int, microBatch: Int? = nil
  ) {
    self.shape = shape
    self.technique = technique
    self.dropout = dropout
    self.threads = threads
    self.microBatch = microBatch ?? (technique == .full ? max(1, (16 + threads - 1) / threads) : 4)
  }

  /// "t5-base, lora, dropout 0.1".
  package var name: String {
    "\(shape.rawValue), \(technique.rawValue)"
      + (dropout > 0 ? ", dropout \(decimal(Double(dropout), 1))" : "")
  }

  /// The technique with its settings.
  package var configuration: TechniqueConfiguration {
    switch technique {
    case .full: .full(FullConfiguration(dropout: dropout))
    case .houlsby: .houlsby(HoulsbyConfiguration(dropout: dropout))
    case .lora:
      .lora(LoRAConfiguration(rank: rank, alpha: Float(2 * rank), dropout: 0, backboneDropout: dropout))
    case .parallel, .cached: .parallel(sideNetwork)
    }
  }

  /// Gates, all layers, as many heads as the backbone, output added to the backbone's final state: what the PyTorch
  /// worker trains, too.
  private var sideNetwork: ParallelAdapterConfiguration {
    var configuration = ParallelAdapterConfiguration(
      preset: .timing, layersPerStack: shape.architecture.stacks.map(\.layers).min() ?? 0)
    configuration.gates = true
    return configuration
  }

  /// The costs of `samples` samples in closed form.
  package func costs(samples: Int, counting: TechniqueCosts.Counting = .engine) throws -> TechniqueCosts {
    try TechniqueCosts(
      shape.architecture, technique: configuration, head: .languageModel,
      workload: CostWorkload(samples: samples, encoderLength: sourceTokens, decoderLength: targetTokens),
      counting: counting)
  }

  /// Bytes that PyTorch is expected to hold at its peak: weights, gradients, moments, autograd's tensors, the program.
  package func expectedPeerBytes() throws -> Int {
    let costs = try costs(samples: samples, counting: .paper)
    let weights =
      technique == .cached
      ? costs.gradientBytes + shape.architecture.vocabulary * 4 * 1024 : costs.weightBytes
    return weights + costs.gradientBytes + costs.optimizerBytes + costs.autogradBytes + 1 << 29
  }

  /// Bytes that Hearth is expected to hold at its peak.
  package func expectedBytes() throws -> Int {
    let costs = try costs(samples: microBatch)
    let weights = technique == .cached ? costs.gradientBytes : costs.weightBytes
    return weights + costs.gradientSumBytes + costs.optimizerBytes + threads * costs.activationBytes + 1 << 28
  }
}
