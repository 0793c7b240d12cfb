import Collectives
import CryptoPrimitives
import DistributedTraining
import Foundation
import HearthNode
import HearthStorage
import HouseholdTrust
import MeshModel
import Synchronization
import Testing
import TrainingCoordination

/// Job services that lose devices, are restarted and leave, on real gradients: whatever happens, the bits are one device's.
@Suite("A household's job", .serialized, .timeLimit(.minutes(5)))
struct JobServiceTests {
  private static let owner = 0

  /// A job on devices that are up, followed on one of them.
  ///
  /// LoRA under EDDL unless a test says otherwise: then every device has work in every epoch, whatever was measured.
  private struct Running {
    let bench: JobBench
    let request: TrainRequest
    let job: JobID

    init(
      _ count: Int, up: [Int], model: String = "tiny-bert", epochs: Int = 400,
      technique: RunTechnique = .lora, planner: PlannerKindName = .eddl, ownsModel: Bool = false
    ) async throws {
      bench = try JobBench(devices: count)
      try await bench.start(up)
      var request = try bench.request(model, epochs: epochs, technique: technique, output: "out")
      if ownsModel {
        let copy = bench.root + "/model"
        try FileManager.default.copyItem(atPath: request.modelDirectory, toPath: copy)
        request.modelDirectory = copy
      }
      self.request = request
      job = try await bench.submit(request, on: JobServiceTests.owner, planner: planner)
    }

    /// The first report of a device that is as it is waited for; the last one when the job is over before.
    func report(on number: Int, when isMeant: (JobReport) -> Bool) async throws -> JobReport {
      let service = try bench.devices[number].service()
      var last: JobReport?
      for await report in await service.watch(job) {
        last = report
        if isMeant(report) { return report }
      }
      return try #require(last)
    }

    /// Waits until some epochs are done; fails if the job is over by then.
    func epochs(_ count: Int, on number: Int = JobServiceTests.owner) async throws {
      let report = try await report(on: number) { $0.epoch > count || $0.state.isOver }
      try #require(
        !report.state.isOver, "the job was over too early: \(report.state) \(report.failure?.message ?? "")")
    }

    /// How many plans the job needs at least when this device goes: it has a part in the present one, or not.
    func plans(without number: Int) async throws -> UInt64 {
      let report = try await report(on: JobServiceTests.owner) { $0.plan != nil || $0.state.isOver }
      return report.devices.contains { $0.name == "device \(number)" && $0.place != nil } ? 2 : 1
    }

    /// The adapter at the end is the one that one device makes, after so many plans at least.
    func ends(plans: UInt64 = 2, sourceLocation: SourceLocation = #_sourceLocation) async throws {
      let report = try await report(on: JobServiceTests.owner) { $0.state.isOver }
      #expect(report.state == .finished, "\(report.failure?.message ?? "")", sourceLocation: sourceLocation)
      #expect(report.plan?.planEpoch ?? 0 >= plans, sourceLocation: sourceLocation)
      let alone = try bench.digestAlone(request)
      #expect(report.result?.adapterDigest == alone, sourceLocation: sourceLocation)
      await bench.shutdown()
    }
  }

  @Test("goes on without a device that dies, and ends with the same adapter", arguments: [1, 2])
  func death(number: Int) async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(2)
    let plans = try await running.plans(without: number)
    await running.bench.kill([number])
    try await running.ends(plans: plans)
  }

  @Test(
    "goes on without a device that dies in an epoch that runs the backbone",
    arguments: [(RunTechnique.lora, PlannerKindName.eddl), (.parallel, .ecofl), (.full, .ecofl)])
  func deathInLiveEpoch(technique: RunTechnique, planner: PlannerKindName) async throws {
    let running = try await Running(3, up: [0, 1, 2], epochs: 400, technique: technique, planner: planner)
    _ = try await running.report(on: 0) { $0.step > 1 || $0.state.isOver }
    let plans = try await running.plans(without: 1)
    await running.bench.kill([1])
    try await running.ends(plans: plans)
  }

  @Test("goes on while its owner is away, and hands the adapter over when it is back")
  func ownerAway() async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(2)
    let plans = try await running.plans(without: 0)
    await running.bench.kill([0])
    let report = try await running.report(on: 1) { $0.state == .saving || $0.state.isOver }
    #expect(report.state == .saving, "\(report.failure?.message ?? "")")
    try await running.bench.start([0])
    try await running.ends(plans: plans)
  }

  @Test("plans for the devices that are left by the links that its lost leader had measured")
  func deputysLinks() async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(10)
    let plans = try await running.plans(without: 0)
    await running.bench.kill([0])
    let report = try await running.report(on: 1) { $0.state == .saving || $0.state.isOver }
    #expect(report.state == .saving, "\(report.failure?.message ?? "")")
    let surveys = running.bench.devices.map { $0.surveys.withLock { $0 } }
    #expect(surveys[0] > 0 && surveys[1] == 0 && surveys[2] == 0)
    try await running.bench.start([0])
    try await running.ends(plans: plans)
  }

  @Test("goes on from the disk when all devices lost power")
  func powerLoss() async throws {
    let running = try await Running(2, up: [0, 1], epochs: 500, technique: .parallel)
    try await running.epochs(10)
    await running.bench.kill([0, 1])
    try await running.bench.start([1, 0])
    try await running.ends()
  }

  @Test("takes a device back that was restarted in the middle of it")
  func restart() async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(2)
    let plans = try await running.plans(without: 2)
    await running.bench.kill([2])
    try await running.bench.start([2])
    try await running.ends(plans: plans)
  }

  @Test("shows on a restarted device how far it was, and that again when it is over", .timeLimit(.minutes(5)))
  func history() async throws {
    let running = try await Running(2, up: [0, 1], epochs: 1500, technique: .parallel)
    // From its first epoch on the other device knows the job.
    try await running.epochs(10)
    // The first epochs are on the disk at once.
    let before = try await running.report(on: 1) { $0.doneEpochs > 0 && $0.seconds > 2.5 || $0.state.isOver }
    #expect(!before.state.isOver)
    await running.bench.kill([0, 1])
    try await running.bench.start([1])
    // Its majority is away: nothing but its disk can tell.
    let alone = try await running.report(on: 1) { _ in true }
    #expect(alone.doneEpochs > 0 && alone.doneEpochs <= 1500)
    #expect(JobReport.table([alone]).contains(" \(alone.doneEpochs)/1500 epochs"))
    try await running.bench.start([0])
    let over = try await running.report(on: 1) { $0.state.isOver }
    #expect(over.state == .finished && over.doneEpochs == 1500)
    await running.bench.kill([1])
    try await running.bench.start([1])
    let later = try await running.report(on: 1) { _ in true }
    #expect(
      later.doneEpochs == 1500 && later.finishedEpochs == over.finishedEpochs && later.metrics == over.metrics
    )
    try await running.ends()
  }

  @Test("has what was told of it written a few times a device, however many epochs it has")
  func historyWrites() async throws {
    let began = ContinuousClock.now
    let running = try await Running(2, up: [0, 1], epochs: 1500, technique: .parallel)
    // From its first epoch on the other device knows the job.
    try await running.epochs(1)
    let over = try await running.report(on: 1) { $0.state.isOver }
    #expect(over.state == .finished && over.doneEpochs == 1500)
    await running.bench.kill([0, 1])
    // The first epoch, the first from the cache, the two or three changes of state at the end, and each ten seconds.
    let most = 6 + Int(began.duration(to: .now).components.seconds / 10)
    for device in running.bench.devices {
      let writes = device.histories.withLock { $0 }
      #expect(writes > 0 && writes <= most, "\(writes) writes")
    }
    try await running.bench.start([1])
    let later = try await running.report(on: 1) { _ in true }
    #expect(later.finishedEpochs == over.finishedEpochs && later.metrics == over.metrics)
    await running.bench.shutdown()
  }

  @Test("goes on without a device that leaves with notice")
  func leave() async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(2)
    let plans = try await running.plans(without: 2)
    await running.bench.stop(2)
    try await running.ends(plans: plans)
  }

  @Test("waits on the disk of its last device, which was stopped, and goes on there with its state")
  func lastDevice() async throws {
    let running = try await Running(2, up: [0], epochs: 500, technique: .parallel)
    try await running.epochs(4)
    await running.bench.stop(0)
    let directory = "\(running.bench.devices[0].state)/jobs/\(running.job)"
    let kept = CheckpointFiles(directory: directory).read()
    #expect(kept.faults.isEmpty && kept.states.first?.step ?? 0 > 4)
    try await running.bench.start([0])
    try await running.ends()
  }

  @Test("goes on from memory when the disk takes no states, and says so")
  func fullDisk() async throws {
    let running = try await Running(2, up: [0])
    running.bench.devices[0].isDiskFull.withLock { $0 = true }
    let report = try await running.report(on: 0) { !$0.warnings.isEmpty || $0.state.isOver }
    #expect(report.warnings.contains { $0.contains("cannot be kept on this device") })
    try await running.ends(plans: 1)
  }

  @Test("writes no adapter for a model that was replaced meanwhile, and says so")
  func replacedModel() async throws {
    let running = try await Running(2, up: [0, 1], ownsModel: true)
    try await running.epochs(2)
    let weights = running.request.modelDirectory + "/model.safetensors"
    var bytes = try Data(contentsOf: URL(filePath: weights))
    bytes[bytes.count - 1] ^= 1
    // Another file of that name: the run goes on with the one that it has mapped.
    try bytes.write(to: URL(filePath: weights), options: .atomic)
    let report = try await running.report(on: 0) { $0.state.isOver }
    #expect(report.state == .failed)
    #expect(report.failure?.message.contains("prepared for another model") == true)
    await running.bench.shutdown()
    // Nor is anything kept of the other model.
    #expect(try directoryNames("\(running.bench.devices[0].state)/blobs") == [])
  }

  @Test("is declined by a device that is paused, and goes on without it when it pauses in the middle")
  func pause() async throws {
    let running = try await Running(3, up: [0, 1, 2])
    try await running.epochs(2)
    let plans = try await running.plans(without: 1)
    try await running.bench.devices[1].service().pauseDevice("I need it")
    let second = try await running.report(on: 0) { report in
      report.devices.contains { $0.place == nil && $0.state == .paused || $0.state == .left }
        || report.state.isOver
    }
    #expect(!second.state.isOver)
    try await running.ends(plans: plans)
  }

  @Test("keeps nothing of a job that is over but its record and what it measured")
  func cleanUp() async throws {
    let running = try await Running(2, up: [0, 1], epochs: 2)
    _ = try await running.report(on: 0) { $0.state.isOver }
    _ = try await running.report(on: 1) { $0.state.isOver }
    await running.bench.shutdown()
    for device in running.bench.devices {
      #expect(try directoryNames("\(device.state)/jobs/\(running.job)").sorted() == ["history", "record"])
      #expect(try directoryNames("\(device.state)/blobs") == [])
    }
  }
}

@Suite("The work of a job")
struct JobActivityTests {
  @Test("is cancelled and forgotten at the job's end, and what begins later too")
  func end() async {
    let activity = JobActivity()
    func endless() -> Task<Void, Never> {
      Task {
        let (stream, continuation) = AsyncStream.makeStream(of: Void.self)
        await withTaskCancellationHandler {
          for await _ in stream {}
        } onCancel: {
          continuation.finish()
        }
      }
    }
    let tasks = (0..<3).map { _ in endless() }
    activity.begin(.preparation, tasks[0])
    activity.begin(.planning, tasks[1])
    #expect(activity.workCount == 2)
    activity.end("finished", interruptsRun: false)
    activity.begin(.delivery, tasks[2])
    // Each returns because it was cancelled.
    for task in tasks { await task.value }
    #expect(activity.workCount == 0)
  }
}

@Suite("A run that fails")
struct RunCulpritTests {
  @Test("for what one device brings along is that device's fault, which knows it, and not the job's")
  func handover() {
    let household: [DeviceID] = (0..<3).map { index in
      var entropy = SeededEntropy(seed: UInt64(index))
      return DeviceKeys(entropy: &entropy).device
    }
    let faults: [HandoverFailure] = [
      .manyStates(place: 1, states: 99), .unknownStep(place: 1, step: 1_000_000),
      .foreignRange(place: 1, -1..<4),
      .foreignUnits(place: 1, units: 3, expected: 4),
    ]
    for fault in faults {
      let failure = DistributedRunFailure.handover(fault)
      #expect(
        household.map { failure.culprit($0, in: household) } == [
          .device(household[1]), .own, .device(household[1]),
        ])
    }
    for fault in [HandoverFailure.manyPlaces(99), .needs(2, places: 3)] {
      #expect(DistributedRunFailure.handover(fault).culprit(household[0], in: household) == .job)
    }
  }
}

@Suite("The states of a training on the disk")
struct CheckpointFilesTests {
  private static func state(_ step: Int) -> TrainingState {
    TrainingState(
      step: step, exponents: [-7], ranges: [0..<3], values: [1, 2, Float(step)], firstMoments: [0, 0, 1],
      secondMoments: [0, 0, 2], lossSum: 0.5, lossUnits: 3)
  }

  private static func withFiles(_ body: (CheckpointFiles, String) throws -> Void) throws {
    let path = NSTemporaryDirectory() + "hearth-states-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try body(CheckpointFiles(directory: path), path)
  }

  @Test("are the two newest, the newest first, and a new one takes the place of the older")
  func generations() throws {
    try Self.withFiles { files, path in
      #expect(files.read().states.isEmpty)
      for step in [3, 5, 9] { try files.write(Self.state(step), slot: files.read().nextSlot) }
      #expect(files.read().states == [Self.state(9), Self.state(5)])
      #expect(try directoryNames(path).count == 2)
      files.remove()
      #expect(try directoryNames(path).isEmpty)
    }
  }

  @Test("fall back to the older one when the newest is torn or damaged, whose place the next one takes")
  func torn() throws {
    try Self.withFiles { files, path in
      try files.write(Self.state(3), slot: 0)
      try files.write(Self.state(5), slot: 1)
      let bytes = Self.state(5).encoded
      for damaged in [Array(bytes.dropLast()), Array(bytes.prefix(10)), [], bytes.map { $0 ^ 1 }] {
        try AtomicFile.write(damaged, to: path + "/state.1")
        let found = files.read()
        #expect(found.states == [Self.state(3)] && found.nextSlot == 1)
        #expect(found.faults.count == 1 && found.faults[0].contains("state.1"))
      }
    }
  }

  @Test("are written so rarely that writing takes a fiftieth of the time, and never twice in a second")
  func pace() {
    func isDue(_ pace: CheckpointPace, _ bytes: Int, _ now: Double) -> Bool {
      var pace = pace
      return pace.isDue(bytes: bytes, now: now)
    }
    var pace = CheckpointPace()
    #expect(isDue(pace, 0, 100))
    // The first of 50 MB is taken to take a second; what was done before there was a state would not be lost.
    let isFirstDue = pace.isDue(bytes: 50_000_000, now: 100)
    #expect(!isFirstDue)
    #expect(!isDue(pace, 50_000_000, 149.9) && isDue(pace, 50_000_000, 150))
    pace.wrote(from: 150, to: 153)
    #expect(!isDue(pace, 50_000_000, 302.9) && isDue(pace, 50_000_000, 303))
    pace.wrote(from: 303, to: 303.001)
    #expect(!isDue(pace, 50_000_000, 303.9) && isDue(pace, 50_000_000, 304.1))
  }

  @Test("are readable by this device's user alone")
  func permissions() throws {
    try Self.withFiles { files, path in
      try files.write(Self.state(1), slot: 0)
      let attributes = try FileManager.default.attributesOfItem(atPath: path + "/state.0")
      #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o600)
    }
  }
}
