import ParallelPlanner
import PipelineSchedules

/// A plan drawn for people: who has which layers, which share, and how much of its memory that takes.
enum PlanPicture {
  /// Characters of a memory bar.
  private static let barWidth = 10

  /// How the epochs run, in a sentence.
  static func mode(
    _ mode: PlanMode, grouping: String, stages: Int, units: Int, microBatches: Int
  ) -> String {
    let stageWords = stages == 1 ? "one stage" : "\(stages) stages"
    let pieces =
      microBatches == 1
      ? "whole mini-batches of \(units) units"
      : "\(microBatches) micro-batches of \(units / microBatches) units"
    let first = "\(stageWords) \(grouping), \(pieces)"
    switch mode {
    case .live: return "Every epoch runs the backbone: \(first)."
    case .hybrid: return "The first epoch trains and fills the cache: \(first); then it is read."
    case .fill: return "The cache is filled first, without training: \(first); then every epoch reads it."
    }
  }

  /// The stages with their devices, those of the cached epochs, and those without work.
  static func lines(
    stages: [PlanReport.Stage], cached: [PlanReport.Device], idle: [String], units: Int, microBatches: Int
  ) -> [String] {
    var lines: [String] = []
    for (number, stage) in stages.enumerated() {
      lines.append(
        "stage \(number + 1)   \(range(stage)) (\(stage.layerCount) \(stage.layerCount == 1 ? "layer" : "layers"))"
      )
      lines += table(stage.devices, of: units / max(1, microBatches))
    }
    if !cached.isEmpty {
      lines.append("cached epochs   \(cached.count == 1 ? "one device" : "\(cached.count) devices")")
      lines += table(cached, of: units)
    }
    if !idle.isEmpty { lines.append("idle      \(idle.joined(separator: ", "))") }
    return lines
  }

  /// The layers of a stage, as "encoder 0 to encoder 5".
  static func range(_ stage: PlanReport.Stage) -> String {
    guard let first = stage.layers.first, let last = stage.layers.last, first != last else {
      return stage.layers.first ?? ""
    }
    return "\(first) to \(last)"
  }

  private static func table(_ devices: [PlanReport.Device], of units: Int) -> [String] {
    let width = devices.map(\.name.count).max() ?? 0
    return devices.map { device in
      let name = device.name + String(repeating: " ", count: width - device.name.count)
      var line = "          \(name)  \(device.share)/\(units)  "
      // A plan may be known before the budgets of all its devices are.
      if device.budgetBytes > 0 {
        line += "[\(bar(device.memoryBytes, of: device.budgetBytes))] "
        line += "\(ByteCount(Int(device.memoryBytes))) of \(ByteCount(Int(device.budgetBytes)))"
      } else {
        line += "\(ByteCount(Int(device.memoryBytes)))"
      }
      if let cache = device.cacheBytes { line += ", cache \(ByteCount(Int(cache)))" }
      return line
    }
  }

  /// How full a budget is, as a row of ten characters.
  static func bar(_ used: Int64, of budget: Int64) -> String {
    let most = max(1, budget)
    let (product, overflow) = max(0, min(used, most)).multipliedReportingOverflow(by: Int64(barWidth))
    let filled = overflow ? barWidth : Int(product / most)
    return String(repeating: "#", count: filled) + String(repeating: ".", count: barWidth - filled)
  }
}

extension JobPlanSummary {
  /// The plan as a picture, line by line.
  package var lines: [String] { picture + chart + [end] }

  /// The same without the chart of a mini-batch.
  package var shortLines: [String] { picture + [end] }

  private var picture: [String] {
    let grouping = "[" + stages.map { String($0.devices.count) }.joined(separator: "-") + "]"
    var lines: [String] = []
    if let mode = PlanMode(rawValue: mode) {
      lines.append(
        PlanPicture.mode(
          mode, grouping: grouping, stages: stages.count, units: unitsPerMiniBatch, microBatches: microBatches
        ))
    }
    lines += PlanPicture.lines(
      stages: stages, cached: cachedDevices, idle: idle, units: unitsPerMiniBatch, microBatches: microBatches)
    return lines
  }

  private var end: String {
    "predicted total \(brief(predictedSeconds.total)); plan \(planEpoch) by \(leader), \(planDigest.prefix(16))"
  }
}

extension Plan {
  /// Columns of the chart's time axis.
  private static let chartColumns = 72

  /// The simulated mini-batch, and when its last stage has reduced its gradients.
  func timeline() -> ([[TimedOperation]], Int64) {
    var simulator = ScheduleSimulator()
    let times = stages.map(\.times)
    let rows = simulator.timeline(schedule, stages: times, boundaries: boundaries)
    let end = zip(rows, times).map { ($0.last?.end ?? 0) + $1.reduction }.max() ?? 0
    return (rows, end)
  }

  /// One line a stage: a digit is a forward pass, a letter a backward pass, by the micro-batch's last digit.
  func chartLines() -> [String] {
    let (timeline, end) = timeline()
    guard end > 0 else { return [] }
    let columns = Plan.chartColumns
    var lines = timeline.enumerated().map { number, row in
      var cells = Array(repeating: Character("."), count: columns)
      for timed in row {
        let from = Int(timed.start * Int64(columns) / end)
        let to = max(from + 1, Int(timed.end * Int64(columns) / end))
        for cell in from..<min(to, columns) { cells[cell] = Plan.mark(timed.operation) }
      }
      let reduction = stages[number].times.reduction
      if reduction > 0, let last = row.last {
        for cell in Int(last.end * Int64(columns) / end)..<columns
        where Int64(cell) * end / Int64(columns) < last.end + reduction && cells[cell] == "." {
          cells[cell] = "="
        }
      }
      return "stage \(number + 1)   \(String(cells))"
    }
    let legend = mode == .fill ? "0-9 forward" : "0-9 forward, a-j backward, = sum of gradients"
    lines.append(
      "          0 \(String(repeating: " ", count: columns - 14)) \(brief(PlanReport.seconds(end)))")
    lines.append("          \(legend), . waiting")
    return lines
  }

  private static func mark(_ operation: PipelineOperation) -> Character {
    let digit = UInt8(operation.microBatch % 10)
    switch operation {
    case .forward: return Character(UnicodeScalar(UInt8(ascii: "0") + digit))
    case .backward: return Character(UnicodeScalar(UInt8(ascii: "a") + digit))
    }
  }
}

/// A duration that may be much less than a second.
private func brief(_ seconds: Double) -> String {
  seconds < 0.1 ? "\(decimal(seconds * 1000, 1)) ms" : duration(seconds)
}
