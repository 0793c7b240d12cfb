package import NeuralNetworks
import Synchronization
package import TensorKernels

/// How the optimizer is driven.
public struct OptimizationSettings: Codable, Sendable, Equatable {
  /// Highest learning rate, reached after the warm-up.
  public var learningRate: Float
  /// Share of all steps that warms up linearly; then the rate falls linearly to 0.
  public var warmupFraction: Float
  /// Decoupled weight decay of AdamW, on weights only.
  public var weightDecay: Float
  /// Largest global gradient norm; larger gradients are scaled down to it.
  public var maximumNorm: Float

  /// Settings; the defaults are those of the quality table in docs/REPRODUCING-PAC.md.
  public init(
    learningRate: Float, warmupFraction: Float = 0.06, weightDecay: Float = 0.01, maximumNorm: Float = 1
  ) {
    self.learningRate = learningRate
    self.warmupFraction = warmupFraction
    self.weightDecay = weightDecay
    self.maximumNorm = maximumNorm
  }
}

/// What one optimizer step did.
package struct StepResult: Sendable, Equatable {
  /// Sum of the losses of all units (samples, or decoder tokens).
  package var lossSum: Double
  /// Number of units.
  package var units: Int
  /// Global norm of the mean gradient before clipping.
  package var gradientNorm: Double
}

/// Optimizer steps over mini-batches: exact, order-free gradient sums and one replicated update (docs/ARCHITECTURE.md).
///
/// Micro-batches of a mini-batch run on any worker in any order. Each one's gradient becomes fixed-point
/// integers, in the format that the technique names, whose sum no order can change; so the new parameters depend on
/// the mini-batch alone. All workers add
/// to one vector of sums, and the update takes the gradient from it a block at a time: a gradient in floats never
/// exists as a whole.
///
/// - Safety: one thread drives a trainer.
package final class MiniBatchTrainer: @unchecked Sendable {
  /// The technique that is trained.
  package let technique: any TechniqueComputation
  /// The optimizer with its moments.
  package private(set) var optimizer: AdamWOptimizer
  /// Steps that were computed a second time, because a gradient did not fit its sum.
  package private(set) var repeatedSteps = 0
  private let schedule: LearningRateSchedule
  private let clipping: GradientClipping
  private let sums: any GradientSums
  private let work: MiniBatchWork
  private let update: ParameterUpdate
  /// Made once, so that a step hands out its work without allocating.
  private let computePiece: @Sendable (_ piece: Int, _ worker: Int) -> Void
  private let maximumMicroBatches: Int
  private let workers: Int

  /// A trainer of `totalSteps` steps of at most `maximumMicroBatches` micro-batches on `workers` workers.
  package init(
    technique: any TechniqueComputation, settings: OptimizationSettings, totalSteps: Int,
    maximumMicroBatches: Int, workers: Int
  ) {
    self.technique = technique
    self.maximumMicroBatches = maximumMicroBatches
    self.workers = max(1, workers)
    var configuration = AdamWConfiguration()
    configuration.weightDecay = settings.weightDecay
    optimizer = AdamWOptimizer(technique.parameters, configuration: configuration)
    schedule = LearningRateSchedule(
      peak: settings.learningRate, warmupFraction: settings.warmupFraction, totalSteps: max(1, totalSteps))
    clipping = GradientClipping(maximumNorm: settings.maximumNorm)
    sums = technique.gradientSums.makeSums(
      of: technique.parameters, maximumContributions: max(1, maximumMicroBatches))
    let work = MiniBatchWork(
      technique: technique, sums: sums, maximumMicroBatches: max(1, maximumMicroBatches))
    self.work = work
    computePiece = { piece, worker in work.compute(piece, worker: worker) }
    update = ParameterUpdate(sums, workers: self.workers)
  }

  /// Bytes that a trainer of `count` parameters takes beside the technique's own.
  package static func byteCount(
    parameters count: Int, workers: Int, sums: GradientSumFormat = .fixed64
  ) -> Int {
    count * (2 * MemoryLayout<Float>.stride + sums.bytesPerParameter)
      + ParameterUpdate.byteCount(workers: workers)
  }

  /// Trains one mini-batch; `units` is the number of losses it sums over.
  package func step(
    _ miniBatch: [PackedMicroBatch], units: Int, loop: any ParallelLoop
  ) throws(TrainingFailure) -> StepResult {
    precondition(
      miniBatch.count <= maximumMicroBatches && loop.width <= workers,
      "\(miniBatch.count) micro-batches on \(loop.width) workers exceed the plan")
    technique.begin(step: optimizer.step + 1)
    var lossSum = try accumulate(miniBatch, loop: loop)
    while true {
      let outcome = sums.conclude()
      if outcome == .complete { break }
      guard outcome == .redo, lossSum.isFinite else { throw .diverged(step: optimizer.step + 1) }
      repeatedSteps += 1
      lossSum = try accumulate(miniBatch, loop: loop)
    }
    let scaled = clipping.scale(
      sumOfSquares: update.sumOfSquares(loop: loop), gradientScale: 1 / Float(max(1, units)))
    guard scaled.norm.isFinite, lossSum.isFinite else { throw .diverged(step: optimizer.step + 1) }
    optimizer.step += 1
    update.apply(
      optimizer, gradientScale: scaled.scale, learningRate: schedule.rate(step: optimizer.step), loop: loop)
    return StepResult(lossSum: lossSum, units: units, gradientNorm: scaled.norm)
  }

  /// Runs every micro-batch and leaves the sum of their gradients in the sums.
  private func accumulate(
    _ miniBatch: [PackedMicroBatch], loop: any ParallelLoop
  ) throws(TrainingFailure) -> Double {
    update.clearSums()
    sums.begin()
    work.begin(miniBatch)
    loop.forEach(miniBatch.count, computePiece)
    return try work.finish()
  }

  // MARK: State

  /// The exponents of the gradient sums; part of a run's state.
  package var exponents: [Int32] { sums.exponents }

  /// Continues from saved state; the moments must have the length of the parameter vector.
  package func restore(
    step: Int, exponents: [Int32], firstMoments: some Collection<Float>,
    secondMoments: some Collection<Float>
  ) throws(TrainingFailure) {
    let count = technique.parameters.vectorCount
    guard firstMoments.count == count, secondMoments.count == count else {
      throw .foreignState(
        "the saved optimizer has \(firstMoments.count) values and this run needs \(count); "
          + "the run directory belongs to another configuration")
    }
    guard sums.restore(exponents: exponents) else {
      throw .foreignState(
        "the \(exponents.count) saved exponents of the gradient sums do not fit this run; "
          + "the run directory belongs to another configuration")
    }
    optimizer.step = step
    _ = optimizer.firstMoments.update(fromContentsOf: firstMoments)
    _ = optimizer.secondMoments.update(fromContentsOf: secondMoments)
  }
}

/// The micro-batches of the step in flight, with a place for each one's loss.
///
/// - Safety: `begin` and `finish` run before and after the loop on the trainer's thread; during the loop a worker
///   writes only its piece's loss.
private final class MiniBatchWork: @unchecked Sendable {
  private let technique: any TechniqueComputation
  private let sums: any GradientSums
  private let losses: UnsafeMutablePointer<Double>
  private let failure = Mutex<TrainingFailure?>(nil)
  private var miniBatch: [PackedMicroBatch] = []

  init(technique: any TechniqueComputation, sums: any GradientSums, maximumMicroBatches: Int) {
    self.technique = technique
    self.sums = sums
    losses = .allocate(capacity: maximumMicroBatches)
    losses.initialize(repeating: 0, count: maximumMicroBatches)
  }

  deinit { losses.deallocate() }

  func begin(_ miniBatch: [PackedMicroBatch]) {
    self.miniBatch = miniBatch
    failure.withLock { $0 = nil }
  }

  func compute(_ piece: Int, worker: Int) {
    do throws(TrainingFailure) {
      losses[piece] = try technique.train(miniBatch[piece], worker: worker, sink: sums)
    } catch {
      failure.withLock { $0 = $0 ?? error }
    }
  }

  /// The sum of all losses, in the order of the micro-batches.
  func finish() throws(TrainingFailure) -> Double {
    if let error = failure.withLock({ $0 }) { throw error }
    return miniBatch.indices.reduce(0) { $0 + losses[$1] }
  }
}
