import ActivationCache
import Determinism
import LanguageModels
import NeuralNetworks
import TensorKernels

/// Where and how much a tuned backbone drops.
///
/// T5 drops behind the embedding, behind the feed-forward's activation, what each sub-layer adds, and behind the
/// final norm; BERT and BART drop behind the embedding and what each sub-layer adds.
struct TuningDropout: Sendable {
  let backbone: Float
  let lowRank: Float
  let seed: UInt64

  init(_ configuration: TechniqueConfiguration, seed: UInt64) {
    self.seed = seed
    switch configuration {
    case .parallel: (backbone, lowRank) = (0, 0)
    case .full(let full): (backbone, lowRank) = (full.dropout, 0)
    case .houlsby(let houlsby): (backbone, lowRank) = (houlsby.dropout, 0)
    case .lora(let lora): (backbone, lowRank) = (lora.backboneDropout, lora.dropout)
    }
  }

  /// A key for each sample of a step; the sample's content decides it, not its place.
  func keys(_ batch: PackedMicroBatch, step: Int) -> [UInt64] {
    batch.keys.map { key in
      var generator = SeededGenerator(seed: seed, UInt64(truncatingIfNeeded: step), key.prefix)
      return generator.next()
    }
  }
}

/// The dropouts of one micro-batch in one step.
struct BatchDropout: Sendable {
  let backbone: RowDropout?
  let lowRank: RowDropout?

  /// Nil when nothing is dropped.
  init?(_ dropout: TuningDropout, _ batch: PackedMicroBatch, step: Int) {
    guard dropout.backbone > 0 || dropout.lowRank > 0 else { return nil }
    let keys = dropout.keys(batch, step: step)
    backbone = dropout.backbone > 0 ? RowDropout(probability: dropout.backbone, keys: keys) : nil
    lowRank = dropout.lowRank > 0 ? RowDropout(probability: dropout.lowRank, keys: keys) : nil
  }

  func block(layer: Int, placement: NormPlacement) -> BlockDropout {
    BlockDropout(
      layer: layer, residual: backbone, hidden: placement == .pre ? backbone : nil, lowRank: lowRank)
  }
}
