import ActivationCache
import ComputeRuntime
import FineTuning
import NeuralNetworks
import ParallelPlanner

/// From the first phase to the cached epochs: parameters and moments, the backbone's release.
///
/// Activations have gone to their owners before; here every trained leaf goes to the devices that train on and do not have
/// it, from one device of the stage that has.
extension DistributedRun {
  /// The cached epochs' phase; nil on a device that has no part in them.
  func enterCachedEpochs(after first: FirstPhase) throws -> WholeUnits? {
    context.report(.phase(.transition))
    let clock = PhaseClock(context.links)
    let division = context.division
    if plan.mode == .hybrid { try sendParameters(first, to: division.cachedDevices, withMoments: true) }
    guard division.cachedDevices.contains(context.place), let kept = technique.taps else {
      release(first)
      return nil
    }
    let technique = try cachedTechnique(first)
    let phase = WholeUnits(
      technique, context: context, devices: division.cachedDevices,
      lanes: Set((0..<division.lanes).filter { division.owner(lane: $0) == context.place }),
      validation: (0..<division.validationUnits).filter {
        division.owner(validation: $0) == context.place
      }, firstRound: 1 << 32)
    if plan.mode == .hybrid { try takeParameters(first, into: phase.trainer) }
    try kept.cache.flush()
    let before = ProcessMemory.current()?.resident ?? 0
    release(first)
    let own = ownUnits(division)
    guard technique.source?.resolve(own) == true else {
      throw DistributedRunFailure.training(
        .activationsMissing(samples: CacheFill.missing(own, in: kept.cache).count))
    }
    isInCachedEpochs = true
    let transition = DistributedTransition(
      seconds: clock.seconds, traffic: clock.traffic(context.links), cachedSamples: kept.cache.entries,
      residentBefore: before, residentAfter: ProcessMemory.current()?.resident ?? 0)
    result.transition = transition
    context.report(.transition(transition))
    return phase
  }

  private func ownUnits(_ division: WorkDivision) -> [PackedMicroBatch] {
    context.job.batches.enumerated()
      .flatMap { lane, batches in division.owner(lane: lane) == context.place ? batches : [] }
      + context.job.validation.enumerated()
      .filter { division.owner(validation: $0.offset) == context.place }.map(\.element)
  }

  /// A device that has computed units whole goes on with the same buffers; the others make theirs.
  private func cachedTechnique(_ first: FirstPhase) throws -> WorkingTechnique {
    if case .whole(let units) = first { return units.technique }
    return try technique.cached(result.parameters)
  }

  private func release(_ first: FirstPhase) {
    if case .whole(let units) = first { units.technique.source?.release() }
    technique.releaseBackbone()
  }

  // MARK: Parameters

  /// Floats of one message of parameters.
  private static let pieceFloats = 1 << 19

  /// Gives the leaves of this device's stage to those of `devices` that are not in it and have this one to hear.
  private func sendParameters(_ first: FirstPhase, to devices: [Int], withMoments: Bool) throws {
    guard let phase = first.training, let seat = context.division.seat(of: context.place) else { return }
    let members = context.division.members(stage: seat.stage)
    let ranges = ranges(seat.stage, first, result.parameters)
    let head = parametersHead(phase, ranges, withMoments: withMoments)
    let tag = JobTag(.parameters, step: 0, part: UInt32(seat.stage))
    for (number, device) in devices.enumerated()
    where !members.contains(device) && members[number % members.count] == context.place {
      try context.links.send(head, tag, to: device)
      try forEachPiece(of: ranges, in: vectors(withMoments ? phase.trainer : nil)) {
        (values) throws(DistributedRunFailure) in
        try context.links.send([UInt8](UnsafeRawBufferPointer(values)), tag, to: device)
      }
    }
  }

  /// The flat vectors that are moved: values, and moments with them.
  private func vectors(_ trainer: MiniBatchTrainer?) -> [UnsafeMutableBufferPointer<Float>] {
    let tree = result.parameters
    let values = UnsafeMutableBufferPointer(start: tree.vector, count: tree.vectorCount)
    guard let trainer else { return [values] }
    return [values, trainer.optimizer.firstMoments, trainer.optimizer.secondMoments]
  }

  private func forEachPiece(
    of ranges: [Range<Int>], in vectors: [UnsafeMutableBufferPointer<Float>],
    _ body: (UnsafeMutableBufferPointer<Float>) throws(DistributedRunFailure) -> Void
  ) throws(DistributedRunFailure) {
    for vector in vectors {
      for range in ranges {
        for start in stride(from: range.lowerBound, to: range.upperBound, by: Self.pieceFloats) {
          let end = min(start + Self.pieceFloats, range.upperBound)
          try body(UnsafeMutableBufferPointer(rebasing: vector[start..<end]))
        }
      }
    }
  }

  /// The leaves that a stage counts, by place in the flat vector.
  private func ranges(_ stage: Int, _ first: FirstPhase, _ tree: ParameterTree) -> [Range<Int>] {
    if case .pipeline(let staged) = first {
      return DeviceReduction.ranges(tree, DeviceReduction.counted(by: stage, staged.leaves))
    }
    return [0..<tree.vectorCount]
  }

  private func parametersHead(
    _ phase: any TrainingPhase, _ ranges: [Range<Int>], withMoments: Bool
  ) -> [UInt8] {
    var writer = MessageWriter()
    writer.words(ranges.flatMap { [UInt32($0.lowerBound), UInt32($0.upperBound)] })
    writer.word(withMoments ? 1 : 0)
    writer.long(UInt64(phase.trainer.optimizer.step))
    writer.words(phase.trainer.exponents.map { UInt32(bitPattern: $0) })
    return writer.bytes
  }

  /// Fills the trainer of the cached epochs from this device's own stage and from the others' messages.
  private func takeParameters(_ first: FirstPhase, into trainer: MiniBatchTrainer) throws {
    let division = context.division
    let own = division.seat(of: context.place)?.stage
    if let phase = first.training {
      let old = phase.trainer.optimizer
      try trainer.restore(step: old.step, exponents: phase.trainer.exponents)
      _ = trainer.optimizer.firstMoments.update(fromContentsOf: old.firstMoments)
      _ = trainer.optimizer.secondMoments.update(fromContentsOf: old.secondMoments)
    }
    let number = division.cachedDevices.firstIndex(of: context.place) ?? 0
    for stage in 0..<division.stages where stage != own {
      try take(stage: stage, number: number, into: trainer)
    }
  }

  private func take(stage: Int, number: Int, into trainer: MiniBatchTrainer?) throws {
    let members = context.division.members(stage: stage)
    let device = members[number % members.count]
    let tag = JobTag(.parameters, step: 0, part: UInt32(stage))
    let what = "the parameters of a stage"
    var reader = MessageReader(try context.links.receive(tag, from: device, .parameters), from: device, what)
    let tree = result.parameters
    let bounds = try reader.words(atMost: 2 * tree.parameters.count).map(Int.init)
    guard bounds.count % 2 == 0, zip(bounds, bounds.dropFirst()).allSatisfy({ $0 <= $1 }),
      bounds.last ?? 0 <= tree.vectorCount
    else { throw reader.failure("it names no leaves of the \(tree.vectorCount) values") }
    let hasMoments = try reader.word() == 1
    let step = Int(try reader.long())
    let exponents = try reader.words(atMost: tree.parameters.count + 1).map { Int32(bitPattern: $0) }
    try reader.finish()
    guard hasMoments == (trainer != nil) else { throw reader.failure("its moments are not as planned") }
    try trainer?.restore(step: step, exponents: exponents)
    let ranges = stride(from: 0, to: bounds.count, by: 2).map { bounds[$0]..<bounds[$0 + 1] }
    try forEachPiece(of: ranges, in: vectors(trainer)) { (values) throws(DistributedRunFailure) in
      let piece = try context.links.receive(tag, from: device, .parameters)
      var reader = MessageReader(piece, from: device, what)
      try reader.floats(into: values)
      try reader.finish()
    }
  }

  /// Brings all parameters of a pipeline without cached epochs to the collector; true on devices that have them all.
  func collect(_ first: FirstPhase) throws -> Bool {
    guard case .pipeline(let staged) = first else { return true }
    try sendParameters(first, to: [collector], withMoments: false)
    guard context.place == collector else { return false }
    for stage in 0..<context.division.stages where stage != staged.seat.stage {
      try take(stage: stage, number: 0, into: nil)
    }
    return true
  }
}
