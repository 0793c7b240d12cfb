import ActivationCache
import ComputeRuntime
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// A step of Parallel Adapters: taps (computed and cached, or read from the cache), side network, AdamW.
final class TrainingScenario: Scenario {
  /// Where the taps of a step come from.
  enum Taps {
    /// The frozen backbone, on samples that no cache has; they are appended to a cache on disk.
    case live
    /// A cache on disk; the backbone is not in memory.
    case cached
  }

  private(set) var workload: WorkloadFile
  private let taps: Taps
  private let options: WorkerOptions
  private let team: ComputeTeam
  private let model: BenchmarkModel
  private let shape: SideNetworkShape
  private let frozen: FrozenOutput
  private var state: State?
  private var miniBatches: [[PackedMicroBatch]] = []
  private var next = 0
  private var draw = 0

  /// What is made anew for each workload.
  private struct State {
    let source: BackboneTapSource
    let trainer: MiniBatchTrainer
  }

  init(
    _ taps: Taps, _ options: WorkerOptions, sideHeads: Int, workload: WorkloadFile, team: ComputeTeam
  ) throws {
    self.taps = taps
    self.options = options
    self.workload = workload
    self.team = team
    model = try BenchmarkModel(directory: options.model)
    shape = try model.sideNetwork(heads: sideHeads)
    var frozen = FrozenOutput(copying: model.backbone, head: .value)
    frozen.embedding = model.backbone.headWeight.matrix
    frozen.embeddingScale = model.backbone.headScale
    self.frozen = frozen
    try use(workload)
  }

  var trainableParameters: Int { shape.adapterParameterCount }
  var products: ForwardProducts {
    ForwardProducts(model.backbone.architecture, microBatches: miniBatches[0].map(\.backboneBatch))
  }

  func use(_ workload: WorkloadFile) throws {
    self.workload = workload
    // The cache that is open until now gives its lock back before another is opened.
    state = nil
    next = 0
    miniBatches = workload.microBatches(of: options, architecture: model.backbone.architecture, draw: 0)
    let all = Array(miniBatches.joined())
    let capacity = MicroBatchCapacity(all)
    let source = BackboneTapSource(
      shape: shape, backbone: taps == .live ? model.backbone : nil, cache: try openCache(),
      capacity: capacity,
      workers: team.width)
    if taps == .cached, !source.resolve(all) {
      throw BenchmarkFailure.incompleteCache(options.cachePath(workload))
    }
    let parameters = shape.initialParameters(seed: options.seed, backbone: model.backbone)
    let technique = ParallelAdapters(
      shape: shape, parameters: parameters, frozen: frozen, source: source, element: BenchmarkModel.element,
      capacity: capacity, workers: team.width, training: true)
    let trainer = MiniBatchTrainer(
      technique: technique, settings: OptimizationSettings(learningRate: 1e-4), totalSteps: Self.totalSteps,
      maximumMicroBatches: miniBatches.map(\.count).max() ?? 1, workers: team.width)
    if taps == .cached { model.checkpoint.releaseResidentPages() }
    state = State(source: source, trainer: trainer)
  }

  private func openCache() throws -> ActivationCacheStore {
    guard taps == .live else { return try model.cache(options.cachePath(workload), shape: shape) }
    // Records of another run of this worker would turn live steps into cached ones.
    let path = options.cachePath(workload) + "-live"
    try model.cache(path, shape: shape).removeAll()
    return try model.cache(path, shape: shape)
  }

  /// Long enough that no measurement reaches the end of the learning-rate schedule.
  private static let totalSteps = 1_000_000

  func prepareStep() {
    guard taps == .live else { return }
    draw += 1
    let batch = next % miniBatches.count
    miniBatches[batch] = workload.microBatches(
      ofBatch: batch, options, architecture: model.backbone.architecture, draw: draw)
  }

  func step() throws -> Int {
    guard let state else { preconditionFailure("a step before a workload") }
    let batches = miniBatches[next % miniBatches.count]
    next += 1
    if taps == .cached {
      for batch in miniBatches[next % miniBatches.count] { state.source.prefetch(batch) }
    }
    var (samples, units) = (0, 0)
    for batch in batches {
      samples += batch.encoder.count
      units += batch.decoder?.tokens ?? batch.encoder.count
    }
    _ = try state.trainer.step(batches, units: units, loop: team)
    return samples
  }
}

extension WorkerOptions {
  /// Where the cache of a workload is.
  func cachePath(_ workload: WorkloadFile) -> String { "\(cache)/\(workload.name)" }
}
