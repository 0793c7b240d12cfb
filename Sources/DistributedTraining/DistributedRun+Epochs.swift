import ComputeRuntime
import FineTuning
import NeuralNetworks

/// Epochs and evaluations; the same for every phase.
extension DistributedRun {
  /// Trains from after `start` steps to the end of the job.
  ///
  /// - Returns: false when all devices have stopped before.
  func trainEpochs(from start: Int, _ phase: any TrainingPhase, _ name: DistributedPhase) throws -> Bool {
    let stepsPerEpoch = context.job.lanePlan.stepsPerEpoch
    for epoch in start / stepsPerEpoch..<context.job.epochs {
      let isDone = try trainEpoch(
        epoch, phase, name, from: max(0, start - epoch * stepsPerEpoch),
        miniBatches: context.job.miniBatches(epoch: epoch)
      ) { _ in }
      guard isDone else { return false }
      let audience = name == .cached ? context.division.cachedDevices : context.division.devices
      try evaluate(epoch + 1, phase, audience: audience)
    }
    return true
  }

  /// Trains one epoch from mini-batch `first` on; `finished` is called after each step with its number.
  ///
  /// - Returns: false when all devices stop.
  func trainEpoch(
    _ epoch: Int, _ phase: any TrainingPhase, _ name: DistributedPhase, from first: Int,
    miniBatches: [MiniBatch], finished: (Int) throws(DistributedRunFailure) -> Void
  ) throws -> Bool {
    context.report(.phase(name))
    let clock = PhaseClock(context.links, ring: phase.ringNanoseconds, tapWaits: tapWaits)
    let (repeated, sent) = (phase.trainer.repeatedSteps, phase.sumTraffic)
    var (lossSum, units, samples) = (states.head?.lossSum ?? 0, states.head?.lossUnits ?? 0, 0)
    for (index, miniBatch) in miniBatches.enumerated().dropFirst(first) {
      try context.checkCancellation(step: phase.trainer.optimizer.step)
      if index + 1 < miniBatches.count { phase.prefetch(miniBatches[index + 1]) }
      beginStep(index)
      let step = try commit(miniBatch, phase, isLast: index + 1 == miniBatches.count)
      try finished(index)
      lossSum += step.lossSum
      units += step.units
      samples += miniBatch.samples
      let seconds = max(clock.seconds, 1e-9)
      context.report(
        DistributedProgress(
          phase: name, epoch: epoch + 1, step: index + 1, steps: miniBatches.count,
          samplesPerSecond: Double(samples) / seconds, loss: lossSum / Double(max(1, units)),
          etaSeconds: seconds * Double(miniBatches.count - index - 1) / Double(index - first + 1)),
        clock: clock, ring: phase.ringNanoseconds, tapWaits: tapWaits)
      try betweenSteps(phase)
      if phase.stops, index + 1 < miniBatches.count { return false }
    }
    try phase.compareReplicas()
    note(
      DistributedEpoch(
        phase: name, index: epoch + 1, samplesPerSecond: Double(samples) / max(clock.seconds, 1e-9),
        loss: lossSum / Double(max(1, units)), repeatedSteps: phase.trainer.repeatedSteps - repeated,
        times: clock.times(context.links, ring: phase.ringNanoseconds, tapWaits: tapWaits),
        traffic: clock.traffic(context.links), sums: phase.sumTraffic.since(sent),
        residentBytes: ProcessMemory.current()?.resident ?? 0))
    // After the last step of all there is nothing to stop.
    return !phase.stops || miniBatches.isEmpty || phase.trainer.optimizer.step == context.job.totalSteps
  }

  /// Makes one step, and takes it into the state that this device holds.
  private func commit(
    _ miniBatch: MiniBatch, _ phase: any TrainingPhase, isLast: Bool
  ) throws(DistributedRunFailure) -> StepResult {
    states.beginStep()
    let clock = PhaseClock(context.links, tapWaits: tapWaits)
    let result = try phase.step(miniBatch)
    let head = states.head
    states.commit(
      StateHead(
        step: phase.trainer.optimizer.step, exponents: phase.trainer.exponents,
        lossSum: isLast ? 0 : (head?.lossSum ?? 0) + result.lossSum,
        lossUnits: isLast ? 0 : (head?.lossUnits ?? 0) + result.units))
    let times = clock.times(context.links, tapWaits: tapWaits)
    context.report(
      .committed(
        step: phase.trainer.optimizer.step, secondsPerStep: times.seconds * (1 - times.waitShare)))
    return result
  }

  private func betweenSteps(_ phase: any TrainingPhase) throws {
    if !hasReportedLearned, lessons?.isLearned ?? true {
      hasReportedLearned = true
      context.report(.learned)
    }
    try gather(phase, after: phase.trainer.optimizer.step, start: 0)
    checkpointIfDue()
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
