import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import DistributedTraining
import FineTuning
import HearthStorage
import LanguageModels
import MeshModel
import NeuralNetworks
import ParallelPlanner
import TensorKernels
import TrainingCoordination

/// This device's part of a job's run, from the opened model to the trained parameters; blocks its thread.
struct JobRun: Sendable {
  let package: JobPackage
  let certificate: PlanCertificate
  let own: DeviceID
  let modelDirectory: String
  let cacheDirectory: String
  let threads: Int
  let budgetBytes: UInt64
  let channel: MeshJobChannel
  let activity: JobActivity
  let report: @Sendable (DeviceProgress) -> Void

  /// What came of it.
  struct Outcome: Sendable {
    /// All trained values; nil when this device does not hold them.
    let parameters: [Float]?
    let digest: ContentDigest?
    let results: RunPosition
    /// Bytes of the activations that were kept here.
    let cacheBytes: Int
  }

  func run() throws -> Outcome {
    _ = BLASCore.select()
    // The shapes decide everything but the values: what a sparse copy lacks is never read.
    let model = try OpenedModel(directory: modelDirectory, identity: package.backboneDigest)
    guard let backbone = model.backbone else { preconditionFailure("an opened model has its backbone") }
    let packaged = try PackagedRun(package, backbone: backbone)
    let run = packaged.prepared
    let plan = certificate.proposal.plan
    let cache = try openCache(packaged)
    let progress = JobProgress(
      run: run, places: certificate.proposal.household.count, channel: channel, budgetBytes: budgetBytes,
      report: report)
    let driver = try DistributedRun(
      DistributedJob(run), plan: plan, devices: certificate.proposal.household.count,
      collector: certificate.proposal.household.firstIndex(of: certificate.roster.owner),
      technique: technique(packaged, model: model, backbone: backbone, cache: cache), channel: channel,
      team: ComputeTeam(width: threads), isCancelled: { activity.isEnded }, report: progress.note)
    let result = try withSubnormalsFlushed { try driver.run() }
    progress.send()
    return Outcome(
      parameters: result.isComplete ? values(of: result.parameters) : nil,
      digest: result.isComplete ? result.digest : nil, results: progress.results(result),
      cacheBytes: cache?.bytes ?? 0)
  }

  private func values(of tree: ParameterTree) -> [Float] {
    Array(UnsafeBufferPointer(start: tree.vector, count: tree.vectorCount))
  }

  private func openCache(_ packaged: PackagedRun) throws -> ActivationCacheStore? {
    guard certificate.proposal.plan.mode != .live else { return nil }
    try createDirectory(cacheDirectory, isPrivate: true)
    return try ActivationCacheStore(DirectoryShardStorage(cacheDirectory), identity: packaged.cacheIdentity)
  }

  private func technique(
    _ packaged: PackagedRun, model: OpenedModel, backbone: any Backbone, cache: ActivationCacheStore?
  ) -> DeviceTechnique {
    let run = packaged.prepared
    let technique = run.technique
    func start(_ tree: ParameterTree, cachedOnly: Bool) -> WorkingTechnique {
      let work = technique.start(
        backbone, parameters: tree, cache: cache, capacity: run.capacity, workers: threads, training: true,
        dropoutSeed: packaged.package.settings.seed, cachedOnly: cachedOnly)
      if technique.replacesBackbone { model.releasePages() }
      return WorkingTechnique(computation: work.computation, source: work.source)
    }
    return DeviceTechnique(
      parameters: { packaged.initialParameters(backbone) },
      whole: { start($0, cachedOnly: false) },
      stage: { tree, request in
        technique.stage(
          backbone, parameters: tree, layers: request.layers, capacity: run.capacity, slots: request.slots,
          workers: request.workers, dropoutSeed: packaged.package.settings.seed)
      },
      cached: { start($0, cachedOnly: true) },
      releaseBackbone: { model.release() },
      taps: technique.sideShape.flatMap { shape in
        cache.map { KeptTaps(shape: shape, element: technique.element, cache: $0) }
      })
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

  private let run: PreparedRun
  private let places: Int
  private let channel: MeshJobChannel
  private let report: @Sendable (DeviceProgress) -> Void
  private var progress = DeviceProgress(.ready)
  private var lastSent = -Double.infinity
  private var measured: [(epoch: Int, metrics: [MetricValue])] = []

  init(
    run: PreparedRun, places: Int, channel: MeshJobChannel, budgetBytes: UInt64,
    report: @escaping @Sendable (DeviceProgress) -> Void
  ) {
    self.run = run
    self.places = places
    self.channel = channel
    self.report = report
    progress.budgetBytes = budgetBytes
  }

  func note(_ event: DistributedEvent) {
    switch event {
    case .phase(let phase):
      progress.phase = DevicePhase(phase)
      (progress.step, progress.steps, progress.loss, progress.etaSeconds) = (0, 0, nil, nil)
      send()
    case .progress(let new):
      progress.phase = DevicePhase(new.phase)
      progress.epoch = UInt32(clamping: new.epoch)
      progress.step = UInt64(clamping: new.step)
      progress.steps = UInt64(clamping: new.steps)
      progress.samplesPerSecond = new.samplesPerSecond
      progress.loss = new.loss
      progress.etaSeconds = new.etaSeconds
      progress.waitingShare = new.waitShare
      if MonotonicClock.seconds() - lastSent >= Self.interval { send() }
    case .evaluated(let evaluation):
      let metrics = metrics(of: evaluation)
      measured.append((evaluation.epoch, metrics))
      progress.metricsEpoch = UInt32(clamping: evaluation.epoch)
      progress.metrics = metrics.map { NamedMetric(name: $0.name, value: $0.value) }
      send()
    case .epoch(let epoch):
      guard epoch.phase != .filling else { return send() }
      progress.finished = FinishedEpoch(
        index: UInt32(clamping: epoch.index), isCached: epoch.phase == .cached, seconds: epoch.times.seconds,
        samplesPerSecond: epoch.samplesPerSecond, loss: epoch.loss)
      progress.waitingShare = epoch.times.waitShare
      send()
    case .transition: send()
    case .handover, .learned, .committed: break
    }
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
