import Determinism
import NeuralNetworks
import TensorKernels

/// A kind of block together with a packed micro-batch of unequal lengths.
struct BlockCase: Sendable, CustomStringConvertible {
  var name: String
  var configuration: BlockConfiguration
  var hasRelativeBias: Bool
  var lengths = [3, 1, 5, 2]
  var encoderLengths = [4, 6, 1, 3]

  var description: String { name }

  /// Head widths differ from the stream's width, so that no shape can stand for another by accident.
  private static func make(
    _ name: String, norm: NormKind, placement: NormPlacement, activation: Activation, gated: Bool = false,
    biases: Bool, scale: Float, causal: Bool = false, cross: Bool = false, relative: Bool = false
  ) -> BlockCase {
    BlockCase(
      name: name,
      configuration: BlockConfiguration(
        width: 8, heads: 2, headSize: 3, hidden: 10, norm: norm, epsilon: 1e-6, placement: placement,
        activation: activation, gated: gated, biases: biases, attentionScale: scale, causal: causal,
        crossAttention: cross),
      hasRelativeBias: relative)
  }

  static let all: [BlockCase] = [
    make(
      "T5 encoder", norm: .rms, placement: .pre, activation: .relu, biases: false, scale: 1,
      relative: true),
    make(
      "T5 v1.1 encoder", norm: .rms, placement: .pre, activation: .geluTanh, gated: true, biases: false,
      scale: 1, relative: true),
    make(
      "T5 decoder", norm: .rms, placement: .pre, activation: .relu, biases: false, scale: 1, causal: true,
      cross: true, relative: true),
    make(
      "T5 v1.1 decoder", norm: .rms, placement: .pre, activation: .geluTanh, gated: true, biases: false,
      scale: 1, causal: true, cross: true, relative: true),
    make(
      "BERT encoder", norm: .layer, placement: .post, activation: .gelu, biases: true, scale: 0.57735),
    make(
      "post-norm decoder with biases", norm: .layer, placement: .post, activation: .gelu, biases: true,
      scale: 0.57735, causal: true, cross: true),
    make(
      "pre-norm gated decoder with biases", norm: .layer, placement: .pre, activation: .gelu, gated: true,
      biases: true, scale: 0.57735, causal: true, cross: true),
    absorbing(
      make(
        "T5 decoder with a long source", norm: .rms, placement: .pre, activation: .relu, biases: false,
        scale: 1, causal: true, cross: true, relative: true)),
    absorbing(
      make(
        "post-norm decoder with biases and a long source", norm: .layer, placement: .post,
        activation: .gelu, biases: true, scale: 0.57735, causal: true, cross: true)),
  ]

  /// Sources so long that keys and values are absorbed.
  private static func absorbing(_ blockCase: BlockCase) -> BlockCase {
    var blockCase = blockCase
    blockCase.encoderLengths = [9, 12, 7, 10]
    return blockCase
  }
}

/// The values and buffers of one case; everything is drawn from `seed`.
final class BlockFixture {
  let blockCase: BlockCase
  let tree: ParameterTree
  let block: TransformerBlock
  let sequences: PackedSequences
  let encoderSequences: PackedSequences?
  let input: OwnedMatrix
  let encoder: OwnedMatrix?
  let bias: [Float]?
  let span: Int

  init(_ blockCase: BlockCase, seed: UInt64, frozen: Bool = false) {
    var generator = SeededGenerator(seed: seed)
    let configuration = blockCase.configuration
    self.blockCase = blockCase
    let shapes = configuration.parameterShapes(prefix: "P")
    let tree = ParameterTree(trainable: shapes) { index, values in
      for position in values.indices {
        let sample = generator.normalFloat()
        values[position] =
          shapes[index].kind == .norm && shapes[index].name.hasSuffix("weight")
          ? 1 + 0.2 * sample : 0.3 * sample
      }
    }
    self.tree = tree
    block = TransformerBlock(
      configuration,
      BlockParameters(frozen ? Self.frozenCopy(tree) : tree, prefix: "P", configuration: configuration))
    sequences = PackedSequences(lengths: blockCase.lengths)
    span = sequences.longest + 2
    input = OwnedMatrix(rows: sequences.tokens, columns: configuration.width) { generator.normalFloat() }
    if configuration.crossAttention {
      let packed = PackedSequences(lengths: blockCase.encoderLengths)
      encoderSequences = packed
      encoder = OwnedMatrix(rows: packed.tokens, columns: configuration.width) { generator.normalFloat() }
    } else {
      encoderSequences = nil
      encoder = nil
    }
    bias =
      blockCase.hasRelativeBias
      ? (0..<configuration.heads * (2 * span - 1)).map { _ in generator.normalFloat() } : nil
  }

  /// The rows of one sequence of a packed fixture, with its leaves and biases.
  init(_ blockCase: BlockCase, of packed: BlockFixture, sequence index: Int) {
    self.blockCase = blockCase
    tree = packed.tree
    block = packed.block
    sequences = PackedSequences(lengths: blockCase.lengths)
    span = packed.span
    bias = packed.bias
    input = packed.input.copy(of: packed.sequences, index)
    encoderSequences = packed.encoderSequences.map { _ in PackedSequences(lengths: blockCase.encoderLengths) }
    if let encoder = packed.encoder, let extents = packed.encoderSequences {
      self.encoder = encoder.copy(of: extents, index)
    } else {
      encoder = nil
    }
  }

  /// The same leaves without a place in a gradient vector.
  private static func frozenCopy(_ tree: ParameterTree) -> ParameterTree {
    let leaves = tree.parameters.map {
      Parameter(frozen: $0.name, rows: $0.rows, columns: $0.columns, values: UnsafePointer($0.values))
    }
    return ParameterTree(trainable: [], frozen: leaves) { _, _ in }
  }

  var encoderStates: EncoderStates? {
    guard let encoder, let encoderSequences else { return nil }
    return EncoderStates(rows: encoder.matrix, sequences: encoderSequences)
  }

  var reference: ReferenceBlock {
    var leaves: [String: [Double]] = [:]
    for leaf in tree.parameters {
      leaves[leaf.name] = UnsafeBufferPointer(start: leaf.values, count: leaf.count).map { Double($0) }
    }
    return ReferenceBlock(configuration: blockCase.configuration, leaves: leaves)
  }

  func withBias<Result>(_ body: (PositionBias?) -> Result) -> Result {
    guard let bias else { return body(nil) }
    return bias.withUnsafeBufferPointer { buffer in
      body(buffer.baseAddress.map { PositionBias(values: $0, span: span) })
    }
  }

  /// The output rows of a forward in a fresh arena.
  func forward(training: Bool) -> OwnedMatrix {
    let buffers = BlockTestBuffers(self, training: training)
    let output = OwnedMatrix(rows: input.matrix.rows, columns: input.matrix.columns) { 0 }
    buffers.forward(self, into: output.matrix)
    return output
  }
}

/// One layer's buffers in an arena of their own.
struct BlockTestBuffers {
  let activations: BlockActivations
  let scratch: BlockScratch
  let arena: Arena

  init(_ fixture: BlockFixture, training: Bool) {
    let configuration = fixture.blockCase.configuration
    let capacity = BlockCapacity(
      tokens: fixture.sequences.tokens + 1, encoderTokens: (fixture.encoderSequences?.tokens ?? 0),
      longestEncoder: fixture.encoderSequences?.longest ?? 0)
    var layout = ArenaLayout()
    activations = BlockActivations(configuration, capacity: capacity, training: training, layout: &layout)
    scratch = BlockScratch(configuration, capacity: capacity, training: training, layout: &layout)
    arena = Arena(floatCount: layout.floatCount)
  }

  func forward(_ fixture: BlockFixture, into output: Matrix) {
    fixture.withBias { bias in
      fixture.block.forward(
        fixture.input.matrix, into: output, sequences: fixture.sequences, bias: bias,
        encoder: fixture.encoderStates, activations: activations, scratch: scratch, arena: arena)
    }
  }
}

/// A matrix with its memory.
final class OwnedMatrix {
  let matrix: Matrix

  init(rows: Int, columns: Int, _ value: () -> Float) {
    let base = UnsafeMutablePointer<Float>.allocate(capacity: max(rows * columns, 1))
    for index in 0..<rows * columns { (base + index).initialize(to: value()) }
    matrix = Matrix(base, rows: rows, columns: columns)
  }

  deinit { matrix.base.deallocate() }

  /// The rows of one packed sequence.
  func copy(of sequences: PackedSequences, _ index: Int) -> OwnedMatrix {
    let first = sequences.offsets[index] * matrix.columns
    var next = first
    return OwnedMatrix(rows: sequences.length(index), columns: matrix.columns) {
      defer { next += 1 }
      return matrix.base[next]
    }
  }

  var rows: Rows {
    (0..<matrix.rows).map { row in (0..<matrix.columns).map { Double(matrix[row, $0]) } }
  }

  var values: [Float] {
    (0..<matrix.rows).flatMap { row in (0..<matrix.columns).map { matrix[row, $0] } }
  }
}

/// Keeps every gradient by name, and how often it came.
final class RecordingSink: GradientSink {
  private(set) var gradients: [String: [Float]] = [:]
  private(set) var additions: [String: Int] = [:]

  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {
    gradients[parameter.name] = Array(UnsafeBufferPointer(start: gradient, count: parameter.count))
    additions[parameter.name, default: 0] += 1
  }
}
