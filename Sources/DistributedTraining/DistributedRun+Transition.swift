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
  func enterCachedEpochs(
    _ start: EntryHandover.Outcome, afterTraining: Bool
  ) throws -> WholeUnits? {
    try first.training?.finish()
    let clock = transitionClock ?? PhaseClock(context.links)
    let division = context.division
    guard division.cachedDevices.contains(context.place), let kept = technique.taps else {
      if afterTraining {
        try moveParameters(to: division.cachedDevices, withMoments: true, into: nil)
      }
      states.settle()
      release()
      return nil
    }
    let technique = try cachedTechnique()
    let phase = WholeUnits(
      technique, context: context, devices: division.cachedDevices,
      lanes: Set((0..<division.lanes).filter { division.owner(lane: $0) == context.place }),
      validation: (0..<division.validationUnits).filter {
        division.owner(validation: $0) == context.place
      }, firstRound: 1 << 32, continuing: afterTraining ? first.wholeTrainer : nil)
    cached = phase
    if afterTraining {
      try keepState(in: phase.trainer)
      try moveParameters(to: division.cachedDevices, withMoments: true, into: phase.trainer)
      states.replace(
        by: phase.trainer, leaves,
        StateHead(
          step: phase.trainer.optimizer.step, exponents: phase.trainer.exponents, lossSum: 0, lossUnits: 0))
    } else {
      try establish(phase, start)
    }
    try kept.cache.flush()
    let before = ProcessMemory.current()?.resident ?? 0
    release()
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
  private func cachedTechnique() throws -> WorkingTechnique {
    switch first {
    case .whole(let units): return units.technique
    case .filling(let technique): return technique
    case .pipeline, .absent: break
    }
    return try technique.cached(result.parameters)
  }

  private func release() {
    switch first {
    case .whole(let units): units.technique.source?.release()
    case .filling(let technique): technique.source?.release()
    case .pipeline, .absent: break
    }
    first = .absent
    technique.releaseBackbone()
  }

  // MARK: Parameters

  /// Floats of one message of parameters.
  private static let pieceFloats = 1 << 19
  /// Pieces on their way to a collector that it has not asked for: more than that it never holds beside its own.
  private static let piecesAhead = 8

  /// Brings the leaves of every stage to those of `devices` that are not in it.
  ///
  /// All devices make the transfers in one order, stage by stage, so that nobody waits in a circle. Without moments it is a
  /// collection, of models as large as the backbone: the collector then asks for the pieces.
  private func moveParameters(
    to devices: [Int], withMoments: Bool, into trainer: MiniBatchTrainer?
  ) throws {
    for stage in 0..<context.division.stages {
      let members = context.division.members(stage: stage)
      for (number, device) in devices.enumerated() where !members.contains(device) {
        let speaker = members[number % members.count]
        if speaker == context.place { try send(stage, to: device, withMoments: withMoments) }
        if device == context.place { try take(stage, from: speaker, withMoments: withMoments, into: trainer) }
      }
    }
  }

  private func send(_ stage: Int, to device: Int, withMoments: Bool) throws {
    guard let phase = first.training else { return }
    let ranges = ranges(stage, result.parameters)
    let tag = JobTag(.parameters, step: 0, part: UInt32(stage))
    try context.links.send(parametersHead(phase, ranges), tag, to: device)
    try forEachPiece(of: ranges, in: vectors(withMoments ? phase.trainer : nil)) {
      (number, _, values) throws(DistributedRunFailure) in
      if !withMoments, number == 0 || number >= Self.piecesAhead {
        _ = try context.links.receive(tag, from: device, .parameters)
      }
      try context.links.send([UInt8](UnsafeRawBufferPointer(values)), tag, to: device)
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
    _ body: (_ number: Int, Range<Int>, UnsafeMutableBufferPointer<Float>) throws(DistributedRunFailure) ->
      Void
  ) throws(DistributedRunFailure) {
    let pieces = Self.pieces(of: ranges)
    for (position, vector) in vectors.enumerated() {
      for (number, piece) in pieces.enumerated() {
        try body(
          position * pieces.count + number, piece, UnsafeMutableBufferPointer(rebasing: vector[piece]))
      }
    }
  }

  private static func pieces(of ranges: [Range<Int>]) -> [Range<Int>] {
    ranges.flatMap { range in
      stride(from: range.lowerBound, to: range.upperBound, by: pieceFloats).map {
        $0..<min($0 + pieceFloats, range.upperBound)
      }
    }
  }

  /// The leaves that a stage counts, by place in the flat vector.
  private func ranges(_ stage: Int, _ tree: ParameterTree) -> [Range<Int>] {
    if case .pipeline(let staged) = first {
      return DeviceReduction.ranges(tree, DeviceReduction.counted(by: stage, staged.leaves))
    }
    return [0..<tree.vectorCount]
  }

  private func parametersHead(_ phase: any TrainingPhase, _ ranges: [Range<Int>]) -> [UInt8] {
    var writer = MessageWriter()
    writer.words(ranges.flatMap { [UInt32($0.lowerBound), UInt32($0.upperBound)] })
    writer.long(UInt64(phase.trainer.optimizer.step))
    writer.words(phase.trainer.exponents.map { UInt32(bitPattern: $0) })
    return writer.bytes
  }

  /// Takes this device's own state over to the trainer of the cached epochs.
  private func keepState(in trainer: MiniBatchTrainer) throws {
    // Where it goes on with a whole trainer's state, it has the very same.
    guard let phase = first.training, first.wholeTrainer == nil else { return }
    let old = phase.trainer.optimizer
    try trainer.restore(step: old.step, exponents: phase.trainer.exponents)
    _ = trainer.optimizer.firstMoments.update(fromContentsOf: old.firstMoments)
    _ = trainer.optimizer.secondMoments.update(fromContentsOf: old.secondMoments)
  }

  private func take(
    _ stage: Int, from device: Int, withMoments: Bool, into trainer: MiniBatchTrainer?
  ) throws {
    let tag = JobTag(.parameters, step: 0, part: UInt32(stage))
    let what = "the parameters of a stage"
    var reader = MessageReader(try context.links.receive(tag, from: device, .parameters), from: device, what)
    let tree = result.parameters
    let bounds = try reader.words(atMost: 2 * tree.parameters.count).map(Int.init)
    guard bounds.count % 2 == 0, zip(bounds, bounds.dropFirst()).allSatisfy({ $0 <= $1 }),
      bounds.last ?? 0 <= tree.vectorCount
    else { throw reader.failure("it names no leaves of the \(tree.vectorCount) values") }
    let step = Int(try reader.long())
    let exponents = try reader.words(atMost: tree.parameters.count + 1).map { Int32(bitPattern: $0) }
    try reader.finish()
    try trainer?.restore(step: step, exponents: exponents)
    let ranges = stride(from: 0, to: bounds.count, by: 2).map { bounds[$0]..<bounds[$0 + 1] }
    let count = Self.pieces(of: ranges).count
    if !withMoments, count > 0 { try context.links.send([], tag, to: device) }
    try forEachPiece(of: ranges, in: vectors(withMoments ? trainer : nil)) {
      (number, place, values) throws(DistributedRunFailure) in
      let piece = try context.links.receive(tag, from: device, .parameters)
      var reader = MessageReader(piece, from: device, what)
      try reader.floats(into: values)
      try reader.finish()
      tree.releasePages(place)
      if !withMoments, number + Self.piecesAhead < count { try context.links.send([], tag, to: device) }
    }
  }

  /// Brings all parameters of a pipeline without cached epochs to the collector; true on devices that have them all.
  ///
  /// The collector's own stage, its moments and what it could go back to stay in memory until the result is kept: others'
  /// stages are more than its plan has counted, so that a file holds them.
  func collect() throws -> Bool {
    guard case .pipeline = first else { return true }
    if context.place == collector { try technique.spill(result.parameters) }
    try moveParameters(to: [collector], withMoments: false, into: nil)
    return context.place == collector
  }
}
