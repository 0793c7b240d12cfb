import LanguageModels
import NeuralNetworks
import TensorKernels

/// Where and how much a tuned backbone drops.
///
/// T5 drops behind the embedding, the weights of attention, behind the feed-forward's activation, what each sub-layer
/// adds, and behind the final norm. BERT drops behind the embedding, the weights of attention and what each sub-layer
/// adds; BART the same without the weights (Hugging Face's defaults for all three).
struct TuningDropout: Sendable {
  let backbone: Float
  let lowRank: Float
  let seed: UInt64
  let dropsAttention: Bool

  init(_ configuration: TechniqueConfiguration, architecture: BackboneArchitecture, seed: UInt64) {
    self.seed = seed
    dropsAttention = architecture.name != "bart"
    switch configuration {
    case .parallel: (backbone, lowRank) = (0, 0)
    case .full(let full): (backbone, lowRank) = (full.dropout, 0)
    case .houlsby(let houlsby): (backbone, lowRank) = (houlsby.dropout, 0)
    case .lora(let lora): (backbone, lowRank) = (lora.backboneDropout, lora.dropout)
    }
  }
}

/// The dropouts of one micro-batch in one step.
struct BatchDropout: Sendable {
  let backbone: RowDropout?
  let lowRank: RowDropout?
  private let dropsAttention: Bool

  /// Nil when nothing is dropped.
  init?(_ dropout: TuningDropout, _ batch: PackedMicroBatch, step: Int) {
    guard dropout.backbone > 0 || dropout.lowRank > 0 else { return nil }
    let key = DropoutKey(seed: dropout.seed, step: step)
    func rows(_ rate: Float) -> RowDropout? {
      rate > 0 ? RowDropout(rate: rate, key: key, samples: batch.samples) : nil
    }
    backbone = rows(dropout.backbone)
    lowRank = rows(dropout.lowRank)
    dropsAttention = dropout.dropsAttention
  }

  func block(layer: Int, placement: NormPlacement) -> BlockDropout {
    BlockDropout(
      layer: layer, residual: backbone, hidden: placement == .pre ? backbone : nil,
      attention: dropsAttention ? backbone : nil, lowRank: lowRank)
  }
}
