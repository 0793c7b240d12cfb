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
/// integers, whose sum no order can change; so the new parameters depend on the mini-batch alone.
///
/// - Safety: one thread drives a trainer; workers only touch their own accumulator during a step.
package final class MiniBatchTrainer: @unchecked Sendable {
  /// Exponent of the fixed point at the start: a resolution of 2^−44 (docs/decisions/0003).
  package static let initialExponent: Int32 = 44
  /// Smallest exponent; a gradient over 2^42 is no gradient.
  package static let smallestExponent: Int32 = 20

  /// The technique that is trained.
  package let technique: any TechniqueComputation
  /// The optimizer with its moments.
  package private(set) var optimizer: AdamWOptimizer
  /// Current exponent of the fixed point; part of a run's state.
  package private(set) var exponent: Int32
  private let schedule: LearningRateSchedule
  private let clipping: GradientClipping
  private let accumulators: [GradientAccumulator]
  private let gradients: UnsafeMutablePointer<Float>
  private let work: MiniBatchWork
  /// Made once, so that a step hands out its work without allocating.
  private let computePiece: @Sendable (_ piece: Int, _ worker: Int) -> Void
  private let maximumMicroBatches: Int

  /// A trainer of `totalSteps` steps of at most `maximumMicroBatches` micro-batches on `workers` workers.
  package init(
    technique: any TechniqueComputation, settings: OptimizationSettings, totalSteps: Int,
    maximumMicroBatches: Int, workers: Int
  ) {
    self.technique = technique
    self.maximumMicroBatches = maximumMicroBatches
    exponent = Self.initialExponent
    var configuration = AdamWConfiguration()
    configuration.weightDecay = settings.weightDecay
    optimizer = AdamWOptimizer(technique.parameters, configuration: configuration)
    schedule = LearningRateSchedule(
      peak: settings.learningRate, warmupFraction: settings.warmupFraction, totalSteps: max(1, totalSteps))
    clipping = GradientClipping(maximumNorm: settings.maximumNorm)
    let count = technique.parameters.vectorCount
    accumulators = (0..<max(1, workers)).map { _ in
      GradientAccumulator(
        count: count, maximumContributions: max(1, maximumMicroBatches), exponent: Self.initialExponent)
    }
    gradients = .allocate(capacity: max(1, count))
    gradients.initialize(repeating: 0, count: max(1, count))
    let work = MiniBatchWork(
      technique: technique, accumulators: accumulators, maximumMicroBatches: max(1, maximumMicroBatches))
    self.work = work
    computePiece = { piece, worker in work.compute(piece, worker: worker) }
  }

  deinit { gradients.deallocate() }

  /// Bytes that a trainer of `count` parameters takes beside the technique's own.
  package static func byteCount(parameters count: Int, workers: Int) -> Int {
    count
      * (2 * MemoryLayout<Float>.stride + MemoryLayout<Float>.stride + workers * MemoryLayout<Int64>.stride)
  }

  /// Trains one mini-batch; `units` is the number of losses it sums over.
  package func step(
    _ miniBatch: [PackedMicroBatch], units: Int, loop: any ParallelLoop
  ) throws(TrainingFailure) -> StepResult {
    precondition(
      miniBatch.count <= maximumMicroBatches && loop.width <= accumulators.count,
      "\(miniBatch.count) micro-batches on \(loop.width) workers exceed the plan")
    var lossSum = try accumulate(miniBatch, loop: loop)
    while !sum() {
      exponent -= 8
      guard exponent >= Self.smallestExponent, lossSum.isFinite else {
        throw .diverged(step: optimizer.step + 1)
      }
      lossSum = try accumulate(miniBatch, loop: loop)
    }
    accumulators[0].read(into: gradients)
    let scaled = clipping.scale(
      gradients: gradients, count: technique.parameters.vectorCount, gradientScale: 1 / Float(max(1, units)))
    guard scaled.norm.isFinite, lossSum.isFinite else { throw .diverged(step: optimizer.step + 1) }
    optimizer.apply(
      gradients: gradients, gradientScale: scaled.scale,
      learningRate: schedule.rate(step: optimizer.step + 1))
    return StepResult(lossSum: lossSum, units: units, gradientNorm: scaled.norm)
  }

  /// Runs every micro-batch and leaves its gradient in its worker's accumulator.
  private func accumulate(
    _ miniBatch: [PackedMicroBatch], loop: any ParallelLoop
  ) throws(TrainingFailure) -> Double {
    for accumulator in accumulators { accumulator.reset(exponent: exponent) }
    work.begin(miniBatch)
    loop.forEach(miniBatch.count, computePiece)
    return try work.finish()
  }

  /// Merges all workers' sums into the first; false when any overflowed.
  private func sum() -> Bool {
    if accumulators.contains(where: \.overflowed) { return false }
    for accumulator in accumulators.dropFirst() { accumulators[0].merge(accumulator) }
    return !accumulators[0].overflowed
  }

  // MARK: State

  /// Continues from saved state; the moments must have the length of the parameter vector.
  package func restore(step: Int, exponent: Int32, firstMoments: [Float], secondMoments: [Float])
    throws(TrainingFailure)
  {
    let count = technique.parameters.vectorCount
    guard firstMoments.count == count, secondMoments.count == count else {
      throw .foreignState(
        "the saved optimizer has \(firstMoments.count) values and this run needs \(count); "
          + "the run directory belongs to another configuration")
    }
    optimizer.step = step
    self.exponent = exponent
    for index in 0..<count {
      optimizer.firstMoments[index] = firstMoments[index]
      optimizer.secondMoments[index] = secondMoments[index]
    }
  }
}

/// The micro-batches of the step in flight, with a place for each one's loss.
///
/// - Safety: `begin` and `finish` run before and after the loop on the trainer's thread; during the loop a worker
///   writes only its piece's loss and its own accumulator.
private final class MiniBatchWork: @unchecked Sendable {
  private let technique: any TechniqueComputation
  private let accumulators: [GradientAccumulator]
  private let losses: UnsafeMutablePointer<Double>
  private let failure = Mutex<TrainingFailure?>(nil)
  private var miniBatch: [PackedMicroBatch] = []

  init(technique: any TechniqueComputation, accumulators: [GradientAccumulator], maximumMicroBatches: Int) {
    self.technique = technique
    self.accumulators = accumulators
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
      losses[piece] = try technique.train(miniBatch[piece], worker: worker, sink: accumulators[worker])
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
