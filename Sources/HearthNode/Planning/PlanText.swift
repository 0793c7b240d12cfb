import ParallelPlanner
import PipelineSchedules

extension PlanReport {
  /// Columns of the Gantt's time axis.
  private static let ganttColumns = 72
  /// Rows that are worth showing of the rejected shapes without --explain.
  private static let fewReasons = 3

  /// The plan as a picture that people understand.
  package func text(explain: Bool) -> String {
    var lines = [
      "Plan for \(model) on \(household): \(grouped(samples)) samples, \(epochs) \(epochs == 1 ? "epoch" : "epochs")",
      "",
      modeWords,
      "",
    ]
    for (number, stage) in stages.enumerated() {
      let range =
        stage.layers[0] == stage.layers[1] ? stage.layers[0] : "\(stage.layers[0]) to \(stage.layers[1])"
      lines.append(
        "stage \(number + 1)   \(range) (\(stage.layerCount) \(stage.layerCount == 1 ? "layer" : "layers"))")
      lines += table(stage.devices, of: unitsPerMiniBatch / microBatches)
    }
    if !cachedDevices.isEmpty {
      lines.append(
        "cached epochs   \(cachedDevices.count == 1 ? "one device" : "\(cachedDevices.count) devices")")
      lines += table(cachedDevices, of: unitsPerMiniBatch)
    }
    if !idle.isEmpty { lines.append("idle      \(idle.joined(separator: ", "))") }
    lines += [
      "", mode == PlanMode.fill.rawValue ? "One mini-batch's fill" : "One mini-batch of the first epoch",
    ]
    lines += gantt()
    lines += [""] + times()
    lines += explanation(explain)
    return lines.joined(separator: "\n") + "\n"
  }

  private var modeWords: String {
    let stageWords = stages.count == 1 ? "one stage" : "\(stages.count) stages"
    let pieces =
      microBatches == 1
      ? "whole mini-batches of \(unitsPerMiniBatch) units"
      : "\(microBatches) micro-batches of \(unitsPerMiniBatch / microBatches) units"
    let first = "\(stageWords) \(plan.grouping), \(pieces)"
    switch plan.mode {
    case .live: return "Every epoch runs the backbone: \(first)."
    case .hybrid: return "The first epoch trains and fills the cache: \(first); then it is read."
    case .fill: return "The cache is filled first, without training: \(first); then every epoch reads it."
    }
  }

  private func table(_ devices: [Device], of units: Int) -> [String] {
    let width = devices.map(\.name.count).max() ?? 0
    return devices.map { device in
      let name = device.name + String(repeating: " ", count: width - device.name.count)
      let budget = max(1, device.budgetBytes)
      let filled = Int(min(device.memoryBytes, budget) * 10 / budget)
      let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: 10 - filled)
      var line = "          \(name)  \(device.share)/\(units)  [\(bar)] "
      line += "\(ByteCount(Int(device.memoryBytes))) of \(ByteCount(Int(device.budgetBytes)))"
      if let cache = device.cacheBytes { line += ", cache \(ByteCount(Int(cache)))" }
      return line
    }
  }

  /// One line a stage: a digit is a forward pass, a letter a backward pass, by the micro-batch's last digit.
  private func gantt() -> [String] {
    let (timeline, end) = timeline()
    guard end > 0 else { return [] }
    let columns = PlanReport.ganttColumns
    var lines = timeline.enumerated().map { number, row in
      var cells = Array(repeating: Character("."), count: columns)
      for timed in row {
        let from = Int(timed.start * Int64(columns) / end)
        let to = max(from + 1, Int(timed.end * Int64(columns) / end))
        for cell in from..<min(to, columns) { cells[cell] = PlanReport.mark(timed.operation) }
      }
      let reduction = plan.stages[number].times.reduction
      if reduction > 0, let last = row.last {
        for cell in Int(last.end * Int64(columns) / end)..<columns
        where Int64(cell) * end / Int64(columns) < last.end + reduction && cells[cell] == "." {
          cells[cell] = "="
        }
      }
      return "stage \(number + 1)   \(String(cells))"
    }
    let legend = plan.mode == .fill ? "0-9 forward" : "0-9 forward, a-j backward, = sum of gradients"
    lines.append(
      "          0 \(String(repeating: " ", count: columns - 14)) \(duration(PlanReport.seconds(end)))")
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

  /// The simulated mini-batch, and when its last stage has reduced its gradients.
  func timeline() -> ([[TimedOperation]], Int64) {
    var simulator = ScheduleSimulator()
    let times = plan.stages.map(\.times)
    let rows = simulator.timeline(plan.schedule, stages: times, boundaries: plan.boundaries)
    let end = zip(rows, times).map { ($0.last?.end ?? 0) + $1.reduction }.max() ?? 0
    return (rows, end)
  }

  private func times() -> [String] {
    let seconds = predictedSeconds
    var lines = ["Predicted"]
    switch plan.mode {
    case .live: lines.append("  each of \(epochs) epochs      \(duration(seconds.firstEpoch))")
    case .hybrid, .fill:
      let cached = plan.mode == .hybrid ? epochs - 1 : epochs
      lines.append(
        "  \(plan.mode == .hybrid ? "first epoch   " : "filling       ")        \(duration(seconds.firstEpoch))"
      )
      lines.append("  redistribution        \(duration(seconds.redistribution))")
      lines.append("  each of \(cached) cached epochs  \(duration(seconds.cachedEpoch))")
    }
    lines.append("  total                 \(duration(seconds.total))")
    lines.append("  planned in \(decimal(planningSeconds * 1000, 1)) ms, plan \(planDigest.prefix(16))")
    lines.append(
      proven ? "  every plan was considered" : "  a large household: the best plan found, not proven the best"
    )
    return lines
  }

  private func explanation(_ explain: Bool) -> [String] {
    guard !rejected.isEmpty else { return [] }
    let shown = explain ? rejected[...] : rejected.prefix(PlanReport.fewReasons)
    var lines = ["", "Not chosen (the best of each kind)"]
    let width = shown.map { $0.mode.count + $0.grouping.count }.max() ?? 0
    for alternative in shown {
      let name = "\(alternative.mode) \(alternative.grouping)"
      lines.append(
        "  \(name)\(String(repeating: " ", count: max(0, width + 1 - name.count)))  \(alternative.because)")
    }
    if shown.count < rejected.count {
      lines.append("  and \(rejected.count - shown.count) more with --explain")
    }
    return lines
  }
}
