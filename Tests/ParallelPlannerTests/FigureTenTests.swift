import ParallelPlanner
import Testing

/// One cell of PAC's tenth figure: "homogeneous Nanos, PA without cache, sequence 128".
struct FigureTenCell: Sendable {
  var model: FigureTenModel
  var devices: Int
  /// Devices of the stages as the figure prints them; nil for OOM.
  var groups: [Int]?

  static let all: [FigureTenCell] = [
    FigureTenCell(model: .t5Base, devices: 2, groups: [2]),
    FigureTenCell(model: .t5Base, devices: 4, groups: [4]),
    FigureTenCell(model: .t5Base, devices: 6, groups: [6]),
    FigureTenCell(model: .t5Base, devices: 8, groups: [8]),
    FigureTenCell(model: .bartLarge, devices: 2, groups: [1, 1]),
    FigureTenCell(model: .bartLarge, devices: 4, groups: [2, 2]),
    FigureTenCell(model: .bartLarge, devices: 6, groups: [3, 3]),
    FigureTenCell(model: .bartLarge, devices: 8, groups: [4, 4]),
    FigureTenCell(model: .t5Large, devices: 2, groups: nil),
    FigureTenCell(model: .t5Large, devices: 4, groups: [2, 1, 1]),
    FigureTenCell(model: .t5Large, devices: 6, groups: [2, 2, 2]),
    FigureTenCell(model: .t5Large, devices: 8, groups: [3, 3, 2]),
  ]
}

@Suite struct FigureTenTests {
  @Test(
    "PAC Fig. 10a: as many stages as the figure and groups as even, for budgets of 1.41 to 1.55 GB",
    arguments: FigureTenCell.all)
  func cell(cell: FigureTenCell) throws {
    for hundredths in [141, 145, 150, 155] {
      let budget = Int64(hundredths) * (1 << 30) / 100
      let device = DeviceProfile(
        name: "Jetson Nano", memoryBudget: budget, cacheBudget: 0, diskWriteBytesPerSecond: 50_000_000,
        diskReadBytesPerSecond: 50_000_000,
        times: [UnitTimes(proportional: 2_500_000, backward: 375_000, fill: 2_500_000, cached: 250_000)]
      )
      let household = HouseholdProfile(
        devices: Array(repeating: device, count: cell.devices),
        link: LinkProfile(bytesPerSecond: 125_000_000, latency: 200_000))
      // Units are small, as the paper divides a micro-batch into equal parts that need not be whole samples.
      let job = PlanningJob(
        epochs: 1, stepsPerEpoch: 229, unitsPerMiniBatch: 96, microBatchCounts: [4], usesCache: false)
      do {
        let result = try ParallelPlanner().plan(cell.model.costs, household: household, job: job)
        let groups = result.plan.stages.map(\.members.count)
        #expect(
          groups.sorted() == cell.groups?.sorted(),
          "\(cell.model) on \(cell.devices): \(result.plan.grouping)")
      } catch {
        guard case .doesNotFit = error else { throw error }
        #expect(cell.groups == nil, "\(cell.model) on \(cell.devices) at \(hundredths): \(error)")
      }
    }
  }
}
