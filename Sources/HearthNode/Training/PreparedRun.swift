package import ActivationCache
import ComputeRuntime
package import CryptoPrimitives
package import FineTuning
package import LanguageModels
import NeuralNetworks
import TensorKernels

/// A training request with everything decided that the data and the model decide: nothing is computed yet.
package struct PreparedRun {
  /// What was asked.
  package let request: TrainRequest
  /// What is predicted, with labels or scale.
  package let task: AdapterTask
  /// How the backbone is adapted, with everything that follows from it.
  package let technique: TrainedTechnique
  /// Number of trained values.
  package let parameterCount: Int
  /// Which samples are trained together, and when.
  package let lanePlan: LanePlan
  /// For each lane, its micro-batches.
  package let batches: [[PackedMicroBatch]]
  /// Micro-batches of the held-out samples.
  package let validation: [PackedMicroBatch]
  /// Held-out samples with their targets.
  package let validationSamples: [TrainingSample]
  /// The texts that a seq2seq adapter has to write for them; empty for other tasks.
  package let validationTexts: [String]
  /// Largest micro-batch of all.
  package let capacity: MicroBatchCapacity
  /// Tokens of the longest text that is kept.
  package let maximumLength: Int
  /// Digest of every sample and target, in order: what a resumed run must find again.
  package let rowsDigest: ContentDigest
  /// Training samples.
  package let sampleCount: Int
  /// Rows left out, texts cut.
  package let skippedRows: Int
  /// Texts that were cut at the greatest length.
  package let truncatedTexts: Int
  /// What a person should know before the first step.
  package let warnings: [String]

  /// Reads the rows and lays out the run.
  package init(_ request: TrainRequest, model: OpenedModel) throws {
    self.request = request
    guard let backbone = model.backbone else { preconditionFailure("a run is laid out with its backbone") }
    let kind = TrainingRows.labelKind(request.task)
    let file = try TrainingRows.read(request.dataFile, options: request.data, labels: kind)
    var warnings = file.warnings
    var skipped = file.skippedRows
    var training = file.examples
    var heldOut: [LabelledText] = []
    if let path = request.validationFile {
      let validation = try TrainingRows.read(path, options: request.data, labels: kind)
      heldOut = validation.examples
      skipped += validation.skippedRows
      warnings += validation.warnings
    } else if request.validationFraction > 0 {
      if let split = try Self.holdOut(training, fraction: request.validationFraction) {
        (training, heldOut) = (split.training, split.validation)
      } else {
        warnings.append("\(training.count) rows are too few to hold any out; no metric is measured")
      }
    }
    if let most = request.rowLimit { training = firstByHash(training, count: most) }
    task = try TrainingRows.task(
      request.task, training: training, targetLength: Self.targetLength(request, model: model))
    let length = Self.maximumLength(request, model: model, warnings: &warnings)
    maximumLength = length
    let rows = try TrainingRows.samples(training, task: task, model: model, maximumLength: length)
    let held = try TrainingRows.samples(heldOut, task: task, model: model, maximumLength: length)
    rowsDigest = Self.digest(of: [rows.samples, held.samples])
    let cut = rows.truncatedTargets + held.truncatedTargets
    if cut > 0 { warnings.append("\(cut) texts to write were cut at --max-target-length") }
    technique = try TrainedTechnique(
      Self.configuration(request, architecture: model.architecture), head: task.head, backbone: backbone,
      element: request.cache, checkpointsActivations: request.checkpointsActivations ?? false)
    parameterCount = technique.parameterCount(backbone)
    let plan = LanePlan(
      sampleCount: rows.samples.count, laneCount: max(1, request.batch / request.microBatch),
      samplesPerMicroBatch: request.microBatch, seed: request.seed)
    lanePlan = plan
    var ordinal = -1
    batches = plan.lanes.map { lane in
      lane.map { samples in
        ordinal += 1
        return PackedMicroBatch(samples: samples, of: rows.samples, ordinal: ordinal)
      }
    }
    validation = TrainingRows.consecutive(
      held.samples, size: request.microBatch, firstOrdinal: ordinal + 1)
    validationSamples = held.samples
    validationTexts = held.targetTexts
    capacity = MicroBatchCapacity(batches.flatMap { $0 } + validation)
    sampleCount = rows.samples.count
    skippedRows = skipped
    truncatedTexts = rows.truncatedTexts + held.truncatedTexts
    self.warnings = warnings
  }

  /// Training and held-out rows, or nil when one side would be empty.
  private static func holdOut(_ rows: [LabelledText], fraction: Double) throws -> DataSplit? {
    do throws(DataFailure) {
      return try splitByHash(rows, validationFraction: fraction)
    } catch {
      if case .emptySplit = error { return nil }
      throw error
    }
  }

  /// The longest text that is kept: what was asked, or what the backbone has positions for.
  private static func maximumLength(
    _ request: TrainRequest, model: OpenedModel, warnings: inout [String]
  ) -> Int {
    guard let most = model.architecture.maximumLength, most < request.maxLength else {
      return request.maxLength
    }
    warnings.append(
      "--max-length \(request.maxLength) is more than the backbone's \(most) positions; using \(most)")
    return most
  }

  private static func digest(of sets: [[TrainingSample]]) -> ContentDigest {
    var hasher = ContentHasher()
    for samples in sets {
      hasher.update(samples.count)
      for sample in samples {
        hasher.update(sample.encoderIDs)
        hasher.update(sample.encoderTypes)
        hasher.update(sample.decoderIDs)
        hasher.update("\(sample.target)")
      }
    }
    return hasher.finalize()
  }

  /// Most tokens of a text that is written: what was asked, or what the backbone has positions for.
  private static func targetLength(_ request: TrainRequest, model: OpenedModel) -> Int {
    min(
      request.maximumTargetLength ?? TrainRequest.defaultTargetLength,
      model.architecture.maximumLength ?? .max)
  }

  private static func configuration(
    _ request: TrainRequest, architecture: BackboneArchitecture
  ) -> TechniqueConfiguration {
    let dropout = Float(request.dropout ?? 0)
    switch request.technique {
    case .parallel: return .parallel(sideNetwork(request, architecture: architecture))
    case .full: return .full(FullConfiguration(dropout: dropout))
    case .houlsby: return .houlsby(HoulsbyConfiguration(reduction: request.reduction, dropout: dropout))
    case .lora:
      var configuration = LoRAConfiguration(dropout: dropout)
      if let rank = request.rank { configuration.rank = rank }
      // PEFT's scale of 1 at every rank, unless somebody asks for another.
      configuration.alpha = request.alpha.map { Float($0) } ?? Float(configuration.rank)
      if let targets = request.loraTargets {
        configuration.targets = LoRATarget.allCases.filter { targets.contains($0.rawValue) }
      }
      return .lora(configuration)
    }
  }

  private static func sideNetwork(
    _ request: TrainRequest, architecture: BackboneArchitecture
  ) -> ParallelAdapterConfiguration {
    let preset = ParallelAdapterConfiguration.Preset(rawValue: request.preset.rawValue) ?? .default
    var configuration = ParallelAdapterConfiguration(
      preset: preset, reduction: request.reduction,
      layersPerStack: architecture.stacks.map(\.layers).min() ?? 0)
    if let taps = request.taps { configuration.layers = taps }
    return configuration
  }

  /// Optimizer steps of the whole run.
  package var totalSteps: Int { lanePlan.stepsPerEpoch * request.epochs }

  /// True when activations are kept: a technique that can, and more than one epoch, or the person wants the cache.
  package var usesCache: Bool {
    technique.readsCachedActivations && (request.epochs > 1 || request.keepCache)
  }

  /// Bytes of the complete cache; 0 when there is none.
  package var cacheBytes: Int { usesCache ? activationBytes : 0 }

  /// Bytes of the activations of all samples, whether they are kept or not.
  package var activationBytes: Int {
    guard let shape = technique.sideShape else { return 0 }
    let batches = batches.flatMap { $0 } + validation
    return batches.reduce(0) { sum, batch in
      sum
        + shape.stacks.reduce(0) { bytes, stack in
          let tokens = stack.kind == .encoder ? batch.encoder.tokens : batch.decoder?.tokens ?? 0
          return bytes + stack.taps.count * tokens * request.cache.rowBytes(width: shape.backboneWidth)
        }
    }
  }

  /// Bytes of every buffer that the run will hold at once while the backbone runs.
  package func memoryBytes(threads: Int, backbone: any Backbone) -> Int {
    technique.memoryBytes(backbone, capacity: capacity, workers: threads, training: true)
      + threads * writerBytes(backbone)
  }

  /// Bytes of every buffer of an epoch that reads cached activations alone.
  package func cachedBytes(threads: Int, backbone: any Backbone) -> Int {
    technique.memoryBytes(
      backbone, capacity: capacity, workers: threads, training: true, runsBackbone: false)
      + threads * writerBytes(backbone)
  }

  /// Bytes of what one thread needs to write the held-out texts.
  private func writerBytes(_ backbone: any Backbone) -> Int {
    guard let writer = backbone as? any EncoderDecoderBackbone, let settings = writerSettings else {
      return 0
    }
    return technique.generatorBytes(writer, settings: settings, maximumSource: maximumLength)
  }

  /// How held-out texts are written: greedily; nil when none are.
  package var writerSettings: GenerationSettings? {
    guard case .seq2seq(let most) = task, !validation.isEmpty else { return nil }
    return GenerationSettings(maximumTokens: most)
  }

  /// Identity of the cache that this run fills and reads.
  package func cacheIdentity(_ model: OpenedModel) -> CacheIdentity {
    guard let shape = technique.sideShape else {
      preconditionFailure("\(technique.configuration.name) reads no activations")
    }
    return CacheIdentity(
      backboneDigest: model.digest, tokenizerDigest: model.tokenizer.digest,
      maximumLength: maximumLength, element: request.cache,
      stacks: shape.stacks.map {
        CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps)
      })
  }
}
