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
  private let source: BackboneTapSource
  private let technique: ParallelAdapters
  private let trainer: MiniBatchTrainer
  private let cancellation: CancellationFlag
  private let report: (RunEvent) -> Void
  private var position: RunPosition
  private var released = false
  private var lastCheckpoint = MonotonicClock.seconds()

  init(
    _ run: PreparedRun, model: OpenedModel, directory: RunDirectory, team: ComputeTeam,
    cache: ActivationCacheStore?, state: RunState?, cancellation: CancellationFlag,
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
    let parameters =
      state == nil
      ? run.shape.initialParameters(seed: run.request.seed, backbone: backbone) : run.shape.emptyParameters()
    source = BackboneTapSource(
      shape: run.shape, backbone: backbone, cache: cache, capacity: run.capacity, workers: team.width)
    technique = ParallelAdapters(
      shape: run.shape, parameters: parameters, frozen: FrozenOutput(copying: backbone), source: source,
      element: run.request.cache, capacity: run.capacity, workers: team.width, training: true)
    trainer = MiniBatchTrainer(
      technique: technique, settings: OptimizationSettings(learningRate: Float(run.request.learningRate)),
      totalSteps: run.totalSteps, maximumMicroBatches: run.lanePlan.lanes.count, workers: team.width)
    position = RunPosition(
      backboneDigest: model.digest.description, rowsDigest: run.rowsDigest.description)
    if let state { try restore(state) }
  }

  private func restore(_ state: RunState) throws {
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
    let isCached = source.resolve(run.batches.flatMap { $0 })
    let mode: EpochMode = isCached && !position.ranLive ? .cached : .live
    report(.phase(mode == .cached ? .cachedEpoch : .liveEpoch))
    let startSeconds = MonotonicClock.seconds() - position.seconds
    if mode == .live { position.ranLive = true }
    while position.step < miniBatches.count {
      if position.step + 1 < miniBatches.count {
        for batch in miniBatches[position.step + 1] { source.prefetch(batch) }
      }
      let batch = miniBatches[position.step]
      let units = batch.reduce(0) { $0 + $1.samples.count }
      let result = try withTaps { () throws(TrainingFailure) in
        try trainer.step(batch, units: units, loop: team)
      }
      position.step += 1
      position.lossSum += result.lossSum
      position.units += units
      position.seconds = MonotonicClock.seconds() - startSeconds
      reportProgress(steps: miniBatches.count, mode: mode)
      try stopOrCheckpoint()
    }
    finishEpoch(mode: mode)
  }

  /// Runs a pass over the taps; a cached record that turns out damaged brings the backbone back to compute it anew.
  private func withTaps<Value>(_ pass: () throws(TrainingFailure) -> Value) throws -> Value {
    do throws(TrainingFailure) {
      return try pass()
    } catch {
      guard released, case .activationsMissing(let samples) = error else { throw error }
      report(.warning("\(samples) cached activations were damaged; the backbone is loaded again"))
    }
    try reloadBackbone()
    return try pass()
  }

  private func reloadBackbone() throws {
    let reopened = try OpenedModel(directory: model.directory)
    guard reopened.digest == model.digest, let backbone = reopened.backbone else {
      throw RunFailure.backboneMismatch(
        adapter: directory.path, expected: model.digest.description, found: reopened.digest.description,
        model: model.directory)
    }
    model = reopened
    source.attach(backbone, capacity: run.capacity, workers: team.width)
    released = false
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

  private func reportProgress(steps: Int, mode: EpochMode) {
    let rate = Double(position.units) / max(position.seconds, 1e-9)
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
    let predictions = try withTaps { () throws(TrainingFailure) in try predictHeldOut(epoch: epoch) }
    guard let predictions else { throw try interruption() }
    let metrics = Measurement.metrics(predictions, samples: run.validationSamples, task: run.task)
    for metric in metrics { report(.evaluated(metric, epoch: epoch)) }
    return metrics
  }

  /// Predicts the held-out samples; nil when the person stopped the run.
  private func predictHeldOut(epoch: Int) throws(TrainingFailure) -> [Float]? {
    let start = MonotonicClock.seconds()
    let total = run.validationSamples.count
    return try BatchPrediction.run(
      run.validation, outputs: run.shape.head.outputs, sampleCount: total, technique: technique, loop: team
    ) { [self] samples in
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
    guard !released, let cache else { return }
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
  private func checkpoint() throws {
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
