package import NeuralNetworks
import Synchronization
package import TensorKernels

/// Watches gradients come in while a mini-batch is computed, so that finished ones can travel meanwhile.
package protocol GradientObserver: AnyObject, Sendable {
  /// A mini-batch begins, of which this device computes `units` micro-batches.
  func begin(units: Int, sums: any GradientSums)
  /// Where the gradients of one of them go; any thread may ask.
  func sink(unit: Int, sums: any GradientSums) -> any GradientSink
  /// All gradients of one of them are in the sums; any thread may tell.
  func finished(unit: Int)
}

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
  private let observer: (any GradientObserver)?
  private var miniBatch: [PackedMicroBatch] = []
  /// Positions in the mini-batch that are computed here.
  private var positions: [Int] = []
  private var sums: (any GradientSums)?
  /// Made once, so that a step hands out its work without allocating.
  private var computePiece: @Sendable (_ piece: Int, _ worker: Int) -> Void = { _, _ in }

  /// The work of at most `maximumMicroBatches` micro-batches.
  ///
  /// - Parameters:
  ///   - observer: watches the gradients; nil for nobody.
  ///   - isOwn: which positions of the mini-batch at hand are computed here.
  package init(
    _ technique: any TechniqueComputation, maximumMicroBatches: Int, observer: (any GradientObserver)? = nil,
    isOwn: @escaping (Int) -> Bool = { _ in true }
  ) {
    self.technique = technique
    self.observer = observer
    self.isOwn = isOwn
    capacity = max(1, maximumMicroBatches)
    losses = .allocate(capacity: capacity)
    losses.initialize(repeating: 0, count: capacity)
    positions.reserveCapacity(capacity)
    computePiece = { [unowned self] piece, worker in compute(piece, worker: worker) }
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
    observer?.begin(units: positions.count, sums: sums)
    loop.forEach(positions.count, computePiece)
    self.sums = nil
    if let error = failure.withLock({ $0 }) { throw error }
  }

  private func compute(_ piece: Int, worker: Int) {
    guard let sums else { return }
    let position = positions[piece]
    do throws(TrainingFailure) {
      losses[position] = try technique.train(
        miniBatch[position], worker: worker, sink: observer?.sink(unit: piece, sums: sums) ?? sums)
      observer?.finished(unit: piece)
    } catch {
      failure.withLock { $0 = $0 ?? error }
    }
  }

  /// The loss of the micro-batch at `position`; nil when another device computes it.
  package func loss(at position: Int) -> Double? { isOwn(position) ? losses[position] : nil }
}
