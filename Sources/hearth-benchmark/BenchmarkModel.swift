import ActivationCache
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// A T5 opened for measuring, with the side network that its steps train.
struct BenchmarkModel {
  /// The frozen model.
  let backbone: T5Backbone
  /// The weights that the backbone borrows.
  let checkpoint: Checkpoint
  private let digest: ContentDigest

  /// Maps the weights of a T5 directory.
  init(directory: String) throws {
    let folder = ModelFolder(directory)
    guard case .t5(let configuration) = try ModelDirectory.loadConfiguration(folder) else {
      throw BenchmarkFailure.notT5(directory)
    }
    checkpoint = try ModelDirectory.loadCheckpoint(folder)
    backbone = try T5Backbone(checkpoint, configuration)
    // A digest of all weights would page them in, and the cached phase is measured without the backbone.
    var hasher = ContentHasher()
    hasher.update(directory)
    digest = hasher.finalize()
  }

  /// The side network of the comparison: gates, all layers, output added to the backbone's final state.
  func sideNetwork(heads: Int) throws -> SideNetworkShape {
    let layers = backbone.architecture.stacks.map(\.layers).min() ?? 0
    var configuration = ParallelAdapterConfiguration(preset: .timing, layersPerStack: layers)
    configuration.gates = true
    configuration.heads = heads == 0 ? .backbone : .few
    let shape = try SideNetworkShape(configuration, head: .languageModel, backbone: backbone.architecture)
    let found = shape.stacks[0].block.heads
    guard heads == 0 || heads == found else {
      throw BenchmarkFailure.wrongSideHeads(asked: heads, found: found)
    }
    return shape
  }

  /// Opens the float16 cache of a side network's taps in `path`.
  func cache(_ path: String, shape: SideNetworkShape) throws -> ActivationCacheStore {
    let identity = CacheIdentity(
      backboneDigest: digest, tokenizerDigest: digest, maximumLength: WorkloadFile.longestSequence,
      element: BenchmarkModel.element,
      stacks: shape.stacks.map { CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps) })
    return try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
  }

  /// Storage of the taps, live and cached.
  static let element = ActivationElement.float16
}
