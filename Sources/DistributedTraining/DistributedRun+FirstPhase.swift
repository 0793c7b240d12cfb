import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import ParallelPlanner
import PipelineSchedules

/// What a device does before the cached epochs, or for the whole of a job without them.
enum FirstPhase {
  /// Computes units whole.
  case whole(WholeUnits)
  /// Computes activations of units whole, and trains nothing.
  case filling(WorkingTechnique)
  /// Computes a stage of a pipeline.
  case pipeline(StagedUnits)
  /// Only keeps what others compute.
  case absent

  var training: (any TrainingPhase)? {
    switch self {
    case .whole(let units): units
    case .pipeline(let stage): stage
    case .filling, .absent: nil
    }
  }

  /// The trainer of all values, which the cached epochs can go on with.
  var wholeTrainer: MiniBatchTrainer? {
    if case .whole(let units) = self { units.trainer } else { nil }
  }
}

extension DistributedRun {
  /// The backbone's weights may be fetched here: nothing is made that has nothing to do.
  func makeFirstPhase(trains: Bool, _ start: EntryHandover.Outcome) throws -> FirstPhase {
    let division = context.division
    guard let seat = division.seat(of: context.place) else { return .absent }
    let parameters = result.parameters
    guard division.isPipeline else {
      guard trains else {
        let isBusy = !start.handover.missing(computedBy: context.place) { units.computers($0, division) }
          .isEmpty
        return isBusy ? .filling(try technique.whole(parameters)) : .absent
      }
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
      slots: max(1, own * max(1, plan.schedule.inFlight(stage: seat.stage))),
      ahead: trains ? own * plan.schedule.microBatchesAhead(stage: seat.stage) : 0,
      workers: context.team.width,
      trains: trains)
    return .pipeline(
      try StagedUnits(technique.stage(parameters, request), seat: seat, context: context))
  }

  /// The epoch that trains and fills the cache at once (PAC §5.1).
  ///
  /// - Returns: false when this device trains and all stop.
  func trainAndKeep(_ first: FirstPhase, _ routes: TapRoutes) throws -> Bool {
    if routes.live.lowerBound == 0 {
      try evaluate(0, first.training, audience: context.division.devices)
    }
    guard let phase = first.training else { return true }
    if case .whole = first, routes.live.lowerBound == 0 { try routes.giveValidationAway() }
    beginMiniBatch = { routes.miniBatch = $0 }
    defer { beginMiniBatch = nil }
    let isDone = try trainEpoch(
      0, phase, .live, from: routes.live.lowerBound, miniBatches: routes.miniBatches
    ) { index throws(DistributedRunFailure) in
      guard case .whole = first else { return }
      let miniBatch = routes.miniBatches[index]
      try routes.giveAway(zip(miniBatch.lanes, miniBatch.batches).map { (lane: $0, batch: $1) })
    }
    if !isDone { try routes.stop(after: states.newestStep - 1) }
    return isDone
  }

  /// Forward passes alone over all samples: nothing is trained, every epoch will read the cache.
  func fill(_ first: FirstPhase, _ routes: TapRoutes) throws {
    context.report(.phase(.filling))
    let clock = PhaseClock(context.links)
    switch first {
    case .absent: return
    case .whole(let units): try fill(units.technique, routes, clock)
    case .filling(let technique): try fill(technique, routes, clock)
    case .pipeline(let stage): try fill(stage, routes, clock)
    }
    note(
      DistributedEpoch(
        phase: .filling, index: 0,
        samplesPerSecond: Double(routes.filled.joined().reduce(0) { $0 + $1.batch.samples.count })
          / max(clock.seconds, 1e-9), loss: 0,
        repeatedSteps: 0,
        times: clock.times(context.links, tapWaits: tapWaits), traffic: clock.traffic(context.links),
        residentBytes: ProcessMemory.current()?.resident ?? 0))
  }

  private func fill(_ working: WorkingTechnique, _ routes: TapRoutes, _ clock: PhaseClock) throws {
    guard let source = working.source, let kept = technique.taps else {
      preconditionFailure("a fill without a source of taps")
    }
    let (division, job) = (context.division, context.job)
    let buffers = (0..<context.team.width).map { _ in
      TapBuffer(shape: kept.shape, element: kept.element, capacity: job.capacity)
    }
    func compute(_ batches: [PackedMicroBatch]) throws(DistributedRunFailure) {
      try context.forEachUnit(batches, mayStop: true) { (batch, worker) throws(TrainingFailure) in
        try source.load(batch, into: buffers[worker], worker: worker)
      } finished: { _, _ in
      }
    }
    try compute(
      routes.validation.filter { division.computer(validation: $0) == context.place }
        .map { job.validation[$0] })
    try routes.giveValidationAway()
    for (index, units) in routes.filled.enumerated() where !units.isEmpty {
      routes.miniBatch = index
      try compute(units.filter { division.computer(lane: $0.lane) == context.place }.map(\.batch))
      try routes.giveAway(units)
      reportFill(index, of: routes.miniBatches, clock)
    }
  }

  /// Passes that fill have numbers that no evaluation has.
  private static let firstFill = 1 << 32

  private func fill(_ stage: StagedUnits, _ routes: TapRoutes, _ clock: PhaseClock) throws {
    let number = UInt32(stage.seat.stage)
    var validation = [PackedMicroBatch?](repeating: nil, count: context.job.validation.count)
    if !routes.isLiveFromStart {
      for unit in routes.validation { validation[unit] = context.job.validation[unit] }
    }
    try stage.pass(.fill, number: Self.firstFill, units: validation, withTaps: true) {
      (unit, result) throws(DistributedRunFailure) in
      try routes.put(result.taps ?? [], validation: unit, stage: number)
    }
    for (index, filled) in routes.filled.enumerated() where !filled.isEmpty {
      routes.miniBatch = index
      var units = [PackedMicroBatch?](
        repeating: nil, count: stage.seat.unitsPerMicroBatch * plan.microBatches)
      for (lane, batch) in filled { units[lane] = batch }
      try stage.pass(.fill, number: Self.firstFill + index + 1, units: units, withTaps: true) {
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
