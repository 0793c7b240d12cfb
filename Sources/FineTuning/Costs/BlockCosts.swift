package import LanguageModels
package import NeuralNetworks
import TensorKernels

/// What happens to one block while a technique trains.
struct BlockTraining {
  /// The block's own leaves get gradients.
  var trainsWeights = false
  /// Low-rank pairs, and beside which matrices.
  var lora: LoRAConfiguration?
  /// Width of the bottlenecks behind every sub-layer.
  var bottleneck: Int?
  /// Something below the block is trained, so that its input needs a gradient.
  var passes = false
  /// The encoder's states need a gradient.
  var passesEncoder = false

  /// The backward pass goes through the block, or ends in it.
  var isDifferentiated: Bool { trainsWeights || lora != nil || bottleneck != nil || passes }
  /// A leaf of a sub-layer, or something below it, is trained.
  var hasLeaves: Bool { trainsWeights || lora != nil || bottleneck != nil }
}

/// Lengths of a micro-batch whose samples are equally long: what costs are counted for.
package struct CostWorkload: Sendable, Equatable {
  /// Number of samples.
  package var samples: Int
  /// Tokens of each input text.
  package var encoderLength: Int
  /// Tokens of each target text; not used without a decoder.
  package var decoderLength: Int

  /// Samples of equal lengths; all must be positive.
  package init(samples: Int, encoderLength: Int, decoderLength: Int = 1) {
    precondition(
      samples > 0 && encoderLength > 0 && decoderLength > 0,
      "costs of \(samples) samples of \(encoderLength) and \(decoderLength) tokens")
    self.samples = samples
    self.encoderLength = encoderLength
    self.decoderLength = decoderLength
  }

  /// Tokens of all input texts.
  package var encoderTokens: Int { samples * encoderLength }
  /// Tokens of all target texts.
  package var decoderTokens: Int { samples * decoderLength }
  /// Tokens of a stack.
  package func tokens(_ kind: StackKind) -> Int { kind == .encoder ? encoderTokens : decoderTokens }
  /// The extents of a stack's sequences.
  func sequences(_ kind: StackKind) -> PackedSequences {
    PackedSequences(lengths: [Int](repeating: length(kind), count: samples))
  }
  /// Tokens of one sequence of a stack.
  package func length(_ kind: StackKind) -> Int { kind == .encoder ? encoderLength : decoderLength }
}

extension BlockConfiguration {
  /// Parameters of the block.
  package var parameterCount: Int { parameterShapes(prefix: "").reduce(0) { $0 + $1.count } }

  /// Parameters that a technique adds to the block.
  func addedParameters(_ training: BlockTraining) -> Int {
    var count = 0
    let attentions = crossAttention ? 2 : 1
    if let bottleneck = training.bottleneck {
      count += (attentions + 1) * (2 * width * bottleneck + bottleneck + width)
    }
    guard let lora = training.lora else { return count }
    for target in lora.targets {
      switch target {
      case .query, .key, .value, .output: count += attentions * lora.rank * (width + inner)
      case .gate: count += gated ? lora.rank * (width + hidden) : 0
      case .up, .down: count += lora.rank * (width + hidden)
      }
    }
    return count
  }

  /// Operations of the block's products, forward and backward.
  ///
  /// - Parameter absorbs: cross-attention is computed against the encoder's states where that is cheaper, as the
  ///   engine does; false projects keys and values of every encoder token, as PyTorch and the paper do.
  func products(
    _ kind: StackKind, _ workload: CostWorkload, _ training: BlockTraining, absorbs: Bool
  ) -> ProductCounter {
    var counter = ProductCounter()
    let rows = workload.tokens(kind)
    // Below the first sub-layer only what lies under the block can need a gradient.
    var passes = training.passes
    countSelfAttention(&counter, rows, workload.length(kind), workload.samples, training, passes: passes)
    passes = passes || training.hasLeaves
    if crossAttention {
      countCrossAttention(&counter, workload, training, passes: passes, absorbs: absorbs)
    }
    let pairs = training.lora
    func linear(_ target: LoRATarget, _ inputs: Int, _ outputs: Int, passes: Bool) {
      counter.weight(
        rows: rows, inputs: inputs, outputs: outputs, trains: training.trainsWeights, passes: passes)
      guard let pairs, pairs.targets.contains(target) else { return }
      counter.lowRank(rows: rows, inputs: inputs, outputs: outputs, rank: pairs.rank, passes: passes)
    }
    if gated { linear(.gate, width, hidden, passes: passes) }
    linear(.up, width, hidden, passes: passes)
    let feedsDown =
      passes || training.trainsWeights
      || pairs.map { !$0.targets.filter { $0 == .gate || $0 == .up }.isEmpty } ?? false
    linear(.down, hidden, width, passes: feedsDown)
    countBottleneck(&counter, rows, training, passes: passes || feedsDown)
    return counter
  }

  private func countBottleneck(
    _ counter: inout ProductCounter, _ rows: Int, _ training: BlockTraining, passes: Bool
  ) {
    guard let bottleneck = training.bottleneck else { return }
    counter.weight(rows: rows, inputs: width, outputs: bottleneck, trains: true, passes: passes)
    counter.weight(rows: rows, inputs: bottleneck, outputs: width, trains: true, passes: true)
  }

  private func countSelfAttention(
    _ counter: inout ProductCounter, _ rows: Int, _ length: Int, _ samples: Int, _ training: BlockTraining,
    passes: Bool
  ) {
    let differentiates = passes || training.trainsWeights || reachesInputs(training.lora)
    for target in [LoRATarget.query, .key, .value] {
      counter.weight(
        rows: rows, inputs: width, outputs: inner, trains: training.trainsWeights, passes: passes)
      countLowRank(&counter, target, rows, width, inner, training, passes: passes)
    }
    counter.pair(samples * heads * length, length, headSize, differentiated: differentiates)
    counter.pair(samples * heads * length, headSize, length, differentiated: differentiates)
    counter.weight(
      rows: rows, inputs: inner, outputs: width, trains: training.trainsWeights, passes: differentiates)
    countLowRank(&counter, .output, rows, inner, width, training, passes: differentiates)
    countBottleneck(
      &counter, rows, training,
      passes: differentiates || training.lora?.targets.contains(.output) ?? false)
  }

  private func countCrossAttention(
    _ counter: inout ProductCounter, _ workload: CostWorkload, _ training: BlockTraining, passes: Bool,
    absorbs: Bool
  ) {
    let (rows, keys) = (workload.decoderTokens, workload.encoderTokens)
    let trains = training.trainsWeights
    let differentiates = passes || training.passesEncoder || trains || reachesInputs(training.lora)
    counter.weight(rows: rows, inputs: width, outputs: inner, trains: trains, passes: passes)
    countLowRank(&counter, .query, rows, width, inner, training, passes: passes)
    let pairs = workload.samples * workload.decoderLength * workload.encoderLength
    let isCheaper = AbsorbedCrossAttention.isCheaper(
      self, queries: workload.sequences(.decoder), keys: workload.sequences(.encoder))
    if absorbs && isCheaper {
      // (q·W_k) and (context)·W_vᵀ a head; scores and mixture against the encoder's states themselves.
      for target in [LoRATarget.key, .value] {
        counter.weight(rows: rows, inputs: width, outputs: inner, trains: trains, passes: differentiates)
        countLowRank(&counter, target, rows, width, inner, training, passes: differentiates)
        counter.pair(pairs * heads, width, 1, differentiated: differentiates)
      }
    } else {
      for target in [LoRATarget.key, .value] {
        counter.weight(
          rows: keys, inputs: width, outputs: inner, trains: trains, passes: training.passesEncoder)
        countLowRank(&counter, target, keys, width, inner, training, passes: training.passesEncoder)
        counter.pair(pairs, inner, 1, differentiated: differentiates)
      }
    }
    counter.weight(rows: rows, inputs: inner, outputs: width, trains: trains, passes: differentiates)
    countLowRank(&counter, .output, rows, inner, width, training, passes: differentiates)
    countBottleneck(
      &counter, rows, training,
      passes: differentiates || training.lora?.targets.contains(.output) ?? false)
  }

  private func countLowRank(
    _ counter: inout ProductCounter, _ target: LoRATarget, _ rows: Int, _ inputs: Int, _ outputs: Int,
    _ training: BlockTraining, passes: Bool
  ) {
    guard let lora = training.lora, lora.targets.contains(target) else { return }
    counter.lowRank(rows: rows, inputs: inputs, outputs: outputs, rank: lora.rank, passes: passes)
  }

  /// Pairs beside the projections that feed the attention make it need a gradient.
  private func reachesInputs(_ lora: LoRAConfiguration?) -> Bool {
    lora.map { !$0.targets.filter { [.query, .key, .value].contains($0) }.isEmpty } ?? false
  }
}
