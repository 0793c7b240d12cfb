import ArgumentParser
import ComputeRuntime
import Determinism
import ParallelPlanner

/// `hearth-benchmark planner`: how fast and how good plans are, and what they predict of the paper's runs.
struct PlannerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "planner",
    abstract:
      "Measure planning time, the large search against the exact one, and predictions of PAC's tables.")

  @Option(help: "Repetitions of each planning time; the median counts.")
  var repetitions = 11

  @Option(help: "Households of the comparison of the two searches.")
  var instances = 1000

  func validate() throws {
    guard (1...1000).contains(repetitions), (1...100_000).contains(instances) else {
      throw ValidationError("--repetitions must be 1 to 1000 and --instances 1 to 100000")
    }
  }

  func run() throws {
    try printPlanningTimes()
    try printExactSearch()
    try printSearchQuality()
    try PaperComparison().printTables()
  }

  private func printPlanningTimes() throws {
    print("| layers | devices | planning, median | slowest |")
    print("|---|---|---|---|")
    for (layers, devices) in [(24, 8), (48, 8), (48, 32), (48, 64)] {
      var times: [Double] = []
      for repetition in 0..<repetitions {
        var household = SeededHousehold(seed: UInt64(repetition))
        let costs = household.costs(layers: layers)
        let profile = household.profile(devices: devices, memory: 1500)
        let job = PlanningJob(epochs: 3, stepsPerEpoch: 230, unitsPerMiniBatch: 16)
        let start = MonotonicClock.seconds()
        _ = try ParallelPlanner().plan(costs, household: profile, job: job)
        times.append(MonotonicClock.seconds() - start)
      }
      times.sort()
      let median = times[times.count / 2]
      print(
        "| \(layers) | \(devices), all different | \(oneDecimal(median * 1000)) ms | \(oneDecimal(times.last! * 1000)) ms |"
      )
    }
    print("")
  }

  /// How long the exact search takes on common households, and how often it ends before its limit.
  private func printExactSearch() throws {
    print("The exact search on 24 layers:")
    print("| devices, all different | units | proven | planning, median | slowest |")
    print("|---|---|---|---|---|")
    for (devices, units) in [(2, 8), (3, 8), (4, 8), (4, 16), (5, 8), (5, 16)] {
      var times: [Double] = []
      var proven = 0
      for repetition in 0..<2 * repetitions {
        var household = SeededHousehold(seed: UInt64(77 + repetition))
        let costs = household.costs(layers: 24)
        let profile = household.profile(devices: devices, memory: 1500)
        let job = PlanningJob(epochs: 3, stepsPerEpoch: 230, unitsPerMiniBatch: units)
        let start = MonotonicClock.seconds()
        let result = try ParallelPlanner().plan(costs, household: profile, job: job)
        times.append(MonotonicClock.seconds() - start)
        if result.isProven { proven += 1 }
      }
      times.sort()
      print(
        "| \(devices) | \(units) | \(proven) of \(times.count) | \(oneDecimal(times[times.count / 2] * 1000)) ms "
          + "| \(oneDecimal(times.last! * 1000)) ms |")
    }
    print("")
  }

  /// Both searches on households that both can do.
  private func printSearchQuality() throws {
    var equal = 0
    var missed = 0
    var compared = 0
    var gaps: [Double] = []
    for number in 0..<instances {
      var household = SeededHousehold(seed: UInt64(1_000_000 + number))
      let costs = household.costs(layers: 4 + household.below(9))
      let profile = household.profile(
        devices: 2 + household.below(4), memory: [300, 600, 1500][household.below(3)])
      let job = PlanningJob(epochs: 3, stepsPerEpoch: 230, unitsPerMiniBatch: 8)
      guard let exact = try total(costs, profile, job, provesSmall: true) else { continue }
      compared += 1
      guard let large = try total(costs, profile, job, provesSmall: false) else {
        missed += 1
        continue
      }
      if large == exact { equal += 1 }
      gaps.append(Double(large) / Double(exact) - 1)
    }
    gaps.sort()
    func percent(_ share: Double) -> String { "\(oneDecimal(share * 100)) %" }
    print("Large search against exact search, \(compared) households of 2 to 5 devices and 4 to 12 layers:")
    print("| equal | gap, 9th decile | worst gap | a plan exists and is not found |")
    print("|---|---|---|---|")
    print(
      "| \(percent(Double(equal) / Double(max(1, compared)))) | \(percent(gaps[gaps.count * 9 / 10])) | "
        + "\(percent(gaps.last ?? 0)) | \(missed) |")
    print("")
  }

  /// The best plan's time when it exists and, for the exact search, is proven.
  private func total(
    _ costs: ModelCosts, _ household: HouseholdProfile, _ job: PlanningJob, provesSmall: Bool
  ) throws -> Int64? {
    do {
      let result = try ParallelPlanner().plan(costs, household: household, job: job, provesSmall: provesSmall)
      return provesSmall && !result.isProven ? nil : result.plan.predicted.total
    } catch {
      guard case .doesNotFit = error else { throw error }
      return nil
    }
  }
}

/// Households and models of a seed: transformer-like layers of two kinds, devices up to eight times apart.
struct SeededHousehold {
  private var generator: SeededGenerator

  init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

  mutating func below(_ bound: Int) -> Int { generator.uniform(below: bound) }

  private mutating func number(_ range: ClosedRange<Int>) -> Int64 {
    Int64(range.lowerBound + generator.uniform(below: range.count))
  }

  /// Half the layers of one kind, half of a lighter one, as in an encoder-decoder; sizes in MB.
  mutating func costs(layers: Int) -> ModelCosts {
    ModelCosts(
      name: "seeded", kinds: ["encoder", "decoder"],
      layers: (0..<layers).map { layer in
        LayerCosts(
          kind: layer < layers / 2 ? 0 : 1, frozenBytes: (layer < layers / 2 ? 28 : 38) * 1_000_000,
          trainableBytes: 800_000, retainedBytes: 2_000_000, cacheBytes: 200_000,
          forwardBoundaryBytes: 440_000, backwardBoundaryBytes: 50_000, fillBoundaryBytes: 390_000)
      },
      shared: [SharedWeights(bytes: 99_000_000, layers: [0, layers / 2])], transientBytes: 4_000_000,
      cachedUnitBytes: 30_000_000, canCache: true)
  }

  /// Devices between a third of `memory` MB and the whole, all different, on links between 10 and 1000 Mbit/s.
  mutating func profile(devices: Int, memory: Int) -> HouseholdProfile {
    let profiles = (0..<devices).map { index in
      let slowness = number(100...800)
      return DeviceProfile(
        name: "device \(index)", memoryBudget: number(memory / 3...memory) * 1_000_000,
        workers: 1 + below(4), cacheBudget: number(1000...100_000) * 1_000_000,
        diskWriteBytesPerSecond: number(20...400) * 1_000_000,
        diskReadBytesPerSecond: number(50...1000) * 1_000_000,
        times: [60_000, 10_000].map { (work: Int64) in
          let each = work * slowness
          return UnitTimes(proportional: each, backward: each / 6, fill: each * 9 / 10, cached: each / 5)
        })
    }
    var household = HouseholdProfile(
      devices: profiles, link: LinkProfile(bytesPerSecond: 125_000_000, latency: 300_000))
    for row in 0..<devices {
      for column in row + 1..<max(row + 1, devices) where below(3) > 0 {
        let link = LinkProfile(
          bytesPerSecond: number(1250...125_000) * 1000, latency: number(100...5000) * 1000)
        household.links[row * devices + column] = link
        household.links[column * devices + row] = link
      }
    }
    return household
  }
}
