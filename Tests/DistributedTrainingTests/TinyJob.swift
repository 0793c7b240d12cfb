import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import Determinism
import DistributedTraining
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import ParallelPlanner
import PipelineSchedules
import Synchronization
import TensorKernels
import Testing

/// A fine-tuning job over a tiny model: the same on one device and on many.
struct TinyJob: Sendable, CustomTestStringConvertible {
  var model = "tiny-t5"
  var technique: TechniqueConfiguration = .parallel(
    ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 2))
  var head: TaskHead = .classes(3)
  var samples = 23
  var held = 7
  var lanes = 4
  var perUnit = 2
  var epochs = 2
  var workers = 1
  /// Small, so that even a tiny model has several buckets.
  var bucketBytes = 1 << 10
  var gradientPrecision = GradientPrecision.full
  /// Where stages count what they run ahead; nil where nobody asks.
  var aheadCount: AheadCount?
  /// What devices that compute whole units run ahead passes through here; nil where nobody asks.
  var aheadGate: AheadGate?

  var testDescription: String { "\(model) \(technique.name) \(head) \(gradientPrecision)" }

  static func parallel(_ model: String = "tiny-t5", _ head: TaskHead = .classes(3)) -> TinyJob {
    var job = TinyJob(model: model, head: head)
    if model == "tiny-bert" {
      var configuration = ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 3)
      configuration.pooling = .segments
      job.technique = .parallel(configuration)
    }
    return job
  }

  /// A job whose head reads every tap, of single texts.
  static var pooled: TinyJob {
    var configuration = ParallelAdapterConfiguration(preset: .default, reduction: 4, layersPerStack: 3)
    configuration.pooling = .attention
    return TinyJob(model: "tiny-bert", technique: .parallel(configuration), head: .classes(3))
  }

  static func tuned(_ technique: TechniqueConfiguration, _ model: String, _ head: TaskHead) -> TinyJob {
    TinyJob(model: model, technique: technique, head: head)
  }

  /// The same job with coarse gradients.
  var inHalfPrecision: TinyJob {
    var job = self
    job.gradientPrecision = .half
    return job
  }

  var isParallel: Bool { if case .parallel = technique { true } else { false } }

  // MARK: Data

  private func sample(_ index: Int, _ vocabulary: Int, _ hasDecoder: Bool) -> TrainingSample {
    var generator = SeededGenerator(seed: 77, UInt64(index))
    func ids(_ count: Int) -> [Int32] {
      (0..<count).map { _ in 4 + Int32(generator.uniform(below: vocabulary - 4)) }
    }
    let encoder = ids(3 + index * 5 % 11)
    let written = ids(2 + index % 3)
    let target: TrainingTarget =
      switch head {
      case .classes(let count): .label(Int32(index % count))
      case .value: .value(Float(index % 5) - 1.5)
      case .languageModel: .tokens(written)
      }
    let decoder: [Int32] =
      !hasDecoder ? [] : head == .languageModel ? [0] + written.dropLast() : [0]
    // Where nothing is decoded the samples are pairs.
    let first = hasDecoder ? encoder.count : (encoder.count + 1) / 2
    return TrainingSample(
      encoderIDs: encoder, encoderTypes: encoder.indices.map { $0 < first ? 0 : 1 }, decoderIDs: decoder,
      target: target)
  }

  func distributed(_ backbone: any Backbone) -> DistributedJob {
    let vocabulary = min(100, backbone.architecture.vocabulary)
    let hasDecoder = backbone.architecture.stacks.count > 1
    let training = (0..<samples).map { sample($0, vocabulary, hasDecoder) }
    let validation = (0..<held).map { sample(1000 + $0, vocabulary, hasDecoder) }
    let plan = LanePlan(sampleCount: samples, laneCount: lanes, samplesPerMicroBatch: perUnit, seed: 5)
    var ordinal = -1
    func next() -> Int {
      ordinal += 1
      return ordinal
    }
    let batches = plan.lanes.map { lane in
      lane.map { PackedMicroBatch(samples: $0, of: training, ordinal: next()) }
    }
    let units = stride(from: 0, to: held, by: perUnit).map { start in
      PackedMicroBatch(
        samples: Array(start..<min(held, start + perUnit)), of: validation, ordinal: next())
    }
    return DistributedJob(
      lanePlan: plan, batches: batches, validation: units, validationSamples: held, outputs: head.outputs,
      epochs: epochs, optimization: OptimizationSettings(learningRate: 0.01),
      capacity: MicroBatchCapacity(batches.flatMap { $0 } + units))
  }

  func backbone() throws -> any Backbone {
    var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
    parts.removeLast(2)
    let folder = parts.joined(separator: "/") + "/Fixtures/" + model
    let loaded = try ModelDirectory.load(ModelFolder(folder))
    switch loaded.configuration {
    case .bert(let configuration): return try BERTBackbone(loaded.checkpoint, configuration)
    case .t5(let configuration): return try T5Backbone(loaded.checkpoint, configuration)
    case .bart(let configuration): return try BARTBackbone(loaded.checkpoint, configuration)
    }
  }

  // MARK: The technique on one device

  func shape(_ backbone: any Backbone) throws -> SideNetworkShape? {
    guard case .parallel(let configuration) = technique else { return nil }
    return try SideNetworkShape(configuration, head: head, backbone: backbone.architecture)
  }

  func parameters(_ backbone: any Backbone, layers: Range<Int>? = nil) throws -> ParameterTree {
    try shape(backbone)?.initialParameters(seed: 9, backbone: backbone)
      ?? BackboneTuning.initialParameters(
        configuration: technique, head: head, backbone: backbone, seed: 9, layers: layers)
  }

  func cache(
    _ backbone: any Backbone, in storage: SimulatedStorage = SimulatedStorage()
  ) throws -> ActivationCacheStore? {
    guard let shape = try shape(backbone) else { return nil }
    return try ActivationCacheStore(
      storage,
      identity: CacheIdentity(
        backboneDigest: ContentHasher().finalize(), tokenizerDigest: ContentHasher().finalize(),
        maximumLength: 64, element: .float16,
        stacks: shape.stacks.map { CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps) }))
  }

  func start(
    _ backbone: any Backbone, _ tree: ParameterTree, cache: ActivationCacheStore?,
    capacity: MicroBatchCapacity, cachedOnly: Bool = false
  ) throws -> WorkingTechnique {
    guard let shape = try shape(backbone) else {
      return WorkingTechnique(
        computation: BackboneTuning(
          configuration: technique, head: head, backbone: backbone, parameters: tree, capacity: capacity,
          workers: workers, training: true, checkpointsActivations: false, dropoutSeed: 3,
          gradientPrecision: gradientPrecision), source: nil)
    }
    let source = BackboneTapSource(
      shape: shape, backbone: cachedOnly ? nil : backbone, cache: cache, capacity: capacity,
      workers: workers)
    return WorkingTechnique(
      computation: ParallelAdapters(
        shape: shape, parameters: tree, frozen: FrozenOutput(copying: backbone, head: head), source: source,
        element: .float16, capacity: capacity, workers: workers, training: true,
        gradientPrecision: gradientPrecision), source: source)
  }

  /// What one device alone comes to.
  struct Reference: Sendable, Equatable {
    var vector: [UInt32]
    var losses: [Double]
    var before: [Float]
    var after: [Float]
    var lossBefore: Double?
    var lossAfter: Double?
  }

  /// Trains as a run on one device does: `MiniBatchTrainer` over whole mini-batches.
  func reference() throws -> Reference {
    let backbone = try backbone()
    let job = distributed(backbone)
    let tree = try parameters(backbone)
    let working = try start(backbone, tree, cache: nil, capacity: job.capacity)
    let trainer = MiniBatchTrainer(
      technique: working.computation, settings: job.optimization, totalSteps: job.totalSteps,
      maximumMicroBatches: job.lanePlan.lanes.count, workers: workers)
    func predict() throws -> ([Float], Double?) {
      if head == .languageModel {
        return (
          [],
          try BatchPrediction.loss(
            job.validation, technique: working.computation, loop: SequentialLoop(), finished: { _ in true })
        )
      }
      return (
        try BatchPrediction.run(
          job.validation, outputs: job.outputs, sampleCount: held, technique: working.computation,
          loop: SequentialLoop(), finished: { _ in true }) ?? [], nil
      )
    }
    let (before, lossBefore) = try predict()
    var losses: [Double] = []
    for epoch in 0..<epochs {
      var (sum, units) = (0.0, 0)
      for ids in job.lanePlan.miniBatches(epoch: epoch) {
        let batches = ids.map { job.batches[$0.lane][$0.index] }
          .enumerated().sorted { ($1.element.tokens, $0.offset) < ($0.element.tokens, $1.offset) }
          .map(\.element)
        let count = batches.reduce(0) { $0 + $1.units }
        sum += try trainer.step(batches, units: count, loop: SequentialLoop()).lossSum
        units += count
      }
      losses.append(sum / Double(units))
    }
    let (after, lossAfter) = try predict()
    return Reference(
      vector: Self.bits(tree), losses: losses, before: before, after: after, lossBefore: lossBefore,
      lossAfter: lossAfter)
  }

  static func bits(_ tree: ParameterTree) -> [UInt32] {
    (0..<tree.vectorCount).map { tree.vector[$0].bitPattern }
  }
}

/// What one of several devices came to.
struct DeviceOutcome: Sendable {
  var result: DistributedResult?
  var failure: (any Error)?
  var events: [DistributedEvent] = []
  /// The steps whose state it wrote to its disk.
  var checkpoints: [Int] = []
  /// Whether it has opened the backbone.
  var hasOpened = false
}

extension TinyJob {
  /// Runs the plan with a thread a device; outcomes by place, empty where the plan has no part for the device.
  func run(
    _ plan: Plan, devices: Int, channels: InMemoryJobChannels? = nil, collector: Int? = nil,
    cancelled: @escaping @Sendable (Int) -> Bool = { _ in false }
  ) throws -> [DeviceOutcome] {
    let channels = channels ?? InMemoryJobChannels(devices: devices)
    let outcomes = Mutex([DeviceOutcome](repeating: DeviceOutcome(), count: devices))
    let places = Set(plan.stages.flatMap { $0.members.map(\.device) } + plan.cached.map(\.device)).sorted()
    let threads = places.map { place in
      OperatingSystemThread(name: "device-\(place)") {
        var outcome = DeviceOutcome()
        do {
          outcome.result = try device(
            place, plan, devices: devices, channel: channels.channel(place), collector: collector,
            isCancelled: { cancelled(place) }, report: { outcome.events.append($0) })
        } catch {
          outcome.failure = error
        }
        let finished = outcome
        outcomes.withLock { $0[place] = finished }
      }
    }
    for thread in threads { thread.join() }
    return outcomes.withLock { $0 }
  }

  private func device(
    _ place: Int, _ plan: Plan, devices: Int, channel: any JobChannel, collector: Int?,
    isCancelled: @escaping () -> Bool, report: @escaping (DistributedEvent) -> Void
  ) throws -> DistributedResult {
    let backbone = try backbone()
    return try begin(
      plan, devices: devices, channel: channel, collector: collector, backbone: backbone,
      cache: plan.mode == .live ? nil : cache(backbone), isCancelled: isCancelled, report: report
    ).run()
  }

  /// One device's part of a plan epoch; `opened` is told when the backbone is used.
  func begin(
    _ plan: Plan, entry: RunEntry = RunEntry(), devices: Int, channel: any JobChannel, collector: Int?,
    backbone: any Backbone, cache: ActivationCacheStore?, isCancelled: @escaping () -> Bool,
    opened: @escaping () -> Void = {}, checkpoints: (any CheckpointSink)? = nil,
    report: @escaping (DistributedEvent) -> Void
  ) throws -> DistributedRun {
    let job = distributed(backbone)
    let shape = try shape(backbone)
    let technique = DeviceTechnique(
      parameters: { try parameters(backbone, layers: $0) },
      whole: {
        opened()
        var whole = try start(backbone, $0, cache: cache, capacity: job.capacity)
        if let aheadGate { whole.computation = GatedTechnique(whole.computation, aheadGate) }
        return whole
      },
      stage: {
        opened()
        let stage = try stage(backbone, $0, $1, capacity: job.capacity)
        return aheadCount.map { CountingStage(stage, $0) } ?? stage
      },
      cached: { try start(backbone, $0, cache: cache, capacity: job.capacity, cachedOnly: true) },
      releaseBackbone: {},
      taps: shape.flatMap { shape in
        cache.map {
          KeptTaps(shape: shape, element: .float16, cache: $0)
        }
      },
      leaves: { tree, layers in
        shape.map { StageLeaves($0, layers: layers, in: tree) }
          ?? StageLeaves(self.technique, head: head, backbone: backbone, layers: layers, in: tree)
      },
      spill: { tree in try tree.back { try BackingFile(of: $0, in: "/tmp").release } })
    return try DistributedRun(
      job, plan: plan, entry: entry, devices: devices, collector: collector, technique: technique,
      channel: channel, team: ComputeTeam(width: workers), leastBucketBytes: bucketBytes,
      isCancelled: isCancelled, checkpoints: checkpoints, report: report)
  }

  private func stage(
    _ backbone: any Backbone, _ tree: ParameterTree, _ request: StageRequest, capacity: MicroBatchCapacity
  ) throws -> any StageComputation {
    guard let shape = try shape(backbone) else {
      return TunedStage(
        configuration: technique, head: head, backbone: backbone, parameters: tree, layers: request.layers,
        capacity: capacity, slots: request.slots, workers: request.workers, dropoutSeed: 3,
        gradientPrecision: gradientPrecision)
    }
    return ParallelAdapterStage(
      shape: shape, backbone: backbone, parameters: tree, layers: request.layers, element: .float16,
      capacity: capacity, slots: request.slots, ahead: request.ahead, workers: request.workers,
      gradientPrecision: gradientPrecision)
  }
}

/// How many micro-batches stages have run ahead.
final class AheadCount: Sendable {
  let prepared = Atomic(0)
  let used = Atomic(0)
}

/// A stage that counts what it runs ahead.
private final class CountingStage: StageComputation {
  private let stage: any StageComputation
  private let count: AheadCount

  init(_ stage: any StageComputation, _ count: AheadCount) {
    self.stage = stage
    self.count = count
  }

  var layers: Range<Int> { stage.layers }
  var parameters: ParameterTree { stage.parameters }
  var ownLeaves: [Int] { stage.ownLeaves }
  var sharedLeaves: [Int] { stage.sharedLeaves }
  var gradientSums: GradientSumFormat { stage.gradientSums }
  var contributions: Int { stage.contributions }
  var slots: Int { stage.slots }
  var aheadSlots: Int { stage.aheadSlots }
  func begin(step: Int) { stage.begin(step: step) }

  func prepare(_ batch: PackedMicroBatch, ahead: Int, worker: Int) throws(TrainingFailure) {
    count.prepared.add(1, ordering: .relaxed)
    try stage.prepare(batch, ahead: ahead, worker: worker)
  }

  func forward(
    _ batch: PackedMicroBatch, pass: StagePass, slot: Int, worker: Int, input: [UInt8], prepared: Int?
  ) throws(TrainingFailure) -> StageOutput {
    if prepared != nil { count.used.add(1, ordering: .relaxed) }
    return try stage.forward(
      batch, pass: pass, slot: slot, worker: worker, input: input, prepared: prepared)
  }

  func backward(
    _ batch: PackedMicroBatch, slot: Int, worker: Int, gradient: [UInt8], sink: any GradientSink
  ) throws(TrainingFailure) -> [UInt8] {
    try stage.backward(batch, slot: slot, worker: worker, gradient: gradient, sink: sink)
  }

  func encodedTaps(_ batch: PackedMicroBatch, slot: Int) -> [UInt8] {
    stage.encodedTaps(batch, slot: slot)
  }
}

extension Plan {
  /// A plan for a test: units by device for each stage and for the cached epochs.
  static func test(
    _ mode: PlanMode, microBatches: Int = 1, layers: [Range<Int>] = [0..<5], stages: [[(Int, Int)]],
    cached: [(Int, Int)] = []
  ) -> Plan {
    Plan(
      mode: mode, microBatches: microBatches,
      stages: zip(layers, stages).map { layers, members in
        PlanStage(
          layers: layers,
          members: members.map { StageMember(device: $0.0, units: $0.1, memoryBytes: 0) },
          times: StageTimes(forward: 1, backward: 1))
      },
      boundaries: Array(repeating: BoundaryTimes(forward: 1, backward: 1), count: max(0, stages.count - 1)),
      cached: cached.map { CachedMember(device: $0.0, units: $0.1, memoryBytes: 0, cacheBytes: 0) },
      predicted: PredictedTimes(
        step: 1, firstEpoch: 1, redistribution: 0, cachedStep: 1, cachedEpoch: 1, total: 2))
  }
}
