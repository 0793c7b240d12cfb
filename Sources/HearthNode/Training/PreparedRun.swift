package import ActivationCache
import ComputeRuntime
package import CryptoPrimitives
package import FineTuning
import HearthStorage
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
    guard let backbone = model.backbone else { preconditionFailure("a run is laid out with its backbone") }
    try self.init(request, content: RunContent(request, model: model), backbone: backbone)
  }

  /// Lays out a run of samples that were read, here or on the device that has the rows.
  package init(_ request: TrainRequest, content: RunContent, backbone: any Backbone) throws {
    self.request = request
    task = content.task
    maximumLength = content.maximumLength
    rowsDigest = Self.digest(of: [content.training, content.heldOut])
    technique = try TrainedTechnique(
      content.technique, head: task.head, backbone: backbone, element: request.cache,
      checkpointsActivations: request.checkpointsActivations ?? false,
      gradientPrecision: request.gradientPrecision ?? .full)
    parameterCount = technique.parameterCount(backbone)
    let plan = LanePlan(
      lengths: content.training.map(\.tokens), laneCount: max(1, request.batch / request.microBatch),
      samplesPerMicroBatch: request.microBatch, seed: request.seed)
    lanePlan = plan
    var ordinal = -1
    batches = plan.lanes.map { lane in
      lane.map { samples in
        ordinal += 1
        return PackedMicroBatch(samples: samples, of: content.training, ordinal: ordinal)
      }
    }
    validation = TrainingRows.consecutive(
      content.heldOut, size: request.microBatch, firstOrdinal: ordinal + 1)
    validationSamples = content.heldOut
    validationTexts = content.heldOutTexts
    capacity = MicroBatchCapacity(batches.flatMap { $0 } + validation)
    sampleCount = content.training.count
    skippedRows = content.skippedRows
    truncatedTexts = content.truncatedTexts
    warnings = content.warnings
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

  /// Refuses a run whose adapter and state would not fit on their disk: full fine-tuning writes a whole model.
  package func checkDisk(_ output: String) throws {
    let adapter = AdapterDirectory.tensorBytes(parameterCount)
    let free = try freeDiskBytes(RunPreflight.nearestExisting(output))
    // A state holds the values and both moments, and replaces the one before only when it is complete.
    let state = 2 * 3 * adapter
    guard adapter + state <= free else {
      throw RunFailure.outputDiskExceeded(adapter: adapter, state: state, free: free, path: output)
    }
  }

  /// Refuses a household's job whose trained values would not fit on the disk of its owner's daemon, before hours of training.
  package func checkResultDisk(_ stateDirectory: String) throws {
    try Self.checkResultDisk(
      adapter: AdapterDirectory.tensorBytes(parameterCount),
      free: try freeDiskBytes(RunPreflight.nearestExisting(stateDirectory)), path: stateDirectory)
  }

  /// The same for so many free bytes: values lie in a file while they are collected, and as a blob until the adapter is written.
  package static func checkResultDisk(adapter: Int, free: Int, path: String) throws(RunFailure) {
    let needed = 2 * adapter
    guard needed <= free else { throw .resultDiskExceeded(needed: needed, free: free, path: path) }
  }

  /// Identity of the cache that this run fills and reads.
  package func cacheIdentity(_ model: OpenedModel) -> CacheIdentity {
    cacheIdentity(backbone: model.digest, tokenizer: model.tokenizer.digest)
  }

  /// Identity of the cache of a backbone and a tokenizer that are known by their digests.
  package func cacheIdentity(backbone: ContentDigest, tokenizer: ContentDigest) -> CacheIdentity {
    guard let shape = technique.sideShape else {
      preconditionFailure("\(technique.configuration.name) reads no activations")
    }
    return CacheIdentity(
      backboneDigest: backbone, tokenizerDigest: tokenizer,
      maximumLength: maximumLength, element: request.cache,
      stacks: shape.stacks.map {
        CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps)
      })
  }
}
