import ComputeRuntime
import CryptoPrimitives
import Determinism
import HouseholdTrust
import DistributedTraining
import FineTuning
import FoundationEssentials
import HearthStorage
import LanguageModels
import Logging
import MeshModel
import MeshPeer
import NeuralNetworks
import ParallelPlanner
import TrainingCoordination

/// The work that a job's coordinator asks for; each piece answers with an event.
extension JobService {
  /// Begins a piece of work that ends with the job.
  private func work(_ id: JobID, _ body: @escaping @Sendable (isolated JobService) async -> Void) {
    guard let activity = jobs[id]?.activity else { return }
    activity.begin(
      Task { [weak self] in
        guard let self else { return }
        await body(self)
      })
  }

  // MARK: - Before the plan

  /// Fetches the package and measures this device.
  func prepare(_ id: JobID) {
    work(id) { service in
      do {
        if let other = service.jobs.values.first(where: { $0.id != id && $0.isRunning }) {
          throw JobServiceFailure.busy(name: other.specification.name)
        }
        let report = try await service.measuredReport(id)
        service.take(
          .fetched(0, of: 0, budget: UInt64(clamping: report.memoryBytes)), id)
        service.take(.prepared(report: try report.encoded()), id)
      } catch {
        service.log.warning("job-declined", metadata: ["job": "\(id.short)", "error": "\(error)"])
        service.take(.unprepared("\(error)"), id)
      }
    }
  }

  private func measuredReport(_ id: JobID) async throws -> DeviceReport {
    guard let job = jobs[id] else { throw JobServiceFailure.stopping }
    let reference = job.specification.package
    if !job.coordinator.isOwner {
      try await doors.desk.fetch(reference.digest, for: id, from: [job.specification.owner])
      jobs[id]?.blobs.append(reference.digest)
      // Whoever has the package may give it on.
      doors.desk.blobs.admit(job: id, blobs: [reference.digest], readers: job.specification.roster)
    }
    let (blobs, limits, state) = (doors.blobs, doors.limits, doors.stateDirectory)
    let name = name(of: own)
    let (package, names, report) = try await onOwnThread("job-prepare") {
      let package = try JobPackage(
        decoding: blobs.readAll(reference.digest, limit: JobPackageLimits.bytes))
      let settings = try JobPlanningSettings(decoding: package.planning)
      return (
        package, try settings.planningModel().layerNames,
        try JobPlanning.report(settings, name: name, limits: limits, stateDirectory: state)
      )
    }
    jobs[id]?.package = package
    jobs[id]?.layerNames = names
    return report
  }

  /// Measures the links and looks for a plan.
  func plan(_ id: JobID, _ reports: [JobDeviceReport]) {
    work(id) { service in
      do {
        let (household, plan) = try await service.foundPlan(id, reports)
        service.take(.planned(household: household, plan), id)
      } catch {
        service.take(.unplanned("\(error)"), id)
      }
    }
  }

  private func foundPlan(_ id: JobID, _ reports: [JobDeviceReport]) async throws -> ([DeviceID], Plan) {
    guard let package = jobs[id]?.package else { throw JobServiceFailure.stopping }
    let settings = try JobPlanningSettings(decoding: package.planning)
    var devices: [DeviceID] = []
    var usable: [DeviceReport] = []
    for entry in reports {
      do throws(JobPlanningFailure) {
        var report = try DeviceReport(decoding: entry.report)
        // Whatever it calls itself: people know it by its certificate's name.
        report.name = name(of: entry.device)
        usable.append(report)
        devices.append(entry.device)
      } catch {
        log.warning(
          "job-report-dropped", metadata: ["peer": "\(name(of: entry.device))", "error": "\(error)"])
      }
    }
    let measured = usable.count > 1 ? await doors.measureLinks() : []
    guard let measured else { throw JobServiceFailure.stopping }
    guard let place = devices.firstIndex(of: own) else { throw JobServiceFailure.stopping }
    let links = measured.compactMap { link in
      devices.firstIndex(of: link.device).map {
        MeasuredLink(
          from: place, to: $0, bytesPerSecond: link.bytesPerSecond,
          roundTripSeconds: link.roundTrip?.inSeconds)
      }
    }
    let told = usable
    let result = try await onOwnThread("job-plan") {
      try JobPlanning.plan(settings, reports: told, links: links)
    }
    return result.plan.withoutIdleDevices(of: devices)
  }

  // MARK: - The run

  /// Fetches what this device's part of the plan needs.
  func fetch(_ id: JobID, _ certificate: PlanCertificate) {
    work(id) { service in
      do {
        try await service.obtainModel(id, certificate)
        service.take(.ready, id)
      } catch {
        service.take(.failed(.own, "\(error)"), id)
      }
    }
  }

  private func obtainModel(_ id: JobID, _ certificate: PlanCertificate) async throws {
    guard let job = jobs[id], let place = job.coordinator.place else { throw JobServiceFailure.stopping }
    if job.coordinator.isOwner { return }
    let plan = certificate.proposal.plan
    let stage = plan.stages.firstIndex { $0.members.contains { $0.device == place } }
    let sources = [job.specification.owner] + job.coordinator.participants.filter {
      $0 != own && $0 != job.specification.owner
    }
    let listing = job.specification.modelFiles.digest
    let needs = WeightNeeds(
      layers: stage.map { plan.stages[$0].layers } ?? 0..<0,
      needsOutput: stage == plan.stages.count - 1 || plan.cached.contains { $0.device == place })
    let model = try await SparseModel.obtain(
      listing, needs, for: id, from: sources, by: doors.desk, store: doors.blobs,
      into: directory.modelPath(of: id)
    ) { [weak self] fetched, total in
      Task {
        await self?.take(
          .fetched(UInt64(clamping: fetched), of: UInt64(clamping: total), budget: nil), id)
      }
    }
    let blobs = [listing] + model.listing.blobs
    jobs[id]?.blobs += blobs
    doors.desk.blobs.admit(
      job: id, blobs: [job.specification.package.digest] + blobs, readers: job.specification.roster)
  }

  /// Threads that a job may use here.
  private var threads: Int {
    max(1, min(doors.limits.threads ?? MachineProfile.current().usableCores, ComputeTeam.maximumWidth))
  }

  /// Runs this device's part on a thread of its own.
  func run(_ id: JobID, _ certificate: PlanCertificate) {
    guard let job = jobs[id], let package = job.package else {
      return take(.failed(.own, "the job's package is not here"), id)
    }
    jobs[id]?.isRunning = true
    let channel = doors.desk.openChannel(certificate.stamp, roster: certificate.proposal.household)
    job.activity.open(channel)
    let run = JobRun(
      package: package, certificate: certificate, own: own,
      modelDirectory: job.submission?.modelDirectory ?? directory.modelPath(of: id),
      cacheDirectory: directory.cachePath(of: id), threads: threads,
      budgetBytes: job.coordinator.progress.budgetBytes, channel: channel, activity: job.activity
    ) { [weak self] progress in
      Task { await self?.take(.progressed(progress), id) }
    }
    Task { [weak self] in
      do {
        let outcome = try await onOwnThread("job-run") { try run.run() }
        channel.close()
        await self?.ran(id, outcome)
      } catch {
        channel.abort("\(error)")
        await self?.runFailed(id, error, channel.failure)
      }
    }
  }

  private func ran(_ id: JobID, _ outcome: JobRun.Outcome) {
    jobs[id]?.isRunning = false
    guard let job = jobs[id], !job.isOver else { return clean(id) }
    var reference: BlobReference?
    if job.coordinator.isOwner {
      jobs[id]?.parameters = outcome.parameters
      jobs[id]?.results = outcome.results
    } else if let parameters = outcome.parameters {
      do {
        let bytes = parameters.withUnsafeBytes { Array($0) }
        let blob = try doors.blobs.add(bytes: bytes)
        reference = BlobReference(digest: blob, byteCount: UInt64(bytes.count))
        jobs[id]?.blobs.append(blob)
        doors.desk.blobs.admit(
          job: id, blobs: job.blobs + [blob, job.specification.package.digest],
          readers: job.specification.roster)
      } catch {
        return take(.failed(.own, "\(error)"), id)
      }
    }
    take(
      .completed(
        RunCompletion(
          digest: outcome.digest, result: reference, results: Self.encoded(outcome.results),
          cacheBytes: UInt64(clamping: outcome.cacheBytes))), id)
  }

  private func runFailed(_ id: JobID, _ error: any Error, _ failure: JobChannelFailure?) {
    jobs[id]?.isRunning = false
    guard let job = jobs[id], !job.isOver else { return clean(id) }
    log.warning("job-run-failed", metadata: ["job": "\(id.short)", "error": "\(error)"])
    switch error as? DistributedRunFailure {
    case .channel(.lost(let place), _):
      let household = job.coordinator.certificate?.proposal.household ?? []
      let device = household.indices.contains(place) ? household[place] : own
      take(.failed(.device(device), "the connection to it ended"), id)
    case .channel(.aborted(let reason), _): take(.failed(.elsewhere, reason), id)
    default: take(.failed(.own, "\(error)"), id)
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
    work(id) { service in
      do {
        let summary = try await service.writeAdapter(id, completion, from: devices)
        guard let digest = ContentDigest(hexadecimal: summary.adapterDigest) else {
          preconditionFailure("an adapter digest of other than 64 digits")
        }
        service.jobs[id]?.summary = summary
        service.take(.delivered(digest), id)
      } catch {
        service.take(.failed(.own, "\(error)"), id)
      }
    }
  }

  private func writeAdapter(
    _ id: JobID, _ completion: RunCompletion, from devices: [DeviceID]
  ) async throws -> TrainSummary {
    guard let job = jobs[id], let submission = job.submission, let package = job.package else {
      throw JobServiceFailure.stopping
    }
    let parameters = try await result(id, completion, from: devices)
    let output = JobOutput(
      submission: submission, package: package, parameters: parameters, digest: completion.digest,
      results: mergedResults(id, completion),
      cacheBytes: Int(clamping: job.coordinator.cacheBytes), threads: threads)
    return try await onOwnThread("job-save") { try output.write() }
  }

  /// The trained values: this device's own, or fetched from one that has them.
  private func result(
    _ id: JobID, _ completion: RunCompletion, from devices: [DeviceID]
  ) async throws -> [Float] {
    if let own = jobs[id]?.parameters { return own }
    guard let reference = completion.result, reference.byteCount <= UInt64(JobOutput.resultLimit) else {
      throw JobServiceFailure.noResult
    }
    try await doors.desk.fetch(reference.digest, for: id, from: devices)
    jobs[id]?.blobs.append(reference.digest)
    let blobs = doors.blobs
    return try await onOwnThread("job-result") {
      let bytes = try blobs.readAll(reference.digest, limit: JobOutput.resultLimit)
      return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
  }

  /// What was measured, from this device's own run, the run that ended complete, and what devices told on the way.
  private func mergedResults(_ id: JobID, _ completion: RunCompletion) -> RunPosition {
    let told = try? JSONDecoder().decode(RunPosition.self, from: Data(completion.results))
    var results = jobs[id]?.results ?? told ?? RunPosition(backboneDigest: "", rowsDigest: "")
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

extension EpochSummary {
  /// An epoch as devices told it.
  init(_ epoch: FinishedEpoch) {
    self.init(
      mode: epoch.isCached ? .cached : .live, seconds: epoch.seconds,
      samplesPerSecond: epoch.samplesPerSecond, loss: epoch.loss)
  }
}
