/// What one stage takes for one micro-batch, in nanoseconds.
package struct StageTimes: Sendable, Hashable {
  /// The forward pass.
  package var forward: Int64
  /// The backward pass.
  package var backward: Int64
  /// The sum of gradients over the stage's members, once a mini-batch, after the last backward pass.
  package var reduction: Int64

  /// The times of one stage.
  package init(forward: Int64, backward: Int64, reduction: Int64 = 0) {
    self.forward = forward
    self.backward = backward
    self.reduction = reduction
  }
}

/// What one micro-batch takes from a stage to the next and its gradient takes back, in nanoseconds.
package struct BoundaryTimes: Sendable, Hashable {
  /// Activations, to the next stage.
  package var forward: Int64
  /// Gradients, to the stage before.
  package var backward: Int64

  /// The times of one boundary.
  package init(forward: Int64, backward: Int64) {
    self.forward = forward
    self.backward = backward
  }
}

/// One operation of a simulated mini-batch.
package struct TimedOperation: Sendable, Equatable {
  /// What is done.
  package var operation: PipelineOperation
  /// When it starts, from the start of the mini-batch, in nanoseconds.
  package var start: Int64
  /// When it ends.
  package var end: Int64
}

/// What a first stage computes of the next mini-batch while it waits for gradients (docs/decisions/0014).
package struct AheadWork: Sendable, Hashable {
  /// The part of a micro-batch's forward pass that no parameter reaches, in nanoseconds.
  package var frozen: Int64
  /// Micro-batches of the next mini-batch that it may have done.
  package var most: Int

  /// Work that may be done ahead.
  package init(frozen: Int64, most: Int) {
    self.frozen = frozen
    self.most = most
  }

  fileprivate static let none = AheadWork(frozen: 0, most: 0)
}

/// Runs a schedule in exact integer time.
///
/// A stage does one operation at a time, in its schedule's order, as soon as the input is there. A boundary
/// carries one micro-batch a direction at a time, in the order in which they are ready, while the stages go on
/// computing. The mini-batch ends when every stage has reduced its gradients.
package struct ScheduleSimulator: Sendable {
  /// All times and places of a run, kept so that the next run allocates nothing.
  private var storage: [Int64] = []

  /// A simulator; it keeps its buffers from one call to the next.
  package init() {}

  /// How long one mini-batch takes.
  package mutating func duration(
    _ schedule: PipelineSchedule, stages: [StageTimes], boundaries: [BoundaryTimes]
  ) -> Int64 {
    run(schedule, stages, boundaries) { _, _ in }.end
  }

  /// How long mini-batches take that follow each other, when the first stage runs frozen layers ahead while it waits for a
  /// gradient.
  ///
  /// A pass that has begun is finished, so that a gradient may wait for it. While the gradients' ring is under way nothing is
  /// run ahead here: the ring has the processor for most of that time.
  package mutating func durations(
    _ schedule: PipelineSchedule, stages: [StageTimes], boundaries: [BoundaryTimes], ahead: AheadWork,
    miniBatches: Int
  ) -> [Int64] {
    var prepared = 0
    return (0..<miniBatches).map { _ in
      let (end, ran) = run(schedule, stages, boundaries, ahead: ahead, prepared: prepared) { _, _ in }
      prepared = ran
      return end
    }
  }

  /// When every operation of a mini-batch starts and ends, stage by stage.
  package mutating func timeline(
    _ schedule: PipelineSchedule, stages: [StageTimes], boundaries: [BoundaryTimes]
  ) -> [[TimedOperation]] {
    var timeline: [[TimedOperation]] = Array(repeating: [], count: stages.count)
    _ = run(schedule, stages, boundaries) { stage, timed in timeline[stage].append(timed) }
    return timeline
  }

  @inline(__always)
  private mutating func run(
    _ schedule: PipelineSchedule, _ stages: [StageTimes], _ boundaries: [BoundaryTimes],
    ahead: AheadWork = .none, prepared: Int = 0, record: (Int, TimedOperation) -> Void
  ) -> (end: Int64, ranAhead: Int) {
    precondition(
      stages.count == schedule.stages && boundaries.count == stages.count - 1,
      "\(stages.count) stages and \(boundaries.count) boundaries for a schedule of \(schedule.stages)")
    let count = SimulatedState.count(schedule)
    if storage.count < count { storage = Array(repeating: 0, count: count) }
    return storage.withUnsafeMutableBufferPointer { buffer in
      let state = SimulatedState(schedule, ahead, prepared: prepared, buffer)
      var open = stages.count * schedule.operationsPerStage
      while open > 0 {
        let before = open
        for stage in 0..<stages.count { open -= state.advance(stage, stages, boundaries, record) }
        for stage in stride(from: stages.count - 2, through: 0, by: -1) {
          open -= state.advance(stage, stages, boundaries, record)
        }
        precondition(open < before, "the schedule \(schedule) cannot go on")
      }
      var end: Int64 = 0
      for stage in 0..<stages.count { end = max(end, state.free[stage] + stages[stage].reduction) }
      return (end, Int(state.ranAhead.pointee))
    }
  }
}

/// Where a simulated mini-batch stands: views of the simulator's storage.
private struct SimulatedState {
  private typealias Times = UnsafeMutablePointer<Int64>
  private let schedule: PipelineSchedule
  /// When the input of (stage, micro-batch) is there; negative until then.
  private let arrivedForward: Times
  private let arrivedBackward: Times
  private let next: Times
  let free: UnsafeMutablePointer<Int64>
  private let linkForward: Times
  private let linkBackward: Times
  private let ahead: AheadWork
  /// Micro-batches whose frozen layers were run before the mini-batch began, and those run ahead of the next one.
  private let prepared: Int
  let ranAhead: UnsafeMutablePointer<Int64>

  static func count(_ schedule: PipelineSchedule) -> Int {
    2 * schedule.stages * schedule.microBatches + 4 * schedule.stages + 1
  }

  init(
    _ schedule: PipelineSchedule, _ ahead: AheadWork, prepared: Int,
    _ buffer: UnsafeMutableBufferPointer<Int64>
  ) {
    guard let base = buffer.baseAddress else { preconditionFailure("a simulation has storage") }
    self.schedule = schedule
    self.ahead = ahead
    self.prepared = prepared
    let count = schedule.stages * schedule.microBatches
    arrivedForward = base
    arrivedBackward = base + count
    next = base + 2 * count
    free = next + schedule.stages
    linkForward = free + schedule.stages
    linkBackward = linkForward + schedule.stages
    ranAhead = linkBackward + schedule.stages
    arrivedForward.update(repeating: -1, count: 2 * count)
    next.update(repeating: 0, count: 4 * schedule.stages + 1)
    for microBatch in 0..<schedule.microBatches {
      arrivedForward[microBatch] = 0
      // The last stage's gradient comes from its own loss.
      arrivedBackward[count - schedule.microBatches + microBatch] = 0
    }
  }

  /// Runs frozen layers ahead until a gradient is there.
  @inline(__always)
  private func runAhead(until ready: Int64) {
    while free[0] < ready && ranAhead.pointee < Int64(ahead.most) {
      free[0] += ahead.frozen
      ranAhead.pointee += 1
    }
  }

  /// Does what a stage can do now and returns how many operations that were.
  @inline(__always)
  func advance(
    _ stage: Int, _ stages: [StageTimes], _ boundaries: [BoundaryTimes],
    _ record: (Int, TimedOperation) -> Void
  ) -> Int {
    let microBatches = schedule.microBatches
    let row = stage * microBatches
    var done = 0
    while next[stage] < schedule.operationsPerStage {
      let operation = schedule.operation(stage: stage, index: Int(next[stage]))
      let ready: Int64
      let time: Int64
      switch operation {
      case .forward(let microBatch):
        ready = arrivedForward[row + microBatch]
        time = stages[stage].forward - (stage == 0 && microBatch < prepared ? ahead.frozen : 0)
      case .backward(let microBatch):
        ready = arrivedBackward[row + microBatch]
        time = stages[stage].backward
        if stage == 0 { runAhead(until: ready) }
      }
      if ready < 0 { break }
      let start = max(ready, free[stage])
      let end = start + time
      free[stage] = end
      switch operation {
      case .forward(let microBatch) where stage + 1 < schedule.stages:
        linkForward[stage] = max(linkForward[stage], end) + boundaries[stage].forward
        arrivedForward[row + microBatches + microBatch] = linkForward[stage]
      case .backward(let microBatch) where stage > 0:
        linkBackward[stage] = max(linkBackward[stage], end) + boundaries[stage - 1].backward
        arrivedBackward[row - microBatches + microBatch] = linkBackward[stage]
      default: break
      }
      record(stage, TimedOperation(operation: operation, start: start, end: end))
      next[stage] += 1
      done += 1
    }
    return done
  }
}

/// How long a stream of equal micro-batches takes through forward-only stages, exactly.
///
/// Equal jobs through a row of machines: the first one's way, then one of each more at the pace of the slowest
/// machine.
package func fillDuration(stages: [Int64], boundaries: [Int64], microBatches: Int) -> Int64 {
  let slowest = max(stages.max() ?? 0, boundaries.max() ?? 0)
  return stages.reduce(0, +) + boundaries.reduce(0, +) + Int64(microBatches - 1) * slowest
}
