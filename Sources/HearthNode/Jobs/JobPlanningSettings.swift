import CryptoPrimitives
package import FineTuning
import FoundationEssentials
import HearthStorage
package import LanguageModels
package import NeuralNetworks
package import ParallelPlanner
package import TensorKernels

/// What can go wrong while a job is planned.
package enum JobPlanningFailure: UserFacingFailure, Equatable {
  /// The settings of the job cannot be used.
  case settings(detail: String)
  /// A device's report cannot be used.
  case report(device: String, detail: String)
  /// The measured links cannot be used.
  case links(detail: String)
  /// The devices together cannot do the job.
  case doesNotFit(detail: String)

  /// What the planner could not do.
  init(_ failure: PlanningFailure) {
    switch failure {
    case .doesNotFit(_, let nearest): self = .doesNotFit(detail: nearest)
    case .outOfRange, .inconsistent: self = .settings(detail: "\(failure)")
    }
  }

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .settings, .report, .links: .badData
    case .doesNotFit: .insufficientResources
    }
  }

  /// One line for people: what, where, and the next step.
  package var description: String {
    switch self {
    case .settings(let detail): "the job cannot be planned: \(detail)"
    case .report(let device, let detail):
      "what '\(device)' reported of itself cannot be used: \(detail); update Hearth there, then try again"
    case .links(let detail): "the measured links cannot be used: \(detail)"
    case .doesNotFit(let detail):
      "the job fits on no set of the household's devices: \(detail); free memory there, use a smaller "
        + "--micro-batch or --max-length, or add a device"
    }
  }
}

/// What of a job decides how its parts are timed on a device: equal shapes have equal times.
package struct JobShape: Sendable, Codable, Equatable {
  /// Most bytes of `configuration`.
  package static let maximumConfiguration = 16 << 10

  /// The numbers and words of the model's `config.json`, as JSON with sorted keys.
  package var configuration: String
  /// How the backbone is adapted.
  package var technique: TechniqueConfiguration
  /// What is predicted.
  package var head: TaskHead
  /// How a cached activation element is stored.
  package var element: ActivationElement
  /// Samples that a device computes as a unit.
  package var samplesPerUnit: Int
  /// Tokens of an input text, in the mean.
  package var encoderLength: Int
  /// Tokens that a decoder reads of each text, in the mean; 1 without one.
  package var decoderLength: Int
  /// How finely gradients are rounded before they are added up; nil is full precision, whose shapes keep their names.
  package var gradientPrecision: GradientPrecision?

  /// A shape from the text of a `config.json`, of which it keeps what can decide a model's shape.
  package init(
    configurationText: String, technique: TechniqueConfiguration, head: TaskHead, element: ActivationElement,
    samplesPerUnit: Int, encoderLength: Int, decoderLength: Int, gradientPrecision: GradientPrecision = .full
  ) throws(JobPlanningFailure) {
    configuration = try ConfigurationText(configurationText).text
    self.technique = technique
    self.head = head
    self.element = element
    self.samplesPerUnit = samplesPerUnit
    self.encoderLength = encoderLength
    self.decoderLength = decoderLength
    self.gradientPrecision = gradientPrecision == .full ? nil : gradientPrecision
  }

  /// The stacks of the model.
  package func architecture() throws(JobPlanningFailure) -> BackboneArchitecture {
    try modelConfiguration().architecture
  }

  /// The model's configuration.
  package func modelConfiguration() throws(JobPlanningFailure) -> ModelConfiguration {
    do {
      return try ModelConfiguration(
        region: MemoryRegion(name: "config.json", bytes: Array(configuration.utf8)))
    } catch {
      throw .settings(detail: "\(error)")
    }
  }

  /// Names the shape: equal shapes have equal names.
  package var digest: String {
    var hasher = ContentHasher()
    hasher.update("job shape")
    hasher.update(bytes: canonicalJSON(self) ?? [])
    return hasher.finalize().description
  }

  /// How the engine computes it, as costs are counted.
  var counting: TechniqueCosts.Counting {
    TechniqueCosts.Counting(cacheElement: element, gradientPrecision: gradientPrecision ?? .full)
  }

  var workload: CostWorkload {
    CostWorkload(samples: samplesPerUnit, encoderLength: encoderLength, decoderLength: decoderLength)
  }

  /// What is wrong with numbers that came from outside; nil when nothing is.
  var problem: String? {
    guard configuration.utf8.count <= Self.maximumConfiguration else {
      return "its model's configuration has \(configuration.utf8.count) bytes of \(Self.maximumConfiguration)"
    }
    guard (1...4096).contains(samplesPerUnit), (1...1 << 17).contains(encoderLength),
      (1...1 << 17).contains(decoderLength)
    else {
      return "it has units of \(samplesPerUnit) texts of \(encoderLength) and \(decoderLength) tokens"
    }
    return nil
  }
}

/// Everything of a job that decides its plan beside the devices and their links.
package struct JobPlanningSettings: Sendable, Codable, Equatable {
  /// Most bytes of the encoded form.
  package static let maximumBytes = 64 << 10

  /// What is computed for a unit.
  package var shape: JobShape
  /// The model's name, for people.
  package var modelName: String
  /// Tokens of the longest input text of a unit.
  package var longestEncoder: Int
  /// Tokens of the longest target text; 1 without a decoder.
  package var longestDecoder: Int
  /// Passes over the samples.
  package var epochs: Int
  /// Optimizer steps of one epoch.
  package var stepsPerEpoch: Int
  /// Units (lanes' micro-batches) of one mini-batch.
  package var lanes: Int
  /// Training samples.
  package var samples: Int
  /// Which plans are looked at.
  package var planner: PlannerKind
  /// How the first epoch may run.
  package var firstEpoch: FirstEpochPolicy
  /// Which devices read the cache in the epochs after the first.
  package var cachedEpochs: CachedEpochsPolicy
  /// Whether later epochs may read cached activations.
  package var usesCache: Bool

  /// The settings of a run that was laid out.
  ///
  /// - Parameters:
  ///   - run: the run.
  ///   - modelName: the model's name, for people.
  ///   - configurationText: the text of the model's `config.json`.
  ///   - planner: which plans are looked at.
  ///   - firstEpoch: how the first epoch may run.
  ///   - cachedEpochs: which devices read the cache.
  package init(
    run: PreparedRun, modelName: String, configurationText: String, planner: PlannerKind = .pac,
    firstEpoch: FirstEpochPolicy = .auto, cachedEpochs: CachedEpochsPolicy = .auto
  ) throws(JobPlanningFailure) {
    let batches = run.batches.flatMap { $0 }
    let texts = max(1, batches.reduce(0) { $0 + $1.samples.count })
    func mean(_ tokens: (PackedMicroBatch) -> Int) -> Int {
      max(1, (batches.reduce(0) { $0 + tokens($1) } + texts / 2) / texts)
    }
    shape = try JobShape(
      configurationText: configurationText, technique: run.technique.configuration, head: run.technique.head,
      element: run.technique.element, samplesPerUnit: max(1, run.capacity.sequences),
      encoderLength: mean(\.encoder.tokens), decoderLength: mean { $0.decoder?.tokens ?? 0 },
      gradientPrecision: run.technique.gradientPrecision)
    self.modelName = String(modelName.prefix(80))
    longestEncoder = max(1, run.capacity.longestEncoder)
    longestDecoder = max(1, run.capacity.longestDecoder)
    epochs = run.request.epochs
    stepsPerEpoch = run.lanePlan.stepsPerEpoch
    lanes = run.lanePlan.lanes.count
    samples = run.sampleCount
    self.planner = planner
    self.firstEpoch = firstEpoch
    self.cachedEpochs = cachedEpochs
    usesCache = run.usesCache
  }

  /// Settings from their parts.
  package init(
    shape: JobShape, modelName: String, longestEncoder: Int, longestDecoder: Int, epochs: Int,
    stepsPerEpoch: Int, lanes: Int, samples: Int, planner: PlannerKind = .pac,
    firstEpoch: FirstEpochPolicy = .auto, cachedEpochs: CachedEpochsPolicy = .auto, usesCache: Bool = true
  ) {
    self.shape = shape
    self.modelName = modelName
    self.longestEncoder = longestEncoder
    self.longestDecoder = longestDecoder
    self.epochs = epochs
    self.stepsPerEpoch = stepsPerEpoch
    self.lanes = lanes
    self.samples = samples
    self.planner = planner
    self.firstEpoch = firstEpoch
    self.cachedEpochs = cachedEpochs
    self.usesCache = usesCache
  }

  /// The encoded form; equal settings have equal bytes.
  package func encoded() throws(JobPlanningFailure) -> [UInt8] {
    guard let bytes = canonicalJSON(self), bytes.count <= Self.maximumBytes else {
      throw .settings(detail: "its settings take more than \(Self.maximumBytes) bytes")
    }
    return bytes
  }

  /// Reads and checks an encoded form.
  package init(decoding bytes: [UInt8]) throws(JobPlanningFailure) {
    guard bytes.count <= Self.maximumBytes else {
      throw .settings(detail: "its settings take \(bytes.count) bytes; \(Self.maximumBytes) are allowed")
    }
    do {
      self = try JSONDecoder().decode(JobPlanningSettings.self, from: Data(bytes))
    } catch {
      throw .settings(detail: "its settings are damaged, or from a newer Hearth")
    }
    if let problem = shape.problem { throw .settings(detail: problem) }
    guard longestEncoder >= shape.encoderLength, longestDecoder >= shape.decoderLength,
      longestEncoder <= 1 << 17, longestDecoder <= 1 << 17
    else {
      throw .settings(detail: "its longest texts have \(longestEncoder) and \(longestDecoder) tokens")
    }
    guard modelName.utf8.count <= 320 else { throw .settings(detail: "its model's name is too long") }
    guard (1...PlanningLimits.unitsPerMiniBatch).contains(lanes) else {
      throw .settings(
        detail: "it has \(lanes) units a mini-batch; 1 to \(PlanningLimits.unitsPerMiniBatch) can be planned")
    }
  }

  /// The job as the planner sees it.
  package var planningJob: PlanningJob {
    PlanningJob(
      epochs: epochs, stepsPerEpoch: stepsPerEpoch, unitsPerMiniBatch: lanes, planner: planner,
      firstEpoch: firstEpoch, cachedEpochs: cachedEpochs, usesCache: usesCache)
  }

  /// The model as the planner sees it.
  package func planningModel() throws -> PlanningModel {
    try PlanningModel(
      shape, name: modelName,
      longest: CostWorkload(
        samples: shape.samplesPerUnit, encoderLength: longestEncoder, decoderLength: longestDecoder))
  }
}

/// JSON with sorted keys: equal values have equal bytes.
func canonicalJSON(_ value: some Encodable) -> [UInt8]? {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
  return (try? encoder.encode(value)).map(Array.init)
}
