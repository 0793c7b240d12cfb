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
/// exists as a whole. Several devices share the work of a step through a `StepReduction`; with none, a step costs
/// nothing for them.
///
/// - Safety: one thread drives a trainer.
package final class MiniBatchTrainer: @unchecked Sendable {
  /// The trained parameters.
  package let parameters: ParameterTree
  /// The optimizer with its moments.
  package private(set) var optimizer: AdamWOptimizer
  /// Steps that were computed a second time, because a gradient did not fit its sum.
  package private(set) var repeatedSteps = 0
  private let computation: any MiniBatchComputation
  private let reduction: (any StepReduction)?
  private let schedule: LearningRateSchedule
  private let clipping: GradientClipping
  private let sums: any GradientSums
  private let update: ParameterUpdate
  private let maximumMicroBatches: Int
  private let workers: Int

  /// A trainer of `totalSteps` steps of at most `maximumMicroBatches` micro-batches on `workers` workers.
  package convenience init(
    technique: any TechniqueComputation, settings: OptimizationSettings, totalSteps: Int,
    maximumMicroBatches: Int, workers: Int
  ) {
    self.init(
      computation: TechniqueWork(technique, maximumMicroBatches: maximumMicroBatches), settings: settings,
      totalSteps: totalSteps, maximumMicroBatches: maximumMicroBatches, workers: workers)
  }

  /// A trainer of one device's part of every mini-batch.
  ///
  /// - Parameters:
  ///   - maximumMicroBatches: of a whole mini-batch, the same on every device: it decides how integers round.
  ///   - leaves: those that this device trains; nil for all.
  ///   - reduction: what makes one step of all devices' parts; nil for one device.
  ///   - earlier: a trainer of the same parameters, leaves and settings that makes no more steps: its moments and its
  ///     sums' memory are used on, and this one goes on where it is.
  package init(
    computation: any MiniBatchComputation, settings: OptimizationSettings, totalSteps: Int,
    maximumMicroBatches: Int, workers: Int, leaves: TrainedLeaves? = nil,
    reduction: (any StepReduction)? = nil, continuing earlier: MiniBatchTrainer? = nil
  ) {
    self.computation = computation
    self.reduction = reduction
    parameters = computation.parameters
    self.maximumMicroBatches = maximumMicroBatches
    self.workers = max(1, workers)
    var configuration = AdamWConfiguration()
    configuration.weightDecay = settings.weightDecay
    optimizer = earlier?.optimizer ?? AdamWOptimizer(parameters, configuration: configuration)
    schedule = LearningRateSchedule(
      peak: settings.learningRate, warmupFraction: settings.warmupFraction, totalSteps: max(1, totalSteps))
    clipping = GradientClipping(maximumNorm: settings.maximumNorm)
    sums =
      earlier?.sums
      ?? computation.gradientSums.makeSums(
        of: parameters, maximumContributions: max(1, maximumMicroBatches) * max(1, computation.contributions))
    if let earlier {
      precondition(
        earlier.parameters.vector == parameters.vector && earlier.maximumMicroBatches == maximumMicroBatches,
        "a trainer goes on with the same parameters and mini-batches")
    }
    update = ParameterUpdate(
      sums, of: parameters, leaves: leaves ?? TrainedLeaves(all: parameters), workers: self.workers)
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
    let step = optimizer.step + 1
    computation.begin(step: step)
    var lossSum = try accumulate(miniBatch, loop: loop)
    while true {
      let outcome = sums.conclude()
      if outcome == .complete { break }
      guard outcome == .redo, lossSum.isFinite else { throw .diverged(step: step) }
      repeatedSteps += 1
      lossSum = try accumulate(miniBatch, loop: loop)
    }
    let scaled = clipping.scale(
      sumOfSquares: try sumOfSquares(loop: loop), gradientScale: 1 / Float(max(1, units)))
    guard scaled.norm.isFinite, lossSum.isFinite else { throw .diverged(step: step) }
    optimizer.step = step
    update.apply(
      optimizer, gradientScale: scaled.scale, learningRate: schedule.rate(step: step), loop: loop)
    return StepResult(lossSum: lossSum, units: units, gradientNorm: scaled.norm)
  }

  /// Runs this device's micro-batches, leaves the sum of their gradients in the sums, and returns the loss of all.
  private func accumulate(
    _ miniBatch: [PackedMicroBatch], loop: any ParallelLoop
  ) throws(TrainingFailure) -> Double {
    update.clearSums()
    sums.begin()
    try computation.accumulate(miniBatch, into: sums, loop: loop)
    if let reduction {
      return try reduction.exchange(computation, microBatches: miniBatch.count, sums: sums)
    }
    return miniBatch.indices.reduce(0) { $0 + (computation.loss(at: $1) ?? 0) }
  }

  /// Σ gradient² over the parameters of all devices, from sums that every device has completed.
  private func sumOfSquares(loop: any ParallelLoop) throws(TrainingFailure) -> Double {
    guard let reduction else { return update.sumOfSquares(loop: loop) }
    try reduction.reduce(sums)
    var squares = update.squares(loop: loop)
    try reduction.exchange(squares: &squares)
    return squares.reduce(0, +)
  }

  // MARK: State

  /// The exponents of the gradient sums; part of a run's state.
  package var exponents: [Int32] { sums.exponents }

  /// Continues from saved state; the moments must have the length of the parameter vector.
  package func restore(
    step: Int, exponents: [Int32], firstMoments: some Collection<Float>,
    secondMoments: some Collection<Float>
  ) throws(TrainingFailure) {
    let count = parameters.vectorCount
    guard firstMoments.count == count, secondMoments.count == count else {
      throw .foreignState(
        "the saved optimizer has \(firstMoments.count) values and this run needs \(count); "
          + "the run directory belongs to another configuration")
    }
    try restore(step: step, exponents: exponents)
    _ = optimizer.firstMoments.update(fromContentsOf: firstMoments)
    _ = optimizer.secondMoments.update(fromContentsOf: secondMoments)
  }

  /// Continues from the state of an earlier step whose moments the caller writes into the optimizer itself.
  package func restore(step: Int, exponents: [Int32]) throws(TrainingFailure) {
    guard sums.restore(exponents: exponents) else {
      throw .foreignState(
        "the \(exponents.count) saved exponents of the gradient sums do not fit this run; "
          + "the run directory belongs to another configuration")
    }
    optimizer.step = step
  }
}
