package import NeuralNetworks
package import TensorKernels

/// What a run will do and what it will take, known before the first step.
package struct RunPlan: Sendable, Codable, Equatable {
  /// Kind and size of the backbone, for instance "BERT, 6 layers, width 384".
  package var model: String
  /// Brand of the CPU.
  package var device: String
  /// Kernel set in use, for instance "avx512".
  package var kernels: String
  /// OpenBLAS core in use.
  package var blasCore: String
  /// Compute threads.
  package var threads: Int
  /// Training rows.
  package var samples: Int
  /// Held-out rows.
  package var validationSamples: Int
  /// Malformed rows that were left out of both.
  package var skippedRows: Int
  /// Texts that were cut at the greatest length.
  package var truncatedTexts: Int
  /// Labels of a classification, in index order; empty for a regression.
  package var labels: [String]
  /// Data lanes.
  package var lanes: Int
  /// Optimizer steps of one epoch.
  package var stepsPerEpoch: Int
  /// Passes over the training rows.
  package var epochs: Int
  /// How the backbone is adapted, for instance "lora".
  package var technique: String
  /// How finely gradients are rounded before they are added up.
  package var gradientPrecision = GradientPrecision.full
  /// Trainable parameters.
  package var trainableParameters: Int
  /// Parameters of the frozen backbone.
  package var backboneParameters: Int
  /// Bytes of all planned buffers (workspaces, parameters, optimizer state).
  package var memoryBytes: Int
  /// Bytes of the backbone, which leave memory when the cache is complete.
  package var backboneBytes: Int
  /// How the backbone's matrices are kept; nil in float32.
  package var weights: WeightReport?
  /// Storage of a cached element.
  package var cacheElement: ActivationElement
  /// Estimated bytes of the complete cache.
  package var cacheBytes: Int
  /// First step that this run computes: 0, or more after a resume.
  package var firstStep: Int
  /// The memory of a run that reads its backbone layer by layer; nil when the whole backbone stays in memory.
  package var streaming: StreamingPlan?

  /// A plan; every number is measured or computed by the caller.
  package init(
    model: String, device: String, kernels: String, blasCore: String, threads: Int, samples: Int,
    validationSamples: Int, skippedRows: Int, truncatedTexts: Int, labels: [String], lanes: Int,
    stepsPerEpoch: Int, epochs: Int, technique: String = "parallel", trainableParameters: Int,
    backboneParameters: Int, memoryBytes: Int,
    backboneBytes: Int, cacheElement: ActivationElement, cacheBytes: Int, firstStep: Int,
    streaming: StreamingPlan? = nil
  ) {
    self.model = model
    self.device = device
    self.kernels = kernels
    self.blasCore = blasCore
    self.threads = threads
    self.samples = samples
    self.validationSamples = validationSamples
    self.skippedRows = skippedRows
    self.truncatedTexts = truncatedTexts
    self.labels = labels
    self.lanes = lanes
    self.stepsPerEpoch = stepsPerEpoch
    self.epochs = epochs
    self.technique = technique
    self.trainableParameters = trainableParameters
    self.backboneParameters = backboneParameters
    self.memoryBytes = memoryBytes
    self.backboneBytes = backboneBytes
    self.cacheElement = cacheElement
    self.cacheBytes = cacheBytes
    self.firstStep = firstStep
    self.streaming = streaming
  }
}

/// What a run is busy with.
package enum RunPhase: String, Sendable, Codable, CaseIterable {
  /// Reading weights, tokenizer and rows, and planning memory.
  case preparation
  /// Measuring held-out rows.
  case evaluation
  /// The backbone is read layer by layer and fills the cache; nothing is trained yet.
  case fill
  /// A live epoch: the backbone runs and fills the cache.
  case liveEpoch = "live"
  /// A cached epoch: the backbone is not needed.
  case cachedEpoch = "cached"
  /// Cached activations move to the devices that will read them.
  case transition
  /// Writing the adapter.
  case saving
}

/// How an epoch got its activations.
package enum EpochMode: String, Sendable, Codable {
  /// The backbone computed them.
  case live
  /// They came from the activation cache.
  case cached
}

/// Where a run is.
///
/// Sent at least once a step; the receiver thins it out.
package struct RunProgress: Sendable, Codable, Equatable {
  /// What the run is busy with.
  package var phase: RunPhase
  /// 1-based epoch; 0 outside an epoch.
  package var epoch: Int
  /// Finished steps of the phase.
  package var step: Int
  /// Steps of the phase.
  package var steps: Int
  /// Samples a second since the phase began.
  package var samplesPerSecond: Double
  /// Mean training loss since the phase began; nil when nothing is trained.
  package var loss: Double?
  /// Seconds until the phase ends at this rate; nil while unknown.
  package var etaSeconds: Double?
  /// 1-based layer that a fill is in; nil in other phases.
  package var layer: Int?
  /// Layers of all stacks.
  package var layers: Int?

  /// A position in a run.
  package init(
    phase: RunPhase, epoch: Int, step: Int, steps: Int, samplesPerSecond: Double, loss: Double? = nil,
    etaSeconds: Double? = nil, layer: Int? = nil, layers: Int? = nil
  ) {
    self.phase = phase
    self.epoch = epoch
    self.step = step
    self.steps = steps
    self.samplesPerSecond = samplesPerSecond
    self.loss = loss
    self.etaSeconds = etaSeconds
    self.layer = layer
    self.layers = layers
  }
}

/// One measured value of one metric.
package struct MetricValue: Sendable, Codable, Equatable {
  /// Name in lower case, for instance "accuracy", "f1", "pearson", "spearman", "mean_squared_error".
  package var name: String
  /// The value.
  package var value: Double

  /// A metric's value.
  package init(name: String, value: Double) {
    self.name = name
    self.value = value
  }
}

/// A finished fill of the activation cache by a backbone that was read layer by layer.
package struct FillSummary: Sendable, Codable, Equatable {
  /// Samples that were computed.
  package var samples: Int
  /// Wall-clock seconds.
  package var seconds: Double

  /// A finished fill.
  package init(samples: Int, seconds: Double) {
    self.samples = samples
    self.seconds = seconds
  }
}

/// A finished epoch.
package struct EpochSummary: Sendable, Codable, Equatable {
  /// How the epoch got its activations.
  package var mode: EpochMode
  /// Wall-clock seconds, evaluation not counted.
  package var seconds: Double
  /// Training samples a second over the whole epoch.
  package var samplesPerSecond: Double
  /// Mean training loss.
  package var loss: Double

  /// A finished epoch.
  package init(mode: EpochMode, seconds: Double, samplesPerSecond: Double, loss: Double) {
    self.mode = mode
    self.seconds = seconds
    self.samplesPerSecond = samplesPerSecond
    self.loss = loss
  }
}

/// A metric before and after training; nil values when there were no held-out rows.
package struct MetricChange: Sendable, Codable, Equatable {
  /// Name in lower case, as in `MetricValue`.
  package var name: String
  /// Value before the first step.
  package var before: Double?
  /// Value of the finished adapter.
  package var after: Double?

  /// A change of a metric.
  package init(name: String, before: Double?, after: Double?) {
    self.name = name
    self.before = before
    self.after = after
  }
}

/// The result of a run.
///
/// Its JSON form, in snake case, is the last line of `hearth train --json`.
package struct TrainSummary: Sendable, Codable, Equatable {
  /// The task's main metric.
  package var metric: MetricChange
  /// How the backbone was adapted, for instance "lora".
  package var technique: String
  /// Trained parameters.
  package var trainableParameters: Int
  /// Every epoch in order.
  package var epochs: [EpochSummary]
  /// Bytes of the complete activation cache.
  package var cacheBytes: Int
  /// Peak resident bytes of the process.
  package var peakResidentBytes: Int
  /// BLAKE2b-256 of the adapter's tensors, in hexadecimal.
  package var adapterDigest: String
  /// Directory of the adapter.
  package var adapterDirectory: String
  /// Optimizer steps of the whole run.
  package var steps: Int
  /// All metrics of the finished adapter.
  package var metrics: [MetricValue]
  /// What this process filled the cache with before the first epoch; nil unless the backbone was streamed.
  package var fill: FillSummary?

  /// A result.
  package init(
    metric: MetricChange, technique: String = "parallel", trainableParameters: Int = 0,
    epochs: [EpochSummary], cacheBytes: Int, peakResidentBytes: Int,
    adapterDigest: String, adapterDirectory: String, steps: Int, metrics: [MetricValue],
    fill: FillSummary? = nil
  ) {
    self.metric = metric
    self.technique = technique
    self.trainableParameters = trainableParameters
    self.epochs = epochs
    self.cacheBytes = cacheBytes
    self.peakResidentBytes = peakResidentBytes
    self.adapterDigest = adapterDigest
    self.adapterDirectory = adapterDirectory
    self.steps = steps
    self.metrics = metrics
    self.fill = fill
  }

  private enum CodingKeys: String, CodingKey {
    case metric, technique, trainableParameters, epochs, trainingSeconds, cacheBytes, peakResidentBytes
    case adapterDigest, adapterDirectory, steps, metrics, fill
  }

  /// Wall-clock seconds of all epochs, evaluation not counted.
  package var trainingSeconds: Double { epochs.reduce(0) { $0 + $1.seconds } }

  /// Reads what `encode` writes.
  package init(from decoder: any Decoder) throws {
    let keys = try decoder.container(keyedBy: CodingKeys.self)
    metric = try keys.decode(MetricChange.self, forKey: .metric)
    technique = try keys.decode(String.self, forKey: .technique)
    trainableParameters = try keys.decode(Int.self, forKey: .trainableParameters)
    epochs = try keys.decode([EpochSummary].self, forKey: .epochs)
    cacheBytes = try keys.decode(Int.self, forKey: .cacheBytes)
    peakResidentBytes = try keys.decode(Int.self, forKey: .peakResidentBytes)
    adapterDigest = try keys.decode(String.self, forKey: .adapterDigest)
    adapterDirectory = try keys.decode(String.self, forKey: .adapterDirectory)
    steps = try keys.decode(Int.self, forKey: .steps)
    metrics = try keys.decode([MetricValue].self, forKey: .metrics)
    fill = try keys.decodeIfPresent(FillSummary.self, forKey: .fill)
  }

  /// Keeps `metric.before` and `metric.after` present (as null) when there is no value.
  package func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: CodingKeys.self)
    var change = keys.nestedContainer(keyedBy: MetricChange.CodingKeys.self, forKey: .metric)
    try change.encode(metric.name, forKey: .name)
    try change.encode(metric.before, forKey: .before)
    try change.encode(metric.after, forKey: .after)
    try keys.encode(technique, forKey: .technique)
    try keys.encode(trainableParameters, forKey: .trainableParameters)
    try keys.encode(epochs, forKey: .epochs)
    try keys.encode(trainingSeconds, forKey: .trainingSeconds)
    try keys.encode(cacheBytes, forKey: .cacheBytes)
    try keys.encode(peakResidentBytes, forKey: .peakResidentBytes)
    try keys.encode(adapterDigest, forKey: .adapterDigest)
    try keys.encode(adapterDirectory, forKey: .adapterDirectory)
    try keys.encode(steps, forKey: .steps)
    try keys.encode(metrics, forKey: .metrics)
    try keys.encodeIfPresent(fill, forKey: .fill)
  }
}

extension MetricChange {
  enum CodingKeys: String, CodingKey { case name, before, after }
}

/// The metrics of an adapter on a labelled file.
package struct EvaluationSummary: Sendable, Codable, Equatable {
  /// Rows that were measured.
  package var samples: Int
  /// Malformed rows that were left out.
  package var skippedRows: Int
  /// Texts that were cut at the greatest length.
  package var truncatedTexts: Int
  /// Metrics, the task's main one first.
  package var metrics: [MetricValue]
  /// Wall-clock seconds of the forward passes.
  package var seconds: Double
  /// Digest of the adapter that was measured.
  package var adapterDigest: String

  /// The metrics of an adapter.
  package init(
    samples: Int, skippedRows: Int, truncatedTexts: Int, metrics: [MetricValue], seconds: Double,
    adapterDigest: String
  ) {
    self.samples = samples
    self.skippedRows = skippedRows
    self.truncatedTexts = truncatedTexts
    self.metrics = metrics
    self.seconds = seconds
    self.adapterDigest = adapterDigest
  }
}

/// One text, or pair of texts, to predict for.
package struct PredictionInput: Sendable, Equatable {
  /// The text.
  package var text: String
  /// The second text of a pair.
  package var pair: String?

  /// A text or a pair.
  package init(text: String, pair: String? = nil) {
    self.text = text
    self.pair = pair
  }
}

/// The prediction for one text.
package struct Prediction: Sendable, Equatable {
  /// Most likely label of a classification, or the text that was written; nil for a regression.
  package var label: String?
  /// Probabilities in the order of the adapter's labels, or the one predicted number; empty beside a text.
  package var scores: [Double]
  /// True when the text was cut at the greatest length.
  package var truncated: Bool

  /// A prediction.
  package init(label: String?, scores: [Double], truncated: Bool) {
    self.label = label
    self.scores = scores
    self.truncated = truncated
  }
}

/// What a run tells the person who waits for it.
package enum RunEvent: Sendable, Equatable {
  /// The plan, before the first step.
  case started(RunPlan)
  /// A phase begins.
  case phase(RunPhase)
  /// A step is done.
  case progress(RunProgress)
  /// A metric of the held-out rows; `epoch` is 0 before training.
  case evaluated(MetricValue, epoch: Int)
  /// The cache holds every sample's activations before the first epoch.
  case filled(FillSummary)
  /// An epoch is done; `index` counts from 1.
  case epoch(index: Int, EpochSummary)
  /// The backbone left memory: resident bytes of the process before and after.
  case backboneReleased(residentBefore: Int, residentAfter: Int)
  /// State from which the run can be resumed is on disk.
  case checkpoint(step: Int)
  /// Something that the person should know and that does not end the run.
  case warning(String)
  /// The run is over.
  case finished(TrainSummary)
}

extension RunEvent: Encodable {
  private enum Keys: String, CodingKey {
    case event, phase, epoch, step, metric, value, message
    case residentBefore, residentAfter
  }

  /// Writes `{"event": name, …payload}`: one flat object an event.
  package func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: Keys.self)
    switch self {
    case .started(let plan):
      try keys.encode("started", forKey: .event)
      try plan.encode(to: encoder)
    case .phase(let phase):
      try keys.encode("phase", forKey: .event)
      try keys.encode(phase, forKey: .phase)
    case .progress(let progress):
      try keys.encode("progress", forKey: .event)
      try progress.encode(to: encoder)
    case .evaluated(let metric, let epoch):
      try keys.encode("evaluated", forKey: .event)
      try keys.encode(epoch, forKey: .epoch)
      try keys.encode(metric.name, forKey: .metric)
      try keys.encode(metric.value, forKey: .value)
    case .filled(let summary):
      try keys.encode("filled", forKey: .event)
      try summary.encode(to: encoder)
    case .epoch(let index, let summary):
      try keys.encode("epoch", forKey: .event)
      try keys.encode(index, forKey: .epoch)
      try summary.encode(to: encoder)
    case .backboneReleased(let before, let after):
      try keys.encode("backbone_released", forKey: .event)
      try keys.encode(before, forKey: .residentBefore)
      try keys.encode(after, forKey: .residentAfter)
    case .checkpoint(let step):
      try keys.encode("checkpoint", forKey: .event)
      try keys.encode(step, forKey: .step)
    case .warning(let message):
      try keys.encode("warning", forKey: .event)
      try keys.encode(message, forKey: .message)
    case .finished(let summary):
      // The summary is the documented last line: no "event" key beside the documented ones.
      try summary.encode(to: encoder)
    }
  }
}
