import FineTuning
import HearthNode
import LanguageModels
import ParallelPlanner

/// Predictions for the settings of PAC's Table 2 and ninth figure, beside the numbers that the paper prints.
///
/// Eight Jetson Nanos as derived from the paper's own figures (docs/PLANNING.md), float32, texts of 128 tokens,
/// memory as PyTorch needs it. What can be compared are ratios and who runs out of memory: the Nano's rates
/// were fitted to Fig. 8a.
struct PaperComparison {
  private static let models = ["t5-base", "bart-large", "t5-large"]
  private static let tasks: [(name: String, samples: Int, epochs: Int)] = [
    ("MRPC", 3668, 3), ("STS-B", 5749, 3), ("SST-2", 67_349, 1), ("QNLI", 104_743, 1),
  ]

  /// Hours of Table 2 by model; nil is OOM.
  private static let table:
    [(system: String, technique: String, planner: PlannerKind, devices: Int, hours: [[Double?]])] = [
      (
        "Standalone", "houlsby", .eddl, 1,
        [[1.21, 1.9, 7.29, 11.51], [nil, nil, nil, nil], [nil, nil, nil, nil]]
      ),
      (
        "Eco-FL", "full", .ecofl, 8,
        [[0.45, 0.71, 2.74, 4.32], [2.41, 3.78, 14.56, 22.98], [nil, nil, nil, nil]]
      ),
      ("EDDL", "full", .eddl, 8, [[nil, nil, nil, nil], [nil, nil, nil, nil], [nil, nil, nil, nil]]),
      (
        "Eco-FL", "houlsby", .ecofl, 8,
        [[0.39, 0.61, 2.35, 3.71], [0.54, 0.85, 3.27, 5.16], [2.75, 4.31, 16.59, 26.19]]
      ),
      (
        "EDDL", "houlsby", .eddl, 8,
        [[0.34, 0.53, 2.06, 3.25], [nil, nil, nil, nil], [nil, nil, nil, nil]]
      ),
      (
        "Eco-FL", "lora", .ecofl, 8,
        [[0.41, 0.64, 2.45, 3.87], [0.55, 0.87, 3.33, 5.26], [2.73, 4.28, 16.48, 26.02]]
      ),
      ("EDDL", "lora", .eddl, 8, [[0.31, 0.48, 1.86, 2.94], [nil, nil, nil, nil], [nil, nil, nil, nil]]),
      (
        "PAC", "parallel", .pac, 8,
        [[0.14, 0.22, 1.34, 2.12], [0.29, 0.45, 2.69, 4.25], [0.69, 1.09, 8.88, 14.02]]
      ),
    ]

  /// The ninth figure's samples a second at 2, 4, 6 and 8 devices, all with Parallel Adapters and no cache; nil
  /// is OOM.
  private static let throughput: [(planner: PlannerKind, name: String, rates: [[Double?]])] = [
    (.eddl, "EDDL", [[6.46, 12.08, 17.33, 22.53], [nil, nil, nil, nil], [nil, nil, nil, nil]]),
    (.ecofl, "Eco-FL", [[4.51, 8.66, 11.62, 12.19], [3.63, 6.61, 7.13, 7.26], [nil, 2.22, 2.30, 2.29]]),
    (.pac, "PAC", [[6.46, 12.08, 17.33, 22.53], [3.63, 6.85, 10.09, 13.33], [nil, 2.54, 4.38, 5.67]]),
  ]

  func printTables() throws {
    try printTable()
    try printThroughput()
  }

  private func printTable() throws {
    print(
      "Table 2: hours predicted (the paper's); in brackets PAC's speed-up over that row, predicted (the paper's)."
    )
    print("| model | technique | system | " + Self.tasks.map(\.name).joined(separator: " | ") + " |")
    print("|---|---|---|" + Self.tasks.map { _ in "---|" }.joined())
    for (place, model) in Self.models.enumerated() {
      let best = try Self.tasks.map { try hours(model, "parallel", .pac, devices: 8, $0) }
      let printed = Self.table.last!.hours[place]
      for row in Self.table {
        let cells = try Self.tasks.indices.map { task in
          let own = try hours(model, row.technique, row.planner, devices: row.devices, Self.tasks[task])
          let paper = row.hours[place][task]
          var cell = "\(own.map(hundredths) ?? "OOM") (\(paper.map(hundredths) ?? "OOM"))"
          if row.planner != .pac, let own, let ours = best[task], let paper, let theirs = printed[task] {
            cell += " [\(oneDecimal(own / ours))× (\(oneDecimal(paper / theirs))×)]"
          }
          return cell
        }
        print("| \(model) | \(row.technique) | \(row.system) | " + cells.joined(separator: " | ") + " |")
      }
    }
    print("")
  }

  private func printThroughput() throws {
    print(
      "Fig. 9a: samples a second predicted (the paper's), Parallel Adapters without cache, batch = devices.")
    print("| model | system | 2 | 4 | 6 | 8 | grouping at 8 |")
    print("|---|---|---|---|---|---|---|")
    for (place, model) in Self.models.enumerated() {
      for row in Self.throughput {
        var grouping = ""
        let cells = try [2, 4, 6, 8].enumerated().map { index, devices in
          let plan = try plan(model, "parallel", row.planner, devices: devices, batch: devices, cache: false)
          grouping = plan?.grouping ?? ""
          let own = plan.map { oneDecimal(Double(devices) / (Double($0.predicted.step) / 1e9)) } ?? "OOM"
          return "\(own) (\(row.rates[place][index].map(oneDecimal) ?? "OOM"))"
        }
        print("| \(model) | \(row.name) | " + cells.joined(separator: " | ") + " | \(grouping) |")
      }
    }
    print("")
  }

  private func hours(
    _ model: String, _ technique: String, _ planner: PlannerKind, devices: Int,
    _ task: (name: String, samples: Int, epochs: Int)
  ) throws -> Double? {
    let plan = try plan(
      model, technique, planner, devices: devices, batch: 16, samples: task.samples, epochs: task.epochs,
      cache: task.epochs > 1)
    return plan.map { Double($0.predicted.total) / 3.6e12 }
  }

  /// The plan for Nanos; nil when nothing fits.
  private func plan(
    _ model: String, _ technique: String, _ planner: PlannerKind, devices: Int, batch: Int, samples: Int = 16,
    epochs: Int = 1, cache: Bool
  ) throws -> Plan? {
    let architecture = try PlanningModel.architecture(model)
    var request = PlanRequest(model: model)
    request.technique = technique
    var configuration = request.configuration(of: architecture)
    if case .parallel = configuration {
      let layers = architecture.stacks.map(\.layers).min() ?? 0
      configuration = .parallel(ParallelAdapterConfiguration(preset: .timing, layersPerStack: layers))
    }
    let counted = try PlanningModel(
      name: model, architecture: architecture, technique: configuration, head: .classes(2),
      workload: CostWorkload(samples: 1, encoderLength: 128), counting: .paper, accounting: .paper)
    var nano = HouseholdFile.Device(name: "nano", memory: "1.45GiB", gflops: 130)
    nano.count = devices
    nano.cache = "24GiB"
    nano.sideGflops = 42
    nano.sideOverheadMs = [2, 3]
    nano.diskWriteMbS = 20
    nano.diskReadMbS = 80
    let file = HouseholdFile(
      name: "Jetson Nanos", devices: [nano], link: HouseholdFile.Link(mbitS: 1000, latencyMs: 0.3))
    let job = PlanningJob(
      epochs: epochs, stepsPerEpoch: (samples + batch - 1) / batch, unitsPerMiniBatch: batch,
      planner: planner,
      firstEpoch: cache ? .hybrid : .auto, usesCache: cache)
    do {
      return try ParallelPlanner().plan(counted.costs, household: counted.household(file), job: job).plan
    } catch {
      guard case .doesNotFit = error else { throw error }
      return nil
    }
  }
}

/// A number with one decimal.
func oneDecimal(_ value: Double) -> String { decimal(value, 1) }

/// A number with two decimals.
private func hundredths(_ value: Double) -> String { decimal(value, 2) }
