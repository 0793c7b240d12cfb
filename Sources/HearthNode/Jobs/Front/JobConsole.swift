import ComputeRuntime

/// Shows a job's reports: text on standard error, and JSON lines on standard output when asked.
package struct JobConsole {
  private let json: Bool
  private var narrator = JobNarrator()
  private var renderer: JobRenderer
  private var thinner = ProgressThinner()

  /// A console over the process' standard streams.
  package init(json: Bool, environment: [String: String]) {
    self.json = json
    renderer = JobRenderer(
      style: ConsoleStyle.of(descriptor: OutputStream.diagnostics.descriptor, environment: environment))
  }

  /// Shows what is new in a report.
  ///
  /// A reader that went away does not end the job: it is not this process that trains.
  package mutating func show(_ report: JobReport) {
    let now = MonotonicClock.seconds()
    for event in narrator.events(for: report) {
      let text = renderer.text(for: event, epochs: report.epochs, at: now)
      if !text.isEmpty { try? OutputStream.diagnostics.write(text) }
      guard json else { continue }
      if case .run(let run) = event, !thinner.passes(run, at: now) { continue }
      if let line = try? jsonLine(event) { try? OutputStream.standard.write(line + "\n") }
    }
  }

  /// Writes what came of the job as the last line, or as text; throws how it ended when there is no adapter.
  package mutating func finish(_ report: JobReport) throws {
    close()
    let words = report.failure?.message ?? "its device gave no reason; see the daemon's log there"
    switch report.state {
    case .stopped: throw JobFailure.stopped(job: report.short, message: words)
    case .failed:
      throw JobFailure.failed(
        job: report.short, message: words, reason: report.failure?.reason ?? .internalDefect)
    default: break
    }
    if let result = report.result {
      return try OutputStream.standard.write(json ? jsonLine(result) + "\n" : result.text)
    }
    try OutputStream.standard.write(json ? jsonLine(report) + "\n" : report.endText)
  }

  /// Leaves the terminal on an empty line.
  package mutating func close() {
    let text = renderer.clearedBlock()
    if !text.isEmpty { try? OutputStream.diagnostics.write(text) }
  }
}
