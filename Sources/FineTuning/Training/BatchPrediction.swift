import Synchronization
package import TensorKernels

/// Predictions of many micro-batches, on all workers.
package enum BatchPrediction {
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
    let failure = Mutex<TrainingFailure?>(nil)
    let wave = max(1, loop.width) * 4
    var samples = 0
    var start = 0
    while start < batches.count {
      let end = min(batches.count, start + wave)
      let first = start
      loop.forEach(end - start) { piece, worker in
        do throws(TrainingFailure) {
          let batch = batches[first + piece]
          rows.store(try technique.predict(batch, worker: worker), samples: batch.samples)
        } catch {
          failure.withLock { $0 = $0 ?? error }
        }
      }
      if let error = failure.withLock({ $0 }) { throw error }
      samples += batches[start..<end].reduce(0) { $0 + $1.samples.count }
      start = end
      guard finished(samples) else { return nil }
    }
    return rows.values()
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
