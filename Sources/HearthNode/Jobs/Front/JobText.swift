extension JobReport {
  /// What a person reads at the end of another device's job.
  package var endText: String {
    var lines = ["job \(short) '\(name)' of \(owner): \(state.rawValue) after \(duration(seconds))"]
    let last = metrics.map(\.epoch).max()
    for metric in metrics where metric.epoch == last {
      lines.append("\(metric.name): \(decimal(metric.value, 4))")
    }
    lines.append("\(doneEpochs) of \(epochs) epochs; the adapter lies on \(owner)")
    return lines.joined(separator: "\n") + "\n"
  }

  /// What a person reads of all jobs.
  package static func table(_ jobs: [JobReport]) -> String {
    guard !jobs.isEmpty else {
      return "no jobs; 'hearth train' submits one while other devices of the household are here\n"
    }
    let heading = ["JOB", "NAME", "OWNER", "STATE", "AT", "SAMPLES/S", "LOSS", "ETA", "TIME", "DEVICES"]
    var lines = tableLines([heading] + jobs.map(\.cells))
    for job in jobs {
      if let failure = job.failure { lines.append("\(job.short): \(failure.message)") }
      if job.state == .paused { lines.append("\(job.short): \(job.stateText); it goes on by itself") }
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// The state with what a paused job waits for, as "paused: no quorum (weight 2 of 5)".
  package var stateText: String {
    guard state == .paused, let pauseReason else { return state.rawValue }
    return "\(state.rawValue): \(pauseReason)"
  }

  private var cells: [String] {
    [
      short, name, isOwn ? "\(owner) *" : owner, state.rawValue, position,
      samplesPerSecond.map { decimal($0, 1) } ?? "-", loss.map { decimal($0, 4) } ?? "-",
      state.isOver ? "-" : etaSeconds.map { duration($0) } ?? "-", duration(seconds),
      devices.map(\.name).joined(separator: ", "),
    ]
  }

  private var position: String {
    guard !state.isOver, let phase else {
      return state.isOver || doneEpochs > 0 ? "\(doneEpochs)/\(epochs) epochs" : "-"
    }
    let at = steps > 0 ? " \(step)/\(steps)" : ""
    return (epoch > 0 ? "epoch \(epoch)/\(epochs) " : "") + phase.rawValue + at
  }
}
