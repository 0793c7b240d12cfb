import FineTuning
import LanguageModels
import NeuralNetworks

/// The weights of a mapped checkpoint, fetched before a layer runs and let go behind it.
struct StreamedWeights: WeightResidency {
  private let checkpoint: Checkpoint

  init(_ checkpoint: Checkpoint) { self.checkpoint = checkpoint }

  func willNeed(_ leaves: [Parameter]) { checkpoint.willNeed(leaves) }

  func release(_ leaves: [Parameter]) { checkpoint.release(leaves) }

  /// Most bytes of mapped weights that a layer-by-layer forward holds at once: two blocks that follow each other, or
  /// the word embedding.
  func windowBytes(_ backbone: any Backbone) -> Int {
    let blocks = backbone.stacks.flatMap(\.blocks).map { checkpoint.borrowedByteCount($0.parameters.leaves) }
    let pairs = zip(blocks, blocks.dropFirst()).map(+)
    return max(checkpoint.borrowedByteCount([backbone.embedding]), pairs.max() ?? blocks.max() ?? 0)
  }

  /// Most bytes of one block.
  func blockBytes(_ backbone: any Backbone) -> Int {
    backbone.stacks.flatMap(\.blocks).map { checkpoint.borrowedByteCount($0.parameters.leaves) }.max() ?? 0
  }

  /// Bytes of weights that stay in memory because they were converted.
  var residentBytes: Int { checkpoint.ownedByteCount }
}
