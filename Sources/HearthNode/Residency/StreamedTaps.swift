import FineTuning
import LanguageModels
import TensorKernels

/// Predictions over a backbone that is read layer by layer: the taps of a chunk of texts at a time, in memory only.
struct StreamedTaps {
  /// Where the side network reads the chunk at hand.
  let taps: ChunkTaps
  private let forward: LayerwiseForward
  private let chunkTokens: Int

  /// Plans the memory; nil when the whole backbone fits into `budget`.
  ///
  /// - Throws: `RunFailure.memoryBudgetExceeded` with what even the smallest chunk needs.
  init?(
    shape: SideNetworkShape, element: ActivationElement, capacity: MicroBatchCapacity, model: OpenedModel,
    workers: Int, budget: Int
  ) throws(RunFailure) {
    guard let backbone = model.backbone, let weights = model.weights else {
      preconditionFailure("a plan needs the backbone's shape")
    }
    let network =
      shape.parameterCount * MemoryLayout<Float>.stride + workers
      * ParallelAdapters.workerBytes(shape: shape, element: element, capacity: capacity, training: false)
    let workspace =
      BackboneTapSource.workspaceFloats(backbone, capacity: capacity) * MemoryLayout<Float>.stride
    if network + workers * workspace + model.byteCount <= budget { return nil }
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
    var done = 0
    for range in LayerwiseForward.chunks(batches, chunkTokens: chunkTokens) {
      let chunk = Array(batches[range])
      taps.begin(chunk)
      let samples = chunk.reduce(0) { $0 + $1.samples.count }
      let isWhole = try forward.run(chunk, sink: taps, loop: loop) { progress in
        finished(done + Int(Double(samples) * progress.fraction))
      }
      guard isWhole else { return nil }
      let part = try BatchPrediction.run(
        chunk, outputs: outputs, sampleCount: sampleCount, technique: technique, loop: loop
      ) { _ in true }
      for sample in chunk.flatMap(\.samples) {
        for index in sample * outputs..<(sample + 1) * outputs { values[index] = part?[index] ?? 0 }
      }
      done += samples
    }
    return finished(done) ? values : nil
  }
}
