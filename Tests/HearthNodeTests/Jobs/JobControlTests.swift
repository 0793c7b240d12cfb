import Foundation
import HearthNode
import Synchronization
import Testing
import TrainingCoordination

/// Jobs without a household: what a test lets happen.
private final class ScriptedJobs: JobServing {
  private struct State {
    var submissions: [JobSubmission] = []
    var stopped: [JobID] = []
    var adopted: [JobID] = []
    /// Why this device is paused, each time that it was told; nil for a resumption.
    var pauses: [String?] = []
    var pauseWaiters: [(count: Int, continuation: CheckedContinuation<Void, Never>)] = []
    var reports: [JobReport] = []
    var watchers: [AsyncStream<JobReport>.Continuation] = []
  }
  private let state = Mutex(State())
  let id = JobID(0x3FA9_0000_0000_0000, 1)

  var submissions: [JobSubmission] { state.withLock { $0.submissions } }
  var stopped: [JobID] { state.withLock { $0.stopped } }
  var adopted: [JobID] { state.withLock { $0.adopted } }
  var pauses: [String?] { state.withLock { $0.pauses } }

  /// Returns when so many pauses and resumptions were told.
  func waitForPauses(_ count: Int) async {
    await withCheckedContinuation { continuation in
      let isThere = state.withLock { state in
        if state.pauses.count < count { state.pauseWaiters.append((count, continuation)) }
        return state.pauses.count >= count
      }
      if isThere { continuation.resume() }
    }
  }

  private func notePause(_ reason: String?) {
    let ready = state.withLock { state in
      state.pauses.append(reason)
      let ready = state.pauseWaiters.filter { $0.count <= state.pauses.count }
      state.pauseWaiters.removeAll { $0.count <= state.pauses.count }
      return ready
    }
    for waiter in ready { waiter.continuation.resume() }
  }

  func pauseDevice(_ reason: String) async { notePause(reason) }

  func resumeDevice() async { notePause(nil) }

  func adopt(_ job: JobID) async throws {
    guard job == id else { throw JobFailure.unknown(job.short) }
    state.withLock { $0.adopted.append(job) }
  }

  /// Leaves everybody who watches, as the daemon leaves a command that takes no report.
  func leaveWatchers() {
    state.withLock { state in
      for watcher in state.watchers { watcher.finish() }
      state.watchers = []
    }
  }

  /// What everybody who watches is told next.
  func tell(_ change: (inout JobReport) -> Void) {
    state.withLock { state in
      guard var report = state.reports.last else { return }
      change(&report)
      state.reports = [report]
      for watcher in state.watchers {
        watcher.yield(report)
        if report.state.isOver { watcher.finish() }
      }
    }
  }

  func submit(_ submission: JobSubmission) async throws -> JobID {
    state.withLock { state in
      state.submissions.append(submission)
      state.reports = [
        JobReport(id: id.description, name: submission.name, owner: "desk", isOwn: true, epochs: 3)
      ]
    }
    return id
  }

  func jobs() async -> [JobReport] { state.withLock { $0.reports } }

  func watch(_ job: JobID?) async -> AsyncStream<JobReport> {
    let (stream, continuation) = AsyncStream.makeStream(of: JobReport.self)
    state.withLock { state in
      if let report = state.reports.last { continuation.yield(report) }
      state.watchers.append(continuation)
    }
    return stream
  }

  func stop(_ job: JobID) async throws {
    guard job == id else { throw JobFailure.unknown(job.short) }
    state.withLock { $0.stopped.append(job) }
    tell { report in
      report.state = .stopped
      report.failure = JobReport.Failure(message: "stopped on desk", reason: .interrupted)
    }
  }
}

/// A daemon on 127.0.0.1 that nobody else knows, and its jobs.
private struct Desk {
  let place: HouseholdPlace
  let jobs = ScriptedJobs()
  let root: String

  static func run(
    powerFolder: (String) throws -> String? = { _ in nil }, _ body: (Desk) async throws -> Void
  ) async throws {
    let root = NSTemporaryDirectory() + "hearth-jobs-\(UUID().uuidString.prefix(8))"
    defer { try? FileManager.default.removeItem(atPath: root) }
    let place = try HouseholdPlace(environment: ["HEARTH_HOME": root + "/home"])
    _ = try HouseholdOffice(place).create(name: "desk")
    var settings = DaemonSettings(environment: [:])
    (settings.port, settings.loopbackOnly, settings.usesAvahi) = (0, true, false)
    settings.logLevel = "error"
    if let folder = try powerFolder(root) {
      (settings.powerFolder, settings.pausesOnBattery) = (folder, true)
    }
    let daemon = try await HouseholdDaemon.start(settings, place: place, environment: [:])
    let desk = Desk(place: place, root: root)
    await daemon.train(with: desk.jobs)
    do { try await body(desk) } catch {
      await daemon.stop()
      throw error
    }
    await daemon.stop()
  }

  /// A submission whose paths are there.
  func submission() throws -> JobSubmission {
    let model = root + "/model"
    let output = root + "/out"
    for path in [model, output] {
      try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    try Data([1]).write(to: URL(filePath: output + "/job.package"))
    return JobSubmission(
      packagePath: output + "/job.package", modelDirectory: model, outputDirectory: output, name: "sentiment",
      planner: "pac", firstEpoch: "auto")
  }
}

/// Runs a blocking command on a thread of its own, as a process would.
private func command<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
  }
}

@Suite struct JobControlTests {
  @Test("a job is submitted, listed, followed and stopped over the daemon's socket")
  func wholeWay() async throws {
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      #expect(try await command { try client.jobs() } == [])
      let submission = try desk.submission()
      let id = try await command { try client.submit(submission) }
      #expect(id == desk.jobs.id.description && desk.jobs.submissions == [submission])
      #expect(try await command { try client.jobs() }.map(\.name) == ["sentiment"])
      let seen = Mutex<[JobReport.State]>([])
      async let last = command {
        try client.follow(id, isCancelled: { false }) { report in
          let count = seen.withLock {
            $0.append(report.state)
            return $0.count
          }
          if count == 1 {
            desk.jobs.tell {
              $0.state = .training; $0.loss = .nan
            }
          }
          if count == 2 {
            let client = JobClient(desk.place)
            Thread.detachNewThread { try? client.stop(id) }
          }
        }
      }
      let end = try #require(try await last)
      #expect(seen.withLock { $0 } == [.gathering, .training, .stopped])
      #expect(end.failure?.message == "stopped on desk" && desk.jobs.stopped == [desk.jobs.id])
    }
  }

  @Test("who stops following leaves the job alone")
  func detach() async throws {
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      let submission = try desk.submission()
      let id = try await command { try client.submit(submission) }
      let leave = CancellationFlag()
      let last = try await command {
        try client.follow(id, isCancelled: { leave.isCancelled }, show: { _ in leave.cancel() })
      }
      #expect(last == nil && desk.jobs.stopped.isEmpty)
    }
  }

  @Test("a follower that the daemon left, as one whose output is paged through, asks again and misses no end")
  func leftFollower() async throws {
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      let submission = try desk.submission()
      let id = try await command { try client.submit(submission) }
      let seen = Mutex<[JobReport.State]>([])
      let last = try await command {
        try client.follow(id, isCancelled: { false }) { report in
          seen.withLock { $0.append(report.state) }
          // What happens while nobody listens is in the first report of the next conversation.
          guard report.state == .gathering else { return }
          desk.jobs.leaveWatchers()
          desk.jobs.tell { $0.state = .finished }
        }
      }
      #expect(last?.state == .finished && seen.withLock { $0 } == [.gathering, .finished])
    }
  }

  @Test("a follower whose daemon ends is told that the job goes on without it")
  func goneDaemon() async throws {
    let following = Mutex<Task<JobReport?, any Error>?>(nil)
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      let submission = try desk.submission()
      let id = try await command { try client.submit(submission) }
      let (told, teller) = AsyncStream.makeStream(of: JobReport.State.self)
      let task = Task {
        try await command {
          try client.follow(id, isCancelled: { false }) { teller.yield($0.state) }
        }
      }
      following.withLock { $0 = task }
      for await _ in told { break }
    }
    let task = try #require(following.withLock { $0 })
    await #expect(throws: JobFailure.daemonGone(job: "3fa90000")) { _ = try await task.value }
  }

  @Test("who follows the household is told when the daemon ends, also while it still answers others")
  func goneHousehold() async throws {
    let following = Mutex<Task<HouseholdClient.FollowingEnd, any Error>?>(nil)
    try await Desk.run { desk in
      let place = desk.place
      var watching = ControlRequest(.status)
      watching.watch = true
      let request = watching
      let (told, teller) = AsyncStream.makeStream(of: Int.self)
      let task = Task {
        try await command {
          try HouseholdClient.follow(request, place: place) { event in
            teller.yield(event.status?.devices.count ?? 0)
            return true
          }
        }
      }
      following.withLock { $0 = task }
      for await devices in told {
        #expect(devices == 1)
        break
      }
    }
    let task = try #require(following.withLock { $0 })
    #expect(try await task.value == .daemonGone)
  }

  @Test("paths that the daemon cannot use are refused before the service hears of them")
  func access() async throws {
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      var submission = try desk.submission()
      submission.modelDirectory = desk.root + "/elsewhere"
      let bad = submission
      await #expect(throws: DaemonRefusal.self) { _ = try await command { try client.submit(bad) } }
      #expect(desk.jobs.submissions.isEmpty)
      await #expect(throws: DaemonRefusal.self) { try await command { try client.stop("not a job") } }
    }
  }

  @Test("a report with every field is read as it was written")
  func coding() async throws {
    try await Desk.run { desk in
      let client = JobClient(desk.place)
      let submission = try desk.submission()
      _ = try await command { try client.submit(submission) }
      desk.jobs.tell { report in
        report.state = .finished
        (report.phase, report.epoch, report.step, report.steps) = (.cachedEpoch, 3, 7, 9)
        (report.samplesPerSecond, report.loss, report.etaSeconds, report.seconds) = (1.5, 0.25, 2, 61.5)
        var device = JobReport.Device(name: "laptop", device: String(repeating: "a", count: 32))
        (device.place, device.layers, device.units, device.cachedUnits) = (1, "encoder 0", 2, 3)
        (device.memoryBytes, device.budgetBytes, device.waitingShare) = (1 << 40, 1 << 41, 0.5)
        (device.samplesPerSecond, device.note) = (2.5, "slow")
        device.links = [JobReport.Link(place: 0, sentBytes: 1, receivedBytes: 2)]
        report.devices = [device]
        report.finishedEpochs = [EpochSummary(mode: .live, seconds: 1, samplesPerSecond: 2, loss: 3)]
        report.metrics = [JobReport.Measured(name: "accuracy", value: 0.5, epoch: 1)]
        report.warnings = ["w"]
        var note = JobReport.Note(number: 3, kind: .notUsed, seconds: 4, device: "nas", reason: "slow")
        (note.planEpoch, note.step, note.devices, note.tookSeconds) = (2, 412, 2, 1.8)
        note.before = JobReport.Note.Pace(samplesPerSecond: 1, etaSeconds: 2)
        note.after = JobReport.Note.Pace(samplesPerSecond: 3, etaSeconds: nil)
        report.notes = [note]
        report.pauseReason = "no quorum (weight 2 of 5)"
        report.result = TrainSummary(
          metric: MetricChange(name: "accuracy", before: nil, after: 1), epochs: report.finishedEpochs,
          cacheBytes: 1, peakResidentBytes: 2, adapterDigest: "d", adapterDirectory: "/out", steps: 4,
          metrics: [])
        report.failure = JobReport.Failure(message: "m", device: "laptop", reason: .unreachable)
      }
      let expected = await desk.jobs.jobs()
      #expect(try await command { try client.jobs() } == expected)
    }
  }

  @Test("a pause is told to the jobs and the household, and kept for the next start")
  func pause() async throws {
    try await Desk.run { desk in
      let client = PauseClient(desk.place)
      let paused = try await command { try client.pause("video\ncall") }
      #expect(paused.isPaused && paused.isRunning && paused.reason == "paused by its person: video call")
      #expect(desk.jobs.pauses == ["paused by its person: video call"])
      let peers = try await command { try Self.peers(desk.place) }
      #expect(peers.first?.isPaused == true && peers.first?.isAvailable == false)
      #expect(peers.first?.pauseReason == "paused by its person: video call")
      // What a daemon that starts anew reads.
      #expect(try HouseholdOffice(desk.place).storedReport().devices.first?.isPaused == true)
      let resumed = try await command { try client.resume() }
      #expect(!resumed.isPaused && resumed.reason == nil && resumed.text.contains("takes part"))
      #expect(desk.jobs.pauses == ["paused by its person: video call", nil])
      #expect(try await command { try Self.peers(desk.place) }.first?.isAvailable == true)
      #expect(try HouseholdOffice(desk.place).storedReport().devices.first?.isPaused == nil)
    }
  }

  @Test("a pause names the jobs that this device has a part in")
  func pausedJobs() async throws {
    try await Desk.run { desk in
      let submission = try desk.submission()
      _ = try await command { try JobClient(desk.place).submit(submission) }
      let own = try #require(try await command { try Self.peers(desk.place) }.first?.device)
      desk.jobs.tell { report in
        var device = JobReport.Device(name: "desk", device: own)
        device.place = 0
        report.devices = [device]
      }
      let paused = try await command { try PauseClient(desk.place).pause("") }
      #expect(paused.jobs == [PauseReport.Job(job: desk.jobs.id.description, name: "sentiment")])
      #expect(paused.text.contains("3fa90000") && paused.text.contains("handed over"))
    }
  }

  @Test("while the daemon is down a pause is kept on the disk, and without a household it is refused")
  func pauseOffline() async throws {
    let root = NSTemporaryDirectory() + "hearth-pause-\(UUID().uuidString.prefix(8))"
    defer { try? FileManager.default.removeItem(atPath: root) }
    let place = try HouseholdPlace(environment: ["HEARTH_HOME": root + "/home"])
    await #expect(throws: (any Error).self) {
      _ = try await command { try PauseClient(place).pause("") }
    }
    _ = try HouseholdOffice(place).create(name: "desk")
    let paused = try await command { try PauseClient(place).pause("later") }
    #expect(paused.isPaused && !paused.isRunning && paused.text.contains("hearth up"))
    #expect(try HouseholdOffice(place).storedReport().devices.first?.pauseReason?.contains("later") == true)
    #expect(try await command { try PauseClient(place).resume() }.isPaused == false)
  }

  @Test("--pause-on-battery: a daemon that starts on battery tells its jobs so, and resume overrides it")
  func battery() async throws {
    try await Desk.run(powerFolder: { root in
      try FileManager.default.createDirectory(atPath: root + "/power/BAT0", withIntermediateDirectories: true)
      try Data("Battery\n".utf8).write(to: URL(filePath: root + "/power/BAT0/type"))
      return root + "/power"
    }) { desk in
      let device = try #require(try await command { try Self.peers(desk.place) }.first)
      #expect(device.isPaused == true && device.pauseReason == "on battery")
      let resumed = try await command { try PauseClient(desk.place).resume() }
      #expect(!resumed.isPaused)
      await desk.jobs.waitForPauses(1)
      #expect(desk.jobs.pauses == [nil])
    }
  }

  @Test("a job is adopted over the daemon's socket by an admin's device")
  func adopt() async throws {
    try await Desk.run { desk in
      let submission = try desk.submission()
      let id = try await command { try JobClient(desk.place).submit(submission) }
      try await command { try JobClient(desk.place).adopt(id) }
      #expect(desk.jobs.adopted == [desk.jobs.id])
      await #expect(throws: DaemonRefusal.self) {
        try await command { try JobClient(desk.place).adopt(String(repeating: "0", count: 32)) }
      }
    }
  }

  private static func peers(_ place: HouseholdPlace) throws -> [HouseholdReport.Device] {
    var client = try HouseholdClient(ControlRequest(.status), place: place)
    return try client.answer().status?.devices ?? []
  }
}
