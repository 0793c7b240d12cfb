import FineTuning
import NeuralNetworks
import PipelineSchedules
import Synchronization
import TensorKernels

/// One stage's part of every mini-batch, as the schedule orders it: 1F1B, with the units of a pipeline micro-batch in
/// parallel on the team.
///
/// - Safety: the driver's thread alone uses it; workers write only their unit's results.
final class PipelineWork: MiniBatchComputation {
  let stage: any StageComputation
  private let seat: StageSeat
  private let links: JobLinks
  private let forwards: Outbox
  private let backwards: Outbox
  private let loop: any ParallelLoop
  private let schedule: PipelineSchedule
  /// Called with the encoded taps of each unit after its first forward in a step; nil when nobody keeps them.
  var keepTaps:
    ((_ lane: Int, _ batch: PackedMicroBatch, _ taps: [UInt8]) throws(DistributedRunFailure) -> Void)?
  /// Watches the gradients of this device's units; nil for nobody.
  var observer: (any GradientObserver)?
  /// What failed, when a call threw.
  private(set) var failure: DistributedRunFailure?

  /// The lane of every position of the mini-batch at hand, and the other way round.
  private var positions: [Int?] = []
  private var losses: [Double?] = []
  private var round: UInt64
  private var isRepeated = false
  /// Units of the mini-batch at hand that have gone backward.
  private var unitsDone = 0
  /// The mini-batch that follows, and the lanes of it whose frozen layers have been run, by place in the stage.
  private var following: MiniBatch?
  private var ahead: [Int: Int] = [:]
  /// The same of the mini-batch at hand.
  private var prepared: [Int: Int] = [:]

  init(
    _ stage: any StageComputation, seat: StageSeat, schedule: PipelineSchedule, links: JobLinks,
    forwards: Outbox, backwards: Outbox, loop: any ParallelLoop, firstRound: UInt64
  ) {
    self.stage = stage
    self.seat = seat
    self.schedule = schedule
    self.links = links
    self.forwards = forwards
    self.backwards = backwards
    self.loop = loop
    round = firstRound
  }

  var parameters: ParameterTree { stage.parameters }
  var gradientSums: GradientSumFormat { stage.gradientSums }
  var contributions: Int { stage.contributions }

  /// Names the mini-batch of the step that comes, and the one after it if there is one in this epoch.
  func prepare(_ miniBatch: MiniBatch, followedBy next: MiniBatch?) {
    positions = positions(of: miniBatch)
    isRepeated = false
    // What was run ahead of another mini-batch is no use.
    prepared = following.map { $0.isSame(as: miniBatch) } ?? false ? ahead : [:]
    following = stage.aheadSlots > 0 ? next : nil
    ahead = [:]
  }

  private func positions(of miniBatch: MiniBatch) -> [Int?] {
    var positions = [Int?](repeating: nil, count: seat.unitsPerMicroBatch * schedule.microBatches)
    for (position, lane) in miniBatch.lanes.enumerated() { positions[lane] = position }
    return positions
  }

  func begin(step: Int) { stage.begin(step: step) }

  func loss(at position: Int) -> Double? { losses[position] }

  func accumulate(
    _ miniBatch: [PackedMicroBatch], into sums: any GradientSums, loop: any ParallelLoop
  ) throws(TrainingFailure) {
    round += 1
    losses = Array(repeating: nil, count: miniBatch.count)
    unitsDone = 0
    let own = (0..<schedule.microBatches).reduce(0) { $0 + units(of: $1, miniBatch, at: positions).count }
    observer?.begin(units: own, sums: sums)
    do throws(DistributedRunFailure) {
      for operation in schedule.operations(stage: seat.stage) {
        let units = units(of: operation.microBatch, miniBatch, at: positions)
        switch operation {
        case .forward: try forward(units)
        case .backward: try backward(units, sums)
        }
      }
    } catch {
      failure = error
      if case .training(let cause) = error { throw cause }
      throw .exchange(error.description)
    }
    isRepeated = true
  }

  // MARK: Operations

  private func units(
    of microBatch: Int, _ miniBatch: [PackedMicroBatch], at positions: [Int?]
  ) -> [StageUnit] {
    let depth = max(1, schedule.inFlight(stage: seat.stage))
    return seat.positions.compactMap { place in
      let lane = microBatch * seat.unitsPerMicroBatch + place
      guard let position = positions[lane] else { return nil }
      return StageUnit(
        batch: miniBatch[position], key: lane, place: place, position: position,
        slot: microBatch % depth * seat.positions.count + place - seat.positions.lowerBound)
    }
  }

  private func forward(_ units: [StageUnit]) throws(DistributedRunFailure) {
    let pass = StageForward(stage: stage, seat: seat, links: links, outbox: forwards, loop: loop)
    let known = units.map { prepared.removeValue(forKey: $0.key) }
    let outputs = try pass.run(
      units, prepared: known, pass: .train, round: round, withTaps: keepTaps != nil && !isRepeated)
    for (unit, output) in zip(units, outputs) {
      if seat.isLast { losses[unit.position] = output.output.lossSum }
      if let taps = output.taps { try keepTaps?(unit.key, unit.batch, taps) }
    }
  }

  private func backward(
    _ units: [StageUnit], _ sums: any GradientSums
  ) throws(DistributedRunFailure) {
    var gradients: [[UInt8]] = []
    for unit in units {
      gradients.append(seat.isLast ? [] : try gradient(of: unit))
    }
    let results = UnitResults<[UInt8]>(units.count)
    let incoming = gradients
    let first = unitsDone
    loop.forEach(units.count) { [stage, observer] piece, worker in
      results.set(piece) { () throws(TrainingFailure) in
        let outgoing = try stage.backward(
          units[piece].batch, slot: units[piece].slot, worker: worker, gradient: incoming[piece],
          sink: observer?.sink(unit: first + piece, sums: sums) ?? sums)
        observer?.finished(unit: first + piece)
        return outgoing
      }
    }
    let outgoing = try results.values()
    unitsDone += units.count
    guard seat.stage > 0 else { return }
    for (unit, gradient) in zip(units, outgoing) {
      try backwards.put(
        gradient, JobTag(.backward, step: round, unit: UInt32(unit.key), part: UInt32(seat.stage - 1)),
        to: seat.previous(unit.place), urgent: true)
    }
  }
}

/// What the first stage does of the next mini-batch while it would wait (`PipelineSchedule.microBatchesAhead`).
extension PipelineWork {
  /// The gradient that the next stage sends for a unit; until it is there, frozen layers are run ahead.
  private func gradient(of unit: StageUnit) throws(DistributedRunFailure) -> [UInt8] {
    let tag = JobTag(.backward, step: round, unit: UInt32(unit.key), part: UInt32(seat.stage))
    let source = seat.next(unit.place)
    repeat {
      if let gradient = try links.poll(tag, from: source, .boundary) { return gradient }
    } while try runAhead()
    return try links.receive(tag, from: source, .boundary)
  }

  /// Runs frozen layers ahead while the stage's ring is under way.
  func runAhead(until isOver: () -> Bool) throws(DistributedRunFailure) {
    while !isOver() { guard try runAhead() else { return } }
  }

  /// Runs the frozen layers of the next micro-batch of the following mini-batch; false when there is none, or no place.
  private func runAhead() throws(DistributedRunFailure) -> Bool {
    guard let following else { return false }
    let positions = positions(of: following)
    for microBatch in 0..<schedule.microBatchesAhead(stage: seat.stage) {
      let units = units(of: microBatch, following.batches, at: positions).filter { ahead[$0.key] == nil }
      guard !units.isEmpty else { continue }
      let places = units.map { microBatch * seat.positions.count + $0.place - seat.positions.lowerBound }
      guard places.allSatisfy({ $0 < stage.aheadSlots }) else { return false }
      let results = UnitResults<Bool>(units.count)
      loop.forEach(units.count) { [stage] piece, worker in
        results.set(piece) { () throws(TrainingFailure) in
          try stage.prepare(units[piece].batch, ahead: places[piece], worker: worker)
          return true
        }
      }
      _ = try results.values()
      for (unit, place) in zip(units, places) { ahead[unit.key] = place }
      return true
    }
    return false
  }
}

/// A unit on its way through a stage.
struct StageUnit: Sendable {
  let batch: PackedMicroBatch
  /// Lane, or number of the unit in its pass: what tags name it by.
  let key: Int
  /// Position in the pipeline micro-batch.
  let place: Int
  /// Position in the mini-batch.
  let position: Int
  let slot: Int
}

/// Where this device sits in the pipeline.
struct StageSeat: Sendable {
  let stage: Int
  let stages: Int
  let unitsPerMicroBatch: Int
  /// The positions of a pipeline micro-batch that this device computes.
  let positions: Range<Int>
  /// For each position, the devices of the stages before and after.
  private let before: [Int]
  private let after: [Int]

  init(_ division: WorkDivision, stage: Int, member: Int) {
    self.stage = stage
    stages = division.stages
    unitsPerMicroBatch = division.unitsPerMicroBatch
    positions = division.positions(stage: stage, member: member)
    let all = 0..<division.unitsPerMicroBatch
    before = stage > 0 ? all.map { division.device(stage: stage - 1, position: $0) } : []
    after = stage + 1 < stages ? all.map { division.device(stage: stage + 1, position: $0) } : []
  }

  var isLast: Bool { stage == stages - 1 }
  func previous(_ position: Int) -> Int { before[position] }
  func next(_ position: Int) -> Int { after[position] }
}

/// The forward of some units through a stage: boundaries in, computation on the team, boundaries out.
struct StageForward {
  let stage: any StageComputation
  let seat: StageSeat
  let links: JobLinks
  let outbox: Outbox
  let loop: any ParallelLoop

  struct Result: Sendable {
    var output: StageOutput
    var taps: [UInt8]?
  }

  /// - Parameter prepared: for each unit, where its frozen layers' results are, if they have been run; nil for none.
  func run(
    _ units: [StageUnit], prepared: [Int?]? = nil, pass: StagePass, round: UInt64, withTaps: Bool
  ) throws(DistributedRunFailure) -> [Result] {
    var inputs: [[UInt8]] = []
    for unit in units {
      inputs.append(
        seat.stage == 0
          ? []
          : try links.receive(
            JobTag(.forward, step: round, unit: UInt32(unit.key), part: UInt32(seat.stage)),
            from: seat.previous(unit.place), .boundary))
    }
    let results = UnitResults<Result>(units.count)
    let incoming = inputs
    loop.forEach(units.count) { [stage] piece, worker in
      let unit = units[piece]
      results.set(piece) { () throws(TrainingFailure) in
        let output = try stage.forward(
          unit.batch, pass: pass, slot: unit.slot, worker: worker, input: incoming[piece],
          prepared: prepared?[piece])
        return Result(
          output: output, taps: withTaps ? stage.encodedTaps(unit.batch, slot: unit.slot) : nil)
      }
    }
    var computed = try results.values()
    guard !seat.isLast else { return computed }
    for (index, unit) in units.enumerated() {
      try outbox.put(
        computed[index].output.boundary,
        JobTag(.forward, step: round, unit: UInt32(unit.key), part: UInt32(seat.stage + 1)),
        to: seat.next(unit.place), urgent: pass == .train)
      computed[index].output.boundary = []
    }
    return computed
  }
}

/// A place for each unit's result, written by any worker.
final class UnitResults<Value: Sendable>: Sendable {
  private let state: Mutex<(values: [Value?], failure: TrainingFailure?)>

  init(_ count: Int) { state = Mutex((Array(repeating: nil, count: count), nil)) }

  func set(_ index: Int, _ work: () throws(TrainingFailure) -> Value) {
    do throws(TrainingFailure) {
      let value = try work()
      state.withLock { $0.values[index] = value }
    } catch {
      state.withLock { $0.failure = $0.failure ?? error }
    }
  }

  func values() throws(DistributedRunFailure) -> [Value] {
    let (values, failure) = state.withLock { ($0.values, $0.failure) }
    if let failure { throw .training(failure) }
    return values.compactMap { $0 }
  }
}
