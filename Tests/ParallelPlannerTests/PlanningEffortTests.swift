import ParallelPlanner
import Testing

@Suite struct PlanningEffortTests {
  @Test(
    "Large households and the largest inputs allowed are planned, all layers on some devices",
    arguments: [(24, 8), (48, 32), (PlanningLimits.layers, PlanningLimits.devices)])
  func large(layers: Int, devices: Int) throws {
    var maker = InstanceMaker(seed: 91)
    var instance = maker.instance(devices: devices, layers: layers, units: 16)
    instance.job.planner = .pac
    for device in instance.household.devices.indices {
      instance.household.devices[device].memoryBudget = 1 << 40
      instance.household.devices[device].cacheBudget = 1 << 40
    }
    let result = try ParallelPlanner().plan(instance.costs, household: instance.household, job: instance.job)
    #expect(result.plan.stages.reduce(0) { $0 + $1.layers.count } == layers)
    #expect(!result.isProven)
  }

  @Test("Numbers beyond their limits are refused with their names")
  func limits() throws {
    var maker = InstanceMaker(seed: 92)
    let good = maker.instance(devices: 2, layers: 3, units: 4)
    func failure(_ change: (inout PlanningInstance) -> Void) -> PlanningFailure? {
      var instance = good
      change(&instance)
      do throws(PlanningFailure) {
        _ = try ParallelPlanner().plan(instance.costs, household: instance.household, job: instance.job)
        return nil
      } catch {
        return error
      }
    }
    func isOutOfRange(_ failure: PlanningFailure?, _ words: String) -> Bool {
      guard case .outOfRange(let what, _, _) = failure else { return false }
      return what.contains(words)
    }
    func isInconsistent(_ failure: PlanningFailure?, _ words: String) -> Bool {
      guard case .inconsistent(let what) = failure else { return false }
      return what.contains(words)
    }
    #expect(isOutOfRange(failure { $0.job.epochs = 0 }, "epochs"))
    #expect(
      isOutOfRange(failure { $0.job.unitsPerMiniBatch = PlanningLimits.unitsPerMiniBatch + 1 }, "mini-batch"))
    #expect(isInconsistent(failure { $0.job.microBatchCounts = [3] }, "do not divide"))
    #expect(isOutOfRange(failure { $0.household.devices = [] }, "devices"))
    #expect(isOutOfRange(failure { $0.household.devices[1].memoryBudget = -1 }, "device 1"))
    #expect(isInconsistent(failure { $0.household.links.removeLast() }, "links"))
    #expect(isInconsistent(failure { $0.household.links[1].latency += 1 }, "differs by direction"))
    #expect(isOutOfRange(failure { $0.household.links[1].bytesPerSecond = 0 }, "bandwidth"))
    #expect(isOutOfRange(failure { $0.household.devices[0].times[0].forward = [5, 4] }, "device 0"))
    #expect(isOutOfRange(failure { $0.costs.layers[2].kind = 9 }, "layer 2"))
    #expect(isOutOfRange(failure { $0.costs.layers[1].frozenBytes = .max }, "layer 1"))
    #expect(isOutOfRange(failure { $0.costs.layers = [] }, "layers"))
  }

  @Test("When nothing fits, the failure names the stage, the device and what is missing")
  func nothingFits() throws {
    let costs = ModelCosts(
      name: "two heavy layers", kinds: ["layer"],
      layers: Array(
        repeating: LayerCosts(
          kind: 0, frozenBytes: 3_000_000_000, trainableBytes: 0, retainedBytes: 0, forwardBoundaryBytes: 1,
          backwardBoundaryBytes: 1, fillBoundaryBytes: 1), count: 2),
      canCache: false)
    let device = DeviceProfile(
      name: "tablet", memoryBudget: 2_690_000_000, cacheBudget: 0, diskWriteBytesPerSecond: 1_000_000,
      diskReadBytesPerSecond: 1_000_000,
      times: [UnitTimes(proportional: 10, backward: 10, fill: 10, cached: 10)])
    let household = HouseholdProfile(
      devices: [device, device], link: LinkProfile(bytesPerSecond: 1_000_000, latency: 0))
    #expect(
      throws: PlanningFailure.doesNotFit(
        planner: .pac, nearest: "stage 1 of 2, layers 0 to 0, needs 310 MB more on tablet")
    ) {
      try ParallelPlanner().plan(
        costs, household: household,
        job: PlanningJob(epochs: 1, stepsPerEpoch: 1, unitsPerMiniBatch: 1, usesCache: false))
    }
  }

  @Test("An alternative that lost says what it lacks or loses")
  func reasons() throws {
    // One device holds one of the two layers, so data parallel lacks exactly a layer.
    let costs = ModelCosts(
      name: "two layers", kinds: ["layer"],
      layers: Array(
        repeating: LayerCosts(
          kind: 0, frozenBytes: 1000, trainableBytes: 0, retainedBytes: 0, forwardBoundaryBytes: 0,
          backwardBoundaryBytes: 0, fillBoundaryBytes: 0), count: 2),
      canCache: false)
    let device = DeviceProfile(
      name: "small", memoryBudget: 1400, cacheBudget: 0, diskWriteBytesPerSecond: 1_000_000,
      diskReadBytesPerSecond: 1_000_000,
      times: [UnitTimes(proportional: 10, backward: 10, fill: 10, cached: 10)])
    let household = HouseholdProfile(
      devices: [device, device], link: LinkProfile(bytesPerSecond: 1_000_000, latency: 0))
    let job = PlanningJob(epochs: 1, stepsPerEpoch: 1, unitsPerMiniBatch: 4, usesCache: false)
    let result = try ParallelPlanner().plan(costs, household: household, job: job)
    #expect(result.plan.grouping == "[1-1]" && result.isProven)
    let lost = try #require(result.rejected.first { $0.stages == 1 })
    #expect(lost.reason == .doesNotFit(stage: 0, device: 0, missingBytes: 600))
    // With room for both layers, two stages of M micro-batches lose the pipeline's 1 of M + 1.
    var roomy = household
    roomy.devices[0].memoryBudget = 4000
    roomy.devices[1].memoryBudget = 4000
    let parallel = try ParallelPlanner().plan(costs, household: roomy, job: job)
    #expect(parallel.plan.grouping == "[2]")
    let pipeline = try #require(parallel.rejected.first { $0.stages == 2 })
    #expect(pipeline.reason == .slower(total: 100, bubbleThousandths: 200))
  }
}
