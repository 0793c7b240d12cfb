import Determinism
import PipelineSchedules
import Testing

@Suite struct PipelineScheduleTests {
  @Test("PAC Fig. 6: two stages and six micro-batches follow 1F1B")
  func figureSix() {
    let schedule = PipelineSchedule(.oneForwardOneBackward, stages: 2, microBatches: 6)
    #expect(
      schedule.operations(stage: 0) == [
        .forward(0), .forward(1), .backward(0), .forward(2), .backward(1), .forward(3), .backward(2),
        .forward(4),
        .backward(3), .forward(5), .backward(4), .backward(5),
      ])
    #expect(
      schedule.operations(stage: 1)
        == (0..<6).flatMap { [PipelineOperation.forward($0), .backward($0)] })
  }

  @Test(
    "Every stage does each pass of each micro-batch once, forward before backward, in the order of their numbers",
    arguments: ScheduleKind.allCases)
  func completeness(kind: ScheduleKind) {
    for stages in 1...7 {
      for microBatches in 1...9 {
        let schedule = PipelineSchedule(kind, stages: stages, microBatches: microBatches)
        for stage in 0..<stages {
          let operations = schedule.operations(stage: stage)
          var forward = 0
          var backward = 0
          var peak = 0
          for operation in operations {
            switch operation {
            case .forward(let number):
              #expect(number == forward)
              forward += 1
            case .backward(let number):
              #expect(number == backward && number < forward)
              backward += 1
            }
            peak = max(peak, forward - backward)
          }
          #expect(forward == microBatches && backward == (kind == .fill ? 0 : microBatches))
          if kind != .fill { #expect(schedule.inFlight(stage: stage) == peak) }
        }
      }
    }
  }

  @Test("Members of a stage compute each unit of a mini-batch exactly once")
  func shares() {
    let shares = UnitShares(counts: [3, 0, 2, 1])
    var seen: [Int] = []
    for microBatch in 0..<4 {
      for member in 0..<4 { seen += shares.units(member: member, microBatch: microBatch) }
    }
    #expect(seen == Array(0..<24))
  }
}

@Suite struct ScheduleSimulationTests {
  /// The closed form of the paper, its equations 4 to 6.
  private func paper(_ stages: [StageTimes], _ boundaries: [BoundaryTimes], microBatches: Int) -> Int64 {
    let last = stages.count - 1
    let beginning = (0..<last).reduce(Int64(0)) { $0 + stages[$1].forward + boundaries[$1].forward }
    let execution = Int64(microBatches) * (stages[last].forward + stages[last].backward)
    let ending = (0...last).map { first in
      (first..<last).reduce(stages[first].reduction) { $0 + stages[$1].backward + boundaries[$1].backward }
    }
    return beginning + execution + ending.max()!
  }

  @Test("Eq. 4-6 hold exactly for balanced stages without communication")
  func balanced() {
    var generator = SeededGenerator(seed: 11)
    var simulator = ScheduleSimulator()
    for _ in 0..<500 {
      let count = 1 + generator.uniform(below: 8)
      let microBatches = count + generator.uniform(below: 12)
      let forward = Int64(1 + generator.uniform(below: 1000))
      let backward = Int64(1 + generator.uniform(below: 1000))
      let stages = (0..<count).map { _ in
        StageTimes(forward: forward, backward: backward, reduction: Int64(generator.uniform(below: 5000)))
      }
      let boundaries = Array(repeating: BoundaryTimes(forward: 0, backward: 0), count: count - 1)
      let schedule = PipelineSchedule(.oneForwardOneBackward, stages: count, microBatches: microBatches)
      let simulated = simulator.duration(schedule, stages: stages, boundaries: boundaries)
      #expect(simulated == paper(stages, boundaries, microBatches: microBatches))
    }
  }

  @Test("Eq. 4-6 hold exactly when the last stage outweighs the others and their communication")
  func dominantLast() {
    var generator = SeededGenerator(seed: 12)
    var simulator = ScheduleSimulator()
    for _ in 0..<500 {
      let count = 2 + generator.uniform(below: 6)
      let microBatches = count + generator.uniform(below: 12)
      var stages = (1..<count).map { _ in
        StageTimes(
          forward: Int64(1 + generator.uniform(below: 100)),
          backward: Int64(1 + generator.uniform(below: 100)),
          reduction: Int64(generator.uniform(below: 500)))
      }
      stages.append(StageTimes(forward: 1000, backward: 1000, reduction: 77))
      let boundaries = (1..<count).map { _ in
        BoundaryTimes(
          forward: Int64(generator.uniform(below: 50)), backward: Int64(generator.uniform(below: 50)))
      }
      let schedule = PipelineSchedule(.oneForwardOneBackward, stages: count, microBatches: microBatches)
      let simulated = simulator.duration(schedule, stages: stages, boundaries: boundaries)
      #expect(simulated == paper(stages, boundaries, microBatches: microBatches))
    }
  }

  @Test("Eq. 4-6 are too low when an earlier stage is the slowest: the last one is not always dominant")
  func dominantFirst() {
    var simulator = ScheduleSimulator()
    let stages = [StageTimes(forward: 30, backward: 30), StageTimes(forward: 10, backward: 10)]
    let boundaries = [BoundaryTimes(forward: 0, backward: 0)]
    let schedule = PipelineSchedule(.oneForwardOneBackward, stages: 2, microBatches: 4)
    // F0 F1 B0 F2 B1 F3 B2 B3 of the first stage without a pause: eight operations of 30.
    #expect(simulator.duration(schedule, stages: stages, boundaries: boundaries) == 240)
    #expect(paper(stages, boundaries, microBatches: 4) == 30 + 80 + 30)
  }

  @Test(
    "A first stage that waits runs the next mini-batch's frozen layers, and finishes a pass that it has begun"
  )
  func runningAhead() {
    var simulator = ScheduleSimulator()
    let stages = Array(repeating: StageTimes(forward: 10, backward: 1), count: 2)
    let boundaries = [BoundaryTimes(forward: 0, backward: 0)]
    let schedule = PipelineSchedule(.oneForwardOneBackward, stages: 2, microBatches: 2)
    #expect(simulator.duration(schedule, stages: stages, boundaries: boundaries) == 33)
    // F0 F1, 9 ahead for a gradient that comes at 21, B0, 9 ahead for one at 32, B1. Then the first stage has a forward
    // pass of 1 left for each micro-batch, and has its gaps from 2 to 12 and from 21 to 23.
    #expect(
      simulator.durations(
        schedule, stages: stages, boundaries: boundaries, ahead: AheadWork(frozen: 9, most: 2), miniBatches: 3
      )
        == [40, 24, 24])
    #expect(
      simulator.durations(
        schedule, stages: stages, boundaries: boundaries, ahead: AheadWork(frozen: 9, most: 0), miniBatches: 2
      )
        == [33, 33])
  }

  @Test(
    "However much a first stage runs ahead, no mini-batch is shorter than what any stage has to do for it")
  func runningAheadIsBounded() {
    var generator = SeededGenerator(seed: 14)
    var simulator = ScheduleSimulator()
    for _ in 0..<500 {
      let count = 2 + generator.uniform(below: 4)
      let microBatches = 1 + generator.uniform(below: 6)
      let stages = (0..<count).map { _ in
        StageTimes(
          forward: Int64(10 + generator.uniform(below: 100)),
          backward: Int64(1 + generator.uniform(below: 50)),
          reduction: Int64(generator.uniform(below: 50)))
      }
      let boundaries = (1..<count).map { _ in
        BoundaryTimes(
          forward: Int64(generator.uniform(below: 20)), backward: Int64(generator.uniform(below: 20)))
      }
      let schedule = PipelineSchedule(.oneForwardOneBackward, stages: count, microBatches: microBatches)
      let frozen = stages[0].forward * 9 / 10
      let ahead = AheadWork(frozen: frozen, most: schedule.microBatchesAhead(stage: 0))
      let durations = simulator.durations(
        schedule, stages: stages, boundaries: boundaries, ahead: ahead, miniBatches: 12)
      let plain = simulator.duration(schedule, stages: stages, boundaries: boundaries)
      // The first one has nothing prepared: it can only be delayed by passes that it finishes.
      #expect(durations[0] >= plain && durations[0] <= plain + frozen * Int64(ahead.most))
      let later = durations[1...]
      for stage in stages[1...] {
        let work = Int64(microBatches) * (stage.forward + stage.backward)
        #expect(later.allSatisfy { $0 >= work + stage.reduction })
      }
      // All that the first stage does for twelve mini-batches, less what it leaves to be done for a thirteenth.
      let own = Int64(microBatches) * (stages[0].forward + stages[0].backward)
      #expect(durations.reduce(0, +) >= 12 * own)
    }
  }

  @Test("Operations of a stage never overlap, and none starts before its input has arrived")
  func causality() {
    var generator = SeededGenerator(seed: 13)
    var simulator = ScheduleSimulator()
    for kind in [ScheduleKind.oneForwardOneBackward, .fillDrain, .fill] {
      for _ in 0..<200 {
        let count = 1 + generator.uniform(below: 6)
        let microBatches = 1 + generator.uniform(below: 9)
        let stages = (0..<count).map { _ in
          StageTimes(
            forward: Int64(1 + generator.uniform(below: 90)),
            backward: Int64(1 + generator.uniform(below: 90)))
        }
        let boundaries = (1..<max(count, 1)).map { _ in
          BoundaryTimes(
            forward: Int64(generator.uniform(below: 40)), backward: Int64(generator.uniform(below: 40)))
        }
        let schedule = PipelineSchedule(kind, stages: count, microBatches: microBatches)
        let timeline = simulator.timeline(schedule, stages: stages, boundaries: boundaries)
        var ends: [[PipelineOperation: Int64]] = timeline.map { row in
          Dictionary(uniqueKeysWithValues: row.map { ($0.operation, $0.end) })
        }
        for (stage, row) in timeline.enumerated() {
          #expect(row.map(\.operation) == schedule.operations(stage: stage))
          for (before, after) in zip(row, row.dropFirst()) { #expect(after.start >= before.end) }
          for timed in row {
            switch timed.operation {
            case .forward where stage > 0:
              #expect(timed.start >= ends[stage - 1][timed.operation]! + boundaries[stage - 1].forward)
            case .backward where stage + 1 < count:
              #expect(timed.start >= ends[stage + 1][timed.operation]! + boundaries[stage].backward)
            default: break
            }
          }
        }
        ends.removeAll()
      }
    }
  }

  @Test("A fill takes what the row of machines takes: the first way, and then the slowest machine's pace")
  func fill() {
    var generator = SeededGenerator(seed: 14)
    var simulator = ScheduleSimulator()
    for _ in 0..<300 {
      let count = 1 + generator.uniform(below: 6)
      let microBatches = 1 + generator.uniform(below: 20)
      let stages = (0..<count).map { _ in Int64(1 + generator.uniform(below: 90)) }
      let boundaries = (0..<count - 1).map { _ in Int64(generator.uniform(below: 120)) }
      let simulated = simulator.duration(
        PipelineSchedule(.fill, stages: count, microBatches: microBatches),
        stages: stages.map { StageTimes(forward: $0, backward: 0) },
        boundaries: boundaries.map { BoundaryTimes(forward: $0, backward: 0) })
      #expect(simulated == fillDuration(stages: stages, boundaries: boundaries, microBatches: microBatches))
    }
  }
}
