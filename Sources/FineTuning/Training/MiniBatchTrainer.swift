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

/// Optimizer steps over mini-batches: exact, order-free gradient sums and one replicated update (DESIGN §7.4).
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
  private let losses: UnsafeMutablePointer<Double>
  private let maximumMicroBatches: Int
  private let failure = Mutex<TrainingFailure?>(nil)

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
    losses = .allocate(capacity: max(1, maximumMicroBatches))
    losses.initialize(repeating: 0, count: max(1, maximumMicroBatches))
  }

  deinit {
    gradients.deallocate()
    losses.deallocate()
  }

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
    failure.withLock { $0 = nil }
    loop.forEach(miniBatch.count) { [self] piece, worker in
      do throws(TrainingFailure) {
        losses[piece] = try technique.train(miniBatch[piece], worker: worker, sink: accumulators[worker])
      } catch {
        failure.withLock { $0 = $0 ?? error }
      }
    }
    if let error = failure.withLock({ $0 }) { throw error }
    var sum = 0.0
    for piece in miniBatch.indices { sum += losses[piece] }
    return sum
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
