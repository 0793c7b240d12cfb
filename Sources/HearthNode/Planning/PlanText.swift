import ParallelPlanner
import PipelineSchedules

extension PlanReport {
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
    lines += PlanPicture.lines(
      stages: stages, cached: cachedDevices, idle: idle, units: unitsPerMiniBatch, microBatches: microBatches)
    lines += [
      "", mode == PlanMode.fill.rawValue ? "One mini-batch's fill" : "One mini-batch of the first epoch",
    ]
    lines += plan.chartLines()
    lines += [""] + times()
    if explain { lines += [""] + parts() }
    lines += explanation(explain)
    return lines.joined(separator: "\n") + "\n"
  }

  private var modeWords: String {
    PlanPicture.mode(
      plan.mode, grouping: plan.grouping, stages: stages.count, units: unitsPerMiniBatch,
      microBatches: microBatches)
  }

  /// The simulated mini-batch, and when its last stage has reduced its gradients.
  func timeline() -> ([[TimedOperation]], Int64) { plan.timeline() }

  private func times() -> [String] {
    let seconds = predictedSeconds
    var lines = ["Predicted"]
    switch plan.mode {
    case .live:
      // What is done once is in the first epoch alone.
      lines.append("  each of \(epochs) epochs      \(duration(seconds.firstEpoch - breakdown.once))")
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

  /// One line a stage, so that each can be held against what was measured.
  private func parts() -> [String] {
    func line(_ name: String, _ parts: Parts) -> String {
      let all = [
        ("passes", parts.passes), ("exchange", parts.exchange), ("ring", parts.ring),
        ("update", parts.update),
      ]
      return "  \(name)  "
        + all.filter { $0.1 > 0 }.map { "\($0.0) \(duration($0.1))" }.joined(separator: ", ")
    }
    var lines = ["One mini-batch, of the slowest device"]
    for (number, parts) in breakdown.stages.enumerated() {
      lines.append(line("stage \(number + 1) does", parts))
    }
    lines.append("  waits beyond that   \(duration(breakdown.waiting))")
    if let cached = breakdown.cached { lines.append(line("from the cache", cached)) }
    lines.append("Once, before all of it: memory and weights are touched, \(duration(breakdown.once))")
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
