import DistributedTraining
import FineTuning
import LanguageModels
import ParallelPlanner
import Synchronization
import Testing

/// Counts messages, and says once that the time has come.
private final class Trigger: Sendable {
  private let left: Atomic<Int>
  init(_ count: Int) { left = Atomic(count) }
  func pull() -> Bool { left.subtract(1, ordering: .relaxed).newValue == 0 }
}

@Suite("A job that is broken off anywhere")
struct RecoveryTests {
  /// A plan of three devices, what is left of it without device 1, and without any device but 2.
  struct Story: Sendable, CustomTestStringConvertible {
    var name: String
    var job = TinyJob.parallel()
    var plan: Plan
    var rest: Plan
    var testDescription: String { name }
  }

  private static let pipeline: (microBatches: Int, layers: [Range<Int>], stages: [[(Int, Int)]]) = (
    2, [0..<2, 2..<5], [[(0, 1), (2, 1)], [(1, 2)]]
  )

  static let stories: [Story] = [
    Story(
      name: "one stage, hybrid",
      plan: .test(.hybrid, stages: [[(0, 2), (1, 1), (2, 1)]], cached: [(0, 1), (1, 2), (2, 1)]),
      rest: .test(.hybrid, stages: [[(0, 1), (1, 3)]], cached: [(0, 2), (1, 2)])),
    Story(
      name: "one stage, fill",
      plan: .test(.fill, stages: [[(0, 2), (1, 1), (2, 1)]], cached: [(0, 1), (1, 2), (2, 1)]),
      rest: .test(.fill, stages: [[(1, 4)]], cached: [(0, 2), (1, 2)])),
    Story(
      name: "pipeline, hybrid",
      plan: .test(
        .hybrid, microBatches: 2, layers: pipeline.layers, stages: pipeline.stages,
        cached: [(0, 1), (1, 2), (2, 1)]),
      rest: .test(
        .hybrid, microBatches: 4, layers: [0..<3, 3..<5], stages: [[(1, 1)], [(0, 1)]],
        cached: [(0, 2), (1, 2)])),
    Story(
      name: "pipeline, fill",
      plan: .test(
        .fill, microBatches: 2, layers: pipeline.layers, stages: pipeline.stages,
        cached: [(0, 1), (1, 2), (2, 1)]),
      rest: .test(
        .fill, microBatches: 4, layers: [0..<3, 3..<5], stages: [[(1, 1)], [(0, 1)]],
        cached: [(1, 4)])),
    Story(
      name: "one stage, live", job: .tuned(.full(FullConfiguration(dropout: 0.1)), "tiny-t5", .languageModel),
      plan: .test(.live, stages: [[(0, 2), (1, 1), (2, 1)]]), rest: .test(.live, stages: [[(0, 1), (1, 3)]])),
    Story(
      name: "pipeline, live",
      job: .tuned(
        .lora(LoRAConfiguration(rank: 4, alpha: 4, targets: [.query, .value], dropout: 0.1)), "tiny-bart",
        .classes(3)),
      plan: .test(.live, microBatches: 2, layers: pipeline.layers, stages: pipeline.stages),
      rest: .test(.live, microBatches: 4, layers: [0..<3, 3..<5], stages: [[(1, 1)], [(0, 1)]])),
    Story(
      name: "pipeline of all leaves, live",
      job: .tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0.1)), "tiny-t5", .value),
      plan: .test(.live, microBatches: 2, layers: pipeline.layers, stages: pipeline.stages),
      rest: .test(.live, stages: [[(0, 1), (1, 3)]])),
  ]

  private func complete(_ plan: Plan, collector: Int) -> [Int] {
    if plan.mode != .live { return plan.cached.map(\.device) }
    return plan.stages.count > 1 ? [collector] : plan.stages[0].members.map(\.device)
  }

  /// Breaks a plan epoch off and goes on with the devices that are left.
  private func breakOff(
    _ story: Story, _ reference: TinyJob.Reference, _ comment: String,
    _ fault: @escaping @Sendable (_ from: Int, _ to: Int, JobTag) -> InMemoryJobChannels.Fault?
  ) throws -> [DeviceOutcome] {
    let household = TestHousehold(story.job)
    var epoch = TestHousehold.Epoch([0, 1, 2], story.plan)
    epoch.fault = fault
    let broken = try household.run(epoch)
    let committed = broken.indices.map { household[$0].held.first?.step ?? 0 }
    let ended = try household.run(TestHousehold.Epoch([0, 2], story.rest))
    expectEnd(ended, reference, complete: complete(story.rest, collector: 0), "\(story.name), \(comment)")
    let start = try #require(ended[0].start)
    // In a plan of one stage every device has everything: nothing but the step at hand is done again.
    if story.plan.stages.count == 1 {
      #expect(start == max(committed[0], committed[2]), "\(story.name), \(comment)")
    }
    return ended
  }

  @Test("goes on with the same bits after a device is lost at any kind of message", arguments: stories)
  func kinds(story: Story) throws {
    let reference = try story.job.reference()
    for kind in JobMessageKind.allCases {
      for count in [1, 2, 5, 9, 17] {
        let trigger = Trigger(count)
        _ = try breakOff(story, reference, "\(kind) \(count)") { _, _, tag in
          tag.kind == kind && trigger.pull() ? .lose(1) : nil
        }
      }
    }
  }

  @Test("goes on with the same bits after a device is lost in any step", arguments: stories)
  func steps(story: Story) throws {
    let reference = try story.job.reference()
    for step in 1...7 {
      for part in [1, 3] {
        let trigger = Trigger(part)
        // Shares of live steps are numbered from 1, those of cached ones behind 2^32.
        _ = try breakOff(story, reference, "share \(part) of step \(step)") { _, _, tag in
          tag.kind == .share && Int(tag.step & 0xFFFF_FFFF) == step && trigger.pull() ? .lose(1) : nil
        }
      }
    }
  }

  @Test(
    "goes on with the same bits when it is broken off again and again, in its handovers too",
    arguments: stories)
  func again(story: Story) throws {
    let reference = try story.job.reference()
    for count in [3, 11, 24, 52, 95, 160, 230] {
      let household = TestHousehold(story.job)
      for attempt in 0..<4 {
        // All stay: somebody's channel gave up, and the same plan is tried again.
        let trigger = Trigger(count + attempt * 13)
        var epoch = TestHousehold.Epoch([0, 1, 2], story.plan)
        epoch.fault = { _, _, _ in trigger.pull() ? .abort("a link was down") : nil }
        _ = try household.run(epoch)
      }
      let ended = try household.run(TestHousehold.Epoch([0, 1, 2], story.plan))
      expectEnd(ended, reference, complete: complete(story.plan, collector: 0), "\(story.name), \(count)")
    }
  }
}

@Suite("What survives a broken job")
struct SurvivalTests {
  @Test(
    "after power was lost everywhere the job goes on from what is on the disks, with the same bits",
    arguments: RecoveryTests.stories)
  func power(story: RecoveryTests.Story) throws {
    let reference = try story.job.reference()
    let complete =
      story.plan.mode != .live ? [0, 1, 2] : story.plan.stages.count > 1 ? [0] : [0, 1, 2]
    for count in [5, 30, 70, 120, 180] {
      let household = TestHousehold(story.job)
      let trigger = Trigger(count)
      var epoch = TestHousehold.Epoch([0, 1, 2], story.plan)
      epoch.fault = { _, _, _ in trigger.pull() ? .abort("power was lost") : nil }
      let broken = try household.run(epoch)
      try household.losePower()
      let ended = try household.run(TestHousehold.Epoch([0, 1, 2], story.plan))
      expectEnd(ended, reference, complete: complete, "\(story.name), \(count)")
      // Replicas write every step here; nobody was more than one step ahead of the others.
      if story.plan.stages.count == 1, let start = ended[0].start {
        #expect(start == broken.flatMap(\.committed).max() ?? 0, "\(story.name), \(count)")
      }
    }
  }

  /// Twelve steps an epoch.
  private var long: TinyJob {
    var job = TinyJob.parallel()
    job.samples = 47
    job.perUnit = 1
    job.held = 3
    return job
  }

  @Test(
    "the only device of a stage takes at most the steps since the last gathering with it", arguments: 7...12)
  func gathered(step: Int) throws {
    let reference = try long.reference()
    for victim in [0, 1] {
      let household = TestHousehold(long)
      let trigger = Trigger(1)
      var epoch = TestHousehold.Epoch(
        [0, 1],
        .test(
          .hybrid, microBatches: 2, layers: [0..<2, 2..<5], stages: [[(0, 2)], [(1, 2)]],
          cached: [(0, 2), (1, 2)]))
      epoch.fault = { _, _, tag in
        tag.kind == .backward && Int(tag.step) == step && trigger.pull() ? .lose(victim) : nil
      }
      _ = try household.run(epoch)
      let ended = try household.run(
        TestHousehold.Epoch([1 - victim], .test(.hybrid, stages: [[(0, 4)]], cached: [(0, 4)])))
      expectEnd(ended, reference, complete: [0], "device \(victim) in step \(step)")
      #expect(ended[0].start == (step <= 8 ? 0 : 8), "device \(victim) in step \(step)")
    }
  }

  @Test(
    "states are offered to the disk at every boundary that has one, a pipeline's when gathered"
  )
  func checkpoints() throws {
    let shares = [(0, 2), (1, 2)]
    func written(_ plan: Plan, often: Bool, job: TinyJob) throws -> [Int] {
      var epoch = TestHousehold.Epoch([0, 1], plan)
      epoch.writesOften = often
      let outcomes = try TestHousehold(job).run(epoch)
      #expect(outcomes[0].checkpoints == outcomes[1].checkpoints)
      return outcomes[0].checkpoints
    }
    let hybrid = Plan.test(.hybrid, stages: [shares], cached: shares)
    #expect(try written(hybrid, often: true, job: .parallel()) == [1, 2, 3, 3, 4, 5, 6])
    #expect(try written(hybrid, often: false, job: .parallel()) == [1])
    #expect(
      try written(.test(.fill, stages: [shares], cached: shares), often: false, job: .parallel()) == [1])
    let pipeline = Plan.test(
      .live, microBatches: 2, layers: [0..<2, 2..<5], stages: [[(0, 2)], [(1, 2)]])
    #expect(try written(pipeline, often: true, job: long) == [8, 16])
  }

  @Test("a second break before the first new step costs no more than the first")
  func twice() throws {
    let reference = try long.reference()
    let plan = Plan.test(
      .hybrid, microBatches: 2, layers: [0..<2, 2..<5], stages: [[(0, 2)], [(1, 2)]],
      cached: [(0, 2), (1, 2)])
    for step in [10, 11] {
      for kind in [JobMessageKind.state, .share, .forward, .backward, .taps] {
        for count in [1, 3] {
          let household = TestHousehold(long)
          let first = Trigger(1)
          var epoch = TestHousehold.Epoch([0, 1], plan)
          epoch.fault = { _, _, tag in
            tag.kind == .backward && Int(tag.step) == step && first.pull() ? .abort("a link was down") : nil
          }
          _ = try household.run(epoch)
          let second = Trigger(count)
          epoch.fault = { _, _, tag in
            tag.kind == kind && second.pull() ? .abort("a link was down again") : nil
          }
          _ = try household.run(epoch)
          epoch.fault = nil
          let ended = try household.run(epoch)
          expectEnd(ended, reference, complete: [0, 1], "\(kind) \(count) after step \(step)")
          #expect(try #require(ended[0].start) >= step - 1)
        }
      }
    }
  }
}
