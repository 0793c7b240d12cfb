import ActivationCache
import Collectives
import ComputeRuntime
import CryptoPrimitives
package import DistributedTraining
import FineTuning
import HearthStorage
import LanguageModels
package import MeshModel
import NeuralNetworks
import ParallelPlanner
import TensorKernels
package import TrainingCoordination

/// This device's part of a plan epoch, from the handover to the trained parameters or an end before; blocks its thread.
struct JobRun: Sendable {
  let material: JobMaterial
  let certificate: PlanCertificate
  let own: DeviceID
  /// The job's owner, who gets the trained parameters.
  let owner: DeviceID
  let threads: Int
  let budgetBytes: UInt64
  let activity: RunActivity
  /// Fetches weights that are not here, and blocks until they are; false when there was nothing to fetch.
  let obtain: @Sendable (WeightNeeds) throws -> Bool
  let report: @Sendable (DeviceProgress) -> Void
  let learned: @Sendable () -> Void
  /// Told what the last epoch's sums took on the wire, for the next plan.
  let learnSums: @Sendable (SumTraffic) -> Void
  /// Keeps the trained values of the whole job, so that they are there until the owner has written the adapter.
  let keepResult: @Sendable (ParameterTree) throws -> BlobReference
  /// Has a file hold the parameters, in place.
  let spill: @Sendable (ParameterTree) throws -> Void

  /// What came of it.
  enum End: Sendable {
    case completed(Outcome)
    case stopped(RunStop)
  }

  /// What a run to the job's end has led to.
  struct Outcome: Sendable {
    /// All trained values, kept; nil when this device does not have them.
    let result: BlobReference?
    let digest: ContentDigest?
    let results: RunPosition
    /// Bytes of the activations that were kept here.
    let cacheBytes: Int
  }

  func run() -> End {
    do {
      return try withSubnormalsFlushed { try driven() }
    } catch {
      activity.channel.abort("\(error)")
      return .stopped(
        RunStop(committedStep: material.committedStep, culprit: culprit(of: error), reason: "\(error)"))
    }
  }

  private func driven() throws -> End {
    _ = BLASCore.select()
    let packaged = try material.laidOut()
    let proposal = certificate.proposal
    let progress = JobProgress(
      run: packaged.prepared, phase: proposal.learners.contains(own) ? .learning : .ready,
      committedStep: material.committedStep, channel: activity.channel, budgetBytes: budgetBytes,
      report: report, learned: learned)
    let driver = try DistributedRun(
      DistributedJob(packaged.prepared), plan: proposal.plan,
      entry: RunEntry(held: material.held, next: proposal.next), devices: proposal.household.count,
      collector: proposal.household.firstIndex(of: owner), technique: try technique(packaged),
      channel: activity.channel, team: ComputeTeam(width: threads),
      isCancelled: { activity.isInterrupted }, checkpoints: material, report: progress.note)
    let stop = StopDoor(driver)
    activity.attach { stop.request() }
    // The run knows its activity: each would keep the other, and all buffers with it.
    defer { activity.detach() }
    let result: DistributedResult
    do { result = try driver.run() } catch {
      material.keep(driver.surrenderHeld())
      throw error
    }
    activity.channel.close()
    progress.send()
    if let sums = result.epochs.last?.sums { learnSums(sums) }
    let isFinished = result.ending == .finished
    let kept: BlobReference?
    do {
      kept = isFinished && result.isComplete ? try keepResult(result.parameters) : nil
    } catch {
      // What was trained is not lost with the disk that does not take it.
      material.keep(driver.surrenderHeld())
      return .stopped(
        RunStop(committedStep: material.committedStep, culprit: .own, reason: "\(error)"))
    }
    if kept == nil {
      material.keep(driver.surrenderHeld(), isEnd: isFinished)
    } else {
      material.end(step: result.steps)
    }
    guard isFinished else { return .stopped(RunStop(committedStep: material.committedStep)) }
    return .completed(
      Outcome(
        result: kept, digest: kept == nil ? nil : result.digest, results: progress.results(result),
        cacheBytes: material.cacheBytes))
  }

  private func technique(_ packaged: PackagedRun) throws -> DeviceTechnique {
    let run = packaged.prepared
    let technique = run.technique
    let seed = packaged.package.settings.seed
    let cache =
      certificate.proposal.plan.mode == .live || technique.sideShape == nil ? nil : try material.activations()
    func start(_ tree: ParameterTree, cachedOnly: Bool) throws -> WorkingTechnique {
      let work = technique.start(
        try material.backbone(), parameters: tree, cache: cache, capacity: run.capacity, workers: threads,
        training: true, dropoutSeed: seed, cachedOnly: cachedOnly)
      if technique.replacesBackbone { material.releasePages() }
      return WorkingTechnique(computation: work.computation, source: work.source)
    }
    // The stages are the whole model.
    let depth = certificate.proposal.plan.stages.last?.layers.upperBound ?? 0
    return DeviceTechnique(
      parameters: { packaged.initialParameters(try material.backbone(), layers: $0) },
      whole: {
        try fetch(0..<depth, needsOutput: true)
        return try start($0, cachedOnly: false)
      },
      stage: { tree, request in
        try fetch(request.layers, needsOutput: request.layers.upperBound == depth)
        return technique.stage(
          try material.backbone(), parameters: tree, layers: request.layers, capacity: run.capacity,
          slots: request.slots, ahead: request.ahead, workers: request.workers, dropoutSeed: seed)
      },
      cached: {
        try fetch(0..<0, needsOutput: true)
        return try start($0, cachedOnly: true)
      },
      releaseBackbone: { material.release() },
      taps: technique.sideShape.flatMap { shape in
        cache.map { KeptTaps(shape: shape, element: technique.element, cache: $0) }
      },
      leaves: { technique.leaves(of: $1, in: $0, backbone: try material.backbone()) },
      spill: spill)
  }

  /// Weights are fetched when something needs them: a plan of the cached epochs may never do.
  private func fetch(_ layers: Range<Int>, needsOutput: Bool) throws {
    if try obtain(WeightNeeds(layers: layers, needsOutput: needsOutput)) { material.reopen() }
  }

  /// Who has to do with a failure: a device, this one, or the job itself.
  private func culprit(of error: any Error) -> RunCulprit {
    if activity.isInterrupted { return .elsewhere }
    switch error {
    case let failure as DistributedRunFailure:
      return failure.culprit(own, in: certificate.proposal.household)
    case is JobPackageFailure: return .job
    default: return .own
    }
  }
}

/// The one call on a run that other threads make.
///
/// - Safety: `requestStop` may be called on any thread.
private final class StopDoor: @unchecked Sendable {
  private let driver: DistributedRun

  init(_ driver: DistributedRun) { self.driver = driver }

  func request() { driver.requestStop() }
}

extension DistributedRunFailure {
  /// Who has to do with it, as a device sees it whose plan names the devices of a household by place.
  package func culprit(_ own: DeviceID, in household: [DeviceID]) -> RunCulprit {
    func device(_ place: Int) -> RunCulprit {
      household.indices.contains(place) && household[place] != own ? .device(household[place]) : .elsewhere
    }
    switch self {
    case .channel(.lost(let place), _): return device(place)
    case .channel(.aborted, _), .cancelled: return .elsewhere
    case .malformed(let place, _, _), .ring(let place, _): return device(place)
    case .handover(let failure):
      // All devices see the same lists: the one whose list does not fit knows it, and the others go on without it.
      guard let place = failure.place else { return .job }
      return household.indices.contains(place) && household[place] == own ? .own : device(place)
    // Going on would train two different models.
    case .replicasDiffer, .unfitPlan: return .job
    case .training(let failure): return failure.isTheSameEverywhere ? .job : .own
    }
  }
}

extension HandoverFailure {
  /// The device whose list or need does not fit the job; nil when it is none's.
  fileprivate var place: Int? {
    switch self {
    case .manyStates(let place, _), .unknownStep(let place, _), .foreignRange(let place, _),
      .foreignUnits(let place, _, _):
      place
    case .manyPlaces, .needs: nil
    }
  }
}

extension TrainingFailure {
  /// Whether every device that computes this step fails in this way.
  var isTheSameEverywhere: Bool {
    switch self {
    case .activationOverflow, .diverged: true
    case .activationsMissing, .cache, .foreignState, .exchange, .malformedBoundary: false
    }
  }
}

extension DistributedJob {
  /// The job that a run describes.
  init(_ run: PreparedRun) {
    self.init(
      lanePlan: run.lanePlan, batches: run.batches, validation: run.validation,
      validationSamples: run.validationSamples.count, outputs: run.technique.head.outputs,
      epochs: run.request.epochs,
      optimization: OptimizationSettings(learningRate: Float(run.request.learningRate)),
      capacity: run.capacity)
  }
}

/// Puts the events of a run together to what the other devices are told of it.
///
/// - Safety: used by the driver's thread only.
final class JobProgress: @unchecked Sendable {
  /// Least time between two reports of one phase, in seconds.
  private static let interval = 0.25
  /// Share of the newest step in the time that a step is said to take: single steps say little.
  private static let newest = 0.15
  /// Reports of news (a phase, an epoch, a metric) that may follow each other at once.
  private static let burst = 32.0

  private let run: PreparedRun
  private let channel: MeshJobChannel
  private let report: @Sendable (DeviceProgress) -> Void
  private let learned: @Sendable () -> Void
  private var progress: DeviceProgress
  private var lastSent = -Double.infinity
  private var tokens = burst
  private var refilled = MonotonicClock.seconds()
  /// The phase whose steps are timed.
  private var timed: DistributedPhase?
  private var measured: [(epoch: Int, metrics: [MetricValue])] = []

  init(
    run: PreparedRun, phase: DevicePhase, committedStep: UInt64, channel: MeshJobChannel, budgetBytes: UInt64,
    report: @escaping @Sendable (DeviceProgress) -> Void, learned: @escaping @Sendable () -> Void
  ) {
    self.run = run
    self.channel = channel
    self.report = report
    self.learned = learned
    progress = DeviceProgress(phase)
    // What this device holds counts before its first step under this plan, too: a next plan is made for what is left.
    progress.committedStep = committedStep
    progress.budgetBytes = budgetBytes
  }

  func note(_ event: DistributedEvent) {
    switch event {
    case .phase(let phase):
      progress.phase = DevicePhase(phase)
      (progress.step, progress.steps, progress.loss, progress.etaSeconds) = (0, 0, nil, nil)
      // Evaluations come between two epochs of one kind; their steps take as long as before.
      if phase != .evaluation, phase != timed { (timed, progress.secondsPerStep) = (phase, nil) }
      sendNews()
    case .progress(let new):
      progress.phase = DevicePhase(new.phase)
      progress.epoch = UInt32(clamping: new.epoch)
      progress.step = UInt64(clamping: new.step)
      progress.steps = UInt64(clamping: new.steps)
      progress.samplesPerSecond = new.samplesPerSecond
      progress.loss = new.loss
      progress.etaSeconds = new.etaSeconds
      progress.waitingShare = new.waitShare
      sendIfDue()
    case .evaluated(let evaluation):
      let metrics = metrics(of: evaluation)
      measured.append((evaluation.epoch, metrics))
      progress.metricsEpoch = UInt32(clamping: evaluation.epoch)
      progress.metrics = metrics.map { NamedMetric(name: $0.name, value: $0.value) }
      sendNews()
    case .epoch(let epoch):
      guard epoch.phase != .filling else { return sendNews() }
      progress.finished = FinishedEpoch(
        index: UInt32(clamping: epoch.index), isCached: epoch.phase == .cached, seconds: epoch.times.seconds,
        samplesPerSecond: epoch.samplesPerSecond, loss: epoch.loss)
      progress.waitingShare = epoch.times.waitShare
      sendNews()
    case .transition(let transition):
      progress.transition = TransitionFigures(
        seconds: transition.seconds, residentBefore: UInt64(clamping: transition.residentBefore),
        residentAfter: UInt64(clamping: transition.residentAfter))
      sendNews()
    case .handover: sendNews()
    case .learned:
      sendNews()
      learned()
    case .committed(let step, let secondsPerStep):
      progress.committedStep = UInt64(clamping: step)
      progress.secondsPerStep =
        progress.secondsPerStep.map { $0 + Self.newest * (secondsPerStep - $0) } ?? secondsPerStep
      sendIfDue()
    }
  }

  private func sendIfDue() {
    if MonotonicClock.seconds() - lastSent >= Self.interval { send() }
  }

  /// Tells something new at once, unless epochs follow each other so fast that nobody could listen.
  private func sendNews() {
    let now = MonotonicClock.seconds()
    tokens = min(Self.burst, tokens + (now - refilled) / Self.interval)
    refilled = now
    guard tokens >= 1 else { return sendIfDue() }
    tokens -= 1
    send()
  }

  /// Tells where the run is.
  func send() {
    lastSent = MonotonicClock.seconds()
    progress.memoryBytes = UInt64(clamping: ProcessMemory.current()?.resident ?? 0)
    let traffic = channel.traffic
    progress.links = traffic.indices.filter { $0 != channel.place }.map {
      LinkBytes(place: UInt8(clamping: $0), sent: traffic[$0].sent, received: traffic[$0].received)
    }
    report(progress)
  }

  private func metrics(of evaluation: DistributedEvaluation) -> [MetricValue] {
    if case .seq2seq = run.task {
      return Measurement.textMetrics(
        tokenLoss: evaluation.lossSum / Double(max(1, evaluation.units)), exactMatch: nil)
    }
    return Measurement.metrics(evaluation.predictions, samples: run.validationSamples, task: run.task)
  }

  /// What the run measured, as an adapter's description wants it.
  func results(_ result: DistributedResult) -> RunPosition {
    var position = RunPosition(backboneDigest: "", rowsDigest: run.rowsDigest.description)
    position.epoch = run.request.epochs
    position.optimizerStep = result.steps
    position.epochs = result.epochs.filter { $0.phase != .filling }.map {
      EpochSummary(
        mode: $0.phase == .cached ? .cached : .live, seconds: $0.times.seconds,
        samplesPerSecond: $0.samplesPerSecond, loss: $0.loss)
    }
    let filling = result.epochs.filter { $0.phase == .filling }.reduce(0) { $0 + $1.times.seconds }
    if filling > 0 { position.fill = FillSummary(samples: run.sampleCount, seconds: filling) }
    position.before = measured.first { $0.epoch == 0 }?.metrics ?? []
    position.after = measured.last?.metrics ?? []
    position.evaluatedEpoch = measured.last?.epoch ?? -1
    return position
  }
}

extension DevicePhase {
  /// The phase of a run as others are told.
  init(_ phase: DistributedPhase) {
    switch phase {
    case .filling: self = .filling
    case .live: self = .live
    case .transition: self = .transition
    case .cached: self = .cached
    case .evaluation: self = .evaluating
    }
  }
}
