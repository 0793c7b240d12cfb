import Determinism
import ParallelPlanner
import Testing

/// What holds of every decision, on seeded households in the middle of a job.
@Suite struct ReplanningPropertyTests {
  /// A job in its middle, with what has happened to its household.
  private func request(_ maker: inout InstanceMaker) throws -> ReplanRequest? {
    let count = 2 + maker.below(4)
    var instance = maker.instance(
      devices: count + 1, layers: 1 + maker.below(6), units: [2, 4, 8][maker.below(3)])
    instance.job.epochs += 1 + maker.below(50)
    let all = instance.household
    let planned: Plan
    do {
      planned = try ParallelPlanner().plan(
        instance.costs, household: all.removing(count), job: instance.job
      ).plan
    } catch {
      guard case .doesNotFit = error else { throw error }
      return nil
    }
    let steps = instance.job.epochs * instance.job.stepsPerEpoch
    let committed = [maker.below(instance.job.stepsPerEpoch), maker.below(steps)][maker.below(2)]
    let cause = ReplanCause.allCases[maker.below(4)]
    let gone = maker.below(count)
    var devices: [ReplanDevice] = []
    for device in 0..<count where cause != .lost || device != gone {
      devices.append(ReplanDevice(profile: all.devices[device], place: device))
      devices[devices.count - 1].isLeaving = cause == .left && device == gone
      if cause == .straggler || maker.below(3) == 0 {
        devices[devices.count - 1].measuredStep = Int64(1 + maker.below(3_000_000))
      }
    }
    if cause == .joined { devices.append(ReplanDevice(profile: all.devices[count], place: nil)) }
    return ReplanRequest(
      costs: instance.costs, job: instance.job, present: planned, devices: devices,
      links: devices.flatMap { row in devices.map { all.link(row.place ?? count, $0.place ?? count) } },
      committedStep: committed,
      cachedMiniBatches: committed > 0 ? instance.job.stepsPerEpoch : 0, cause: cause)
  }

  private func decision(_ request: ReplanRequest) throws -> ReplanDecision? {
    do {
      return try Replanning(request).decide()
    } catch {
      guard case .doesNotFit = error else { throw error }
      return nil
    }
  }

  private func check(_ plan: Plan, _ request: ReplanRequest, _ household: [Int], allowsLeaving: Bool = false)
  {
    let units = request.job.unitsPerMiniBatch
    var layer = 0
    for stage in plan.stages {
      #expect(stage.layers.lowerBound == layer && !stage.layers.isEmpty)
      layer = stage.layers.upperBound
      #expect(stage.members.reduce(0) { $0 + $1.units } * plan.microBatches == units)
      #expect(stage.members.map(\.device) == stage.members.map(\.device).sorted())
    }
    #expect(layer == request.costs.layers.count)
    #expect(plan.cached.map(\.device) == plan.cached.map(\.device).sorted())
    #expect(plan.cached.isEmpty == (plan.mode == .live))
    if plan.mode != .live { #expect(plan.cached.reduce(0) { $0 + $1.units } == units) }
    for place in plan.stages.flatMap({ $0.members.map(\.device) }) + plan.cached.map(\.device) {
      #expect(household.indices.contains(place))
      #expect(!request.devices[household[place]].isLeaving)
    }
    for member in plan.cached {
      #expect(member.memoryBytes <= request.devices[household[member.device]].profile.memoryBudget)
    }
  }

  @Test(
    "No plan has a device that is gone or leaves, every plan is whole, and equal requests have equal decisions"
  )
  func sound() throws {
    var maker = InstanceMaker(seed: 701)
    var switches = 0
    for _ in 0..<600 {
      guard let request = try request(&maker), let decision = try decision(request) else { continue }
      #expect(try self.decision(request) == decision)
      guard case .switch(let new) = decision else {
        #expect(request.cause == .joined || request.cause == .straggler)
        continue
      }
      switches += 1
      #expect(Set(new.household).count == new.household.count)
      #expect(new.household.allSatisfy(request.devices.indices.contains))
      let staying = new.household.filter {
        request.devices[$0].place != nil && !request.devices[$0].isLeaving
      }
      .filter { !new.unused.contains($0) }
      #expect(staying == staying.sorted { request.devices[$0].place! < request.devices[$1].place! })
      check(new.plan, request, new.household)
      if let next = new.next {
        check(next, request, new.household)
        #expect(request.cause == .joined || request.cause == .straggler)
      }
      if request.cause == .left { #expect(new.household.count >= 2 || request.present.cached.count < 2) }
    }
    #expect(switches > 150)
  }

  @Test("Nobody comes in, and no share changes, for a loss of time")
  func pays() throws {
    var maker = InstanceMaker(seed: 702)
    var (switches, keeps) = (0, 0)
    for _ in 0..<1200 {
      guard var request = try request(&maker) else { continue }
      guard request.cause == .joined || request.cause == .straggler else { continue }
      // Times a thousand times longer, so that a change can gain its second.
      for device in request.devices.indices {
        request.devices[device].measuredStep = request.devices[device].measuredStep.map { $0 * 1000 }
        for kind in request.devices[device].profile.times.indices {
          let times = request.devices[device].profile.times[kind]
          request.devices[device].profile.times[kind] = UnitTimes(
            forward: times.forward.map { $0 * 1000 }, backward: times.backward.map { $0 * 1000 },
            fill: times.fill.map { $0 * 1000 }, cached: times.cached.map { $0 * 1000 })
        }
      }
      guard let decision = try decision(request) else { continue }
      guard case .switch(let new) = decision else {
        keeps += 1
        continue
      }
      switches += 1
      let before = try #require(new.gain.before)
      #expect(new.gain.toEnd <= before - Replanning.leastGain)
      #expect(new.gain.toEnd <= before - before / 1000 * Replanning.leastGainThousandths)
      #expect(new.gain.after <= new.gain.toEnd)
      if new.next == nil {
        #expect(new.gain.toEnd == new.gain.after + new.gain.cost.total)
      } else {
        #expect(new.gain.cost.moving >= Replanning.longestPause)
      }
    }
    #expect(switches > 50 && keeps > 50, "\(switches) switches, \(keeps) keeps")
  }

  @Test("Once all is cached, no set of devices ends later than its best single device would")
  func notWorseThanOne() throws {
    var maker = InstanceMaker(seed: 703)
    var compared = 0
    for _ in 0..<800 {
      guard var request = try request(&maker), !request.present.cached.isEmpty else { continue }
      guard request.cause == .lost || request.cause == .left else { continue }
      request.committedStep = max(request.committedStep, request.job.stepsPerEpoch)
      request.cachedMiniBatches = request.job.stepsPerEpoch
      guard case .switch(let new) = try decision(request) else { continue }
      for only in request.devices.indices where !request.devices[only].isLeaving {
        var alone = request
        for other in request.devices.indices where other != only { alone.devices[other].isLeaving = true }
        guard case .switch(let single) = try decision(alone), single.plan.mode == new.plan.mode else {
          continue
        }
        #expect(new.gain.toEnd <= single.gain.toEnd)
        compared += 1
      }
    }
    #expect(compared > 100, "\(compared)")
  }

  @Test(
    "Where divisions are too many to look at all, a step takes no longer than it must when a device is lost")
  func manyLanes() throws {
    let second: Int64 = 1_000_000_000
    let profile = DeviceProfile(
      name: "alike", memoryBudget: 1 << 40, cacheBudget: 1 << 48,
      diskWriteBytesPerSecond: PlanningLimits.bytes, diskReadBytesPerSecond: PlanningLimits.bytes,
      times: [UnitTimes(proportional: second, backward: second, fill: second, cached: second)])
    let costs = ModelCosts(
      name: "one layer", kinds: ["layer"],
      layers: [
        LayerCosts(
          kind: 0, frozenBytes: 1, trainableBytes: 0, retainedBytes: 1, cacheBytes: 1 << 20,
          forwardBoundaryBytes: 0, backwardBoundaryBytes: 0, fillBoundaryBytes: 0)
      ], canCache: true)
    let job = PlanningJob(epochs: 9, stepsPerEpoch: 4, unitsPerMiniBatch: 64)
    let household = HouseholdProfile(
      devices: Array(repeating: profile, count: 8), link: LinkProfile(bytesPerSecond: 1 << 20, latency: 0))
    var present = try ParallelPlanner().plan(costs, household: household, job: job).plan
    present.cached = (0..<8).map { CachedMember(device: $0, units: 8, memoryBytes: 0, cacheBytes: 0) }
    let devices = (0..<8).filter { $0 != 7 }.map { ReplanDevice(profile: profile, place: $0) }
    let request = ReplanRequest(
      costs: costs, job: job, present: present, devices: devices,
      links: Array(repeating: LinkProfile(bytesPerSecond: 1 << 20, latency: 0), count: 49), committedStep: 8,
      cachedMiniBatches: 4, cause: .lost)
    guard case .switch(let new) = try Replanning(request).decide() else {
      Issue.record("a lost device needs a new plan")
      return
    }
    // Of 64 lanes 8 are gone: seven devices have 9 or 10, so a step takes 10 s, the least there is.
    #expect(new.plan.predicted.cachedStep == 10 * second)
    #expect(new.plan.cached.map(\.units).allSatisfy { $0 <= 10 })
  }
}
