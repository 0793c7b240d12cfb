import Determinism
import ParallelPlanner
import Testing

@Suite struct PlanningEffortTests {
  @Test(
    "Forty-eight layers on thirty-two different devices are planned, and so are the largest inputs allowed")
  func large() throws {
    var maker = InstanceMaker(seed: 91)
    for (layers, devices) in [(24, 8), (48, 32), (512, 64)] {
      var instance = maker.instance(devices: devices, layers: layers, units: 16)
      instance.job.planner = .pac
      for device in instance.household.devices.indices {
        instance.household.devices[device].memoryBudget = 1 << 40
        instance.household.devices[device].cacheBudget = 1 << 40
      }
      let clock = ContinuousClock()
      var result: PlanningResult?
      let time = try clock.measure {
        result = try ParallelPlanner().plan(instance.costs, household: instance.household, job: instance.job)
      }
      print(layers, devices, time, result!.plan.grouping, result!.plan.mode, result!.plan.microBatches)
      #expect(result != nil)
    }
  }
}
