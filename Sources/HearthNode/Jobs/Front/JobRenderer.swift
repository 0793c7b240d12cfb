/// Turns what happens to a job into text for people: a bar and a line a device that are redrawn in place, or plain lines.
///
/// A value that is told the time, so that tests need neither a terminal nor a clock.
package struct JobRenderer: Sendable {
  /// Seconds between two drawings of the block.
  static let redrawInterval = 0.1
  /// Seconds between two plain progress lines of one phase.
  static let lineInterval = 5.0
  /// Seconds between two plain tables of the devices.
  static let tableInterval = 30.0
  /// Device lines that a terminal shows at once; a household of more is cut.
  static let shownDevices = 12

  private let style: ConsoleStyle
  private var epochs: Int
  private var devices: [JobReport.Device] = []
  private var progress: RunProgress?
  private var phase: RunPhase?
  private var hasShownPlan = false
  private var hasToldTransition = false
  private var drawnLines = 0
  private var lastShown = -Double.infinity
  private var lastTable = -Double.infinity

  /// A renderer that has shown nothing.
  package init(style: ConsoleStyle, epochs: Int = 0) {
    self.style = style
    self.epochs = epochs
  }

  /// The text to write for `event` at `now` (seconds of any monotonic clock); empty when nothing is due.
  package mutating func text(for event: JobEvent, epochs: Int, at now: Double) -> String {
    self.epochs = epochs
    switch event {
    case .submitted(let job, let name, let owner):
      let short = job.prefix(8)
      return line(
        "job \(short) '\(name)' of \(owner); 'hearth watch \(short)' shows it on any device, 'hearth stop \(short)' ends it"
      )
    case .state(let state, let reason):
      // The last table stays: what every device has done in the end.
      let table = state == .finished ? deviceLines(columns: style.columns) : []
      let lines = [stateText(state, reason)].compactMap { $0 } + table
      return lines.isEmpty ? "" : line(lines.joined(separator: "\n"))
    case .planned(let plan):
      // What a new division changes is who has what; the chart of the first one explains them all.
      defer { hasShownPlan = true }
      return line((hasShownPlan ? plan.shortLines : plan.lines).joined(separator: "\n"))
    case .note(let note): return line(Self.color(note.kind).map { style.paint(note.text, $0) } ?? note.text)
    case .pace(let note): return note.paceText.map { line($0) } ?? ""
    case .devices(let devices):
      self.devices = devices
      let told = transitionText().map { line($0) } ?? ""
      return told + (style.columns == nil ? "" : block(at: now))
    case .run(let event): return runText(event, at: now)
    }
  }

  /// Text that removes the block, to be written before anything else is.
  package mutating func clearedBlock() -> String {
    guard drawnLines > 0 else { return "" }
    defer { drawnLines = 0 }
    // The cursor stands in the last line of the block.
    let up = drawnLines > 1 ? "\u{1B}[\(drawnLines - 1)A" : ""
    return "\r" + up + "\u{1B}[J"
  }

  /// What the transition to the cached epochs was, once every device that reads the cache has made it.
  private mutating func transitionText() -> String? {
    let readers = devices.filter { $0.cachedUnits > 0 }
    let seconds = readers.compactMap(\.transitionSeconds)
    guard !hasToldTransition, !readers.isEmpty, seconds.count == readers.count else { return nil }
    hasToldTransition = true
    let freed = readers.reduce(0) { $0 + max(0, Int($1.transitionFreedBytes ?? 0)) }
    let text = "the cached epochs begin after \(duration(seconds.max() ?? 0))"
    return freed == 0 ? text : text + ": the backbone has left memory, \(ByteCount(freed)) in all"
  }

  private mutating func line(_ text: String) -> String { clearedBlock() + text + "\n" }

  private mutating func runText(_ event: RunEvent, at now: Double) -> String {
    switch event {
    case .progress(let progress):
      self.progress = progress
      if style.columns != nil { return block(at: now) }
      return plainProgress(progress, at: now)
    case .phase(let phase):
      progress = nil
      self.phase = phase
      // A plain log waits a whole interval before the first progress line of a phase; a bar does not.
      lastShown = style.columns == nil ? now : -Double.infinity
      return phase == .transition ? line("cached activations move to the devices that will read them") : ""
    case .epoch(let index, let summary):
      lastTable = now
      let table = style.columns == nil ? deviceLines(columns: nil) : []
      return line(([RunRenderer.epochText(index, of: epochs, summary)] + table).joined(separator: "\n"))
    default:
      var renderer = RunRenderer(style: ConsoleStyle(columns: nil, colored: style.colored))
      return clearedBlock() + renderer.text(for: event, at: now)
    }
  }

  private mutating func plainProgress(_ progress: RunProgress, at now: Double) -> String {
    guard now - lastShown >= Self.lineInterval else { return "" }
    lastShown = now
    var lines = [ProgressLine(progress, epochs: epochs).plain]
    if now - lastTable >= Self.tableInterval {
      lastTable = now
      lines += deviceLines(columns: nil)
    }
    return lines.map { $0 + "\n" }.joined()
  }

  /// The bar and the devices, drawn over what was drawn before.
  private mutating func block(at now: Double) -> String {
    guard let columns = style.columns else { return "" }
    let isLast = progress.map { $0.step == $0.steps } ?? false
    var lines = progress.map { [ProgressLine($0, epochs: epochs).bar(columns: columns)] } ?? []
    lines += deviceLines(columns: columns)
    // A line that comes or goes is shown at once: a bar is never without its devices.
    let isDue = now - lastShown >= Self.redrawInterval || isLast || lines.count != drawnLines
    guard !lines.isEmpty, isDue else { return "" }
    lastShown = now
    let text = clearedBlock() + lines.joined(separator: "\n")
    drawnLines = lines.count
    return text
  }

  private static func color(_ kind: JobReport.Note.Kind) -> ConsoleStyle.Color? {
    switch kind {
    case .lost, .paused, .notUsed, .adopted: .yellow
    case .joined, .recovered: .green
    case .left, .replanned: nil
    }
  }

  private func deviceLines(columns: Int?) -> [String] {
    let shown = devices.prefix(Self.shownDevices)
    let isCached = progress?.phase == .cachedEpoch || phase == .cachedEpoch
    var lines = tableLines(shown.map { $0.cells(isCached: isCached) }).map { "  " + $0 }
    if shown.count < devices.count { lines.append("  and \(devices.count - shown.count) more") }
    guard let columns else { return lines }
    return lines.map { String($0.prefix(columns - 1)) }
  }

  /// States that are told by what comes of them (a plan, epochs) need no line of their own.
  private func stateText(_ state: JobReport.State, _ reason: String?) -> String? {
    switch state {
    case .gathering: "asking the household's devices what they can do"
    case .planning: "measuring links and looking for the fastest plan"
    case .preparing: "fetching weights where they are missing"
    case .recovering: "its devices have changed; agreeing on how it goes on"
    case .paused:
      style.paint("paused\(reason.map { ": \($0)" } ?? "")", .yellow)
        + "; it goes on by itself when enough devices are back"
    case .saving: "writing the adapter"
    case .training, .finished, .stopped, .failed: nil
    }
  }
}

extension JobReport.Device {
  /// A device's row: name, state, layers, share, rate, memory, traffic, waiting; from the cache all have the same layers.
  func cells(isCached: Bool) -> [String] {
    let share = isCached ? cachedUnits : units
    return [
      name, state.rawValue, isCached ? "cached" : layers ?? "-", share > 0 ? "\(share) units" : "-",
      samplesPerSecond.map { "\(decimal($0, 1)) samples/s" } ?? "-", memoryText, trafficText,
      waitingShare.map { "waits \(Int(($0 * 100).rounded())) %" } ?? "-",
    ]
  }

  private var memoryText: String {
    guard let memoryBytes else { return "-" }
    guard let budgetBytes else { return "\(ByteCount(Int(memoryBytes)))" }
    return "[\(PlanPicture.bar(memoryBytes, of: budgetBytes))] \(ByteCount(Int(memoryBytes))) of "
      + "\(ByteCount(Int(budgetBytes)))"
  }

  private var trafficText: String {
    if state == .fetching, fetchBytes > 0 {
      return "fetched \(ByteCount(Int(fetchedBytes))) of \(ByteCount(Int(fetchBytes)))"
    }
    guard sentBytes + receivedBytes > 0 else { return "-" }
    let each = links.count > 1 ? links.map { "\($0.place + 1): \(ByteCount(Int($0.sentBytes)))" } : []
    return "sent \(ByteCount(Int(sentBytes)))" + (each.isEmpty ? "" : " (\(each.joined(separator: ", ")))")
      + ", received \(ByteCount(Int(receivedBytes)))"
  }
}
