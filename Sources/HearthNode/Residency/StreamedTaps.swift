import FineTuning
import LanguageModels
import TensorKernels

/// Predictions over a backbone that is read layer by layer: the taps of a chunk of texts at a time, in memory only.
struct StreamedTaps {
  /// Where the side network reads the chunk at hand.
  let taps: ChunkTaps
  private let forward: LayerwiseForward
  private let chunkTokens: Int

  /// Plans the memory; nil when the whole backbone fits into `budget`, or the technique runs it itself.
  ///
  /// - Throws: `RunFailure.memoryBudgetExceeded` with what even the smallest chunk needs.
  init?(
    _ technique: TrainedTechnique, capacity: MicroBatchCapacity, model: OpenedModel, workers: Int, budget: Int
  ) throws(RunFailure) {
    guard let backbone = model.backbone, let weights = model.streamedWeights else {
      preconditionFailure("a plan needs the backbone's shape")
    }
    guard let shape = technique.sideShape else { return nil }
    let element = technique.element
    func bytes(runsBackbone: Bool) -> Int {
      technique.memoryBytes(
        backbone, capacity: capacity, workers: workers, training: false, runsBackbone: runsBackbone)
    }
    if bytes(runsBackbone: true) + model.byteCount <= budget { return nil }
    // Converted weights are in memory already: nothing is gained by reading the float32 file layer by layer.
    guard model.weightDecision == .float32 else {
      throw .memoryBudgetExceeded(
        needed: bytes(runsBackbone: true) + model.byteCount, budget: budget,
        detail: "with the backbone in \(model.weightDecision.precision.rawValue), as the adapter was trained")
    }
    let network = bytes(runsBackbone: false)
    var costs = StreamingCosts(
      backbone, weights: weights, element: element, capacity: capacity, threads: workers,
      tapBytes: ChunkTaps.byteCount(shape: shape, element: element, chunkTokens: 1))
    costs.fixed += network
    guard costs.smallest <= budget else {
      throw .memoryBudgetExceeded(
        needed: costs.smallest, budget: budget,
        detail: "with the backbone read layer by layer, \(ByteCount(weights.windowBytes(backbone))) at a time"
      )
    }
    chunkTokens = costs.chunkTokens(budget: budget, tokens: .max)
    taps = ChunkTaps(shape: shape, element: element, chunkTokens: chunkTokens)
    forward = LayerwiseForward(
      shape: shape, backbone: backbone, weights: weights, element: element, capacity: capacity,
      chunkTokens: chunkTokens, workers: workers)
  }

  /// As `BatchPrediction.run`, chunk by chunk; `batches` have consecutive ordinals.
  func predict(
    _ batches: [PackedMicroBatch], outputs: Int, sampleCount: Int, technique: any TechniqueComputation,
    loop: any ParallelLoop, finished: (Int) -> Bool
  ) throws(TrainingFailure) -> [Float]? {
    var values = [Float](repeating: 0, count: sampleCount * outputs)
    let isWhole = try forEachChunk(batches, loop: loop, finished: finished) {
      (chunk) throws(TrainingFailure) in
      let part = try BatchPrediction.run(
        chunk, outputs: outputs, sampleCount: sampleCount, technique: technique, loop: loop
      ) { _ in true }
      for sample in chunk.flatMap(\.samples) {
        for index in sample * outputs..<(sample + 1) * outputs { values[index] = part?[index] ?? 0 }
      }
    }
    return isWhole ? values : nil
  }

  /// As `BatchPrediction.loss`, chunk by chunk.
  func loss(
    _ batches: [PackedMicroBatch], technique: any TechniqueComputation, loop: any ParallelLoop,
    finished: (Int) -> Bool
  ) throws(TrainingFailure) -> Double? {
    var sum = 0.0
    let isWhole = try forEachChunk(batches, loop: loop, finished: finished) {
      (chunk) throws(TrainingFailure) in
      sum += try BatchPrediction.loss(chunk, technique: technique, loop: loop) { _ in true } ?? 0
    }
    return isWhole ? sum : nil
  }

  /// Calls `body` for each chunk while its taps are there; false when `finished` ended it.
  private func forEachChunk(
    _ batches: [PackedMicroBatch], loop: any ParallelLoop, finished: (Int) -> Bool,
    body: ([PackedMicroBatch]) throws(TrainingFailure) -> Void
  ) throws(TrainingFailure) -> Bool {
    var done = 0
    for range in LayerwiseForward.chunks(batches, chunkTokens: chunkTokens) {
      let chunk = Array(batches[range])
      taps.begin(chunk)
      let samples = chunk.reduce(0) { $0 + $1.samples.count }
      let isWhole = try forward.run(chunk, sink: taps, loop: loop) { progress in
        finished(done + Int(Double(samples) * progress.fraction))
      }
      guard isWhole else { return false }
      try body(chunk)
      done += samples
    }
    return finished(done)
  }
}
