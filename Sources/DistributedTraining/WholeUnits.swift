import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import TensorKernels

/// A phase of training as its device sees it: optimizer steps and held-out units.
protocol TrainingPhase: AnyObject {
  var trainer: MiniBatchTrainer { get }
  /// The part of the flat vector that this device trains.
  var selection: VectorSelection { get }
  /// Whether all devices stop after the step that was made last.
  var stops: Bool { get }
  /// Nanoseconds in the ring so far.
  var ringNanoseconds: UInt64 { get }
  /// What this device has sent round the ring so far.
  var sumTraffic: SumTraffic { get }
  /// Trains this device's part of a mini-batch.
  func step(_ miniBatch: MiniBatch) throws(DistributedRunFailure) -> StepResult
  /// Asks for the activations of the mini-batch after the one at hand.
  func prefetch(_ miniBatch: MiniBatch)
  /// Predicts this device's held-out units.
  func evaluate(
    epoch: Int, _ finished: (Int) -> Void
  ) throws(DistributedRunFailure) -> [(unit: Int, prediction: UnitPrediction)]
  /// Compares the parameters of replicas.
  func compareReplicas() throws(DistributedRunFailure)
  /// Waits until everything is sent; nothing more may be computed.
  func finish() throws(DistributedRunFailure)
  /// Ends the phase's threads after a failure; the channel must have been aborted.
  func cancel()
}

/// Data-parallel training: every device computes its own lanes' units whole.
final class WholeUnits: TrainingPhase {
  let technique: WorkingTechnique
  let trainer: MiniBatchTrainer
  private let context: RunContext
  private let lanes: Set<Int>
  private let validation: [Int]
  private let reduction: DeviceReduction?
  private let overlapped: OverlappedRing?
  private let position: CurrentLanes
  let selection: VectorSelection
  private(set) var stops = false
  /// The mini-batch after the step that comes.
  private var upcoming: MiniBatch?
  /// Units of it that this device has not run ahead of their step.
  private var unprepared: ArraySlice<PackedMicroBatch> = []

  /// The lanes of the mini-batch at hand: what positions of it are this device's.
  private final class CurrentLanes {
    var lanes: [Int] = []
  }

  /// - Parameters:
  ///   - devices: all that train in this phase, in the order of the ring.
  ///   - lanes: those of this device.
  ///   - validation: held-out units of this device.
  ///   - earlier: the trainer of a phase that is over and trained the same values, whose state is gone on from.
  init(
    _ technique: WorkingTechnique, context: RunContext, devices: [Int], lanes: Set<Int>, validation: [Int],
    firstRound: UInt64, continuing earlier: MiniBatchTrainer? = nil
  ) {
    self.technique = technique
    self.context = context
    self.lanes = lanes
    self.validation = validation
    let position = CurrentLanes()
    self.position = position
    let parameters = technique.computation.parameters
    let all = HeldLeaves(
      own: parameters.parameters.indices.filter { parameters.parameters[$0].isTrainable }, shared: [])
    selection = VectorSelection(DeviceReduction.ranges(parameters, all.own))
    // 32-bit sums do not know their exponents before the shares: a ring before them would often be for nothing.
    overlapped =
      devices.count > 1 && technique.computation.gradientSums.knowsExponents
      ? OverlappedRing(
        members: devices, tree: parameters, own: all.own,
        bytesPerSum: technique.computation.gradientSums.bytesPerParameter,
        leastBytes: context.leastBucketBytes, links: context.links,
        firstRound: firstRound) : nil
    reduction =
      devices.count > 1
      ? DeviceReduction(
        links: context.links, groups: [devices], stage: 0, leaves: [all], tree: parameters,
        stopRequest: context.stopRequest, overlapped: overlapped, firstRound: firstRound) : nil
    let most = context.job.lanePlan.lanes.count
    trainer = MiniBatchTrainer(
      computation: TechniqueWork(
        technique.computation, maximumMicroBatches: most, observer: overlapped
      ) {
        lanes.contains(position.lanes[$0])
      },
      settings: context.job.optimization, totalSteps: context.job.totalSteps, maximumMicroBatches: most,
      workers: context.team.width, reduction: reduction, continuing: earlier)
    reduction?.meanwhile = { [unowned self] isOver throws(DistributedRunFailure) in
      try runAhead(until: isOver)
    }
  }

  /// Computes what the next mini-batch needs of the frozen backbone, some units at a time, until the ring is over.
  ///
  /// Its activations wait in the cache (docs/decisions/0014); a technique that keeps none has nothing to do here.
  private func runAhead(until isOver: () -> Bool) throws(DistributedRunFailure) {
    while !unprepared.isEmpty, !isOver() {
      let units = Array(unprepared.prefix(context.team.width))
      let results = UnitResults<Bool>(units.count)
      context.team.forEach(units.count) { [computation = technique.computation] piece, worker in
        results.set(piece) { () throws(TrainingFailure) in
          try computation.prepare(units[piece], worker: worker)
        }
      }
      let isPrepared = try results.values().allSatisfy { $0 }
      unprepared = isPrepared ? unprepared.dropFirst(units.count) : []
    }
  }

  var ringNanoseconds: UInt64 { reduction?.ringNanoseconds ?? 0 }
  var sumTraffic: SumTraffic { reduction?.sumTraffic ?? SumTraffic() }

  func step(_ miniBatch: MiniBatch) throws(DistributedRunFailure) -> StepResult {
    position.lanes = miniBatch.lanes
    reduction?.beginStep()
    unprepared =
      upcoming.map { next in
        zip(next.lanes, next.batches).filter { lanes.contains($0.0) }.map(\.1)[...]
      } ?? []
    upcoming = nil
    do throws(TrainingFailure) {
      let result = try trainer.step(miniBatch.batches, units: miniBatch.units, loop: context.team)
      stops = reduction?.stops ?? context.stopRequest.isRaised
      return result
    } catch {
      throw reduction?.failure ?? .training(error)
    }
  }

  func prefetch(_ miniBatch: MiniBatch) {
    upcoming = miniBatch
    guard let source = technique.source else { return }
    for (lane, batch) in zip(miniBatch.lanes, miniBatch.batches) where lanes.contains(lane) {
      source.prefetch(batch)
    }
  }

  func evaluate(
    epoch: Int, _ finished: (Int) -> Void
  ) throws(DistributedRunFailure) -> [(unit: Int, prediction: UnitPrediction)] {
    let (job, computation) = (context.job, technique.computation)
    var all: [(unit: Int, prediction: UnitPrediction)] = []
    try context.forEachUnit(validation, mayStop: epoch < job.epochs) {
      (unit, worker) throws(TrainingFailure) in
      let batch = job.validation[unit]
      if job.outputs == 0 {
        return UnitPrediction(lossSum: try computation.loss(batch, worker: worker), rows: [])
      }
      let rows = try computation.predict(batch, worker: worker)
      var values: [Float] = []
      for row in 0..<rows.rows { for column in 0..<rows.columns { values.append(rows[row, column]) } }
      return UnitPrediction(lossSum: 0, rows: values)
    } finished: { units, predictions in
      all += zip(units, predictions).map { (unit: $0, prediction: $1) }
      finished(all.count)
    }
    return all
  }

  func compareReplicas() throws(DistributedRunFailure) {
    try reduction?.compareReplicas(step: trainer.optimizer.step)
  }

  func finish() throws(DistributedRunFailure) { overlapped?.end() }
  func cancel() { overlapped?.end() }
}
