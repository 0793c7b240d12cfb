import ActivationCache
import ComputeRuntime
import CryptoPrimitives
import Determinism
import FineTuning
import Foundation
import HearthStorage
import LanguageModels
import NeuralNetworks
import Synchronization
import TensorKernels
import Testing

/// Counts the bytes of weights that are in memory, as the forward asks for them and lets them go.
private final class CountingResidency: WeightResidency {
  private struct State {
    var present: [String: Int] = [:]
    var peak = 0
    var fetched = 0
  }
  private let state = Mutex(State())

  func willNeed(_ leaves: [Parameter]) {
    state.withLock { state in
      for leaf in leaves where state.present.updateValue(leaf.count, forKey: leaf.name) == nil {
        state.fetched += leaf.count
      }
      state.peak = max(state.peak, state.present.values.reduce(0, +))
    }
  }

  func release(_ leaves: [Parameter]) {
    state.withLock { state in
      for leaf in leaves { state.present[leaf.name] = nil }
    }
  }

  var peak: Int { state.withLock { $0.peak } }
  var fetched: Int { state.withLock { $0.fetched } }
  var left: Int { state.withLock { $0.present.count } }
}

/// A fixture's backbone, and micro-batches of made-up ids for it.
private struct FillFixture {
  let backbone: any Backbone
  let shape: SideNetworkShape
  let batches: [PackedMicroBatch]
  let capacity: MicroBatchCapacity
  let identity: CacheIdentity

  init(_ directory: String, element: ActivationElement = .float16, layers: [Int]? = nil) throws {
    let fixtures = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("Fixtures").path
    let model = try ModelDirectory.load(ModelFolder(fixtures + "/" + directory))
    switch model.configuration {
    case .bert(let configuration): backbone = try BERTBackbone(model.checkpoint, configuration)
    case .t5(let configuration): backbone = try T5Backbone(model.checkpoint, configuration)
    case .bart(let configuration): backbone = try BARTBackbone(model.checkpoint, configuration)
    }
    let architecture = backbone.architecture
    var configuration = ParallelAdapterConfiguration(
      preset: .default, reduction: 2, layersPerStack: architecture.stacks.map(\.layers).min() ?? 0)
    if let layers { configuration.layers = layers }
    let shape = try SideNetworkShape(configuration, head: .classes(2), backbone: architecture)
    self.shape = shape
    let samples = (0..<17).map { index -> TrainingSample in
      var generator = SeededGenerator(seed: UInt64(index))
      let ids = (0..<2 + generator.uniform(below: 11)).map { _ in
        Int32(3 + generator.uniform(below: architecture.vocabulary - 3))
      }
      return TrainingSample(
        encoderIDs: ids, encoderTypes: ids.map { _ in 0 },
        decoderIDs: architecture.decoderStartID.map { [$0] } ?? [], target: .label(0))
    }
    batches = stride(from: 0, to: samples.count, by: 3).enumerated().map { ordinal, first in
      PackedMicroBatch(samples: Array(first..<min(first + 3, samples.count)), of: samples, ordinal: ordinal)
    }
    capacity = MicroBatchCapacity(batches)
    identity = CacheIdentity(
      backboneDigest: ContentDigest(of: []), tokenizerDigest: ContentDigest(of: []), maximumLength: 16,
      element: element,
      stacks: shape.stacks.map { CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps) })
  }

  func forward(chunkTokens: Int, weights: any WeightResidency, workers: Int = 1) -> LayerwiseForward {
    LayerwiseForward(
      shape: shape, backbone: backbone, weights: weights, element: identity.element, capacity: capacity,
      chunkTokens: chunkTokens, workers: workers)
  }

  /// The bytes of all taps, as a training step reads them from a source.
  func taps(_ source: any TapSource) throws -> [[UInt8]] {
    let buffer = TapBuffer(shape: shape, element: identity.element, capacity: capacity)
    return try batches.map { batch in
      try source.load(batch, into: buffer, worker: 0)
      return buffer.rows.joined().flatMap {
        Array(UnsafeRawBufferPointer(start: $0.base, count: $0.byteCount))
      }
    }
  }

  /// What a live epoch reads and leaves in the cache.
  func live() throws -> [[UInt8]] {
    try taps(
      BackboneTapSource(shape: shape, backbone: backbone, cache: nil, capacity: capacity, workers: 1))
  }

  func cached(_ store: ActivationCacheStore) throws -> [[UInt8]] {
    try taps(BackboneTapSource(shape: shape, backbone: nil, cache: store, capacity: capacity, workers: 1))
  }
}

@Suite("Filling the cache layer by layer")
struct CacheFillTests {
  static let models = ["tiny-bert", "tiny-t5", "tiny-bart"]

  @Test("leaves the bits of a live epoch, for any size of chunk and number of workers", arguments: models)
  func sameTaps(model: String) throws {
    for element in ActivationElement.allCases {
      let fixture = try FillFixture(model, element: element)
      let expected = try fixture.live()
      for (chunkTokens, workers) in [(64, 1), (200, 2), (10_000, 3)] {
        let store = try ActivationCacheStore(
          SimulatedStorage(), identity: fixture.identity, shardLimit: 20_000)
        let weights = CountingResidency()
        let team = ComputeTeam(width: workers)
        let fill = CacheFill(
          cache: store,
          forward: fixture.forward(chunkTokens: chunkTokens, weights: weights, workers: workers),
          chunkTokens: chunkTokens)
        #expect(try fill.run(fixture.batches, loop: team) { _ in true })
        #expect(
          try fixture.cached(store) == expected, "\(element), \(chunkTokens) tokens, \(workers) workers")
        #expect(weights.left == 0)
      }
    }
  }

  @Test("leaves out what comes behind the last tap that is read")
  func chosenTaps() throws {
    for model in Self.models {
      let fixture = try FillFixture(model, layers: [0])
      let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
      let fill = CacheFill(
        cache: store, forward: fixture.forward(chunkTokens: 500, weights: CountingResidency()),
        chunkTokens: 500)
      #expect(try fill.run(fixture.batches, loop: SequentialLoop()) { _ in true })
      #expect(try fixture.cached(store) == fixture.live())
    }
  }

  @Test("has at most two blocks or the embedding in memory, and reads each once a chunk")
  func weights() throws {
    let fixture = try FillFixture("tiny-t5")
    let weights = CountingResidency()
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    let fill = CacheFill(
      cache: store, forward: fixture.forward(chunkTokens: 10_000, weights: weights), chunkTokens: 10_000)
    _ = try fill.run(fixture.batches, loop: SequentialLoop()) { _ in true }
    let blocks = fixture.backbone.stacks.flatMap { stack in
      stack.blocks.map { $0.parameters.leaves.reduce(0) { $0 + $1.count } }
    }
    let pairs = zip(blocks, blocks.dropFirst()).map(+)
    let embedding = fixture.backbone.embedding.count
    let most = max(try #require(pairs.max()), embedding)
    #expect(weights.peak <= most, "\(weights.peak) of at most \(most)")
    #expect(weights.fetched <= blocks.reduce(0, +) + embedding)
  }

  @Test(
    "goes on with the chunk in which it was stopped, and keeps the whole ones", arguments: [1, 5, 20, 60])
  func stopped(reports: Int) throws {
    let fixture = try FillFixture("tiny-t5")
    let storage = SimulatedStorage()
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    let fill = CacheFill(
      cache: store, forward: fixture.forward(chunkTokens: 40, weights: CountingResidency()),
      chunkTokens: 40)
    var left = reports
    var last = FillProgress(samples: 0, totalSamples: 0, layer: 0, layers: 0)
    let finished = try fill.run(fixture.batches, loop: SequentialLoop()) { progress in
      #expect(progress.samples >= last.samples && progress.samples <= progress.totalSamples)
      last = progress
      left -= 1
      return left > 0
    }
    #expect(finished == (left > 0))
    let kept = store.entries
    #expect(finished || kept < 17)
    #expect(CacheFill.missing(fixture.batches, in: store).allSatisfy { !store.resolve($0.keys).isComplete })
    #expect(try fill.run(fixture.batches, loop: SequentialLoop()) { $0.totalSamples <= 17 - kept })
    #expect(try fixture.cached(store) == fixture.live())
    #expect(try fill.run(fixture.batches, loop: SequentialLoop()) { _ in false }, "nothing is left to do")
  }

  @Test("gives a prediction the same taps from memory, chunk after chunk", arguments: models)
  func inMemory(model: String) throws {
    let fixture = try FillFixture(model)
    let expected = try fixture.live()
    let forward = fixture.forward(chunkTokens: 60, weights: CountingResidency())
    let taps = ChunkTaps(shape: fixture.shape, element: fixture.identity.element, chunkTokens: 60)
    let buffer = TapBuffer(
      shape: fixture.shape, element: fixture.identity.element, capacity: fixture.capacity)
    for range in LayerwiseForward.chunks(fixture.batches, chunkTokens: 60) {
      let chunk = Array(fixture.batches[range])
      taps.begin(chunk)
      #expect(try forward.run(chunk, sink: taps, loop: SequentialLoop()) { _ in true })
      for (batch, index) in zip(chunk, range) {
        try taps.load(batch, into: buffer, worker: 0)
        let bytes = buffer.rows.joined().flatMap {
          Array(UnsafeRawBufferPointer(start: $0.base, count: $0.byteCount))
        }
        #expect(bytes == expected[index])
      }
    }
  }

  @Test("starts the side network with the same values while blocks come and go")
  func initialParameters() throws {
    for model in Self.models {
      let fixture = try FillFixture(model)
      let weights = CountingResidency()
      let streamed = fixture.shape.initialParameters(seed: 3, backbone: fixture.backbone, weights: weights)
      let whole = fixture.shape.initialParameters(seed: 3, backbone: fixture.backbone)
      let values = { (tree: ParameterTree) in (0..<tree.vectorCount).map { tree.vector[$0] } }
      #expect(values(streamed) == values(whole))
      #expect(weights.left == 0 && weights.fetched > 0)
      let largest = fixture.backbone.stacks.flatMap(\.blocks).map {
        $0.parameters.leaves.reduce(0) { $0 + $1.count }
      }
      #expect(weights.peak <= largest.max() ?? 0, "one block at a time")
    }
  }

  @Test("cuts chunks at the token limit, in order and without a gap")
  func chunks() throws {
    let batches = try FillFixture("tiny-bert").batches
    for limit in [1, 20, 37, 64, 1000] {
      let chunks = LayerwiseForward.chunks(batches, chunkTokens: limit)
      #expect(chunks.flatMap { Array($0) } == Array(batches.indices))
      for chunk in chunks {
        let tokens = batches[chunk].reduce(0) { $0 + $1.tokens }
        #expect(tokens <= limit || chunk.count == 1)
      }
    }
    #expect(LayerwiseForward.chunks([], chunkTokens: 5).isEmpty)
  }
}
