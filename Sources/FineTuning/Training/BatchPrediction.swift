import Synchronization
package import TensorKernels

/// Predictions and losses of many micro-batches, on all workers.
package enum BatchPrediction {
  /// The sum of the losses of all micro-batches, without gradients; nil when `finished` returned false.
  ///
  /// Losses are added in the order of the micro-batches, so the sum does not depend on the order of the work.
  package static func loss(
    _ batches: [PackedMicroBatch], technique: any TechniqueComputation, loop: any ParallelLoop,
    finished: (Int) -> Bool
  ) throws(TrainingFailure) -> Double? {
    let losses = Mutex([Double](repeating: 0, count: batches.count))
    let isComplete = try forEachWave(batches, loop: loop, finished: finished) {
      (index, worker) throws(TrainingFailure) in
      let loss = try technique.loss(batches[index], worker: worker)
      losses.withLock { $0[index] = loss }
    }
    return isComplete ? losses.withLock { $0.reduce(0, +) } : nil
  }

  /// Predicts every micro-batch and returns one row of `outputs` values for each of `sampleCount` samples.
  ///
  /// Rows are placed by sample index, so the result does not depend on the order of the work.
  ///
  /// - Parameter finished: called with the number of samples after every wave of micro-batches; returning
  ///   false ends the prediction early with nil.
  package static func run(
    _ batches: [PackedMicroBatch], outputs: Int, sampleCount: Int, technique: any TechniqueComputation,
    loop: any ParallelLoop, finished: (Int) -> Bool
  ) throws(TrainingFailure) -> [Float]? {
    let rows = PredictionRows(sampleCount * outputs)
    let isComplete = try forEachWave(batches, loop: loop, finished: finished) {
      (index, worker) throws(TrainingFailure) in
      rows.store(try technique.predict(batches[index], worker: worker), samples: batches[index].samples)
    }
    return isComplete ? rows.values() : nil
  }

  /// Calls `compute` for every micro-batch, a wave of them at a time; false when `finished` ended it.
  private static func forEachWave(
    _ batches: [PackedMicroBatch], loop: any ParallelLoop, finished: (Int) -> Bool,
    compute: @escaping @Sendable (_ index: Int, _ worker: Int) throws(TrainingFailure) -> Void
  ) throws(TrainingFailure) -> Bool {
    let failure = Mutex<TrainingFailure?>(nil)
    let wave = max(1, loop.width) * 4
    var samples = 0
    var start = 0
    while start < batches.count {
      let end = min(batches.count, start + wave)
      let first = start
      loop.forEach(end - start) { piece, worker in
        do throws(TrainingFailure) {
          try compute(first + piece, worker)
        } catch {
          failure.withLock { $0 = $0 ?? error }
        }
      }
      if let error = failure.withLock({ $0 }) { throw error }
      samples += batches[start..<end].reduce(0) { $0 + $1.samples.count }
      start = end
      guard finished(samples) else { return false }
    }
    return true
  }
}

/// Memory for predicted rows, written by many workers.
///
/// - Safety: every sample is in one micro-batch, so no two workers write the same row.
private final class PredictionRows: @unchecked Sendable {
  private let storage: UnsafeMutableBufferPointer<Float>

  init(_ count: Int) {
    storage = .allocate(capacity: max(1, count))
    storage.initialize(repeating: 0)
  }

  deinit { storage.deallocate() }

  func store(_ predictions: Matrix, samples: [Int]) {
    for (row, sample) in samples.enumerated() {
      for column in 0..<predictions.columns {
        storage[sample * predictions.columns + column] = predictions[row, column]
      }
    }
  }

  func values() -> [Float] { Array(storage) }
}
