import ComputeRuntime
import DistributedTraining
import FineTuning
import LanguageModels
import ParallelPlanner
import Synchronization
import Testing

/// A moment for which threads wait.
private final class Moment: Sendable {
  private let gate = ProgressGate()
  func come() { gate.advance() }
  func wait() { _ = gate.wait(for: 1) }
}

@Suite("A household that changes in order")
struct ChangeTests {
  private static let two = Plan.test(.hybrid, stages: [[(0, 2), (1, 2)]], cached: [(0, 1), (1, 3)])
  private static let pipe = Plan.test(
    .hybrid, microBatches: 4, layers: [0..<2, 2..<5], stages: [[(0, 1)], [(1, 1)]], cached: [(0, 2), (1, 2)])
  private static let three = Plan.test(
    .hybrid, stages: [[(0, 1), (1, 1), (2, 2)]], cached: [(0, 1), (1, 1), (2, 2)])
  private static let live = Plan.test(.live, stages: [[(0, 2), (1, 2)]])
  private static let livePipe = Plan.test(
    .live, microBatches: 4, layers: [0..<2, 2..<5], stages: [[(0, 1)], [(1, 1)]])

  /// Two devices stop after a step that one of them names.
  private func stopped(
    _ household: TestHousehold, _ plan: Plan, after step: Int, places: [Int] = [0, 1]
  ) throws -> Int? {
    var epoch = TestHousehold.Epoch(places, plan)
    epoch.stop = (place: 0, step: step)
    let outcomes = try household.run(epoch)
    let endings = outcomes.map { $0.result?.ending }
    #expect(Set(endings.map { "\(String(describing: $0))" }).count == 1, "\(endings)")
    for outcome in outcomes where outcome.failure != nil {
      Issue.record("\(String(describing: outcome.failure))")
    }
    if case .stopped(let step) = endings[0] { return step }
    #expect(endings[0] == .finished)
    return nil
  }

  @Test(
    "all devices stop after the same step, the one after that in which one of them asked, and lose nothing",
    arguments: [two, pipe, live, livePipe])
  func drain(plan: Plan) throws {
    let job =
      plan.mode == .live
      ? TinyJob.tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0.1)), "tiny-t5", .value)
      : .parallel()
    let reference = try job.reference()
    for step in 1...6 {
      let household = TestHousehold(job)
      let stop = try stopped(household, plan, after: step)
      // After the third step the held-out samples are predicted: that is broken off.
      #expect(stop == (step == 3 ? 3 : step < 5 ? step + 1 : nil))
      guard let stop else { continue }
      let ended = try household.run(TestHousehold.Epoch([0, 1], plan))
      expectEnd(ended, reference, complete: plan == Self.livePipe ? [0] : [0, 1], "\(plan.grouping) \(step)")
      #expect(ended.allSatisfy { $0.start == stop && $0.recomputed == 0 })
      #expect(ended[0].committed == Array(stop + 1..<7))
    }
  }

  @Test(
    "a stop that is asked for before the first step, or while the cache is filled, ends at once; what was filled stays"
  )
  func early() throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    let fill = Plan.test(.fill, stages: [[(0, 2), (1, 2)]], cached: [(0, 1), (1, 3)])
    for plan in [fill, Self.two] {
      #expect(try stopped(TestHousehold(job), plan, after: 0) == 0)
      let household = TestHousehold(job)
      var epoch = TestHousehold.Epoch([0, 1], plan)
      let seen = Atomic(0)
      epoch.asks = { place, event in
        if case .progress(let progress) = event, place == 1, progress.phase == .filling {
          return seen.add(1, ordering: .relaxed).newValue == 1
        }
        return false
      }
      let outcomes = try household.run(epoch)
      if plan.mode == .fill {
        for outcome in outcomes {
          #expect(outcome.result?.ending == .stopped(step: 0), "\(String(describing: outcome.failure))")
        }
        let ended = try household.run(TestHousehold.Epoch([0, 1], plan))
        expectEnd(ended, reference, complete: [0, 1], "fill")
        #expect(ended.reduce(0) { $0 + $1.recomputed } < 16)
      }
    }
  }

  @Test("devices that wait for others to train stop with them, and have the activations of all steps so far")
  func waiting() throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    for stages in [[[(0, 4)]], [[(0, 1), (1, 3)]]] {
      let plan = Plan.test(.hybrid, stages: stages, cached: [(1, 1), (2, 2), (3, 1)])
      for step in 1...2 {
        let household = TestHousehold(job)
        let places = [0, 1, 2, 3]
        #expect(try stopped(household, plan, after: step, places: places) == (step == 1 ? 2 : 3))
        let ended = try household.run(TestHousehold.Epoch(places, plan))
        expectEnd(ended, reference, complete: [1, 2, 3], "\(stages) \(step)")
        #expect(ended.allSatisfy { $0.start == step + 1 && $0.recomputed == 0 })
      }
    }
  }

  @Test(
    "a device joins at 30 % and at 80 %: it is handed what it needs and nobody computes activations again",
    arguments: [two, pipe], [2, 4])
  func join(plan: Plan, step: Int) throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    let household = TestHousehold(job)
    let stop = try #require(try stopped(household, plan, after: step))
    let ended = try household.run(TestHousehold.Epoch([0, 1, 2], Self.three))
    expectEnd(ended, reference, complete: [0, 1, 2], "joined")
    #expect(ended.allSatisfy { $0.start == stop && $0.recomputed == 0 })
    #expect(ended[2].fetched > 0)
    if stop >= 3 { #expect(ended.allSatisfy { !$0.hasOpened }) }
  }

  @Test(
    "a device that is to join learns while the others train, and then is handed next to nothing",
    arguments: [two, pipe])
  func learn(plan: Plan) throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    let household = TestHousehold(job)
    _ = try #require(try stopped(household, plan, after: 2))
    var epoch = TestHousehold.Epoch([0, 1, 2], plan, next: Self.three)
    let (learned, moved) = (Moment(), Moment())
    epoch.asks = { place, event in
      switch event {
      case .learned:
        if place == 2 { learned.come() } else { moved.come() }
      case .committed:
        // Nothing of a lesson needs the driver.
        learned.wait()
        return place == 0
      default: break
      }
      return false
    }
    let taught = try household.run(epoch)
    #expect(taught[2].result?.ending == .handedOver && taught[2].events.contains(.learned))
    #expect(taught[0].result?.ending == .stopped(step: 5))
    let ended = try household.run(TestHousehold.Epoch([0, 1, 2], Self.three))
    expectEnd(ended, reference, complete: [0, 1, 2], "learned")
    #expect(ended.allSatisfy { $0.start == 5 && $0.recomputed == 0 && !$0.hasOpened })
    #expect(ended[2].fetched == 0)
  }

  @Test("a learner that is lost, or never comes, is nobody else's failure")
  func lostLearner() throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    for step in [5, 6, 7] as [UInt64] {
      let household = TestHousehold(job)
      _ = try #require(try stopped(household, Self.two, after: 2))
      var epoch = TestHousehold.Epoch([0, 1, 2], Self.two, next: Self.three)
      epoch.fault = { _, _, tag in tag.kind == .state && tag.step == step ? .lose(2) : nil }
      let outcomes = try household.run(epoch)
      expectEnd(outcomes, reference, complete: [0, 1], "message \(step)")
    }
  }

  @Test(
    "a device that leaves hands over what only it has, and is gone before the others train on",
    arguments: [two, pipe, live, livePipe])
  func leave(plan: Plan) throws {
    let job =
      plan.mode == .live
      ? TinyJob.tuned(.houlsby(HoulsbyConfiguration(reduction: 8, dropout: 0.1)), "tiny-t5", .value)
      : .parallel()
    let reference = try job.reference()
    for step in 1...4 {
      let household = TestHousehold(job)
      let stop = try #require(try stopped(household, plan, after: step))
      // Device 1 leaves; device 7 takes its place, and is new.
      let rest = plan.mode == .live ? Self.live : Self.two
      let ended = try household.run(TestHousehold.Epoch([0, 7, 1], rest))
      expectEnd(ended, reference, complete: [0, 1], "\(plan.grouping) \(step)")
      #expect(ended[2].result?.ending == .handedOver && !ended[2].hasOpened)
      #expect(ended.allSatisfy { $0.start == stop && $0.recomputed == 0 })
    }
  }

  @Test(
    "a donor that is lost before, or while, it hands over costs at most what only it had",
    arguments: [two, pipe])
  func lostDonor(plan: Plan) throws {
    let job = TinyJob.parallel()
    let reference = try job.reference()
    for step in [1, 2, 3, 4] as [UInt64] {
      for count in [1, 2] {
        let household = TestHousehold(job)
        _ = try #require(try stopped(household, plan, after: 3))
        var epoch = TestHousehold.Epoch([0, 7, 1], Self.two)
        let left = Atomic(count)
        epoch.fault = { from, to, tag in
          guard tag.kind == .state, tag.step == step, from == 2 || to == 2 else { return nil }
          return left.subtract(1, ordering: .relaxed).newValue == 0 ? .lose(2) : nil
        }
        let outcomes = try household.run(epoch)
        if outcomes[0].result?.ending == .finished {
          expectEnd(outcomes, reference, complete: [0, 1], "message \(step)")
        } else {
          let failures = outcomes[0...1].map { $0.failure as? DistributedRunFailure }
          #expect(
            failures.contains { if case .channel(.lost(2), _) = $0 { true } else { false } }, "\(failures)")
          let ended = try household.run(TestHousehold.Epoch([0, 7], Self.two))
          expectEnd(ended, reference, complete: [0, 1], "after message \(step)")
        }
      }
    }
  }
}
