import ActivationCache
import CryptoPrimitives
import Determinism
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// A tiny model with Parallel Adapters, cut into stages, and the same on one device.
struct SideStageFixture {
  /// Model, preset, head and storage of the taps.
  struct Case: Sendable, CustomTestStringConvertible {
    var model: String
    var preset: ParallelAdapterConfiguration.Preset
    var head: TaskHead
    var element = ActivationElement.float16
    var pooling: ParallelAdapterConfiguration.Pooling?

    var testDescription: String {
      "\(model), \(preset), \(head), \(element)\(pooling.map { ", \($0)" } ?? "")"
    }
  }

  static let cases: [Case] = ParallelAdapterConfiguration.Preset.allCases.flatMap { preset in
    [
      Case(model: "tiny-bert", preset: preset, head: .classes(3)),
      Case(model: "tiny-bert", preset: preset, head: .value, element: .int8),
      Case(model: "tiny-bert", preset: preset, head: .classes(2), pooling: .segments),
      Case(model: "tiny-bert", preset: preset, head: .classes(3), pooling: .attention),
      Case(model: "tiny-bert", preset: preset, head: .classes(2), pooling: .aligned),
      Case(model: "tiny-t5", preset: preset, head: .classes(2)),
      Case(model: "tiny-t5", preset: preset, head: .languageModel, element: .float32),
      Case(model: "tiny-bart", preset: preset, head: .value, element: .int8),
      Case(model: "tiny-bart", preset: preset, head: .languageModel),
    ]
  }

  let testCase: Case
  let backbone: any Backbone
  let shape: SideNetworkShape
  let parameters: ParameterTree
  let batches: [PackedMicroBatch]
  let capacity: MicroBatchCapacity

  init(_ testCase: Case, units: Int = 3) throws {
    self.testCase = testCase
    backbone = try TinyModels.backbone(testCase.model)
    let architecture = backbone.architecture
    var configuration = ParallelAdapterConfiguration(
      preset: testCase.preset, reduction: 2, layersPerStack: architecture.stacks.map(\.layers).min() ?? 0)
    configuration.pooling = testCase.pooling
    shape = try SideNetworkShape(configuration, head: testCase.head, backbone: architecture)
    parameters = TestBackbones.randomParameters(shape, seed: 11)
    let samples = PipelineSamples.samples(architecture, head: testCase.head, count: 3 * units)
    batches = (0..<units).map {
      PackedMicroBatch(samples: [3 * $0, 3 * $0 + 1, 3 * $0 + 2], of: samples, ordinal: $0)
    }
    capacity = MicroBatchCapacity(batches)
  }

  /// Layers of all stacks.
  var layerCount: Int { backbone.architecture.depths.reduce(0, +) }

  /// What a cache of these taps is of.
  var identity: CacheIdentity {
    CacheIdentity(
      backboneDigest: ContentDigest(of: []), tokenizerDigest: ContentDigest(of: []), maximumLength: 16,
      element: testCase.element,
      stacks: shape.stacks.map { CachedStack(name: $0.name, width: shape.backboneWidth, taps: $0.taps) })
  }

  /// The technique on one device, with the taps of a live backbone.
  func alone() -> (technique: ParallelAdapters, source: BackboneTapSource) {
    let source = BackboneTapSource(
      shape: shape, backbone: backbone, cache: nil, capacity: capacity, workers: 1)
    return (
      ParallelAdapters(
        shape: shape, parameters: parameters,
        frozen: FrozenOutput(copying: backbone, head: testCase.head), source: source,
        element: testCase.element, capacity: capacity, workers: 1, training: true), source
    )
  }

  /// The stages that the given layers are; the first has places to run micro-batches ahead.
  func stages(
    _ ranges: [Range<Int>], slots: Int = 1, ahead: Int = 0, workers: Int = 1, backbone: (any Backbone)? = nil
  ) -> [any StageComputation] {
    ranges.map {
      ParallelAdapterStage(
        shape: shape, backbone: backbone ?? self.backbone, parameters: parameters, layers: $0,
        element: testCase.element,
        capacity: capacity, slots: slots, ahead: $0.lowerBound == 0 ? ahead : 0, workers: workers)
    }
  }

  /// The bytes of all taps of a micro-batch, as one device has them.
  func taps(_ batch: PackedMicroBatch, _ source: BackboneTapSource) throws -> [[UInt8]] {
    let buffer = TapBuffer(shape: shape, element: testCase.element, capacity: capacity)
    try source.load(batch, into: buffer, worker: 0)
    return buffer.rows.map { stack in
      stack.flatMap { Array(UnsafeRawBufferPointer(start: $0.base, count: $0.byteCount)) }
    }
  }
}

/// Made-up texts for any model and head.
enum PipelineSamples {
  static func samples(_ architecture: BackboneArchitecture, head: TaskHead, count: Int) -> [TrainingSample] {
    (0..<count).map { index in
      var generator = SeededGenerator(seed: UInt64(index), 41)
      func ids(_ count: Int) -> [Int32] {
        (0..<count).map { _ in Int32(3 + generator.uniform(below: architecture.vocabulary - 3)) }
      }
      let encoderIDs = ids(1 + generator.uniform(below: 9))
      let words = ids(1 + generator.uniform(below: 4))
      let start = architecture.decoderStartID
      let decoderIDs: [Int32] = start.map { head == .languageModel ? [$0] + words.dropLast() : [$0] } ?? []
      let target: TrainingTarget =
        switch head {
        case .classes(let count): .label(Int32(index % count))
        case .value: .value(0.3 * Float(index) - 0.7)
        case .languageModel: .tokens(words)
        }
      return TrainingSample(
        encoderIDs: encoderIDs,
        encoderTypes: encoderIDs.indices.map { architecture.name == "bert" ? Int32($0 % 2) : 0 },
        decoderIDs: decoderIDs, target: target)
    }
  }
}

/// Runs stages one after another, as a pipeline does.
struct StageRun {
  let stages: [any StageComputation]
  let sums: GradientAccumulator
  /// Loss, predictions of the last stage and taps of each stage for each micro-batch.
  private(set) var outputs: [Int: StageOutput] = [:]
  private(set) var taps: [Int: [[UInt8]]] = [:]

  init(_ stages: [any StageComputation], exponent: Int32 = GradientAccumulator.defaultExponent) {
    self.stages = stages
    sums = GradientAccumulator(
      count: stages[0].parameters.vectorCount, maximumContributions: 64, exponent: exponent)
  }

  mutating func forward(
    _ batch: PackedMicroBatch, _ pass: StagePass, slot: Int = 0, worker: Int = 0, prepared: Int? = nil
  ) throws {
    var boundary: [UInt8] = []
    var output = StageOutput()
    taps[batch.ordinal] = []
    for stage in stages {
      output = try stage.forward(
        batch, pass: pass, slot: slot, worker: worker, input: boundary,
        prepared: stage.aheadSlots > 0 ? prepared : nil)
      boundary = output.boundary
      taps[batch.ordinal]?.append(stage.encodedTaps(batch, slot: slot))
    }
    #expect(boundary.isEmpty, "the last stage sends nothing on")
    outputs[batch.ordinal] = output
  }

  func backward(_ batch: PackedMicroBatch, slot: Int = 0, worker: Int = 0) throws {
    var gradient: [UInt8] = []
    for stage in stages.reversed() {
      gradient = try stage.backward(batch, slot: slot, worker: worker, gradient: gradient, sink: sums)
    }
    #expect(gradient.isEmpty, "the first stage sends nothing back")
  }

  /// The integer sums.
  var gradients: [Int64] { sums.withSums { Array($0) } }
}

/// All ways to cut a number of layers into at most four stages.
func splits(_ layers: Int) -> [[Range<Int>]] {
  func cut(_ first: Int, _ stages: Int) -> [[Range<Int>]] {
    if stages == 1 { return [[first..<layers]] }
    return (first + 1..<layers).flatMap { end in cut(end, stages - 1).map { [first..<end] + $0 } }
  }
  return (1...min(4, layers)).flatMap { cut(0, $0) }
}

/// One forward, one backward over all stages by hand: as many forwards as a stage has slots before its first backward,
/// the workers taken in turn.
struct OneForwardOneBackward {
  let sums: GradientAccumulator
  private(set) var losses: [Double?]

  init(_ stages: [any StageComputation], _ batches: [PackedMicroBatch]) throws {
    sums = GradientAccumulator(count: stages[0].parameters.vectorCount, maximumContributions: 64)
    losses = Array(repeating: nil, count: batches.count)
    var turn = 0
    func worker() -> Int {
      turn += 1
      return turn % 2
    }
    /// The boundaries that each stage has got, by micro-batch.
    var inputs = stages.map { _ in [Int: [UInt8]]() }
    var gradients = stages.map { _ in [Int: [UInt8]]() }
    var forwards = stages.map { _ in 0 }
    var backwards = stages.map { _ in 0 }
    for index in batches.indices { inputs[0][index] = [] }
    while backwards[0] < batches.count {
      for (place, stage) in stages.enumerated() {
        let (next, done) = (forwards[place], backwards[place])
        // A stage has at most as many in flight as there are stages behind it, itself among them.
        let limit = min(stage.slots, stages.count - place)
        if let gradient = gradients[place][done] {
          let sent = try stage.backward(
            batches[done], slot: done % stage.slots, worker: worker(), gradient: gradient, sink: sums)
          if place > 0 { gradients[place - 1][done] = sent }
          backwards[place] += 1
        } else if next < batches.count, next - done < limit, let input = inputs[place][next] {
          let output = try stage.forward(
            batches[next], pass: .train, slot: next % stage.slots, worker: worker(), input: input)
          forwards[place] += 1
          if place + 1 < stages.count {
            inputs[place + 1][next] = output.boundary
          } else {
            losses[next] = output.lossSum
            gradients[place][next] = []
          }
        }
      }
    }
  }
}

/// Notes the names of the leaves whose gradients it gets.
final class NamedSink: GradientSink {
  private(set) var names: Set<String> = []

  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) { names.insert(parameter.name) }

  /// Runs a micro-batch through all stages and notes what one of them hands on.
  func record(
    _ watched: any StageComputation, among stages: [any StageComputation], _ batch: PackedMicroBatch
  ) throws {
    var boundary: [UInt8] = []
    for stage in stages {
      boundary = try stage.forward(batch, pass: .train, slot: 0, worker: 0, input: boundary).boundary
    }
    let other = NamedSink()
    for stage in stages.reversed() {
      boundary = try stage.backward(
        batch, slot: 0, worker: 0, gradient: boundary, sink: stage === watched ? self : other)
    }
  }
}

/// A backbone that has no numbers but in some of its leaves.
struct Holes {
  let backbone: any Backbone

  init(_ whole: any Backbone, keeping names: Set<String>) {
    let memory = Memory()
    func hole(_ leaf: Parameter) -> Parameter {
      guard !names.contains(leaf.name) else { return leaf }
      let values = UnsafeMutablePointer<Float>.allocate(capacity: leaf.count)
      values.initialize(repeating: .nan, count: leaf.count)
      memory.holes.append(values)
      return Parameter(
        frozen: leaf.name, rows: leaf.rows, columns: leaf.columns, values: UnsafePointer(values))
    }
    func hole(_ linear: LinearParameters) -> LinearParameters {
      LinearParameters(weight: hole(linear.weight), bias: linear.bias.map(hole))
    }
    func hole(_ norm: NormParameters) -> NormParameters {
      NormParameters(
        kind: norm.kind, epsilon: norm.epsilon, weight: hole(norm.weight), bias: norm.bias.map(hole))
    }
    func hole(_ attention: AttentionParameters) -> AttentionParameters {
      AttentionParameters(
        query: hole(attention.query), key: hole(attention.key), value: hole(attention.value),
        output: hole(attention.output), norm: hole(attention.norm))
    }
    var leaves = whole.leaves
    let isTied = leaves.isTied
    let words = hole(leaves.stacks[0].embedding.words)
    for index in leaves.stacks.indices {
      var stack = leaves.stacks[index]
      stack.embedding.words = words
      stack.embedding.positions = stack.embedding.positions.map(hole)
      stack.embedding.types = stack.embedding.types.map(hole)
      stack.embedding.norm = stack.embedding.norm.map(hole)
      stack.relativeBias = stack.relativeBias.map(hole)
      stack.finalNorm = stack.finalNorm.map(hole)
      stack.blocks = stack.blocks.map { block in
        BlockParameters(
          selfAttention: hole(block.selfAttention), crossAttention: block.crossAttention.map(hole),
          feedForward: FeedForwardParameters(
            up: hole(block.feedForward.up), gate: block.feedForward.gate.map(hole),
            down: hole(block.feedForward.down), norm: hole(block.feedForward.norm)))
      }
      leaves.stacks[index] = stack
    }
    leaves.head = leaves.head.map {
      LanguageModelHead(weight: isTied ? words : hole($0.weight), scale: $0.scale, bias: $0.bias.map(hole))
    }
    backbone = whole.replacing(leaves, keepingAlive: memory)
  }

  /// What the holes lie in.
  ///
  /// - Safety: written only while the holes are made.
  private final class Memory: @unchecked Sendable {
    var holes: [UnsafeMutablePointer<Float>] = []

    deinit {
      for hole in holes { hole.deallocate() }
    }
  }
}
