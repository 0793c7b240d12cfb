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
  let model = try OpenedModel(directory: request.modelDirectory, weights: request.requestedWeights)
  let run = try PreparedRun(request, model: model)
  let directory = RunDirectory(request.output)
  let host = try RunHost(run, model: model, threads: request.threads, memoryBudget: request.memoryBudget)
  try directory.create(request)
  do {
    return try host.run(directory, state: nil, cancellation: cancellation, report: report)
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
  let state = try directory.state()
  if state == nil, let adapter = try? AdapterDirectory.description(request.runDirectory) {
    throw RunFailure.notResumable(
      path: request.runDirectory, detail: "the run is finished (adapter \(adapter.adapterDigest.prefix(16)))")
  }
  try RunPreflight.checkModelDirectory(record.modelDirectory)
  try RunPreflight.checkInputFile(record.dataFile, role: "data file")
  let model = try OpenedModel(directory: record.modelDirectory, weights: record.requestedWeights)
  let run = try PreparedRun(record, model: model)
  let host = try RunHost(
    run, model: model, threads: request.threads ?? record.threads, memoryBudget: request.memoryBudget)
  return try host.run(directory, state: state, cancellation: cancellation, report: report)
}

/// The machine's side of a run: threads, memory and disk, checked before the first step.
struct RunHost {
  private let prepared: PreparedRun
  private let model: OpenedModel
  private let machine: MachineProfile
  private let blas: BLASReport
  private let threads: Int
  private let memoryBytes: Int

  init(_ run: PreparedRun, model: OpenedModel, threads: Int?, memoryBudget: Int?) throws {
    guard let backbone = model.backbone else { preconditionFailure("a host needs the backbone's shape") }
    prepared = run
    self.model = model
    machine = MachineProfile.current()
    blas = BLASCore.select()
    self.threads = max(1, threads ?? machine.usableCores)
    memoryBytes = run.memoryBytes(threads: self.threads, backbone: backbone)
    let needed = memoryBytes + model.byteCount
    let budget = memoryBudget ?? machine.availableMemory
    if needed > budget {
      throw RunFailure.memoryBudgetExceeded(
        needed: needed, budget: budget,
        detail: "buffers \(ByteCount(memoryBytes)), backbone \(ByteCount(model.byteCount))")
    }
  }

  /// Runs to the end, writes the adapter and cleans up.
  func run(
    _ directory: RunDirectory, state: RunState?, cancellation: CancellationFlag,
    report: @escaping (RunEvent) -> Void
  ) throws -> TrainSummary {
    let lock = try DirectoryLock(directory: directory.path)
    defer { withExtendedLifetime(lock) {} }
    let cache = try openCache(directory)
    report(.started(plan(firstStep: state?.position.optimizerStep ?? 0)))
    for warning in prepared.warnings { report(.warning(warning)) }
    let session = try TrainingSession(
      prepared, model: model, directory: directory, team: ComputeTeam(width: threads), cache: cache,
      state: state, cancellation: cancellation, report: report)
    // The optimizer runs on this thread: moments that fade out would crawl through subnormals.
    try withSubnormalsFlushed { try session.train() }
    let summary = try finish(session, directory: directory, cache: cache, report: report)
    report(.finished(summary))
    return summary
  }

  private func openCache(_ directory: RunDirectory) throws -> ActivationCacheStore? {
    guard prepared.usesCache else { return nil }
    let path = prepared.request.cacheDirectory ?? directory.cachePath
    let store = try ActivationCacheStore(DirectoryShardStorage(path), identity: prepared.cacheIdentity(model))
    let missing = max(0, prepared.cacheBytes - store.bytes)
    let free = try freeDiskBytes(path)
    if missing > free {
      if store.entries == 0 { try store.removeAll() }
      throw RunFailure.diskBudgetExceeded(needed: missing, free: free, path: path)
    }
    return store
  }

  private func finish(
    _ session: TrainingSession, directory: RunDirectory, cache: ActivationCacheStore?,
    report: (RunEvent) -> Void
  ) throws -> TrainSummary {
    report(.phase(.saving))
    let results = session.results
    let digest = try AdapterDirectory.writeTensors(session.parameters, to: directory.path)
    let technique = prepared.technique
    var description = AdapterDescription(
      technique: technique.configuration, task: prepared.task, backboneDigest: model.digest.description,
      tokenizerDigest: model.tokenizer.digest.description, backboneName: model.name,
      modelDirectory: prepared.request.modelDirectory, maximumLength: prepared.maximumLength,
      activationElement: technique.readsCachedActivations ? technique.element.rawValue : nil,
      adapterDigest: digest.description)
    if model.weightDecision != .float32 { description.weights = model.weightDecision }
    let card = ModelCard.text(prepared, model: model, description: description, results: results)
    try AdapterDirectory.write(
      description: description, card: card, peft: peftFiles(session.parameters), to: directory.path)
    let cacheBytes = cache?.bytes ?? 0
    if let cache, !prepared.request.keepCache { try cache.removeAll() }
    try directory.removeState()
    let name = Measurement.mainMetric(prepared.task)
    return TrainSummary(
      metric: MetricChange(
        name: name, before: results.before.first { $0.name == name }?.value,
        after: results.after.first { $0.name == name }?.value),
      technique: technique.configuration.name, trainableParameters: prepared.parameterCount,
      epochs: results.epochs, cacheBytes: cacheBytes,
      peakResidentBytes: ProcessMemory.current()?.peak ?? 0, adapterDigest: digest.description,
      adapterDirectory: directory.path, steps: session.steps, metrics: results.after)
  }

  /// A LoRA adapter as PEFT lays it out; nil for other techniques.
  private func peftFiles(_ parameters: ParameterTree) -> (configuration: [UInt8], tensors: [UInt8])? {
    guard case .lora(let lora) = prepared.technique.configuration, let backbone = model.backbone else {
      return nil
    }
    return PEFTAdapter.files(
      parameters, configuration: lora, backbone: backbone, model: prepared.request.modelDirectory,
      writesText: prepared.technique.head == .languageModel)
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
      cacheElement: prepared.request.cache, cacheBytes: prepared.cacheBytes, firstStep: firstStep)
    plan.weights = model.weightReport
    return plan
  }
}
