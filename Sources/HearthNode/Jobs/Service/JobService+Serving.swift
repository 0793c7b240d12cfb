import CryptoPrimitives
import Determinism
import HearthStorage
import Logging
import MeshModel
import MeshTransport
package import TrainingCoordination

/// What commands want of jobs.
extension JobService: JobServing {
  /// Takes a job; returns when it is kept and the household is being asked.
  package func submit(_ submission: JobSubmission) async throws -> JobID {
    guard !isStopping else { throw JobServiceFailure.stopping }
    if let other = jobs.values.first(where: { !$0.isOver && $0.isNeeded }) {
      throw JobServiceFailure.busy(name: other.specification.name)
    }
    let blobs = doors.blobs
    let offered = try await onOwnThread("job-submit") { try OfferedJob(submission, blobs: blobs) }
    guard !isStopping else { throw JobServiceFailure.stopping }
    var entropy = SystemEntropy()
    let id = JobID(entropy.integer(), entropy.integer())
    let others = household.membership.reachable.filter { $0 != own }.sorted()
    let roster = [own] + others.prefix(JobLimits.roster - 1)
    let suggested = household.membership.leader ?? own
    let specification = JobSpecification(
      id: id, owner: own, name: cut(submission.name, to: JobLimits.nameBytes), model: offered.model,
      modelFiles: offered.listing, package: offered.package, roster: roster,
      leader: roster.contains(suggested) ? suggested : own, epochs: offered.epochs)
    // Before the record: whoever finds the job on the disk can write its adapter.
    try directory.store(submission, of: id)
    open(StoredJob(specification), isRestart: false, submission: submission)
    log.info(
      "job-submitted",
      metadata: ["job": "\(id.short)", "name": "\(submission.name)", "devices": "\(roster.count)"])
    return id
  }

  /// The jobs that this device knows, the newest first.
  package func jobs() async -> [JobReport] {
    jobs.values.sorted { ($1.opened, $1.id) < ($0.opened, $0.id) }.map(report)
  }

  /// Reports of a job, or of all.
  package func watch(_ job: JobID?) async -> AsyncStream<JobReport> {
    let (stream, continuation) = AsyncStream.makeStream(
      of: JobReport.self, bufferingPolicy: .bufferingNewest(JobWatcher.waiting))
    nextWatcher += 1
    let id = nextWatcher
    watchers[id] = JobWatcher(job: job, continuation: continuation)
    continuation.onTermination = { [weak self] _ in
      Task { await self?.endWatch(id) }
    }
    if let job, jobs[job] == nil { continuation.finish() }
    for known in jobs.keys.sorted() where job == nil || job == known { tellWatchers(known) }
    return stream
  }

  /// Takes this device out of all jobs until `resumeDevice`, and says why; what it holds is handed over in order.
  package func pauseDevice(_ reason: String) async {
    pause = cut(reason, to: JobLimits.reasonBytes)
    for id in jobs.keys.sorted() where jobs[id]?.isOver == false { take(.leave(reason: reason), id) }
  }

  /// Lets this device take part again, also in jobs that it left.
  package func resumeDevice() async {
    guard pause != nil, !isStopping else { return }
    pause = nil
    for id in jobs.keys.sorted() where jobs[id]?.isOver == false { take(.rejoin, id) }
  }

  /// Lets a job that lost its majority go on with the devices that are there.
  package func adopt(_ job: JobID) async throws {
    guard let known = jobs[job] else { throw JobFailure.unknown(job.description) }
    let state = known.coordinator.state
    guard !known.isOver else { throw JobFailure.over(job: job.short, state: state.rawValue) }
    guard state == .paused else { throw JobFailure.notPaused(job: job.short, state: state.rawValue) }
    take(.adopt, job)
  }

  private func endWatch(_ id: UInt64) { watchers[id] = nil }

  /// Ends a job on all devices; returns when this device has told the others.
  package func stop(_ job: JobID) async throws {
    guard let known = jobs[job] else { throw JobFailure.unknown(job.description) }
    guard !known.isOver else {
      throw JobFailure.over(job: job.short, state: known.coordinator.state.rawValue)
    }
    take(.stop, job)
  }

  /// Tells those who follow a job how it is, as often as `WatchPace` says.
  func tellWatchers(_ id: JobID) {
    guard !watchers.isEmpty, let job = jobs[id] else { return }
    let now = DeviceClocks.now().monotonic
    var made: JobReport?
    for key in watchers.keys.sorted() {
      guard let watcher = watchers[key], watcher.job == nil || watcher.job == id else { continue }
      var pace = watcher.paces[id] ?? WatchPace()
      let devices = household.membership.alive.count
      guard pace.tells(job.coordinator.state, job.sight, devices: devices, at: now) else { continue }
      watchers[key]?.paces[id] = pace
      let report = made ?? report(job)
      made = report
      watcher.continuation.yield(report)
      if report.state.isOver, watcher.job == id {
        watcher.continuation.finish()
        watchers[key] = nil
      }
    }
  }
}

/// A submission whose parts are blobs of this device.
private struct OfferedJob: Sendable {
  let model: ContentDigest
  let listing: BlobReference
  let package: BlobReference
  let blobs: [ContentDigest]
  let epochs: Int

  /// Checks the package, keeps a copy of it, and refers to the model's files.
  init(_ submission: JobSubmission, blobs store: BlobStore) throws {
    let bytes = try readWholeFile(submission.packagePath, limit: JobPackageLimits.bytes)
    let read = try JobPackage(decoding: bytes)
    model = read.backboneDigest
    epochs = read.settings.epochs
    let kept = try store.add(bytes: bytes)
    package = BlobReference(digest: kept, byteCount: UInt64(bytes.count))
    let offer = try SparseModel.offer(submission.modelDirectory, store: store)
    listing = BlobReference(digest: offer.listing, byteCount: UInt64(offer.byteCount))
    blobs = [kept] + offer.blobs
    try removeFile(submission.packagePath)
  }
}
