import FineTuning
import LanguageModels
import TensorKernels

/// The memory of a run whose backbone is read layer by layer: a fill of the activation cache first, then epochs from
/// the cache alone.
package struct StreamingPlan: Sendable, Codable, Equatable {
  /// Most bytes of weights in memory at once.
  package var windowBytes: Int
  /// Tokens that pass through a layer while its weights are in memory.
  package var chunkTokens: Int
  /// Bytes of the fill: weights, streams, workspaces, and taps on their way to the disk.
  package var fillBytes: Int
  /// Bytes of the epochs after it.
  package var trainingBytes: Int

  /// A plan given by its numbers.
  package init(windowBytes: Int, chunkTokens: Int, fillBytes: Int, trainingBytes: Int) {
    self.windowBytes = windowBytes
    self.chunkTokens = chunkTokens
    self.fillBytes = fillBytes
    self.trainingBytes = trainingBytes
  }

  /// The larger of the two.
  package var bytes: Int { max(fillBytes, trainingBytes) }

  /// Larger chunks make a fill no faster, since by then the next layer is read while the last one computes, and an
  /// interruption costs the chunk at hand.
  static let mostChunkTokens = 16_384
}

/// What a layer-by-layer forward takes beside the tokens of its chunk.
struct StreamingCosts: Equatable {
  /// Bytes whatever the chunk is: weights and workspaces.
  var fixed: Int
  /// Bytes of a token of a chunk.
  var perToken: Int
  /// Tokens of the smallest chunk: the largest micro-batch.
  var smallestChunk: Int

  /// The costs of a forward whose taps each take `tapBytes` a token.
  init(
    _ backbone: any Backbone, weights: StreamedWeights, element: ActivationElement,
    capacity: MicroBatchCapacity, threads: Int, tapBytes: Int
  ) {
    fixed =
      weights.windowBytes(backbone) + weights.residentBytes
      + threads * LayerwiseForward.workerBytes(backbone, element: element, capacity: capacity)
    perToken = LayerwiseForward.streamBytes(backbone, tokens: 1) + tapBytes
    smallestChunk = capacity.encoderTokens + capacity.decoderTokens
  }

  init(fixed: Int, perToken: Int, smallestChunk: Int) {
    self.fixed = fixed
    self.perToken = perToken
    self.smallestChunk = smallestChunk
  }

  /// Bytes that the smallest chunk needs.
  var smallest: Int { fixed + smallestChunk * perToken }

  /// The largest useful chunk within `budget`, never below the smallest.
  func chunkTokens(budget: Int, tokens: Int) -> Int {
    let fitting = (budget - fixed) / max(1, perToken)
    return max(smallestChunk, min(fitting, StreamingPlan.mostChunkTokens, tokens))
  }
}

extension StreamingPlan {
  /// The plan of a run within `budget`.
  ///
  /// - Throws: `RunFailure.memoryBudgetExceeded` with what even the smallest chunk needs.
  init(_ run: PreparedRun, model: OpenedModel, threads: Int, budget: Int) throws(RunFailure) {
    guard let backbone = model.backbone, let weights = model.streamedWeights,
      let shape = run.technique.sideShape
    else {
      preconditionFailure("a plan needs the backbone's shape and a technique that reads taps")
    }
    // Two taps of a chunk are in the system's memory: the one that is written and the one on its way to the disk.
    let costs = StreamingCosts(
      backbone, weights: weights, element: run.request.cache, capacity: run.capacity, threads: threads,
      tapBytes: 2 * run.request.cache.rowBytes(width: shape.backboneWidth))
    let start = run.parameterCount * MemoryLayout<Float>.stride + weights.blockBytes(backbone)
    trainingBytes = max(run.cachedBytes(threads: threads, backbone: backbone), start) + weights.residentBytes
    let needed = max(costs.smallest, trainingBytes)
    guard needed <= budget else {
      throw .memoryBudgetExceeded(
        needed: needed, budget: budget,
        detail: "read layer by layer, the backbone needs \(ByteCount(costs.smallest)), "
          + "the side network and its optimizer \(ByteCount(trainingBytes))")
    }
    windowBytes = weights.windowBytes(backbone) + weights.residentBytes
    let tokens = (run.batches.flatMap { $0 } + run.validation).reduce(0) { $0 + $1.tokens }
    chunkTokens = costs.chunkTokens(budget: budget, tokens: tokens)
    fillBytes = costs.fixed + chunkTokens * costs.perToken
  }
}
