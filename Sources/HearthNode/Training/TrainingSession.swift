import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// A training run in progress: epochs, checkpoints, evaluation, and the release of the backbone.
final class TrainingSession {
  /// Seconds between two checkpoints; a checkpoint changes no bit of the result.
  static let checkpointInterval = 30.0

  private let run: PreparedRun
  private var model: OpenedModel
  private let directory: RunDirectory
  private let team: ComputeTeam
  private let cache: ActivationCacheStore?
  /// Where a side network's activations come from; nil when the technique runs the backbone itself.
  private let source: BackboneTapSource?
  private let technique: any TechniqueComputation
  private let trainer: MiniBatchTrainer
  private let cancellation: CancellationFlag
  private let report: (RunEvent) -> Void
  private var position: RunPosition
  private var released: Bool
  /// True when the backbone is read layer by layer: the cache was filled before, and epochs never compute.
  private let isStreamed: Bool
  private var lastCheckpoint = MonotonicClock.seconds()

  init(
    _ run: PreparedRun, model: OpenedModel, directory: RunDirectory, team: ComputeTeam,
    cache: ActivationCacheStore?, state: RunState?, isStreamed: Bool, cancellation: CancellationFlag,
    report: @escaping (RunEvent) -> Void
  ) throws {
    guard let backbone = model.backbone else { preconditionFailure("a session starts with a backbone") }
    self.run = run
    self.model = model
    self.directory = directory
    self.team = team
    self.cache = cache
    self.cancellation = cancellation
    self.report = report
    self.isStreamed = isStreamed
    released = isStreamed
    let parameters =
      state == nil
      ? run.technique.initialParameters(
        backbone, seed: run.request.seed, weights: isStreamed ? model.streamedWeights : nil)
      : run.technique.emptyParameters(backbone)
    let started = run.technique.start(
      backbone, parameters: parameters, cache: cache, capacity: run.capacity, workers: team.width,
      training: true, dropoutSeed: run.request.seed, cachedOnly: isStreamed)
    (technique, source) = (started.computation, started.source)
    // All values are in the tree now; the pages come back if somebody needs them.
    if run.technique.replacesBackbone { model.releasePages() }
    trainer = MiniBatchTrainer(
      technique: technique, settings: OptimizationSettings(learningRate: Float(run.request.learningRate)),
      totalSteps: run.totalSteps, maximumMicroBatches: run.lanePlan.lanes.count, workers: team.width)
    position = RunPosition(
      backboneDigest: model.digest.description, rowsDigest: run.rowsDigest.description)
    if run.technique.gradientPrecision != .full {
      position.gradientPrecision = run.technique.gradientPrecision
    }
    if isStreamed { source?.resolve(run.batches.flatMap { $0 } + run.validation) }
    if let state { try restore(state) }
  }

  private func restore(_ state: RunState) throws {
    guard state.position.version == RunPosition.currentVersion else {
      throw RunFailure.notResumable(
        path: directory.path,
        detail: "its state has version \(state.position.version) and this program goes on from version "
          + "\(RunPosition.currentVersion) only; start anew")
    }
    guard state.position.backboneDigest == model.digest.description else {
      throw RunFailure.backboneMismatch(
        adapter: directory.path, expected: state.position.backboneDigest, found: model.digest.description,
        model: model.directory)
    }
    guard state.position.rowsDigest == run.rowsDigest.description else {
      throw RunFailure.notResumable(
        path: directory.path,
        detail: "the rows of '\(run.request.dataFile)' (or their split) are not those that it began with; "
          + "restore the file or start anew")
    }
    let began = state.position.gradientPrecision ?? .full
    guard began == run.technique.gradientPrecision else {
      throw RunFailure.notResumable(
        path: directory.path,
        detail: "it began with --gradient-precision \(began.rawValue) and its run.json now says "
          + "\(run.technique.gradientPrecision.rawValue); restore run.json or start anew")
    }
    guard state.parameters.count == technique.parameters.vectorCount else {
      throw RunFailure.notResumable(
        path: directory.path, detail: "its state has another number of parameters")
    }
    for (index, value) in state.parameters.enumerated() { technique.parameters.vector[index] = value }
    try trainer.restore(
      step: state.position.optimizerStep, exponents: state.position.exponents,
      firstMoments: state.firstMoments, secondMoments: state.secondMoments)
    position = state.position
  }

  // MARK: Epochs

  /// Runs everything that is left, up to the last evaluation.
  func train() throws {
    while true {
      if position.evaluatedEpoch < position.epoch { try evaluateEpoch() }
      guard position.epoch < run.request.epochs else { return }
      try releaseBackboneIfPossible()
      try trainEpoch()
      try checkpoint()
    }
  }

  private func evaluateEpoch() throws {
    let metrics = try evaluate(epoch: position.epoch)
    if position.epoch == 0 { position.before = metrics }
    position.after = metrics
    position.evaluatedEpoch = position.epoch
  }

  private func trainEpoch() throws {
    let epoch = position.epoch
    let miniBatches = run.lanePlan.miniBatches(epoch: epoch).map { miniBatch in
      // Long micro-batches first: a thread that draws the last piece should draw a short one.
      miniBatch.map { run.batches[$0.lane][$0.index] }
        .enumerated().sorted { ($1.element.tokens, $0.offset) < ($0.element.tokens, $1.offset) }
        .map(\.element)
    }
    let isCached = source?.resolve(run.batches.flatMap { $0 }) ?? false
    let mode: EpochMode = isCached && !position.ranLive ? .cached : .live
    report(.phase(mode == .cached ? .cachedEpoch : .liveEpoch))
    let startSeconds = MonotonicClock.seconds() - position.seconds
    if mode == .live { position.ranLive = true }
    var samples = miniBatches.prefix(position.step).reduce(0) { $0 + Self.samples($1) }
    while position.step < miniBatches.count {
      if position.step + 1 < miniBatches.count {
        for batch in miniBatches[position.step + 1] { source?.prefetch(batch) }
      }
      let batch = miniBatches[position.step]
      let units = batch.reduce(0) { $0 + $1.units }
      let result = try withTaps { () throws(TrainingFailure) in
        try trainer.step(batch, units: units, loop: team)
      }
      position.step += 1
      samples += Self.samples(batch)
      position.lossSum += result.lossSum
      position.units += units
      position.seconds = MonotonicClock.seconds() - startSeconds
      reportProgress(samples: samples, steps: miniBatches.count, mode: mode)
      try stopOrCheckpoint()
    }
    finishEpoch(mode: mode)
  }

  /// Runs a pass over the taps; a cached record that turns out damaged brings the backbone back to compute it anew.
  private func withTaps<Value>(_ pass: () throws(TrainingFailure) -> Value) throws -> Value {
    do throws(TrainingFailure) {
      return try pass()
    } catch {
      guard released, !isStreamed, case .activationsMissing(let samples) = error else { throw error }
      report(.warning("\(samples) cached activations were damaged; the backbone is loaded again"))
    }
    try reloadBackbone()
    return try pass()
  }

  private func reloadBackbone() throws {
    let (reopened, backbone) = try reopenedModel()
    model = reopened
    source?.attach(backbone, capacity: run.capacity, workers: team.width)
    released = false
  }

  /// The model, opened once more and found unchanged.
  private func reopenedModel() throws -> (model: OpenedModel, backbone: any Backbone) {
    let reopened = try OpenedModel(
      directory: model.directory, weights: .recorded(model.weightDecision))
    guard reopened.digest == model.digest, let backbone = reopened.backbone else {
      throw RunFailure.backboneMismatch(
        adapter: directory.path, expected: model.digest.description, found: reopened.digest.description,
        model: model.directory)
    }
    return (reopened, backbone)
  }

  private func finishEpoch(mode: EpochMode) {
    let seconds = max(position.seconds, 1e-9)
    let summary = EpochSummary(
      mode: mode, seconds: seconds, samplesPerSecond: Double(run.sampleCount) / seconds,
      loss: position.lossSum / Double(max(1, position.units)))
    position.epochs.append(summary)
    position.epoch += 1
    position.step = 0
    position.lossSum = 0
    position.units = 0
    position.seconds = 0
    position.ranLive = false
    report(.epoch(index: position.epoch, summary))
  }

  private static func samples(_ miniBatch: [PackedMicroBatch]) -> Int {
    miniBatch.reduce(0) { $0 + $1.samples.count }
  }

  private func reportProgress(samples: Int, steps: Int, mode: EpochMode) {
    let rate = Double(samples) / max(position.seconds, 1e-9)
    let left = Double(steps - position.step) * position.seconds / Double(max(1, position.step))
    report(
      .progress(
        RunProgress(
          phase: mode == .cached ? .cachedEpoch : .liveEpoch, epoch: position.epoch + 1, step: position.step,
          steps: steps, samplesPerSecond: rate, loss: position.lossSum / Double(max(1, position.units)),
          etaSeconds: left)))
  }

  // MARK: Evaluation

  private func evaluate(epoch: Int) throws -> [MetricValue] {
    guard !run.validation.isEmpty else { return [] }
    report(.phase(.evaluation))
    let metrics = try run.task.head == .languageModel ? textMetrics(epoch: epoch) : headMetrics(epoch: epoch)
    for metric in metrics { report(.evaluated(metric, epoch: epoch)) }
    return metrics
  }

  /// Metrics of predicted labels or numbers.
  private func headMetrics(epoch: Int) throws -> [MetricValue] {
    let total = run.validationSamples.count
    let watch = evaluationWatch(epoch: epoch)
    let predictions = try withTaps { () throws(TrainingFailure) in
      try BatchPrediction.run(
        run.validation, outputs: run.task.head.outputs, sampleCount: total, technique: technique,
        loop: team, finished: watch)
    }
    guard let predictions else { throw try interruption() }
    return Measurement.metrics(predictions, samples: run.validationSamples, task: run.task)
  }

  /// Metrics of texts: their tokens' loss after every epoch; whole texts, which cost much more, at both ends of the run.
  private func textMetrics(epoch: Int) throws -> [MetricValue] {
    let watch = evaluationWatch(epoch: epoch)
    let loss = try withTaps { () throws(TrainingFailure) in
      try BatchPrediction.loss(run.validation, technique: technique, loop: team, finished: watch)
    }
    guard let loss else { throw try interruption() }
    let units = run.validation.reduce(0) { $0 + $1.units }
    let isEnd = epoch == 0 || epoch == run.request.epochs
    return Measurement.textMetrics(
      tokenLoss: loss / Double(max(1, units)), exactMatch: isEnd ? try exactMatch(epoch: epoch) : nil)
  }

  /// Writes the held-out texts greedily and compares them; the backbone comes back for it when it was released.
  private func exactMatch(epoch: Int) throws -> Double {
    let opened = released && !isStreamed ? try reopenedModel().model : model
    defer {
      if isStreamed { opened.releasePages() } else if released { opened.release() }
    }
    let match = try HeldOutTexts(run.validationTexts).exactMatch(
      run, model: opened, parameters: technique.parameters, team: team,
      finished: evaluationWatch(epoch: epoch))
    guard let match else { throw try interruption() }
    return match
  }

  /// Reports how many held-out samples are done; false when the person stopped the run.
  private func evaluationWatch(epoch: Int) -> (Int) -> Bool {
    let start = MonotonicClock.seconds()
    let total = run.validationSamples.count
    return { [self] samples in
      let seconds = max(MonotonicClock.seconds() - start, 1e-9)
      report(
        .progress(
          RunProgress(
            phase: .evaluation, epoch: epoch, step: samples, steps: total,
            samplesPerSecond: Double(samples) / seconds,
            etaSeconds: seconds * Double(total - samples) / Double(max(1, samples)))))
      return !cancellation.isCancelled
    }
  }

  // MARK: Memory and disk

  /// Lets the backbone go once every sample of every later pass is in the cache.
  private func releaseBackboneIfPossible() throws {
    guard !released, let cache, let source else { return }
    guard source.resolve(run.batches.flatMap { $0 } + run.validation) else { return }
    try cache.flush()
    let before = ProcessMemory.current()?.resident ?? 0
    source.release()
    model.release()
    released = true
    report(.backboneReleased(residentBefore: before, residentAfter: ProcessMemory.current()?.resident ?? 0))
  }

  private func stopOrCheckpoint() throws {
    if cancellation.isCancelled { throw try interruption() }
    if MonotonicClock.seconds() - lastCheckpoint >= Self.checkpointInterval { try checkpoint() }
  }

  private func interruption() throws -> RunFailure {
    try checkpoint()
    return .interrupted(runDirectory: directory.path, step: position.optimizerStep, steps: run.totalSteps)
  }

  /// Cache first, then the state: a state on disk never counts on activations that are not.
  func checkpoint() throws {
    try cache?.flush()
    position.optimizerStep = trainer.optimizer.step
    position.exponents = trainer.exponents
    try directory.save(
      position,
      parameters: UnsafeBufferPointer(
        start: technique.parameters.vector, count: technique.parameters.vectorCount),
      firstMoments: UnsafeBufferPointer(trainer.optimizer.firstMoments),
      secondMoments: UnsafeBufferPointer(trainer.optimizer.secondMoments))
    lastCheckpoint = MonotonicClock.seconds()
    report(.checkpoint(step: position.optimizerStep))
  }

  /// The trained parameters.
  var parameters: ParameterTree { technique.parameters }
  /// What was measured so far.
  var results: RunPosition { position }
  /// Optimizer steps so far.
  var steps: Int { trainer.optimizer.step }
}
