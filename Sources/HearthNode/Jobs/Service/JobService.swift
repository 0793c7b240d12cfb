import CryptoPrimitives
import Determinism
package import HearthStorage
package import HouseholdTrust
package import Logging
package import MeshModel
package import MeshPeer
import MeshTransport
import TensorKernels
package import TrainingCoordination
import WireCoding

/// The household as the jobs of a device see it.
package struct JobHousehold: Sendable, Equatable {
  /// Who is there, who leads, whose word counts.
  package var membership: JobMembership
  /// What people call the devices.
  package var names: [DeviceID: String]

  /// A household.
  package init(membership: JobMembership, names: [DeviceID: String]) {
    self.membership = membership
    self.names = names
  }
}

/// The jobs of this device: performs on a thread of its own what their coordinators want.
///
/// Everything that happens to a job comes to this actor one after the other; nothing here decides what only a
/// `JobCoordinator` may decide.
package actor JobService {
  /// What jobs hold of the outside world.
  package struct Doors: Sendable {
    /// This device's keys.
    package var keys: DeviceKeys
    /// Where state lies.
    package var stateDirectory: String
    /// Bulk sessions: channels of plan epochs, and blobs.
    package var desk: BulkDesk
    /// Blobs of this device.
    package var blobs: BlobStore
    /// What a job may use of this device.
    package var limits: DeviceLimits
    /// Why this device takes no part in jobs at the start; nil when it does.
    package var pause: String?
    /// Puts a state of training on the disk, or what was told of a job.
    package var writeFile: CheckpointFiles.Writing
    /// Says something about a job to a member; may be lost.
    package var send: @Sendable (DeviceID, [UInt8]) -> Void
    /// Measures the links to the other members; nil when the daemon stops.
    package var measureLinks: @Sendable () async -> [LinkMeasurement]?

    /// Doors.
    package init(
      keys: DeviceKeys, stateDirectory: String, desk: BulkDesk, blobs: BlobStore,
      limits: DeviceLimits = DeviceLimits(), pause: String? = nil,
      writeFile: @escaping CheckpointFiles.Writing = CheckpointFiles.writePrivately,
      send: @escaping @Sendable (DeviceID, [UInt8]) -> Void,
      measureLinks: @escaping @Sendable () async -> [LinkMeasurement]?
    ) {
      self.keys = keys
      self.stateDirectory = stateDirectory
      self.desk = desk
      self.blobs = blobs
      self.limits = limits
      self.pause = pause
      self.writeFile = writeFile
      self.send = send
      self.measureLinks = measureLinks
    }
  }

  /// What comes from the mesh, in its order.
  private enum News: Sendable {
    case message([UInt8], DeviceID)
    case household(JobHousehold)
  }

  /// Messages that wait for this actor; more are dropped, and said again by who sent them.
  private static let waitingNews = 4096
  /// Jobs that are not over, of all owners.
  static let openJobs = 16
  /// How long after a job's end its freed memory goes back to the system: its threads have ended then.
  private static let tidyTime: Duration = .seconds(1)
  /// How long a daemon that stops waits until the others have what it holds.
  private static let handOverTime: Duration = .seconds(5)
  /// How long it then waits for its own threads to have the job on the disk.
  private static let runEndTime: Duration = .seconds(5)

  nonisolated let lane: MeshLane
  /// The jobs' own thread.
  package nonisolated var unownedExecutor: UnownedSerialExecutor { lane.asUnownedSerialExecutor() }

  let own: DeviceID
  let doors: Doors
  let log: Logger
  let directory: JobDirectory
  var household: JobHousehold
  var jobs: [JobID: OpenJob] = [:]
  var watchers: [UInt64: JobWatcher] = [:]
  var nextWatcher: UInt64 = 0
  var generator: SeededGenerator
  var isStopping = false
  /// Why this device takes no part in jobs for a while; nil when it does.
  var pause: String?
  /// Who waits until something is so, or until a moment.
  private var waiter: Waiter?
  /// When the memory that an ended job has freed goes back to the system.
  private var tidyAt: MonotonicInstant?
  /// What is still to be said once the daemon stops, in place of `Doors.send`.
  private var farewell: [JobFarewell]?
  /// Whether nothing more is begun here.
  var hasStopped: Bool { farewell != nil }
  /// Messages that were dropped because they cannot be right.
  private(set) var dropped = 0
  private struct Waiter {
    let until: MonotonicInstant
    let isDone: (OpenJob) -> Bool
    let continuation: CheckedContinuation<Void, Never>
  }

  private nonisolated let news: Mailbox<News>
  /// Jobs that are to be settled when the mail has been taken in; nil between two times.
  private var unsettled: Set<JobID>?

  /// Takes up the jobs that an earlier start left, and begins to listen.
  package static func start(
    _ doors: Doors, household: JobHousehold, seed: UInt64, log: Logger
  ) async throws -> JobService {
    let directory = try JobDirectory(stateDirectory: doors.stateDirectory)
    let lane = MeshLane()
    lane.start(name: "hearth-jobs")
    let service = JobService(
      doors, lane: lane, directory: directory, household: household, seed: seed, log: log)
    try await service.begin()
    return service
  }

  private init(
    _ doors: Doors, lane: MeshLane, directory: JobDirectory, household: JobHousehold, seed: UInt64,
    log: Logger
  ) {
    self.lane = lane
    self.doors = doors
    self.directory = directory
    self.household = household
    self.log = log
    own = doors.keys.device
    pause = doors.pause
    generator = SeededGenerator(seed: seed)
    news = Mailbox(limit: Self.waitingNews, lane: lane)
  }

  deinit { lane.stop() }

  private func begin() throws {
    lane.onAlarm { [weak self] in self?.assumeIsolated { $0.tick() } }
    let (records, damaged) = try directory.records()
    for job in damaged {
      log.error("job-record-damaged", metadata: ["job": "\(job.short)"])
      directory.remove(job)
    }
    for record in records {
      open(record, isRestart: true, submission: directory.submission(of: record.specification.id))
    }
    lane.onMail { [weak self] in self?.assumeIsolated { $0.takeNews() } }
  }

  // MARK: - From the mesh

  /// A member said something about a job.
  package nonisolated func receive(_ body: [UInt8], from device: DeviceID) {
    news.put(.message(body, device))
  }

  /// The household changed.
  package nonisolated func update(_ household: JobHousehold) { news.put(.household(household)) }

  /// Takes in everything that has come; what follows for watchers, alarms and the disk follows once for all of it.
  private func takeNews() {
    unsettled = []
    for item in news.takeAll() { take(item) }
    let touched = unsettled ?? []
    unsettled = nil
    for job in touched.sorted() { settle(job) }
  }

  private func take(_ item: News) {
    switch item {
    case .household(let new):
      household = new
      for job in jobs.keys.sorted() {
        admit(job)
        tellRun(job)
        take(.membership(new.membership), job)
      }
    case .message(let body, let device):
      guard let message = try? JobMessage(decoding: body) else {
        dropped += 1
        return log.debug("job-message-dropped", metadata: ["peer": "\(name(of: device))"])
      }
      if jobs[message.stamp.job] == nil { meet(message, from: device) }
      take(.message(message, from: device), message.stamp.job)
    }
  }

  /// A message about a job that is not known here: an offer opens it, anything else is answered.
  private func meet(_ message: JobMessage, from device: DeviceID) {
    switch message.body {
    // From its owner, or from a device that plans for it.
    case .offer(let specification)
    where specification.id == message.stamp.job
      && jobs.values.count(where: { !$0.isOver }) < Self.openJobs:
      open(StoredJob(specification), isRestart: false)
    case .offer, .unknown, .ended: break
    default: doors.send(device, JobMessage(message.stamp, .unknown).encoded)
    }
  }

  // MARK: - The loop

  /// Makes a job known to this device.
  func open(_ record: StoredJob, isRestart: Bool, submission: JobSubmission? = nil) {
    let now = DeviceClocks.now().monotonic
    var job = OpenJob(
      coordinator: JobCoordinator(
        own: own, record: record, keys: doors.keys, membership: household.membership,
        generator: SeededGenerator(seed: generator.next()), at: now),
      opened: now)
    job.submission = submission
    if isRestart {
      let history = directory.history(of: job.id)
      (job.epochs, job.metrics) = (history.epochs, history.metrics)
    }
    let effects = job.coordinator.begin(isRestart: isRestart, at: now)
    if record.outcome != nil { job.ended = now }
    jobs[job.id] = job
    if record.outcome == nil { admit(job.id) }
    perform(effects, job.id)
    settle(job.id)
    if let pause { take(.leave(reason: pause), job.id) }
  }

  /// Lets a job take in what happened, does what it wants, and sets the alarm.
  func take(_ event: JobInput, _ id: JobID) {
    guard let effects = jobs[id]?.coordinator.handle(event, at: DeviceClocks.now().monotonic) else { return }
    perform(effects, id)
    settle(id)
  }

  private func tick() {
    for id in hasStopped ? [] : jobs.keys.sorted() {
      guard let due = jobs[id]?.coordinator.nextDeadline, due <= DeviceClocks.now().monotonic else {
        continue
      }
      take(.tick, id)
    }
    if let due = tidyAt, due <= DeviceClocks.now().monotonic { tidy() }
    wakeWaiter()
    setAlarm()
  }

  private func settle(_ id: JobID) {
    if unsettled != nil {
      unsettled?.insert(id)
      return
    }
    jobs[id]?.note()
    keepHistory(id)
    wakeWaiter()
    setAlarm()
    tellWatchers(id)
  }

  private func setAlarm() {
    let deadlines = hasStopped ? [] : jobs.values.compactMap(\.coordinator.nextDeadline)
    lane.setAlarm((deadlines + [waiter?.until, hasStopped ? nil : tidyAt].compactMap(\.self)).min())
  }

  /// What devices tell only once must be there when the adapter is described, and for whoever asks, after a restart too.
  ///
  /// It is written on a thread of its own: what devices say to each other does not wait for it.
  private func keepHistory(_ id: JobID) {
    guard jobs[id]?.history.begin(at: DeviceClocks.now().monotonic) == true else { return }
    Task { await writeHistory(id) }
  }

  /// A write that has been begun.
  private func writeHistory(_ id: JobID) async {
    guard let job = jobs[id] else { return }
    let (directory, write) = (directory, doors.writeFile)
    let history = JobHistory(job.epochs, job.metrics)
    var isStored = true
    do {
      try await onOwnThread("job-history") { try directory.store(history, of: id, by: write) }
    } catch {
      isStored = false
      log.warning("job-history-not-stored", metadata: ["job": "\(id.short)", "error": "\(error)"])
    }
    // A job that was forgotten meanwhile has left nothing.
    if jobs[id] == nil { return directory.remove(id) }
    jobs[id]?.history.ended(isStored: isStored)
    if hasStopped { wakeWaiter() } else { keepHistory(id) }
  }

  private func perform(_ effects: [JobEffect], _ id: JobID) {
    for effect in effects {
      switch effect {
      case .persist(let record):
        guard store(record) else {
          // What follows from a record that is not on the disk must not be said.
          return take(.failed(nil, .own, "its disk does not take the job's record"), id)
        }
      case .send(let message, let device):
        if farewell == nil {
          doors.send(device, message.encoded)
        } else {
          farewell?.append(JobFarewell(device: device, body: message.encoded))
        }
      case .prepare: prepare(id)
      case .plan(let request): plan(id, request)
      case .survey(let request): survey(id, request)
      case .fetch(let certificate): fetch(id, certificate)
      case .start(let certificate): run(id, certificate)
      case .drain: jobs[id]?.activity.run?.drain()
      case .interrupt(let reason): jobs[id]?.activity.run?.interrupt(reason)
      case .deliver(let completion, let devices): deliver(id, completion, from: devices)
      case .end(let outcome): end(id, outcome)
      }
    }
  }

  /// Whether the record is on the disk; that a job has ended is not worth holding anything up.
  private func store(_ record: StoredJob) -> Bool {
    do throws(FileFailure) {
      try directory.store(record)
      return true
    } catch {
      log.error("job-not-stored", metadata: ["job": "\(record.specification.id.short)", "error": "\(error)"])
      return record.outcome != nil
    }
  }

  private func end(_ id: JobID, _ outcome: JobOutcome) {
    guard let job = jobs[id] else { return }
    jobs[id]?.ended = DeviceClocks.now().monotonic
    let isFinished = if case .finished = outcome { true } else { false }
    // All that the plan needs have come to its end; who was fed beside it has nothing to wait for.
    let endsItself = isFinished && job.coordinator.participants.contains(own)
    job.activity.end(text(of: outcome), interruptsRun: !endsItself)
    if !job.isRunning { clean(id) }
    // Also when the command has gone: the same command must find its output free.
    if !isFinished, let submission = job.submission {
      HouseholdTraining.clear(RunDirectory(submission.outputDirectory))
    }
    log.info("job-ended", metadata: ["job": "\(id.short)", "outcome": "\(text(of: outcome))"])
    forgetOldJobs()
  }

  /// Gives back what a job held; not before its run has ended.
  func clean(_ id: JobID) {
    guard let job = jobs[id], job.isOver else { return }
    if let stamp = job.coordinator.certificate?.stamp { doors.desk.closeChannel(stamp) }
    doors.desk.forget(job: id)
    let blobs = blobs(of: job)
    jobs[id]?.material = nil
    var kept: Set<ContentDigest> = []
    for other in jobs.values where !other.isOver { kept.formUnion(self.blobs(of: other)) }
    for blob in blobs where !kept.contains(blob) { try? doors.blobs.remove(blob) }
    directory.removeWork(of: id)
    tidyAt = DeviceClocks.now().monotonic.advanced(by: Self.tidyTime)
    setAlarm()
  }

  /// Gives the system back what ended jobs have freed.
  ///
  /// Between what stays of it in the heaps are pages that nothing else gives back. Three daemons had 16 to 37 MiB of private
  /// pages after ten small jobs; with this, 8 to 18 after each of fourteen, of which 4 to 6 are in use.
  private func tidy() {
    tidyAt = nil
    // A job that computes would only ask for the pages again; its own end is the next moment.
    if jobs.values.contains(where: \.isRunning) { return }
    AllocatorSettings.giveFreedMemoryBack()
  }

  private func forgetOldJobs() {
    let over = jobs.values.filter { $0.isOver && !$0.isRunning }.sorted {
      ($0.opened, $0.id) < ($1.opened, $1.id)
    }
    for job in over.dropLast(JobDirectory.keptJobs) {
      jobs[job.id] = nil
      directory.remove(job.id)
    }
  }

  /// Leaves all jobs with notice because the daemon stops: returns when the others have what this device holds and its
  /// own part is on the disk, or after a bounded time.
  package func leave(_ reason: String) async {
    isStopping = true
    for id in jobs.keys.sorted() where jobs[id]?.isOver == false { take(.leave(reason: reason), id) }
    await wait(Self.handOverTime) { $0.isOver || $0.coordinator.hasLeft }
  }

  /// Waits until something is so for all jobs, or until a time has passed.
  private func wait(_ time: Duration, until isDone: @escaping (OpenJob) -> Bool) async {
    guard waiter == nil, !jobs.values.allSatisfy(isDone) else { return }
    let until = DeviceClocks.now().monotonic.advanced(by: time)
    await withCheckedContinuation { continuation in
      waiter = Waiter(until: until, isDone: isDone, continuation: continuation)
      setAlarm()
    }
  }

  private func wakeWaiter() {
    guard let waiting = waiter else { return }
    guard waiting.until <= DeviceClocks.now().monotonic || jobs.values.allSatisfy(waiting.isDone) else {
      return
    }
    waiter = nil
    waiting.continuation.resume()
  }

  /// Ends what runs here, best after `leave`; returns what the others must still hear.
  ///
  /// The jobs stay on the disk as far as they are, and go on with the next start.
  package func stop() async -> [JobFarewell] {
    isStopping = true
    farewell = []
    for id in jobs.keys.sorted() {
      jobs[id]?.activity.end("the daemon stops", interruptsRun: true)
      guard let stamp = jobs[id]?.coordinator.certificate?.stamp else { continue }
      doors.desk.closeChannel(stamp)
    }
    await wait(Self.runEndTime) { !$0.isRunning && !$0.history.isWriting }
    for id in jobs.keys.sorted() where jobs[id]?.history.beginLast() == true { await writeHistory(id) }
    let writers = jobs.keys.sorted().compactMap { jobs[$0]?.material?.checkpoints }
    try? await onOwnThread("job-state") { for writer in writers { writer.flush() } }
    for id in jobs.keys where jobs[id]?.isRunning == false { jobs[id]?.material = nil }
    for watcher in watchers.values { watcher.continuation.finish() }
    watchers = [:]
    lane.setAlarm(nil)
    news.close()
    return farewell ?? []
  }

  // MARK: - Words

  /// What people call a device.
  func name(of device: DeviceID) -> String { household.names[device] ?? device.short }

  /// How a job ended, for people.
  func text(of outcome: JobOutcome) -> String {
    switch outcome {
    case .finished: "finished"
    case .failed(let device?, let reason): "\(name(of: device)): \(reason)"
    case .failed(nil, let reason): reason
    case .stopped(let device): "stopped on \(name(of: device))"
    }
  }
}

/// The last that a device says to another about a job.
package struct JobFarewell: Sendable {
  /// To whom.
  package let device: DeviceID
  /// An encoded message.
  package let body: [UInt8]
}

/// One job that this device knows.
struct OpenJob: Sendable {
  var coordinator: JobCoordinator
  let opened: MonotonicInstant
  var ended: MonotonicInstant?
  /// What was submitted here; nil on every device but the owner.
  var submission: JobSubmission?
  /// What ends the work of the job.
  let activity = JobActivity()
  /// Whether a thread computes for it; it may outlive the job for a moment.
  var isRunning = false
  /// What its runs share; nil until the package is here, and when the job is over.
  var material: JobMaterial?
  /// The package being taken up, so that it is read once.
  var opening: Task<OpenedMaterial, any Error>?
  /// When the links to the other members were measured last.
  var linksMeasured: MonotonicInstant?
  /// Finished epochs by their number, from whichever device told them first.
  var epochs: [UInt32: FinishedEpoch] = [:]
  /// Metrics by the number of finished epochs.
  var metrics: [UInt32: [NamedMetric]] = [:]
  /// When that goes to the disk.
  var history = HistoryPace()
  /// What people should know.
  var warnings: [String] = []
  /// What happened to its devices, and how its pace changed.
  var notes = JobNotes()
  /// What the model's layers are called; nil until the package is here.
  var layerNames: [String]?
  /// What came of it, on the owner.
  var summary: TrainSummary?

  init(coordinator: JobCoordinator, opened: MonotonicInstant) {
    self.coordinator = coordinator
    self.opened = opened
  }

  var id: JobID { coordinator.specification.id }
  var specification: JobSpecification { coordinator.specification }
  var isOver: Bool { coordinator.record.outcome != nil }
  /// Whether this device computes for it, or is about to.
  var isWorking: Bool { isRunning || !isOver && coordinator.place != nil && !coordinator.isLeaving }
  /// Whether the job cannot go on without this device.
  var isNeeded: Bool { coordinator.isOwner || coordinator.place != nil }

  /// Remembers what devices tell only once.
  mutating func note() {
    takeNotes()
    let known = (epochs.count, metrics.count)
    var isCached: Bool?
    for device in [coordinator.own] + coordinator.participants {
      guard let progress = coordinator.progress(of: device) else { continue }
      if let epoch = progress.finished, epochs.count < JobLimits.epochs, epochs[epoch.index] == nil {
        epochs[epoch.index] = epoch
        isCached = epoch.isCached
      }
      if !progress.metrics.isEmpty, metrics.count < JobLimits.epochs, metrics[progress.metricsEpoch] == nil {
        metrics[progress.metricsEpoch] = progress.metrics
      }
    }
    history.note(
      isNews: known != (epochs.count, metrics.count), state: JobReport.State(coordinator.state),
      isCached: isCached)
  }
}
