/// What a person who follows a job is told.
package enum JobEvent: Sendable, Equatable {
  /// The household has the job.
  case submitted(job: String, name: String, owner: String)
  /// The job goes on to its next state; a paused one has a reason.
  case state(JobReport.State, reason: String? = nil)
  /// A device came or went, or what came of that.
  case note(JobReport.Note)
  /// What the job's pace was before a note that was told earlier, and what it is since.
  case pace(JobReport.Note)
  /// Who will do what; a job has another plan only after its household has changed.
  case planned(JobPlanSummary)
  /// What a run on one device tells as well: phases, progress, metrics, epochs, warnings.
  case run(RunEvent)
  /// What every device does, has sent, received and waited for.
  case devices([JobReport.Device])
}

extension JobEvent: Encodable {
  private enum Keys: String, CodingKey { case event, job, name, owner, state, devices, reason }

  /// Writes `{"event": name, …payload}`: one flat object an event.
  package func encode(to encoder: any Encoder) throws {
    if case .run(let event) = self { return try event.encode(to: encoder) }
    var keys = encoder.container(keyedBy: Keys.self)
    switch self {
    case .submitted(let job, let name, let owner):
      try keys.encode("submitted", forKey: .event)
      try keys.encode(job, forKey: .job)
      try keys.encode(name, forKey: .name)
      try keys.encode(owner, forKey: .owner)
    case .state(let state, let reason):
      try keys.encode("state", forKey: .event)
      try keys.encode(state, forKey: .state)
      try keys.encodeIfPresent(reason, forKey: .reason)
    case .note(let note):
      try keys.encode("note", forKey: .event)
      try note.encode(to: encoder)
    case .pace(let note):
      try keys.encode("pace", forKey: .event)
      try note.encode(to: encoder)
    case .planned(let plan):
      try keys.encode("planned", forKey: .event)
      try plan.encode(to: encoder)
    case .devices(let devices):
      try keys.encode("devices", forKey: .event)
      try keys.encode(devices, forKey: .devices)
    case .run: break
    }
  }
}

/// Turns a job's reports, each of which says everything, into what has happened between them.
///
/// A value, so that tests need neither a daemon nor a clock.
package struct JobNarrator: Sendable {
  private var last: JobReport?

  /// A narrator that has seen nothing.
  package init() {}

  /// What is new in a report.
  package mutating func events(for report: JobReport) -> [JobEvent] {
    defer { last = report }
    var events: [JobEvent] = []
    if last == nil {
      events.append(.submitted(job: report.id, name: report.name, owner: report.owner))
    }
    for warning in report.warnings.dropFirst(last?.warnings.count ?? 0) {
      events.append(.run(.warning(warning)))
    }
    events += noted(report)
    if let plan = report.plan,
      plan.planDigest != last?.plan?.planDigest || plan.planEpoch != last?.plan?.planEpoch
    {
      events.append(.planned(plan))
    }
    // A short job may be over with its first report: what happened before its end is told before it.
    let isEnd = report.state == .saving || report.state.isOver
    let isSame = report.state == last?.state && report.pauseReason == last?.pauseReason
    let state: [JobEvent] = isSame ? [] : [.state(report.state, reason: report.pauseReason)]
    if !isEnd { events += state }
    events += measured(report)
    if let phase = report.phase, phase != last?.phase || report.epoch != last?.epoch {
      events.append(.run(.phase(phase)))
    }
    // Before the progress: a terminal draws both with it.
    if !report.devices.isEmpty, report.devices != last?.devices { events.append(.devices(report.devices)) }
    if let progress = report.progress, progress != last?.progress { events.append(.run(.progress(progress))) }
    if isEnd { events += state }
    return events
  }

  /// What happened to devices since the last report, and paces that were measured since.
  private func noted(_ report: JobReport) -> [JobEvent] {
    var events: [JobEvent] = []
    let newest = last?.notes.last?.number ?? -1
    for note in report.notes {
      if note.number > newest { events.append(.note(note)) }
      guard note.after != nil else { continue }
      let known = last?.notes.first { $0.number == note.number }
      if known?.after == nil { events.append(.pace(note)) }
    }
    return events
  }

  /// Epochs and metrics since the last report, in the order in which they happened: an epoch is measured when it is over.
  private func measured(_ report: JobReport) -> [JobEvent] {
    var events: [JobEvent] = []
    let known = last?.finishedEpochs.count ?? 0
    var metrics = Array(report.metrics.dropFirst(last?.metrics.count ?? 0))
    func take(upTo epoch: Int) {
      while let metric = metrics.first, metric.epoch <= epoch {
        metrics.removeFirst()
        events.append(
          .run(.evaluated(MetricValue(name: metric.name, value: metric.value), epoch: metric.epoch)))
      }
    }
    for (index, summary) in report.finishedEpochs.enumerated().dropFirst(known) {
      take(upTo: index)
      events.append(.run(.epoch(index: index + 1, summary)))
    }
    take(upTo: .max)
    return events
  }
}

extension JobReport {
  /// Where the phase is; nil outside of one.
  package var progress: RunProgress? {
    guard let phase, steps > 0, state == .training else { return nil }
    return RunProgress(
      phase: phase, epoch: epoch, step: step, steps: steps, samplesPerSecond: samplesPerSecond ?? 0,
      loss: loss,
      etaSeconds: etaSeconds)
  }
}
