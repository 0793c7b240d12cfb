import NeuralNetworks
import TensorKernels

/// Turns the events of a run into text for people: a bar that is redrawn in place, or plain lines.
///
/// A value that is told the time, so that tests need neither a terminal nor a clock.
package struct RunRenderer: Sendable {
  /// Seconds between two drawings of the bar: 10 a second at most.
  static let redrawInterval = 0.1
  /// Seconds between two plain progress lines of one phase.
  static let lineInterval = 5.0

  private let style: ConsoleStyle
  private var epochs = 0
  private var barIsDrawn = false
  private var lastShown = -Double.infinity

  /// A renderer that has shown nothing.
  package init(style: ConsoleStyle) { self.style = style }

  /// The text to write for `event` at `now` (seconds of any monotonic clock); empty when nothing is due.
  package mutating func text(for event: RunEvent, at now: Double) -> String {
    switch event {
    case .started(let plan):
      epochs = plan.epochs
      return line(planText(plan))
    case .phase(let phase):
      // A plain log waits a whole interval before the first progress line of a phase; a bar does not.
      lastShown = style.columns == nil ? now : -Double.infinity
      return phaseText(phase).map { line($0) } ?? ""
    case .progress(let progress):
      return progressText(progress, at: now)
    case .evaluated(let metric, let epoch):
      let moment = epoch == 0 ? "before training" : "after epoch \(epoch)"
      return line("\(metric.name) \(decimal(metric.value, 4)) \(moment)")
    case .filled(let summary):
      return line(
        "fill: \(grouped(summary.samples)) samples in \(duration(summary.seconds)), "
          + "\(decimal(Double(summary.samples) / max(summary.seconds, 1e-9), 1)) samples/s")
    case .epoch(let index, let summary): return line(Self.epochText(index, of: epochs, summary))
    case .backboneReleased(let before, let after):
      return line(
        "backbone left memory: \(ByteCount(before)) resident before, \(ByteCount(after)) after")
    case .checkpoint: return ""
    case .warning(let message): return line(style.paint("warning: ", .yellow) + message)
    case .finished: return clearedBar()
    }
  }

  /// One line that says how an epoch went.
  static func epochText(_ index: Int, of epochs: Int, _ summary: EpochSummary) -> String {
    "epoch \(index)/\(epochs) \(summary.mode.rawValue): \(duration(summary.seconds)), "
      + "\(decimal(summary.samplesPerSecond, 1)) samples/s, loss \(decimal(summary.loss, 4))"
  }

  /// Text that removes a bar, to be written before anything else is.
  package mutating func clearedBar() -> String {
    guard barIsDrawn else { return "" }
    barIsDrawn = false
    return "\r\u{1B}[K"
  }

  private mutating func line(_ text: String) -> String { clearedBar() + text + "\n" }

  private mutating func progressText(_ progress: RunProgress, at now: Double) -> String {
    guard let columns = style.columns else {
      guard now - lastShown >= Self.lineInterval else { return "" }
      lastShown = now
      return ProgressLine(progress, epochs: epochs).plain + "\n"
    }
    guard now - lastShown >= Self.redrawInterval || progress.step == progress.steps else { return "" }
    lastShown = now
    barIsDrawn = true
    return "\r" + ProgressLine(progress, epochs: epochs).bar(columns: columns) + "\u{1B}[K"
  }

  /// Phases that are told by what comes of them (progress, a metric, an epoch) need no line of their own.
  private func phaseText(_ phase: RunPhase) -> String? {
    switch phase {
    case .preparation: "reading model and data"
    case .evaluation, .fill, .liveEpoch, .cachedEpoch, .transition: nil
    case .saving: "writing the adapter"
    }
  }

  private func planText(_ plan: RunPlan) -> String {
    var lines = [
      "\(plan.model): \(grouped(plan.backboneParameters)) frozen parameters, "
        + "\(grouped(plan.trainableParameters)) trained (\(plan.technique), "
        + "\(ByteCount(plan.trainableParameters * 4)) of adapter)",
      "\(plan.device): \(plan.threads) \(plan.threads == 1 ? "thread" : "threads"), kernels \(plan.kernels), "
        + "BLAS core \(plan.blasCore)",
      "\(grouped(plan.samples)) training rows, \(grouped(plan.validationSamples)) held out, "
        + "\(plan.lanes) lanes, \(plan.epochs) epochs of \(grouped(plan.stepsPerEpoch)) steps",
      memoryText(plan),
    ]
    if plan.gradientPrecision != .full {
      lines.append("gradients: \(plan.gradientPrecision.rawValue) precision")
    }
    if let weights = plan.weights { lines.append("frozen weights: \(weights.text)") }
    if plan.firstStep > 0 { lines.append("going on after step \(grouped(plan.firstStep))") }
    if plan.skippedRows > 0 {
      lines.append(style.paint("warning: ", .yellow) + "\(grouped(plan.skippedRows)) malformed rows left out")
    }
    if plan.truncatedTexts > 0 {
      lines.append(
        style.paint("warning: ", .yellow) + "\(grouped(plan.truncatedTexts)) texts cut at --max-length")
    }
    return lines.joined(separator: "\n")
  }
}

/// The line of a plan that says what memory and disk it takes.
private func memoryText(_ plan: RunPlan) -> String {
  let cache =
    plan.cacheBytes > 0
    ? "\(ByteCount(plan.cacheBytes)) of cache (\(plan.cacheElement.rawValue))" : "no cache"
  guard let streaming = plan.streaming else {
    return "plan: \(ByteCount(plan.memoryBytes)) of buffers, \(ByteCount(plan.backboneBytes)) of backbone, "
      + cache
  }
  return "plan: the \(ByteCount(plan.backboneBytes)) of backbone are read layer by layer, "
    + "\(ByteCount(streaming.windowBytes)) at a time for up to \(grouped(streaming.chunkTokens)) tokens: "
    + "\(ByteCount(streaming.fillBytes)) to fill, \(ByteCount(streaming.trainingBytes)) to train, " + cache
}

/// One line that says where a run is.
struct ProgressLine {
  private let progress: RunProgress
  private let epochs: Int

  init(_ progress: RunProgress, epochs: Int) {
    self.progress = progress
    self.epochs = epochs
  }

  /// What the progress counts: a fill layer by layer goes over samples, one by several devices over steps.
  private var unit: String { progress.phase == .fill && progress.layer != nil ? "samples" : "steps" }

  private var title: String {
    progress.epoch > 0
      ? "epoch \(progress.epoch)/\(epochs) \(progress.phase.rawValue)" : progress.phase.rawValue
  }

  private var fraction: Double {
    progress.steps > 0 ? min(1, max(0, Double(progress.step) / Double(progress.steps))) : 0
  }

  /// Facts after the position, the least important last.
  private var facts: [String] {
    var facts = ["\(decimal(progress.samplesPerSecond, 1)) samples/s"]
    if let eta = progress.etaSeconds { facts.append("ETA \(duration(eta))") }
    if let layer = progress.layer, let layers = progress.layers { facts.append("layer \(layer)/\(layers)") }
    if let loss = progress.loss { facts.append("loss \(decimal(loss, 4))") }
    return facts
  }

  /// The line of a log.
  var plain: String {
    (["\(title) \(progress.step)/\(progress.steps) \(unit)"] + facts)
      .joined(separator: ", ")
  }

  /// A line of at most `columns − 1` characters; facts go, then the bar, when there is no room.
  func bar(columns: Int) -> String {
    let room = columns - 1
    let percent = "\(Int(fraction * 100))%"
    for kept in (0...facts.count).reversed() {
      let tail = ([percent] + facts.prefix(kept)).joined(separator: "  ")
      let width = min(40, room - title.count - tail.count - 4)
      guard width >= 10 else { continue }
      let filled = Int(fraction * Double(width))
      let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: width - filled)
      return "\(title) [\(bar)] \(tail)"
    }
    return String("\(title) \(percent)".prefix(room))
  }
}
