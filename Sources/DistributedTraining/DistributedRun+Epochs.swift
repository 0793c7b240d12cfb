import ComputeRuntime
import FineTuning
import NeuralNetworks

/// Epochs and evaluations; the same for every phase.
extension DistributedRun {
  func trainEpochs(
    _ epochs: Range<Int>, _ phase: any TrainingPhase, _ name: DistributedPhase
  ) throws {
    for epoch in epochs {
      try trainEpoch(epoch, phase, name, miniBatches: context.job.miniBatches(epoch: epoch)) { _ in }
      let audience = name == .cached ? context.division.cachedDevices : context.division.devices
      try evaluate(epoch + 1, phase, audience: audience)
    }
  }

  /// Trains one epoch; `finished` is called after each step with its number.
  func trainEpoch(
    _ epoch: Int, _ phase: any TrainingPhase, _ name: DistributedPhase, miniBatches: [MiniBatch],
    finished: (Int) throws(DistributedRunFailure) -> Void
  ) throws {
    context.report(.phase(name))
    let clock = PhaseClock(context.links, ring: phase.ringNanoseconds, tapWaits: tapWaits)
    let repeated = phase.trainer.repeatedSteps
    var (lossSum, units, samples) = (0.0, 0, 0)
    for (index, miniBatch) in miniBatches.enumerated() {
      try context.checkCancellation(step: phase.trainer.optimizer.step)
      if index + 1 < miniBatches.count { phase.prefetch(miniBatches[index + 1]) }
      beginStep(index)
      let step = try phase.step(miniBatch)
      try finished(index)
      lossSum += step.lossSum
      units += step.units
      samples += miniBatch.samples
      let seconds = max(clock.seconds, 1e-9)
      context.report(
        DistributedProgress(
          phase: name, epoch: epoch + 1, step: index + 1, steps: miniBatches.count,
          samplesPerSecond: Double(samples) / seconds, loss: lossSum / Double(max(1, units)),
          etaSeconds: seconds * Double(miniBatches.count - index - 1) / Double(index + 1)),
        clock: clock, ring: phase.ringNanoseconds, tapWaits: tapWaits)
    }
    try phase.compareReplicas()
    note(
      DistributedEpoch(
        phase: name, index: epoch + 1, samplesPerSecond: Double(samples) / max(clock.seconds, 1e-9),
        loss: lossSum / Double(max(1, units)), repeatedSteps: phase.trainer.repeatedSteps - repeated,
        times: clock.times(context.links, ring: phase.ringNanoseconds, tapWaits: tapWaits),
        traffic: clock.traffic(context.links), residentBytes: ProcessMemory.current()?.resident ?? 0))
  }

  func note(_ epoch: DistributedEpoch) {
    result.epochs.append(epoch)
    context.report(.epoch(epoch))
  }

  /// Predicts the held-out samples together; a device that does not compute only listens.
  func evaluate(_ epoch: Int, _ phase: (any TrainingPhase)?, audience: [Int]) throws {
    guard !context.job.validation.isEmpty else { return }
    context.report(.phase(.evaluation))
    let isCached = phase is WholeUnits && isInCachedEpochs
    let division = context.division
    let exchange = EvaluationExchange(
      context: context,
      evaluators: isCached ? division.cachedDevices : division.members(stage: division.stages - 1),
      audience: audience)
    let clock = PhaseClock(context.links)
    let total = context.job.validation.count
    let own =
      try phase?.evaluate(epoch: epoch) { done in
        context.report(
          DistributedProgress(
            phase: .evaluation, epoch: epoch, step: min(done, total), steps: total,
            samplesPerSecond: Double(done * context.job.validationSamples) / Double(total)
              / max(clock.seconds, 1e-9), loss: nil, etaSeconds: 0),
          clock: clock)
      } ?? []
    guard let evaluation = try exchange.gather(own, epoch: epoch) else { return }
    if epoch == 0 { result.before = evaluation }
    result.after = evaluation
    context.report(.evaluated(evaluation))
  }
}
