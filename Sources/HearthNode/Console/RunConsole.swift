import ComputeRuntime

/// Shows the events of a run: text on standard error, and JSON lines on standard output when asked.
package struct RunConsole {
  private let json: Bool
  private var renderer: RunRenderer
  private var thinner = ProgressThinner()

  /// A console over the process' standard streams.
  package init(json: Bool, environment: [String: String]) {
    self.json = json
    renderer = RunRenderer(
      style: ConsoleStyle.of(
        descriptor: OutputStream.diagnostics.descriptor, environment: environment))
  }

  /// Shows one event; the result itself is left to `finish`.
  ///
  /// A reader that went away does not end hours of training: the adapter still gets written.
  package mutating func show(_ event: RunEvent) {
    let now = MonotonicClock.seconds()
    let text = renderer.text(for: event, at: now)
    if !text.isEmpty { try? OutputStream.diagnostics.write(text) }
    if case .finished = event { return }
    if json, thinner.passes(event, at: now), let line = try? jsonLine(event) {
      try? OutputStream.standard.write(line + "\n")
    }
  }

  /// Writes the result as the last line, or as text.
  package mutating func finish(_ summary: TrainSummary) throws {
    close()
    try OutputStream.standard.write(json ? jsonLine(summary) + "\n" : summary.text)
  }

  /// Leaves the terminal on an empty line.
  package mutating func close() {
    let text = renderer.clearedBar()
    if !text.isEmpty { try? OutputStream.diagnostics.write(text) }
  }
}
