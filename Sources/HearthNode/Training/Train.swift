import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// Fine-tunes as `request` says and returns what came of it; `.finished` is the last event.
///
/// - Throws: `RunFailure.interrupted` after a checkpoint when `cancellation` is set; other failures of the
///   parts, each a `UserFacingFailure`.
package func train(
  _ request: TrainRequest, cancellation: CancellationFlag, report: @escaping (RunEvent) -> Void
) throws -> TrainSummary {
  report(.phase(.preparation))
  try RunPreflight.check(request)
  try request.checkPrecision()
  let budget = MemoryBudget.bytes(request.memoryBudget)
  let model = try OpenedModel(
    directory: request.modelDirectory, memoryBudget: budget, weights: request.requestedWeights)
  let run = try PreparedRun(request, model: model)
  let directory = RunDirectory(request.output)
  let host = try RunHost(run, model: model, threads: request.threads, memoryBudget: budget)
  try run.checkDisk(request.output)
  try directory.create(request.recorded(run.technique.configuration))
  do {
    return try host.run(directory, cancellation: cancellation, report: report)
  } catch {
    directory.removeIfUnused()
    throw error
  }
}

/// Goes on with the run in `request.runDirectory` from its last checkpoint, to the result that the
/// uninterrupted run would have had.
package func resumeTraining(
  _ request: ResumeRequest, cancellation: CancellationFlag, report: @escaping (RunEvent) -> Void
) throws -> TrainSummary {
  report(.phase(.preparation))
  try RunPreflight.checkInputDirectory(request.runDirectory, role: "run directory")
  let directory = RunDirectory(request.runDirectory)
  var record = try directory.record()
  record.output = request.runDirectory
  let hasState = try directory.state() != nil
  if !hasState, let adapter = try? AdapterDirectory.description(request.runDirectory) {
    throw RunFailure.notResumable(
      path: request.runDirectory, detail: "the run is finished (adapter \(adapter.adapterDigest.prefix(16)))")
  }
  try RunPreflight.checkModelDirectory(record.modelDirectory)
  try RunPreflight.checkInputFile(record.dataFile, role: "data file")
  let budget = MemoryBudget.bytes(request.memoryBudget)
  let model = try OpenedModel(
    directory: record.modelDirectory, memoryBudget: budget, weights: record.requestedWeights)
  let run = try PreparedRun(record, model: model)
  let host = try RunHost(
    run, model: model, threads: request.threads ?? record.threads, memoryBudget: budget)
  return try host.run(directory, cancellation: cancellation, report: report)
}

/// The machine's side of a run: threads, memory and disk, checked before the first step.
struct RunHost {
  private let prepared: PreparedRun
  private let model: OpenedModel
  private let machine: MachineProfile
  private let blas: BLASReport
  private let threads: Int
  private let memoryBytes: Int
  /// The plan of a backbone that does not fit; nil when it stays in memory whole.
  private let streaming: StreamingPlan?

  init(_ run: PreparedRun, model: OpenedModel, threads: Int?, memoryBudget budget: Int) throws {
    guard let backbone = model.backbone else { preconditionFailure("a host needs the backbone's shape") }
    prepared = run
    self.model = model
    machine = MachineProfile.current()
    blas = BLASCore.select()
    self.threads = max(1, threads ?? machine.usableCores)
    let resident = run.memoryBytes(threads: self.threads, backbone: backbone)
    if resident + model.byteCount <= budget {
      streaming = nil
    } else {
      // Converted weights are in memory already: nothing is gained by reading the float32 file layer by layer.
      guard run.technique.readsCachedActivations, model.weightDecision == .float32 else {
        throw RunFailure.memoryBudgetExceeded(
          needed: resident + model.byteCount, budget: budget,
          detail: "buffers \(ByteCount(resident)), backbone \(ByteCount(model.byteCount))"
            + Self.checkpointAdvice(run, threads: self.threads, backbone: backbone)
            + (model.weightDecision == .float32 ? "" : "; in float32 it is read layer by layer"))
      }
      streaming = try StreamingPlan(run, model: model, threads: self.threads, budget: budget)
    }
    memoryBytes = streaming?.bytes ?? resident
  }

  /// What --checkpoint-activations would leave of the buffers, for a plan that does not fit.
  private static func checkpointAdvice(_ run: PreparedRun, threads: Int, backbone: any Backbone) -> String {
    guard let technique = run.technique.withCheckpoints else { return "" }
    let bytes = technique.memoryBytes(backbone, capacity: run.capacity, workers: threads, training: true)
    return "; with --checkpoint-activations buffers \(ByteCount(bytes))"
  }

  /// Runs to the end, writes the adapter and cleans up.
  func run(
    _ directory: RunDirectory, cancellation: CancellationFlag, report: @escaping (RunEvent) -> Void
  ) throws -> TrainSummary {
    let lock = try DirectoryLock(directory: directory.path)
    defer { withExtendedLifetime(lock) {} }
    let cache = try openCache(directory)
    report(.started(plan(firstStep: try directory.state()?.position.optimizerStep ?? 0)))
    for warning in prepared.warnings { report(.warning(warning)) }
    let trained = try trained(directory, cache: cache, cancellation: cancellation, report: report)
    let summary = try finish(trained, directory: directory, cache: cache, report: report)
    report(.finished(summary))
    return summary
  }

  /// What is left of a session when its optimizer is gone.
  private struct Trained {
    let parameters: ParameterTree
    let results: RunPosition
    let steps: Int
    let fill: FillSummary?
  }

  /// Fills that a run tries when records of its cache turn out damaged: a disk that damages more is not worth it.
  private static let mostFills = 3

  /// Fills the cache first when the backbone does not fit, then trains; a damaged record of a streamed run is filled
  /// in again once the session, which has no backbone, is out of the way.
  private func trained(
    _ directory: RunDirectory, cache: ActivationCacheStore?, cancellation: CancellationFlag,
    report: @escaping (RunEvent) -> Void
  ) throws -> Trained {
    let team = ComputeTeam(width: threads)
    var firstFill: FillSummary?
    var fills = 0
    while true {
      let fill = try filled(directory, cache: cache, team: team, cancellation: cancellation, report: report)
      firstFill = firstFill ?? fill
      let session = try TrainingSession(
        prepared, model: model, directory: directory, team: team, cache: cache,
        state: try directory.state(), isStreamed: streaming != nil, cancellation: cancellation,
        report: report)
      do {
        // The optimizer runs on this thread: moments that fade out would crawl through subnormals.
        try withSubnormalsFlushed { try session.train() }
        return Trained(
          parameters: session.parameters, results: session.results, steps: session.steps, fill: firstFill)
      } catch TrainingFailure.activationsMissing(let samples) where streaming != nil && fills < Self.mostFills
      {
        fills += 1
        report(.warning("\(samples) cached activations were damaged; they are computed again"))
        try session.checkpoint()
      }
    }
  }

  /// Fills the cache layer by layer when the backbone does not fit; nil when nothing was to be done.
  private func filled(
    _ directory: RunDirectory, cache: ActivationCacheStore?, team: ComputeTeam,
    cancellation: CancellationFlag, report: (RunEvent) -> Void
  ) throws -> FillSummary? {
    guard let streaming, let cache else { return nil }
    let fill = StreamedFill(run: prepared, model: model, plan: streaming, cache: cache, team: team)
    guard let done = try fill.run(cancellation: cancellation, report: report) else { return nil }
    guard done.isFinished else {
      let step = try directory.state()?.position.optimizerStep ?? 0
      throw RunFailure.interrupted(runDirectory: directory.path, step: step, steps: prepared.totalSteps)
    }
    return done.summary
  }

  /// A streamed run keeps activations even for one epoch: that is how it computes them.
  private var usesCache: Bool { prepared.usesCache || streaming != nil }

  private var cacheBytes: Int { usesCache ? prepared.activationBytes : 0 }

  private func openCache(_ directory: RunDirectory) throws -> ActivationCacheStore? {
    guard usesCache else { return nil }
    let path = prepared.request.cacheDirectory ?? directory.cachePath
    let store = try ActivationCacheStore(DirectoryShardStorage(path), identity: prepared.cacheIdentity(model))
    let missing = max(0, cacheBytes - store.bytes)
    let free = try freeDiskBytes(path)
    if missing > free {
      if store.entries == 0 { try store.removeAll() }
      throw RunFailure.diskBudgetExceeded(needed: missing, free: free, path: path)
    }
    return store
  }

  private func finish(
    _ trained: Trained, directory: RunDirectory, cache: ActivationCacheStore?,
    report: (RunEvent) -> Void
  ) throws -> TrainSummary {
    report(.phase(.saving))
    let cacheBytes = cache?.bytes ?? 0
    let output = AdapterOutput(
      run: prepared, model: model, results: trained.results, steps: trained.steps, cacheBytes: cacheBytes,
      fill: trained.fill)
    let summary = try output.write(trained.parameters, to: directory)
    if let cache, !prepared.request.keepCache { try cache.removeAll() }
    try directory.removeState()
    return summary
  }

  private func plan(firstStep: Int) -> RunPlan {
    var labels: [String] = []
    if case .classify(let names) = prepared.task { labels = names }
    var plan = RunPlan(
      model: model.name, device: machine.cpu.brand, kernels: machine.cpu.kernelSet, blasCore: blas.coreName,
      threads: threads, samples: prepared.sampleCount, validationSamples: prepared.validationSamples.count,
      skippedRows: prepared.skippedRows, truncatedTexts: prepared.truncatedTexts, labels: labels,
      lanes: prepared.lanePlan.lanes.count, stepsPerEpoch: prepared.lanePlan.stepsPerEpoch,
      epochs: prepared.request.epochs,
      technique: prepared.technique.configuration.name, trainableParameters: prepared.parameterCount,
      backboneParameters: model.parameterCount, memoryBytes: memoryBytes, backboneBytes: model.byteCount,
      cacheElement: prepared.request.cache, cacheBytes: cacheBytes, firstStep: firstStep, streaming: streaming
    )
    plan.gradientPrecision = prepared.technique.gradientPrecision
    plan.weights = model.weightReport
    return plan
  }
}
