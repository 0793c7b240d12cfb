package import NeuralNetworks
import Synchronization
package import TensorKernels

/// Whole micro-batches of a mini-batch under a technique, each on one worker, with a place for each one's loss.
///
/// - Safety: one thread drives it; during the loop a worker writes only its piece's loss.
package final class TechniqueWork: MiniBatchComputation, @unchecked Sendable {
  private let technique: any TechniqueComputation
  private let losses: UnsafeMutablePointer<Double>
  private let failure = Mutex<TrainingFailure?>(nil)
  private let capacity: Int
  /// Computes the micro-batch at a position of the mini-batch; false when another device does.
  private let isOwn: (Int) -> Bool
  private var miniBatch: [PackedMicroBatch] = []
  /// Positions in the mini-batch that are computed here.
  private var positions: [Int] = []
  private var sums: (any GradientSums)?
  /// Made once, so that a step hands out its work without allocating.
  private var computePiece: @Sendable (_ piece: Int, _ worker: Int) -> Void = { _, _ in }

  /// The work of at most `maximumMicroBatches` micro-batches.
  ///
  /// - Parameter isOwn: which positions of the mini-batch at hand are computed here.
  package init(
    _ technique: any TechniqueComputation, maximumMicroBatches: Int,
    isOwn: @escaping (Int) -> Bool = { _ in true }
  ) {
    self.technique = technique
    self.isOwn = isOwn
    capacity = max(1, maximumMicroBatches)
    losses = .allocate(capacity: capacity)
    losses.initialize(repeating: 0, count: capacity)
    positions.reserveCapacity(capacity)
    computePiece = { [unowned self] piece, worker in compute(positions[piece], worker: worker) }
  }

  deinit { losses.deallocate() }

  /// The trainable parameters.
  package var parameters: ParameterTree { technique.parameters }
  /// How the sums of its gradients are kept.
  package var gradientSums: GradientSumFormat { technique.gradientSums }
  /// How often at most a micro-batch adds to one sum.
  package var contributions: Int { technique.contributions }
  /// Tells the technique the step.
  package func begin(step: Int) { technique.begin(step: step) }

  /// Trains the micro-batches of this device on all workers.
  package func accumulate(
    _ miniBatch: [PackedMicroBatch], into sums: any GradientSums, loop: any ParallelLoop
  ) throws(TrainingFailure) {
    precondition(miniBatch.count <= capacity, "\(miniBatch.count) micro-batches of at most \(capacity)")
    self.miniBatch = miniBatch
    self.sums = sums
    positions.removeAll(keepingCapacity: true)
    for position in miniBatch.indices where isOwn(position) { positions.append(position) }
    failure.withLock { $0 = nil }
    loop.forEach(positions.count, computePiece)
    self.sums = nil
    if let error = failure.withLock({ $0 }) { throw error }
  }

  private func compute(_ position: Int, worker: Int) {
    guard let sums else { return }
    do throws(TrainingFailure) {
      losses[position] = try technique.train(miniBatch[position], worker: worker, sink: sums)
    } catch {
      failure.withLock { $0 = $0 ?? error }
    }
  }

  /// The loss of the micro-batch at `position`; nil when another device computes it.
  package func loss(at position: Int) -> Double? { isOwn(position) ? losses[position] : nil }
}
