import Foundation
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
    // Two device lines stand there: one line up, and everything below is cleared. The bar is new, so it is not too soon.
    #expect(renderer.text(for: progress, epochs: 3, at: 0.05).hasPrefix("\r\u{1B}[1A\u{1B}[J"))
    #expect(renderer.text(for: progress, epochs: 3, at: 0.1) == "", "too soon")
    #expect(renderer.text(for: progress, epochs: 3, at: 1).hasPrefix("\r\u{1B}[2A\u{1B}[J"))
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

  @Test("says once what the transition took and freed, when all that read the cache have made it")
  func transition() {
    var renderer = JobRenderer(style: ConsoleStyle(columns: nil, colored: false))
    var devices = report().devices
    #expect(devices.count == 2)
    func text() -> String { renderer.text(for: .devices(devices), epochs: 3, at: 0) }
    for index in devices.indices { devices[index].cachedUnits = 4 }
    #expect(text() == "")
    (devices[0].transitionSeconds, devices[0].transitionFreedBytes) = (0.25, 300 << 20)
    #expect(text() == "", "the other one is on its way")
    (devices[1].transitionSeconds, devices[1].transitionFreedBytes) = (0.5, 212 << 20)
    #expect(
      text() == "the cached epochs begin after 0.50 s: the backbone has left memory, 512.0 MiB in all\n")
    #expect(text() == "", "once")
  }

  @Test("a terminal never shows the bar without its devices, however soon they come after one another")
  func together() throws {
    var narrator = JobNarrator()
    var renderer = JobRenderer(style: ConsoleStyle(columns: 200, colored: false))
    var shown = ""
    for event in narrator.events(for: training(20)) {
      shown = renderer.text(for: event, epochs: 3, at: 0)
    }
    #expect(shown.contains("50%") && shown.contains("encoder 3 to encoder 5"), "\(shown)")
  }

  @Test("a paused job says what it waits for, and a recovering one what it does")
  func states() {
    var renderer = JobRenderer(style: ConsoleStyle(columns: nil, colored: false))
    #expect(
      renderer.text(for: .state(.paused, reason: "no quorum (weight 2 of 5)"), epochs: 3, at: 0)
        == "paused: no quorum (weight 2 of 5); it goes on by itself when enough devices are back\n")
    #expect(renderer.text(for: .state(.recovering), epochs: 3, at: 0).contains("devices have changed"))
    var job = report(.paused)
    job.pauseReason = "no quorum (weight 2 of 5)"
    let table = JobReport.table([job])
    #expect(table.contains("  paused  ") && table.contains("3fa90000: paused: no quorum (weight 2 of 5)"))
  }

  @Test("the first plan is shown with its chart, those after it without")
  func plans() throws {
    let json = #"""
      {"plan_epoch":2,"leader":"desk","mode":"hybrid","units_per_mini_batch":8,"micro_batches":2,
      "stages":[{"layers":["encoder 0","encoder 5"],"layer_count":6,
      "devices":[{"name":"desk","share":4,"memory_bytes":1,"budget_bytes":2}]}],
      "cached_devices":[],"idle":[],"predicted_seconds":{"first_epoch":1,"redistribution":0,"cached_epoch":1,
      "total":2},"chart":["stage 1   0123"],"plan_digest":"0123456789abcdef0123456789abcdef"}
      """#
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let plan = try decoder.decode(JobPlanSummary.self, from: Data(json.utf8))
    var renderer = JobRenderer(style: ConsoleStyle(columns: nil, colored: false))
    let first = renderer.text(for: .planned(plan), epochs: 3, at: 0)
    let second = renderer.text(for: .planned(plan), epochs: 3, at: 1)
    #expect(first.contains("stage 1   0123") && !second.contains("0123\n"))
    #expect(first.contains("plan 2 by desk") && second.contains("desk  4/4"))
  }
}

@Suite struct JobNoteTests {
  private func note(_ number: Int, _ kind: JobReport.Note.Kind, _ device: String? = "laptop")
    -> JobReport.Note
  {
    JobReport.Note(number: number, kind: kind, seconds: Double(number), device: device)
  }

  @Test("a note is told once, and its pace once it is measured")
  func toldOnce() {
    var narrator = JobNarrator()
    var now = report()
    _ = narrator.events(for: now)
    let joined = note(3, .joined)
    now.notes = [joined]
    #expect(narrator.events(for: now) == [.note(joined)])
    #expect(narrator.events(for: now) == [])
    var measured = joined
    measured.after = JobReport.Note.Pace(samplesPerSecond: 20, etaSeconds: 10)
    now.notes = [measured, note(4, .left)]
    #expect(narrator.events(for: now) == [.pace(measured), .note(note(4, .left))])
    // Older notes give way.
    now.notes = [note(4, .left), note(5, .joined)]
    #expect(narrator.events(for: now) == [.note(note(5, .joined))])
  }

  @Test("who begins to watch late hears what happened, and of each pace that is known")
  func late() {
    var narrator = JobNarrator()
    var now = report()
    var joined = note(1, .joined)
    joined.after = JobReport.Note.Pace(samplesPerSecond: 20, etaSeconds: nil)
    now.notes = [joined, note(2, .lost)]
    let told = narrator.events(for: now).filter {
      switch $0 {
      case .note, .pace: true
      default: false
      }
    }
    #expect(told == [.note(joined), .pace(joined), .note(note(2, .lost))])
  }

  @Test("each note reads as a sentence")
  func texts() {
    var joined = note(1, .joined)
    (joined.step, joined.devices) = (1412, 3)
    #expect(joined.text == "laptop joined; going on from step 1,412 with 3 devices")
    #expect(joined.paceText == nil)
    joined.before = JobReport.Note.Pace(samplesPerSecond: 12.3, etaSeconds: 250)
    joined.after = JobReport.Note.Pace(samplesPerSecond: 18.9, etaSeconds: 160)
    #expect(
      joined.paceText
        == "laptop joined: 12.3 -> 18.9 samples/s, about 2 min 40 s left instead of 4 min 10 s")
    joined.before = nil
    #expect(joined.paceText == "laptop joined: 18.9 samples/s, about 2 min 40 s left")
    var lost = note(2, .lost, "desktop")
    (lost.reason, lost.step, lost.devices) = ("connection ended", 412, 2)
    #expect(lost.text == "desktop was lost (connection ended); going on from step 412 with 2 devices")
    var unused = note(3, .notUsed, "nas")
    unused.reason = "it would save 2 s of 40 s"
    #expect(unused.text == "nas was not used: it would save 2 s of 40 s")
    var recovered = note(4, .recovered, nil)
    recovered.tookSeconds = 1.8
    #expect(recovered.text == "recovered in 1.80 s")
    (recovered.step, recovered.devices) = (412, 2)
    #expect(recovered.text == "recovered in 1.80 s; going on from step 412 with 2 devices")
    var left = note(5, .left)
    (left.reason, left.devices) = ("on battery", 1)
    #expect(left.text == "laptop left (on battery); going on with 1 device")
  }

  @Test("durations are spoken in the two largest units")
  func spoken() {
    let expected: [(Double, String)] = [
      (0.32, "0.3 s"), (3.4, "3 s"), (59, "59 s"), (60, "1 min"), (160, "2 min 40 s"), (3600, "1 h"),
      (11_100, "3 h 5 min"), (.nan, "?"),
    ]
    for (seconds, text) in expected { #expect(spokenDuration(seconds) == text) }
  }

  @Test("in JSON a note is one flat object with the kind and what is known of it")
  func json() throws {
    var lost = note(2, .lost, "desktop")
    (lost.reason, lost.step) = ("connection ended", 412)
    let line = try jsonLine(JobEvent.note(lost))
    #expect(
      line
        == #"{"device":"desktop","event":"note","kind":"lost","number":2,"reason":"connection ended","seconds":2,"step":412}"#
    )
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
