import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import Determinism
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import Synchronization
import TensorKernels

/// One measurement set up in this process: steps and forwards of a technique over random token ids.
package final class TechniqueWorker {
  /// What is measured.
  package let measured: TechniqueCase
  /// The memory that was planned before anything ran.
  package private(set) var planned: PlannedMemory
  private let team: ComputeTeam
  private let technique: any TechniqueComputation
  private let trainer: MiniBatchTrainer
  private let batches: [[PackedMicroBatch]]
  private let source: BackboneTapSource?
  private var next = 0

  /// Mini-batches that steps take in turn.
  private static let miniBatches = 2
  private static let seed: UInt64 = 1
  /// Long enough that no measurement reaches the end of the learning-rate schedule.
  private static let totalSteps = 1_000_000
  private static let element = ActivationElement.float16

  /// Opens the model of `directory` and prepares the technique; a cached phase fills a cache below `cachePath` and lets
  /// the backbone go.
  package init(_ measured: TechniqueCase, model directory: String, cachePath: String) throws {
    self.measured = measured
    team = ComputeTeam(width: measured.threads)
    let checkpoint = try ModelDirectory.loadCheckpoint(ModelFolder(directory))
    let backbone: any Backbone =
      switch try ModelDirectory.loadConfiguration(ModelFolder(directory)) {
      case .bert(let configuration): try BERTBackbone(checkpoint, configuration)
      case .t5(let configuration): try T5Backbone(checkpoint, configuration)
      case .bart(let configuration): try BARTBackbone(checkpoint, configuration)
      }
    batches = Self.batches(measured, backbone.architecture)
    let capacity = MicroBatchCapacity(batches.flatMap { $0 })
    let parts: (technique: any TechniqueComputation, source: BackboneTapSource?, planned: PlannedMemory)
    switch measured.technique {
    case .full, .houlsby, .lora:
      let made = Self.tuning(measured, backbone, checkpoint, capacity)
      parts = (made.technique, nil, made.planned)
    case .parallel, .cached:
      parts = try Self.sideNetwork(measured, backbone, checkpoint, capacity, cachePath: cachePath)
    }
    technique = parts.technique
    source = parts.source
    planned = parts.planned
    trainer = MiniBatchTrainer(
      technique: technique, settings: OptimizationSettings(learningRate: 1e-4), totalSteps: Self.totalSteps,
      maximumMicroBatches: batches.map(\.count).max() ?? 1, workers: team.width)
    let trainable = technique.parameters.vectorCount
    planned.gradientSums = technique.gradientSums.bytesPerParameter * trainable
    planned.optimizer = 2 * MemoryLayout<Float>.stride * trainable
    if measured.technique == .cached { try fillCache(backbone, checkpoint, capacity) }
    // What filling the cache or copying weights took is not the technique's memory.
    _ = ProcessMemory.resetPeak()
  }

  private static func tuning(
    _ measured: TechniqueCase, _ backbone: any Backbone, _ checkpoint: Checkpoint,
    _ capacity: MicroBatchCapacity
  ) -> (technique: any TechniqueComputation, planned: PlannedMemory) {
    let parameters = BackboneTuning.initialParameters(
      configuration: measured.configuration, head: .languageModel, backbone: backbone, seed: seed)
    let technique = BackboneTuning(
      configuration: measured.configuration, head: .languageModel, backbone: backbone, parameters: parameters,
      capacity: capacity, workers: measured.threads, training: true, checkpointsActivations: false,
      dropoutSeed: seed)
    let buffers = BackboneTuning.workerBytes(
      configuration: measured.configuration, head: .languageModel, backbone: backbone, capacity: capacity,
      training: true, checkpointsActivations: false)
    // Full fine-tuning has copied every leaf.
    let isFull = measured.technique == .full
    if isFull { checkpoint.releaseResidentPages() }
    let planned = PlannedMemory(
      weights: (isFull ? 0 : checkpoint.byteCount) + 4 * parameters.vectorCount,
      activations: measured.threads * buffers)
    return (technique, planned)
  }

  private static func sideNetwork(
    _ measured: TechniqueCase, _ backbone: any Backbone, _ checkpoint: Checkpoint,
    _ capacity: MicroBatchCapacity,
    cachePath: String
  ) throws -> (technique: any TechniqueComputation, source: BackboneTapSource?, planned: PlannedMemory) {
    guard case .parallel(let configuration) = measured.configuration else {
      preconditionFailure("\(measured.name) has no side network")
    }
    let shape = try SideNetworkShape(
      configuration, head: .languageModel, backbone: backbone.architecture)
    let isCached = measured.technique == .cached
    let source = BackboneTapSource(
      shape: shape, backbone: backbone, cache: isCached ? try openCache(cachePath, shape) : nil,
      capacity: capacity, workers: measured.threads)
    let parameters = shape.initialParameters(seed: seed, backbone: backbone)
    let technique = ParallelAdapters(
      shape: shape, parameters: parameters, frozen: FrozenOutput(copying: backbone, head: .languageModel),
      source: source, element: element, capacity: capacity, workers: measured.threads, training: true)
    let frozen = 4 * FrozenOutput.floatCount(copying: backbone, head: .languageModel)
    let forward = isCached ? 0 : 4 * BackboneTapSource.workspaceFloats(backbone, capacity: capacity)
    let planned = PlannedMemory(
      weights: (isCached ? 0 : checkpoint.byteCount) + frozen + 4 * parameters.vectorCount,
      activations: measured.threads
        * (forward
          + ParallelAdapters.workerBytes(shape: shape, element: element, capacity: capacity, training: true)))
    return (technique, source, planned)
  }

  /// An empty cache of the side network's taps.
  private static func openCache(_ path: String, _ shape: SideNetworkShape) throws -> ActivationCacheStore {
    var hasher = ContentHasher()
    hasher.update(path)
    let digest = hasher.finalize()
    let identity = CacheIdentity(
      backboneDigest: digest, tokenizerDigest: digest, maximumLength: 512, element: element,
      stacks: shape.stacks.map { CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps) })
    let cache = try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
    try cache.removeAll()
    return try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
  }

  /// Runs the backbone once over all samples, as a first epoch does, and lets it go.
  private func fillCache(
    _ backbone: any Backbone, _ checkpoint: Checkpoint, _ capacity: MicroBatchCapacity
  ) throws {
    for miniBatch in batches { try run(miniBatch) }
    source?.release()
    checkpoint.releaseResidentPages()
    guard source?.resolve(batches.flatMap { $0 }) == true else {
      throw RunFailure.inputOutput(
        path: "the activation cache", detail: "it lacks samples that were just written")
    }
  }

  /// Random token ids; full batches of equal lengths.
  private static func batches(
    _ measured: TechniqueCase, _ architecture: BackboneArchitecture
  ) -> [[PackedMicroBatch]] {
    var generator = SeededGenerator(seed: seed, 0x776f_726b)
    // Ids below this are padding and the ends of texts.
    let firstOrdinary = 4
    func ids(_ count: Int) -> [Int32] {
      (0..<count).map { _ in
        Int32(firstOrdinary + generator.uniform(below: architecture.vocabulary - firstOrdinary))
      }
    }
    let samples = (0..<miniBatches * measured.samples).map { _ in
      let labels = ids(measured.targetTokens)
      return TrainingSample(
        encoderIDs: ids(measured.sourceTokens),
        encoderTypes: [Int32](repeating: 0, count: measured.sourceTokens),
        decoderIDs: [architecture.decoderStartID ?? 0] + labels.dropLast(), target: .tokens(labels))
    }
    var ordinal = 0
    return (0..<miniBatches).map { batch in
      let members = batch * measured.samples..<(batch + 1) * measured.samples
      return stride(from: members.lowerBound, to: members.upperBound, by: measured.microBatch).map { first in
        defer { ordinal += 1 }
        return PackedMicroBatch(
          samples: Array(first..<min(first + measured.microBatch, members.upperBound)), of: samples,
          ordinal: ordinal)
      }
    }
  }

  // MARK: Measuring

  /// Trained parameters.
  package var trainableParameters: Int { technique.parameters.trainableCount }
  /// Steps that were computed twice so far, because a gradient did not fit its sum.
  package var repeatedSteps: Int { trainer.repeatedSteps }

  /// Seconds of one training step on the next mini-batch.
  package func step() throws -> Double {
    let miniBatch = batches[next % batches.count]
    next += 1
    let start = MonotonicClock.seconds()
    _ = try trainer.step(miniBatch, units: measured.samples * measured.targetTokens, loop: team)
    return MonotonicClock.seconds() - start
  }

  /// Seconds of the forward and the loss alone, over the next mini-batch.
  package func forward() throws -> Double {
    let start = MonotonicClock.seconds()
    try run(batches[next % batches.count])
    return MonotonicClock.seconds() - start
  }

  private func run(_ miniBatch: [PackedMicroBatch]) throws {
    let failure = Mutex<TrainingFailure?>(nil)
    team.forEach(miniBatch.count) { [technique] piece, worker in
      do throws(TrainingFailure) {
        _ = try technique.loss(miniBatch[piece], worker: worker)
      } catch {
        failure.withLock { $0 = $0 ?? error }
      }
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
  }
}

/// The memory that a measurement plans, in bytes.
package struct PlannedMemory: Codable, Sendable, Equatable {
  /// The model, the adapter and what else is only read, mapped files included.
  package var weights: Int
  /// Buffers of all compute threads.
  package var activations: Int
  /// Sums of gradients.
  package var gradientSums = 0
  /// The optimizer's moments.
  package var optimizer = 0

  /// All parts.
  package var total: Int { weights + activations + gradientSums + optimizer }
}
