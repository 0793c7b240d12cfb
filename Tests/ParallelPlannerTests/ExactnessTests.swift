import Determinism
import ParallelPlanner
import Testing

/// The total of the best plan; nil when nothing fits.
func plannedTotal(_ instance: PlanningInstance) throws -> Int64? {
  do {
    return try ParallelPlanner().plan(instance.costs, household: instance.household, job: instance.job)
      .plan.predicted.total
  } catch {
    guard case .doesNotFit = error else { throw error }
    return nil
  }
}

@Suite struct ExactnessTests {
  @Test(
    "The planner equals exhaustive search on 2,000 households of up to 5 devices and models of up to 8 layers",
    arguments: 0..<8)
  func sweep(part: Int) throws {
    var maker = InstanceMaker(seed: UInt64(500 + part))
    var fitting = 0
    var memoryBound = 0
    for number in 0..<250 {
      // The largest size only sometimes: exhaustive search takes seconds there.
      let isLarge = number % 50 == 0
      let devices = isLarge ? 5 : 1 + maker.below(4)
      let layers = isLarge ? 6 + maker.below(3) : 1 + maker.below(8)
      let units = isLarge ? 1 + maker.below(2) : [1, 2, 3, 4, 4, 6][maker.below(devices > 3 ? 4 : 6)]
      let instance = maker.instance(devices: devices, layers: layers, units: units)
      let exhaustive = ExhaustiveSearch(
        costs: instance.costs, household: instance.household, job: instance.job
      ).best()
      let planned = try plannedTotal(instance)
      #expect(planned == exhaustive, "part \(part), instance \(number): \(devices) devices, \(layers) layers")
      if exhaustive != nil { fitting += 1 }
      var roomy = instance
      for device in roomy.household.devices.indices { roomy.household.devices[device].memoryBudget = 1 << 40 }
      if try plannedTotal(roomy) != exhaustive { memoryBound += 1 }
    }
    #expect(fitting > 100 && memoryBound > 50, "\(fitting) fit, \(memoryBound) are bound by memory")
  }
}
