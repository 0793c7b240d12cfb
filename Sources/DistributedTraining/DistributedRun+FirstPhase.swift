import ComputeRuntime
import FineTuning
import NeuralNetworks
import ParallelPlanner
import PipelineSchedules

/// What a device does before the cached epochs, or for the whole of a job without them.
enum FirstPhase {
  /// Computes units whole.
  case whole(WholeUnits)
  /// Computes a stage of a pipeline.
  case pipeline(StagedUnits)
  /// Only keeps what others compute.
  case absent

  var training: (any TrainingPhase)? {
    switch self {
    case .whole(let units): units
    case .pipeline(let stage): stage
    case .absent: nil
    }
  }
}

extension DistributedRun {
  func makeFirstPhase() throws -> FirstPhase {
    let division = context.division
    guard let seat = division.seat(of: context.place) else { return .absent }
    let parameters = result.parameters
    guard division.isPipeline else {
      let lanes = (0..<division.lanes).filter { division.computer(lane: $0) == context.place }
      let validation = (0..<division.validationUnits).filter {
        division.computer(validation: $0) == context.place
      }
      return .whole(
        WholeUnits(
          try technique.whole(parameters), context: context, devices: division.members(stage: 0),
          lanes: Set(lanes), validation: validation, firstRound: 0))
    }
    let own = division.positions(stage: seat.stage, member: seat.member).count
    let request = StageRequest(
      layers: plan.stages[seat.stage].layers,
      slots: max(1, own * max(1, plan.schedule.inFlight(stage: seat.stage))), workers: context.team.width,
      trains: plan.mode != .fill)
    return .pipeline(
      try StagedUnits(technique.stage(parameters, request), seat: seat, context: context))
  }

  /// The epoch that trains and fills the cache at once (PAC §5.1).
  func trainAndKeep(_ first: FirstPhase, _ routes: TapRoutes) throws {
    try evaluate(0, first.training, audience: context.division.devices)
    guard let phase = first.training else { return }
    if case .whole = first { try routes.giveValidationAway() }
    beginMiniBatch = { routes.miniBatch = $0 }
    try trainEpoch(0, phase, .live, miniBatches: routes.miniBatches) { index throws(DistributedRunFailure) in
      if case .whole = first { try routes.giveAway(routes.miniBatches[index]) }
    }
    beginMiniBatch = nil
  }

  /// Forward passes alone over all samples: nothing is trained, every epoch will read the cache.
  func fill(_ first: FirstPhase, _ routes: TapRoutes) throws {
    context.report(.phase(.filling))
    let clock = PhaseClock(context.links)
    switch first {
    case .absent: return
    case .whole(let units): try fill(units, routes, clock)
    case .pipeline(let stage): try fill(stage, routes, clock)
    }
    note(
      DistributedEpoch(
        phase: .filling, index: 0,
        samplesPerSecond: Double(context.job.sampleCount) / max(clock.seconds, 1e-9), loss: 0,
        repeatedSteps: 0,
        times: clock.times(context.links, tapWaits: tapWaits), traffic: clock.traffic(context.links),
        residentBytes: ProcessMemory.current()?.resident ?? 0))
  }

  private func fill(_ units: WholeUnits, _ routes: TapRoutes, _ clock: PhaseClock) throws {
    guard let source = units.technique.source, let kept = technique.taps else {
      preconditionFailure("a fill without a source of taps")
    }
    let (division, job) = (context.division, context.job)
    let buffers = (0..<context.team.width).map { _ in
      TapBuffer(shape: kept.shape, element: kept.element, capacity: job.capacity)
    }
    func compute(_ batches: [PackedMicroBatch]) throws(DistributedRunFailure) {
      try context.forEachUnit(batches) { (batch, worker) throws(TrainingFailure) in
        try source.load(batch, into: buffers[worker], worker: worker)
      } finished: { _, _ in
      }
    }
    try compute(
      job.validation.indices.filter { division.computer(validation: $0) == context.place }
        .map { job.validation[$0] })
    try routes.giveValidationAway()
    for (index, miniBatch) in routes.miniBatches.enumerated() {
      routes.miniBatch = index
      try compute(
        zip(miniBatch.lanes, miniBatch.batches)
          .filter { division.computer(lane: $0.0) == context.place }.map(\.1))
      try routes.giveAway(miniBatch)
      reportFill(index, of: routes.miniBatches, clock)
    }
  }

  private func fill(_ stage: StagedUnits, _ routes: TapRoutes, _ clock: PhaseClock) throws {
    let number = UInt32(stage.seat.stage)
    try stage.pass(.fill, number: 0, units: context.job.validation, withTaps: true) {
      (unit, result) throws(DistributedRunFailure) in
      try routes.put(result.taps ?? [], validation: unit, stage: number)
    }
    for (index, miniBatch) in routes.miniBatches.enumerated() {
      routes.miniBatch = index
      var units = [PackedMicroBatch?](
        repeating: nil, count: stage.seat.unitsPerMicroBatch * plan.microBatches)
      for (lane, batch) in zip(miniBatch.lanes, miniBatch.batches) { units[lane] = batch }
      try stage.pass(.fill, number: index + 1, units: units, withTaps: true) {
        (lane, result) throws(DistributedRunFailure) in
        try routes.put(result.taps ?? [], lane: lane, stage: number)
      }
      reportFill(index, of: routes.miniBatches, clock)
    }
  }

  private func reportFill(_ index: Int, of miniBatches: [MiniBatch], _ clock: PhaseClock) {
    let seconds = max(clock.seconds, 1e-9)
    let samples = miniBatches[...index].reduce(0) { $0 + $1.samples }
    context.report(
      DistributedProgress(
        phase: .filling, epoch: 0, step: index + 1, steps: miniBatches.count,
        samplesPerSecond: Double(samples) / seconds, loss: nil,
        etaSeconds: seconds * Double(miniBatches.count - index - 1) / Double(index + 1)),
      clock: clock, tapWaits: tapWaits)
  }
}
