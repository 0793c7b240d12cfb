import ParallelPlanner
import PipelineSchedules
import Testing

/// Small households whose best plan can be counted by hand.
@Suite struct ReplanningTests {
  private let millisecond: Int64 = 1_000_000
  private let second: Int64 = 1_000_000_000

  /// Two layers; a unit takes 4 ms from the cache and 20 ms through the backbone to fill it.
  private func costs(cacheBytes: Int64 = 1000, frozenBytes: Int64 = 1000) -> ModelCosts {
    ModelCosts(
      name: "two layers", kinds: ["layer"],
      layers: (0..<2).map { _ in
        LayerCosts(
          kind: 0, frozenBytes: frozenBytes, trainableBytes: 0, retainedBytes: 10, cacheBytes: cacheBytes / 2,
          forwardBoundaryBytes: 0, backwardBoundaryBytes: 0, fillBoundaryBytes: 0)
      }, canCache: true)
  }

  private func profile(_ name: String, slowness: Int64 = 1, memory: Int64 = 1 << 30) -> DeviceProfile {
    DeviceProfile(
      name: name, memoryBudget: memory, cacheBudget: 1 << 40,
      diskWriteBytesPerSecond: PlanningLimits.bytes, diskReadBytesPerSecond: PlanningLimits.bytes,
      times: [
        UnitTimes(
          proportional: 10 * millisecond * slowness, backward: 5 * millisecond * slowness,
          fill: 10 * millisecond * slowness, cached: 2 * millisecond * slowness)
      ])
  }

  /// A plan in the cached phase in which device `i` reads `units[i]` lanes.
  private func present(_ units: [Int], mode: PlanMode = .hybrid, layers: Int = 2) -> Plan {
    Plan(
      mode: mode, microBatches: 1,
      stages: [
        PlanStage(
          layers: 0..<layers,
          members: units.enumerated().map { StageMember(device: $0, units: $1, memoryBytes: 0) },
          times: StageTimes(forward: 0, backward: 0, reduction: 0))
      ], boundaries: [],
      cached: units.enumerated().map { CachedMember(device: $0, units: $1, memoryBytes: 0, cacheBytes: 0) },
      predicted: PredictedTimes(
        step: 0, firstEpoch: 0, redistribution: 0, cachedStep: 0, cachedEpoch: 0, total: 0))
  }

  private func request(
    _ present: Plan, _ devices: [ReplanDevice], _ cause: ReplanCause, epochs: Int = 10, committed: Int,
    bytesPerSecond: Int64 = 1_000_000, costs given: ModelCosts? = nil
  ) -> ReplanRequest {
    ReplanRequest(
      costs: given ?? costs(),
      job: PlanningJob(epochs: epochs, stepsPerEpoch: 100, unitsPerMiniBatch: 8), present: present,
      devices: devices,
      links: Array(
        repeating: LinkProfile(bytesPerSecond: bytesPerSecond, latency: 0),
        count: devices.count * devices.count),
      committedStep: committed, cachedMiniBatches: min(100, committed), cause: cause)
  }

  private func devices(_ places: [Int?], slowness: Int64 = 1) -> [ReplanDevice] {
    places.enumerated().map { ReplanDevice(profile: profile("device \($0)"), place: $1) }
  }

  private func switched(_ request: ReplanRequest) throws -> NewPlan {
    guard case .switch(let new) = try Replanning(request).decide() else {
      throw Unexpected(what: "\(try Replanning(request).decide())")
    }
    return new
  }

  private func kept(_ request: ReplanRequest) throws -> KeepReason {
    guard case .keep(let reason) = try Replanning(request).decide() else {
      throw Unexpected(what: "\(try Replanning(request).decide())")
    }
    return reason
  }

  private struct Unexpected: Error { var what: String }

  @Test("Of four alike devices one is lost: each lane that is left stays where it is, two are computed again")
  func loss() throws {
    // Lanes 0-1, 2-3 (lost), 4-5, 6-7. [3, 3, 2] keeps lane 2 beside 0-1 and lane 3 beside 4-5.
    let new = try switched(
      request(present([2, 2, 2, 2]), devices([0, 2, 3]), .lost, committed: 500))
    #expect(new.household == [0, 1, 2] && new.unused.isEmpty && new.next == nil)
    #expect(new.plan.mode == .fill)
    #expect(new.plan.cached.map(\.units) == [3, 3, 2])
    #expect(new.plan.stages.map(\.layers) == [0..<2])
    #expect(new.plan.stages[0].members.map(\.units) == [3, 3, 2])
    #expect(new.plan.predicted.cachedStep == 12 * millisecond)
    #expect(new.gain.before == nil && new.gain.after == 500 * 12 * millisecond)
    #expect(new.gain.cost.activations == 0 && new.gain.cost.state == 0)
    // One unit of each of 100 mini-batches on two devices at once.
    #expect(new.gain.cost.recomputation == 100 * 20 * millisecond)
    #expect(new.gain.toEnd == new.gain.after + new.gain.cost.total)
  }

  @Test("A device that leaves keeps a place without work, and what it holds moves instead of being computed")
  func leave() throws {
    var there = devices([0, 1, 2, 3])
    there[1].isLeaving = true
    let new = try switched(request(present([2, 2, 2, 2]), there, .left, committed: 500))
    #expect(new.household == [0, 2, 3, 1])
    #expect(new.plan.cached.map(\.device) == [0, 1, 2] && new.plan.cached.map(\.units) == [3, 3, 2])
    #expect(new.unused.isEmpty)
    #expect(new.gain.cost.recomputation == 0)
    // It sends a lane to each of two: 2 units x 100 mini-batches x 1000 bytes at 1 MB/s.
    #expect(new.gain.cost.activations == 200 * millisecond)
  }

  @Test("A device that comes goes between those that stay, so that only its own lanes move")
  func join() throws {
    // Lanes 0-2, 3-5, 6-7. With the new one second: 0-1, 2-3, 4-5, 6-7.
    let new = try switched(request(present([3, 3, 2]), devices([0, 1, 2, nil]), .joined, committed: 200))
    #expect(new.household == [0, 3, 1, 2])
    #expect(new.plan.cached.map(\.units) == [2, 2, 2, 2] && new.next == nil)
    #expect(new.gain.before == 800 * 12 * millisecond && new.gain.after == 800 * 8 * millisecond)
    #expect(new.gain.stepBefore == 12 * millisecond && new.gain.stepAfter == 8 * millisecond)
    #expect(new.gain.cost.activations == 200 * millisecond && new.gain.cost.recomputation == 0)
  }

  @Test("What takes longer than a second to move is moved while the job goes on by the present plan")
  func learning() throws {
    // 200 units of 50 kB at 2 MB/s are 5 s.
    let new = try switched(
      request(
        present([3, 3, 2]), devices([0, 1, 2, nil]), .joined, epochs: 100, committed: 200,
        bytesPerSecond: 2_000_000, costs: costs(cacheBytes: 50_000)))
    let next = try #require(new.next)
    #expect(new.household == [0, 3, 1, 2])
    #expect(new.plan.cached.map(\.device) == [0, 2, 3] && new.plan.cached.map(\.units) == [3, 3, 2])
    #expect(next.cached.map(\.device) == [0, 1, 2, 3] && next.cached.map(\.units) == [2, 2, 2, 2])
    #expect(new.gain.cost.moving == 5 * second)
    // 9800 steps: 5 s at 12 ms a step, the other 112.6 s of work at two thirds of the time, two boundaries.
    let before = 9800 * 12 * millisecond
    #expect(new.gain.before == before)
    #expect(new.gain.toEnd == 5 * second + (before - 5 * second) * 2 / 3 + 2 * Replanning.boundaryTime)
  }

  @Test("While another plan is being prepared, a change waits for what it moves")
  func mayNotLearn() throws {
    var request = request(
      present([3, 3, 2]), devices([0, 1, 2, nil]), .joined, epochs: 100, committed: 200,
      bytesPerSecond: 2_000_000, costs: costs(cacheBytes: 50_000))
    request.mayLearn = false
    let new = try switched(request)
    #expect(new.next == nil && new.plan.cached.map(\.units) == [2, 2, 2, 2])
    #expect(new.gain.toEnd == 9800 * 8 * millisecond + 5 * second + Replanning.boundaryTime)
  }

  @Test("A device that comes near the end is not taken in, and the reason has the seconds")
  func joinTooLate() throws {
    // 200 steps left: 2.4 s now, 1.6 s with it.
    let reason = try kept(request(present([3, 3, 2]), devices([0, 1, 2, nil]), .joined, committed: 800))
    guard case .doesNotPay(let before, let after, let cost) = reason else {
      throw Unexpected(what: "\(reason)")
    }
    #expect(before == 200 * 12 * millisecond && after == 200 * 8 * millisecond)
    #expect(cost == Replanning.boundaryTime + 200 * millisecond)
    #expect(
      "\(reason)"
        == "it would not pay: 2.4 s are left now, 1.6 s would be with it, and 0.7 s are needed for the change"
    )
  }

  @Test("A device far slower than the others is not taken in")
  func slowNewcomer() throws {
    var there = devices([0, 1, 2, nil])
    there[3].profile = profile("slow", slowness: 50)
    let reason = try kept(request(present([3, 3, 2]), there, .joined, committed: 200))
    #expect(reason == .endsSoonerWithout)
  }

  @Test("A device at a third of its speed is left with a fourth of the lanes")
  func straggler() throws {
    var there = devices([0, 1])
    there[0].measuredStep = 16 * millisecond
    there[1].measuredStep = 48 * millisecond
    let new = try switched(request(present([4, 4]), there, .straggler, committed: 200))
    #expect(new.household == [0, 1] && new.plan.cached.map(\.units) == [6, 2])
    #expect(new.gain.before == 800 * 48 * millisecond && new.gain.after == 800 * 24 * millisecond)
  }

  @Test("A device so slow that the others are far better off alone is left out")
  func hopelessStraggler() throws {
    var there = devices([0, 1])
    there[0].measuredStep = 16 * millisecond
    there[1].measuredStep = 640 * millisecond
    let new = try switched(request(present([4, 4]), there, .straggler, committed: 200))
    // One unit would take it 160 ms; the other computes all eight in 32.
    #expect(new.plan.cached.map(\.device) == [0] && new.plan.cached.map(\.units) == [8])
    #expect(new.unused == [1])
  }

  @Test("For a slow device members change only where that gains a fifth against other shares")
  func stragglerStays() throws {
    var there = devices([0, 1])
    there[0].measuredStep = 16 * millisecond
    there[1].measuredStep = 16 * 7 * millisecond
    // One unit of it takes 28 ms, as long as seven units of the other; eight of the other would take 32.
    let new = try switched(request(present([4, 4]), there, .straggler, committed: 200))
    #expect(new.plan.cached.map(\.units) == [7, 1])
    there[1].measuredStep = 16 * 9 * millisecond
    // 36 ms with it and 32 without: not a fifth.
    let slower = try switched(request(present([4, 4]), there, .straggler, committed: 200))
    #expect(slower.plan.cached.map(\.units) == [7, 1])
  }

  @Test("In the first epoch a slow device leaves stages and layers as they are, and changes shares")
  func stragglerInFirstEpoch() throws {
    var there = devices([0, 1])
    // Forward and backward pass of four units through two layers: 120 ms.
    there[0].measuredStep = 120 * millisecond
    there[1].measuredStep = 360 * millisecond
    let new = try switched(request(present([4, 4]), there, .straggler, epochs: 20, committed: 20))
    #expect(new.plan.mode == .hybrid && new.plan.stages.count == 1 && new.plan.microBatches == 1)
    #expect(new.plan.stages[0].members.map(\.units) == [6, 2])
  }

  @Test("Devices as fast as they were planned keep their shares")
  func balanced() throws {
    var there = devices([0, 1])
    for device in 0..<2 { there[device].measuredStep = 16 * millisecond }
    #expect(try kept(request(present([4, 4]), there, .straggler, committed: 200)) == .isBest)
  }

  @Test("What a device does whatever its share does not make one with a small share look slow")
  func fixedWork() throws {
    // 16 ms of units and 40 ms of update on each, 8 MB at 200 MB/s.
    var model = costs()
    for layer in model.layers.indices { model.layers[layer].trainableBytes = 4_000_000 }
    var there = devices([0, 1])
    for device in there.indices { there[device].profile.updateBytesPerSecond = 200_000_000 }
    there[0].measuredStep = 28 * millisecond + 40 * millisecond
    there[1].measuredStep = 4 * millisecond + 40 * millisecond
    let new = try switched(
      request(
        present([7, 1]), there, .straggler, committed: 200, bytesPerSecond: 10_000_000_000, costs: model))
    #expect(new.plan.cached.map(\.units) == [4, 4])
  }

  @Test("A newcomer is taken for as much slower than its profile as the others have shown to be")
  func newcomerLikeTheOthers() throws {
    var there = devices([0, 1, nil])
    for device in 0..<2 { there[device].measuredStep = 48 * millisecond }
    let new = try switched(request(present([4, 4]), there, .joined, committed: 200))
    // Alike at three times the profile's 4 ms: [3, 3, 2] in some order, 36 ms.
    #expect(new.plan.cached.map(\.units).sorted() == [2, 3, 3])
    #expect(new.gain.stepAfter == 36 * millisecond)
  }

  @Test("What is missing goes through a pipeline where no device holds the backbone")
  func pipelineForMissing() throws {
    var there = devices([0, 2])
    for device in there.indices { there[device].profile = profile("small", memory: 1500) }
    let new = try switched(
      request(present([3, 2, 3]), there, .lost, committed: 500, costs: costs(frozenBytes: 1000)))
    #expect(new.plan.mode == .fill && new.plan.stages.count == 2)
    #expect(new.plan.stages.map(\.layers) == [0..<1, 1..<2])
    #expect(new.plan.cached.map(\.units) == [4, 4])
    // 2 lanes of 100 mini-batches are 25 mini-batches of 8 units, 10 ms a unit and stage, and one unit's way more.
    #expect(new.gain.cost.recomputation == 25 * 80 * millisecond + 10 * millisecond)
  }

  @Test("A lost device whose backbone nobody else can hold ends the plan with the memory that is missing")
  func nobodyHolds() {
    var there = devices([0])
    there[0].profile = profile("small", memory: 1500)
    let lost = request(present([4, 4]), there, .lost, committed: 500, costs: costs(frozenBytes: 1000))
    #expect {
      _ = try Replanning(lost).decide()
    } throws: { error in
      guard case PlanningFailure.doesNotFit(_, let nearest) = error else { return false }
      return nearest.contains("more on small")
    }
  }

  @Test("A loss in the first epoch leaves its other mini-batches, and the steps after it")
  func firstEpoch() throws {
    let new = try switched(request(present([4, 2, 2]), devices([0, 2]), .lost, epochs: 3, committed: 40))
    #expect(new.plan.mode == .hybrid && new.household == [0, 1])
    // Forward and backward pass of 4 units through 2 layers: 120 ms; 4 units from the cache: 16 ms.
    #expect(new.plan.predicted.step == 120 * millisecond)
    #expect(new.plan.predicted.firstEpoch == 60 * 120 * millisecond)
    #expect(new.plan.predicted.total == (60 * 120 + 200 * 16) * millisecond)
    #expect(new.gain.after == new.plan.predicted.total)
    // Lanes 4 and 5 of 40 mini-batches: 80 units, which are 10 mini-batches.
    #expect(new.gain.cost.recomputation == 10 * 80 * millisecond)
  }

  @Test("Links that take longer than the job has left bring no plan that moves anything over them")
  func slowLinks() throws {
    var there = devices([0, 1])
    there[0].measuredStep = 16 * millisecond
    there[1].measuredStep = 48 * millisecond
    let reason = try kept(
      request(
        present([4, 4]), there, .straggler, committed: 900, bytesPerSecond: 10_000,
        costs: costs(cacheBytes: 1_000_000)))
    // What needs no moving is the present division.
    #expect(reason == .isBest)
  }

  @Test("At its last step a job keeps its plan")
  func finished() throws {
    #expect(try kept(request(present([4, 4]), devices([0, 1]), .joined, committed: 1000)) == .finished)
  }

  @Test(
    "A job that loses a device after its last step, with its result on none, goes on with those that stay")
  func lostAtTheEnd() throws {
    let new = try switched(request(present([4, 4]), devices([0]), .lost, committed: 1000))
    #expect(new.plan.stages.flatMap { $0.members.map(\.device) } == [0])
  }

  @Test("Two devices at one place are refused")
  func doubledPlace() {
    #expect(throws: PlanningFailure.inconsistent(what: "two devices have place 0 of the present plan")) {
      try Replanning(request(present([4, 4]), devices([0, 0]), .lost, committed: 10)).decide()
    }
  }
}
