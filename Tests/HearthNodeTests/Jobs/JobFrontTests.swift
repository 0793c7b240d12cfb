import HearthNode
import NeuralNetworks
import Testing

/// A report of a job of two devices.
private func report(_ state: JobReport.State = .training) -> JobReport {
  var report = JobReport(
    id: "3fa90000000000000000000000000001", name: "sentiment", owner: "desk", isOwn: true, epochs: 3)
  report.state = state
  report.devices = ["desk", "laptop"].enumerated().map { place, name in
    var device = JobReport.Device(name: name, device: String(repeating: "\(place)", count: 32))
    device.place = place
    device.state = .computing
    device.layers = "encoder \(3 * place) to encoder \(3 * place + 2)"
    device.units = 2
    device.memoryBytes = 512 << 20
    device.budgetBytes = 1 << 30
    device.samplesPerSecond = 12.5
    device.waitingShare = 0.125
    device.links = [JobReport.Link(place: 1 - place, sentBytes: 3 << 20, receivedBytes: 1 << 20)]
    return device
  }
  return report
}

private func training(_ step: Int, epoch: Int = 1, phase: RunPhase = .liveEpoch) -> JobReport {
  var report = report()
  (report.phase, report.epoch, report.step, report.steps) = (phase, epoch, step, 40)
  (report.samplesPerSecond, report.loss, report.etaSeconds) = (25, 0.5, 8)
  return report
}

private func summary(_ mode: EpochMode) -> EpochSummary {
  EpochSummary(mode: mode, seconds: 10, samplesPerSecond: 64, loss: 0.4)
}

@Suite struct JobNarratorTests {
  @Test("the first report tells that the household has the job; the same report tells nothing more")
  func firstReport() {
    var narrator = JobNarrator()
    let first = report(.gathering)
    #expect(
      narrator.events(for: first) == [
        .submitted(job: first.id, name: "sentiment", owner: "desk"), .state(.gathering),
        .devices(first.devices),
      ])
    #expect(narrator.events(for: first).isEmpty)
  }

  @Test("a step is told as the run on one device tells it")
  func progress() {
    var narrator = JobNarrator()
    _ = narrator.events(for: training(1))
    #expect(
      narrator.events(for: training(2)) == [
        .run(
          .progress(
            RunProgress(
              phase: .liveEpoch, epoch: 1, step: 2, steps: 40, samplesPerSecond: 25, loss: 0.5, etaSeconds: 8)
          ))
      ])
  }

  @Test("epochs and metrics between two reports are told in the order in which they happened")
  func order() {
    var narrator = JobNarrator()
    _ = narrator.events(for: training(1))
    var later = training(1, epoch: 3, phase: .cachedEpoch)
    later.finishedEpochs = [summary(.live), summary(.cached)]
    later.metrics = (0...2).map { JobReport.Measured(name: "accuracy", value: Double($0) / 2, epoch: $0) }
    let told = narrator.events(for: later).compactMap { event -> String? in
      switch event {
      case .run(.epoch(let index, _)): "epoch \(index)"
      case .run(.evaluated(let metric, let epoch)): "\(metric.name) \(metric.value) after \(epoch)"
      case .run(.phase(let phase)): phase.rawValue
      default: nil
      }
    }
    #expect(
      told == [
        "accuracy 0.0 after 0", "epoch 1", "accuracy 0.5 after 1", "epoch 2", "accuracy 1.0 after 2",
        "cached",
      ]
    )
  }

  @Test("a warning is told once")
  func warnings() {
    var narrator = JobNarrator()
    var now = report()
    now.warnings = ["one"]
    _ = narrator.events(for: now)
    now.warnings.append("two")
    #expect(narrator.events(for: now) == [.run(.warning("two"))])
  }
}

@Suite struct JobRendererTests {
  /// What a terminal shows of a report a second after it came.
  private func draw(_ columns: Int, _ report: JobReport) throws -> String {
    var narrator = JobNarrator()
    var renderer = JobRenderer(style: ConsoleStyle(columns: columns, colored: false))
    for event in narrator.events(for: report) {
      _ = renderer.text(for: event, epochs: report.epochs, at: 0)
    }
    let progress = JobEvent.run(.progress(try #require(report.progress)))
    let text = renderer.text(for: progress, epochs: report.epochs, at: 1)
    let clear = try #require(text.firstRange(of: "\u{1B}[J"))
    return String(text[clear.upperBound...])
  }

  @Test("a terminal shows the bar and a line a device, none wider than it is")
  func block() throws {
    for columns in 20...160 {
      let drawn = try draw(columns, training(20)).split(separator: "\n")
      #expect(drawn.count == 3 && drawn[0].contains("50%"), "\(columns)")
      for line in drawn { #expect(line.count < columns, "\(columns): \(line)") }
    }
    let wide = try draw(200, training(20))
    for part in [
      "epoch 1/3 live", "25.0 samples/s", "loss 0.5000", "encoder 3 to encoder 5", "512.0 MiB of 1.0 GiB",
      "[#####.....]", "sent 3.0 MiB, received 1.0 MiB", "waits 13 %",
    ] { #expect(wide.contains(part), "\(part) in \(wide)") }
  }

  @Test("the block is drawn over itself and is gone before any other line")
  func redrawn() {
    var renderer = JobRenderer(style: ConsoleStyle(columns: 100, colored: false))
    let report = training(20)
    _ = renderer.text(for: .devices(report.devices), epochs: 3, at: 0)
    let progress = JobEvent.run(
      .progress(
        report.progress
          ?? RunProgress(
            phase: .fill, epoch: 0, step: 0, steps: 0, samplesPerSecond: 0)))
    #expect(renderer.text(for: progress, epochs: 3, at: 0.05) == "", "too soon")
    let first = renderer.text(for: progress, epochs: 3, at: 1)
    // Two device lines stand there: one line up, and everything below is cleared.
    #expect(first.hasPrefix("\r\u{1B}[1A\u{1B}[J"))
    let second = renderer.text(for: .run(.warning("w")), epochs: 3, at: 2)
    #expect(second == "\r\u{1B}[2A\u{1B}[J" + "warning: w\n")
    #expect(renderer.clearedBlock() == "")
  }

  @Test("a log gets a line every few seconds, and the devices with each epoch")
  func log() {
    var renderer = JobRenderer(style: ConsoleStyle(columns: nil, colored: false))
    func text(_ event: JobEvent, _ now: Double) -> String { renderer.text(for: event, epochs: 3, at: now) }
    #expect(text(.run(.phase(.liveEpoch)), 0) == "")
    #expect(text(.devices(report().devices), 1) == "")
    let steps = (0..<300).map { index in
      text(
        .run(
          .progress(
            RunProgress(phase: .liveEpoch, epoch: 1, step: index, steps: 300, samplesPerSecond: 25))),
        Double(index) / 10)
    }
    #expect(steps.count { !$0.isEmpty } == 5)
    let epoch = text(.run(.epoch(index: 1, summary(.live))), 31)
    #expect(epoch.hasPrefix("epoch 1/3 live: 10.0 s, 64.0 samples/s, loss 0.4000\n"))
    #expect(epoch.contains("laptop") && epoch.contains("encoder 3 to encoder 5"))
    #expect(!epoch.contains("\u{1B}"))
  }

  @Test("a device that was lost is told at once, and once")
  func lost() {
    var renderer = JobRenderer(style: ConsoleStyle(columns: nil, colored: false))
    var devices = report().devices
    devices[1].state = .lost
    devices[1].note = "no answer for 5 s"
    #expect(renderer.text(for: .devices(devices), epochs: 3, at: 0) == "laptop: lost; no answer for 5 s\n")
    #expect(renderer.text(for: .devices(devices), epochs: 3, at: 1) == "")
  }
}

@Suite struct JobSelectionTests {
  private func job(_ id: String, _ name: String, _ state: JobReport.State) -> JobReport {
    var job = JobReport(
      id: id + String(repeating: "0", count: 32 - id.count), name: name, owner: "desk", isOwn: true, epochs: 1
    )
    job.state = state
    return job
  }

  @Test("a job goes by its id, the start of it, or its name; without one the only job under way is meant")
  func found() throws {
    let jobs = [job("3fa9", "a", .finished), job("3fb0", "b", .training), job("77", "b", .failed)]
    #expect(try JobSelection.resolve(nil, among: jobs).name == "b")
    #expect(try JobSelection.resolve("3FA", among: jobs).id == jobs[0].id)
    #expect(try JobSelection.resolve(jobs[2].id, among: jobs).id == jobs[2].id)
    #expect(try JobSelection.resolve("b", among: jobs).id == jobs[1].id, "the one under way")
  }

  @Test("what may be several jobs is refused with all of them, and what is none as unknown")
  func refused() {
    let jobs = [job("3fa9", "a", .training), job("3fb0", "b", .training)]
    #expect(throws: JobFailure.ambiguous("3f", ["3fa90000 (a, training)", "3fb00000 (b, training)"])) {
      try JobSelection.resolve("3f", among: jobs)
    }
    #expect(throws: JobFailure.self) { try JobSelection.resolve(nil, among: jobs) }
    #expect(throws: JobFailure.unknown("c")) { try JobSelection.resolve("c", among: jobs) }
    #expect(throws: JobFailure.unknown("")) { try JobSelection.resolve("", among: jobs) }
    #expect(throws: JobFailure.noneUnderWay) { try JobSelection.resolve(nil, among: []) }
  }
}

@Suite struct TrainingPlaceTests {
  private let request = TrainRequest(modelDirectory: "m", dataFile: "d", task: .classify, output: "o")

  @Test("without a household a run is alone, and nobody is told why")
  func noHousehold() {
    let place = TrainingPlace.choose(request, isAlone: false, environment: ["HEARTH_HOME": "/nowhere/hearth"])
    #expect(place == .alone(note: nil))
    #expect(TrainingPlace.choose(request, isAlone: false, environment: [:]) == .alone(note: nil))
  }

  @Test("what only this device can do keeps a run here and says so")
  func obstacles() {
    #expect(request.householdObstacle == nil)
    for change in [
      { $0.memoryBudget = 1 << 30 }, { $0.precision = .int8 }, { $0.keepCache = true },
      { $0.cacheDirectory = "/tmp" },
    ] as [(inout TrainRequest) -> Void] {
      var request = request
      change(&request)
      #expect(request.householdObstacle?.hasPrefix("--") == true)
    }
    var plain = request
    plain.precision = .float32
    #expect(plain.householdObstacle == nil)
  }
}
