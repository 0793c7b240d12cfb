import ComputeRuntime
import CryptoPrimitives
import Determinism
import DistributedTraining
import FineTuning
import FoundationEssentials
import HearthStorage
import HouseholdTrust
import LanguageModels
import Logging
import MeshModel
import MeshPeer
import MeshTransport
import NeuralNetworks
import ParallelPlanner
import TrainingCoordination
import WireCoding

/// A job's material as it was taken up, with what its model's layers are called.
struct OpenedMaterial: Sendable {
  let material: JobMaterial
  let layerNames: [String]
}

/// The work that a job's coordinator asks for; each piece answers with an event.
extension JobService {
  /// Begins a piece of work that ends with the job, in place of an earlier one of its kind.
  func work(
    _ id: JobID, _ kind: JobActivity.Work, _ body: @escaping @Sendable (isolated JobService) async -> Void
  ) {
    guard !hasStopped, let activity = jobs[id]?.activity else { return }
    activity.begin(
      kind,
      Task { [weak self] in
        guard let self else { return }
        await body(self)
      })
  }

  // MARK: - Before the plan

  /// Fetches the package and measures this device.
  func prepare(_ id: JobID) {
    work(id, .preparation) { service in
      do {
        if let pause = service.pause { throw JobServiceFailure.paused(reason: pause) }
        if let other = service.jobs.values.first(where: { $0.id != id && $0.isWorking }) {
          throw JobServiceFailure.busy(name: other.specification.name)
        }
        let began = DeviceClocks.now().monotonic
        _ = try await service.material(id)
        let opened = DeviceClocks.now().monotonic
        let report = try await service.measuredReport(id)
        service.log.debug(
          "job-prepared",
          metadata: [
            "job": "\(id.short)", "package_seconds": "\(began.duration(to: opened).inSeconds)",
            "measuring_seconds": "\(opened.duration(to: DeviceClocks.now().monotonic).inSeconds)",
          ])
        service.take(
          .fetched(0, of: 0, budget: UInt64(clamping: report.memoryBytes)), id)
        service.take(.prepared(report: try report.encoded()), id)
      } catch {
        if Task.isCancelled { return }
        service.log.warning("job-declined", metadata: ["job": "\(id.short)", "error": "\(error)"])
        service.take(.unprepared("\(error)"), id)
      }
    }
  }

  private func measuredReport(_ id: JobID) async throws -> DeviceReport {
    let package = try await material(id).package
    let (limits, state, name) = (doors.limits, doors.stateDirectory, name(of: own))
    return try await onOwnThread("job-prepare") {
      try JobPlanning.report(
        try JobPlanningSettings(decoding: package.planning), name: name, limits: limits, stateDirectory: state
      )
    }
  }

  /// What the job's runs here share; fetches the package when it is not here, and reads what the disk holds of it.
  func material(_ id: JobID) async throws -> JobMaterial {
    guard let job = jobs[id], !job.isOver else { throw JobServiceFailure.stopping }
    if let material = job.material { return material }
    if let opening = job.opening { return try await opening.value.material }
    let opening = Task { try await openMaterial(job) }
    jobs[id]?.opening = opening
    defer { jobs[id]?.opening = nil }
    let opened = try await opening.value
    guard jobs[id]?.isOver == false else { throw JobServiceFailure.stopping }
    jobs[id]?.material = opened.material
    jobs[id]?.layerNames = opened.layerNames
    admit(id)
    return opened.material
  }

  private func openMaterial(_ job: OpenJob) async throws -> OpenedMaterial {
    let id = job.id
    let reference = job.specification.package
    try await doors.desk.fetch(reference.digest, for: id, from: sources(of: job))
    let (blobs, log) = (doors.blobs, log)
    let modelDirectory = job.submission?.modelDirectory ?? directory.modelPath(of: id)
    let cacheDirectory = directory.cachePath(of: id)
    let files = CheckpointFiles(directory: directory.path(of: id), writing: doors.writeFile)
    return try await onOwnThread("job-open") {
      let package = try JobPackage(
        decoding: blobs.readAll(reference.digest, limit: JobPackageLimits.bytes))
      let names = try JobPlanningSettings(decoding: package.planning).planningModel().layerNames
      let found = files.read()
      for fault in found.faults {
        log.warning("job-state-damaged", metadata: ["job": "\(id.short)", "error": "\(fault)"])
      }
      let writer = CheckpointWriter(files, found: found) { [weak self] error in
        log.warning("job-state-not-stored", metadata: ["job": "\(id.short)", "error": "\(error)"])
        Task { await self?.warn(id, "the state of the training cannot be kept on this device: \(error)") }
      }
      return OpenedMaterial(
        material: JobMaterial(
          package, modelDirectory: modelDirectory, cacheDirectory: cacheDirectory, checkpoints: writer,
          found: found.states), layerNames: names)
    }
  }

  private func warn(_ id: JobID, _ text: String) {
    guard let job = jobs[id], !job.warnings.contains(text), job.warnings.count < Self.keptWarnings else {
      return
    }
    jobs[id]?.warnings.append(text)
  }

  /// Warnings of one job that are kept.
  private static let keptWarnings = 32

  // MARK: - Blobs

  /// Whom to ask for blobs of a job: its owner first, then those who take part, then all others that are there.
  private func sources(of job: OpenJob) -> [DeviceID] {
    let alive = household.membership.alive
    let wanted = [job.specification.owner] + (job.coordinator.certificate?.proposal.household ?? [])
    var sources: [DeviceID] = []
    for device in wanted + alive.sorted() where device != own && alive.contains(device) {
      if !sources.contains(device) { sources.append(device) }
    }
    return sources
  }

  /// The blobs that belong to a job, as far as they are here.
  func blobs(of job: OpenJob) -> [ContentDigest] {
    let listing = job.specification.modelFiles.digest
    var blobs = [job.specification.package.digest, listing]
    if doors.blobs.isComplete(listing),
      let bytes = try? doors.blobs.readAll(listing, limit: ModelListingLimits.listing),
      let files = try? ModelListing(decoding: bytes)
    {
      blobs += files.blobs
    }
    if let result = job.coordinator.record.completion?.result { blobs.append(result.digest) }
    return blobs
  }

  /// Lets the members read what this device has of a job: whoever takes part, now or later, gives it on.
  func admit(_ id: JobID) {
    guard let job = jobs[id], !job.isOver else { return }
    doors.desk.blobs.admit(
      job: id, blobs: blobs(of: job), readers: household.membership.keys.keys.sorted())
  }

  // MARK: - The run

  /// Fetches what this device's part of the plan needs at once.
  func fetch(_ id: JobID, _ certificate: PlanCertificate) {
    let stamp = certificate.stamp
    work(id, .fetching) { service in
      do {
        _ = try await service.material(id)
        for needs in certificate.proposal.needs(of: service.own, isFirst: stamp.epoch == 1) {
          _ = try await service.obtainWeights(id, needs)
        }
        service.take(.ready(stamp), id)
      } catch {
        if Task.isCancelled { return }
        service.take(.failed(stamp, .own, "\(error)"), id)
      }
    }
  }

  /// Fetches weights unless they are here; false when there was nothing to fetch.
  private func obtainWeights(_ id: JobID, _ needs: WeightNeeds) async throws -> Bool {
    guard let job = jobs[id], !job.isOver else { throw JobServiceFailure.stopping }
    if job.submission != nil { return false }
    let listing = job.specification.modelFiles.digest
    let before = doors.blobs.usedBytes
    _ = try await SparseModel.obtain(
      listing, needs, for: id, from: sources(of: job), by: doors.desk, store: doors.blobs,
      into: directory.modelPath(of: id),
      progress: { [weak self] fetched, total in
        Task {
          await self?.take(
            .fetched(UInt64(clamping: fetched), of: UInt64(clamping: total), budget: nil), id)
        }
      }, listed: { [weak self] in await self?.admit(id) })
    return doors.blobs.usedBytes != before
  }

  /// Threads that a job may use here.
  var threads: Int {
    max(1, min(doors.limits.threads ?? MachineProfile.current().usableCores, ComputeTeam.maximumWidth))
  }

  /// Runs this device's part of a plan on a thread of its own; answers once, with `completed` or `stopped`.
  func run(_ id: JobID, _ certificate: PlanCertificate) {
    if hasStopped { return }
    let stamp = certificate.stamp
    guard let job = jobs[id], let material = job.material, !job.isRunning else {
      // Not within the effects that led here.
      let stop = RunStop(committedStep: 0, culprit: .own, reason: "the job's package is not here")
      Task { take(.stopped(stamp, stop), id) }
      return
    }
    jobs[id]?.isRunning = true
    let proposal = certificate.proposal
    let needed = proposal.participants
    let optional = proposal.household.indices.filter { !needed.contains(proposal.household[$0]) }
    let activity = RunActivity(
      doors.desk.openChannel(stamp, roster: proposal.household, optional: Set(optional)))
    job.activity.begin(activity)
    tellRun(id)
    let run = JobRun(
      material: material, certificate: certificate, own: own, owner: job.specification.owner,
      threads: threads, budgetBytes: job.coordinator.progress.budgetBytes, activity: activity,
      obtain: { [weak self] needs in
        guard let service = self else { throw JobServiceFailure.stopping }
        return try activity.await { try await service.obtainWeights(id, needs) }
      },
      report: { [weak self] progress in
        Task { await self?.take(.progressed(stamp, progress), id) }
      },
      learned: { [weak self] in
        Task { await self?.take(.learned(stamp), id) }
      },
      learnSums: { [state = doors.stateDirectory] sums in
        guard let settings = try? JobPlanningSettings(decoding: material.package.planning) else { return }
        LearnedSums(stateDirectory: state).keep(sums, of: settings.shape)
      },
      keepResult: { [blobs = doors.blobs] tree in
        let bytes = UnsafeRawBufferPointer(UnsafeBufferPointer(start: tree.vector, count: tree.vectorCount))
        let stride = MemoryLayout<Float>.stride
        let digest = try blobs.add(memory: bytes) {
          tree.releasePages($0.lowerBound / stride..<$0.upperBound / stride)
        }
        return BlobReference(digest: digest, byteCount: UInt64(bytes.count))
      },
      spill: { [path = directory.path(of: id)] tree in
        try tree.back { try BackingFile(of: $0, in: path).release }
      })
    // Also writing the result, which takes seconds, is done there and not on the jobs' thread: its beats must go on.
    OperatingSystemThread.detached(name: "job-run") { [weak self] in
      let end = run.run()
      Task { await self?.ran(id, stamp, end) }
    }
  }

  /// Tells the run of a job which devices are gone that its plan does without; of the others its coordinator hears.
  func tellRun(_ id: JobID) {
    guard let channel = jobs[id]?.activity.run?.channel else { return }
    for place in channel.optional
    where channel.roster[place] != own && !household.membership.alive.contains(channel.roster[place]) {
      channel.lost(place: place)
    }
  }

  private func ran(_ id: JobID, _ stamp: JobStamp, _ end: JobRun.End) {
    jobs[id]?.isRunning = false
    jobs[id]?.activity.begin(nil)
    doors.desk.closeChannel(stamp)
    guard jobs[id]?.isOver == false else {
      // Nobody has heard of the result, so that nothing else removes it; best effort.
      if case .completed(let outcome) = end, let blob = outcome.result {
        try? doors.blobs.remove(blob.digest)
      }
      return clean(id)
    }
    switch end {
    case .stopped(let stop):
      log.info(
        "job-run-stopped",
        metadata: [
          "job": "\(id.short)", "epoch": "\(stamp.epoch)", "step": "\(stop.committedStep)",
          "reason": "\(stop.reason)",
        ])
      take(.stopped(stamp, stop), id)
    case .completed(let outcome):
      let completion = RunCompletion(
        digest: outcome.digest, result: outcome.result, results: Self.encoded(outcome.results),
        cacheBytes: UInt64(clamping: outcome.cacheBytes))
      take(.completed(stamp, completion), id)
      admit(id)
    }
  }

  /// Results as they travel; of very many epochs the first are left out.
  private static func encoded(_ results: RunPosition) -> [UInt8] {
    var told = results
    while true {
      guard let bytes = try? Array(JSONEncoder().encode(told)), bytes.count > JobLimits.resultsBytes else {
        return (try? Array(JSONEncoder().encode(told))) ?? []
      }
      told.epochs.removeFirst(max(1, told.epochs.count / 2))
    }
  }

  // MARK: - The end

  /// Writes the adapter where the person wants it.
  func deliver(_ id: JobID, _ completion: RunCompletion, from devices: [DeviceID]) {
    work(id, .delivery) { service in
      do {
        let summary = try await service.writeAdapter(id, completion, from: devices)
        guard let digest = ContentDigest(hexadecimal: summary.adapterDigest) else {
          preconditionFailure("an adapter digest of other than 64 digits")
        }
        service.jobs[id]?.summary = summary
        service.take(.delivered(digest), id)
      } catch {
        if Task.isCancelled { return }
        service.take(.failed(nil, .own, "\(error)"), id)
      }
    }
  }

  private func writeAdapter(
    _ id: JobID, _ completion: RunCompletion, from devices: [DeviceID]
  ) async throws -> TrainSummary {
    guard let submission = jobs[id]?.submission else { throw JobServiceFailure.noSubmission }
    let package = try await material(id).package
    let result = try await fetchedResult(id, completion, from: devices)
    let (blobs, modelFiles) = (doors.blobs, jobs[id]?.specification.modelFiles.digest)
    let output = JobOutput(
      submission: submission, package: package,
      hasSubmittedModel: {
        guard let modelFiles, let bytes = try? blobs.readAll(modelFiles, limit: ModelListingLimits.listing),
          let listing = try? ModelListing(decoding: bytes)
        else { return false }
        return listing.isUnchanged(in: submission.modelDirectory, store: blobs)
      }, count: Int(result.byteCount) / MemoryLayout<Float>.stride,
      path: { try blobs.verifiedPath(of: result.digest, byteCount: Int(result.byteCount)) },
      digest: completion.digest,
      results: mergedResults(id, completion),
      cacheBytes: Int(clamping: jobs[id]?.coordinator.cacheBytes ?? 0), threads: threads)
    return try await onOwnThread("job-save") { try output.write() }
  }

  /// The blob of the trained values: this device's own, or fetched from one that has them.
  private func fetchedResult(
    _ id: JobID, _ completion: RunCompletion, from devices: [DeviceID]
  ) async throws -> BlobReference {
    guard let reference = completion.result, reference.byteCount <= UInt64(JobOutput.resultLimit) else {
      throw JobServiceFailure.noResult
    }
    try await doors.desk.fetch(reference.digest, for: id, from: devices)
    return reference
  }

  /// What was measured: by the run that ended complete, and by what devices told on the way.
  private func mergedResults(_ id: JobID, _ completion: RunCompletion) -> RunPosition {
    let told = try? JSONDecoder().decode(RunPosition.self, from: Data(completion.results))
    var results = told ?? RunPosition(backboneDigest: "", rowsDigest: "")
    guard let job = jobs[id] else { return results }
    let epochs = job.epochs.keys.sorted().compactMap { job.epochs[$0] }
    if epochs.count > results.epochs.count { results.epochs = epochs.map(EpochSummary.init) }
    func metrics(_ epoch: UInt32) -> [MetricValue] {
      (job.metrics[epoch] ?? []).map { MetricValue(name: $0.name, value: $0.value) }
    }
    if results.before.isEmpty { results.before = metrics(0) }
    if results.after.isEmpty, let last = job.metrics.keys.max() { results.after = metrics(last) }
    return results
  }
}

extension PlanProposal {
  /// What of the weights a device needs before the plan begins; what is missing later is fetched when it is.
  ///
  /// Under a plan that only computes what is missing in the caches, that may be nothing: unless it is the job's first,
  /// the layers can wait.
  func needs(of device: DeviceID, isFirst: Bool) -> [WeightNeeds] {
    guard let place = household.firstIndex(of: device) else { return [] }
    let plans = [plan] + [next].compactMap(\.self).filter { _ in learners.contains(device) }
    return plans.map { plan in
      let own = plan.stages.firstIndex { $0.members.contains { $0.device == place } }
      let stage = plan.mode == .fill && !isFirst ? nil : own
      return WeightNeeds(
        layers: stage.map { plan.stages[$0].layers } ?? 0..<0,
        needsOutput: stage == plan.stages.count - 1 || plan.cached.contains { $0.device == place })
    }
  }
}

extension EpochSummary {
  /// An epoch as devices told it.
  init(_ epoch: FinishedEpoch) {
    self.init(
      mode: epoch.isCached ? .cached : .live, seconds: epoch.seconds,
      samplesPerSecond: epoch.samplesPerSecond, loss: epoch.loss)
  }
}
