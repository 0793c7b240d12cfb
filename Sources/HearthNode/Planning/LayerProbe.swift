import ComputeRuntime
import Determinism
import LanguageModels
import NeuralNetworks
import TensorKernels

/// How long one layer of a kind takes on one core, as measured.
package struct LayerTimes: Sendable, Codable, Equatable {
  /// `encoder` or `decoder`.
  package var stack: String
  /// Whether it is the side network's layer or the backbone's.
  package var isSide: Bool
  /// Texts computed together.
  package var texts: Int
  /// Forward pass without what a backward pass needs, milliseconds.
  package var forwardMs: Double
  /// Backward pass to the input and all weights, milliseconds.
  package var backwardMs: Double
  /// Rate of the forward pass's matrix products, GFLOP/s.
  package var forwardGflops: Double
  /// Rate of the backward pass's matrix products, GFLOP/s.
  package var backwardGflops: Double
}

/// Measures layers of a model's shape with random weights: the engine's own code, on one core.
struct LayerProbe {
  private let block: BlockConfiguration
  private let sequences: PackedSequences
  private let encoder: PackedSequences?
  private let tree: ParameterTree
  private let layer: TransformerBlock
  private let layout: ArenaLayout
  private let activations: BlockActivations
  private let scratch: BlockScratch
  private let rows: (input: Int, output: Int, gradient: Int, encoder: Int)

  /// A layer for some texts of `length` tokens; a decoder reads one token of each.
  init(_ block: BlockConfiguration, texts: Int, length: Int) {
    self.block = block
    let own = block.crossAttention ? 1 : length
    sequences = PackedSequences(lengths: Array(repeating: own, count: texts))
    encoder = block.crossAttention ? PackedSequences(lengths: Array(repeating: length, count: texts)) : nil
    var generator = SeededGenerator(seed: 1)
    // Small values keep every function in its ordinary range; times do not depend on them otherwise.
    tree = ParameterTree(trainable: block.parameterShapes(prefix: "probe")) { _, values in
      for index in values.indices { values[index] = (generator.uniformFloat() - 0.5) * 0.05 }
    }
    layer = TransformerBlock(block, BlockParameters(tree, prefix: "probe", configuration: block))
    let capacity = BlockCapacity(
      tokens: sequences.tokens, encoderTokens: encoder?.tokens ?? 0, longestEncoder: encoder?.longest ?? 0)
    var layout = ArenaLayout()
    activations = BlockActivations(block, capacity: capacity, training: true, layout: &layout)
    scratch = BlockScratch(block, capacity: capacity, training: true, layout: &layout)
    let size = sequences.tokens * block.width
    rows = (
      layout.reserve(size), layout.reserve(size), layout.reserve(size),
      layout.reserve((encoder?.tokens ?? 0) * block.width)
    )
    self.layout = layout
  }

  /// Seconds of a forward and a backward pass: the best of three, after one to warm up.
  func seconds() -> (forward: Double, backward: Double) {
    let arena = Arena(floatCount: layout.floatCount)
    let sink = DiscardingSink()
    func matrix(_ offset: Int, _ count: Int) -> Matrix {
      Matrix(arena.base + offset, rows: count, columns: block.width)
    }
    let tokens = sequences.tokens
    let input = matrix(rows.input, tokens)
    let output = matrix(rows.output, tokens)
    let gradient = matrix(rows.gradient, tokens)
    let states = encoder.map { EncoderStates(rows: matrix(rows.encoder, $0.tokens), sequences: $0) }
    var generator = SeededGenerator(seed: 2)
    for index in 0..<tokens * block.width { input.base[index] = generator.uniformFloat() - 0.5 }
    for index in 0..<(encoder?.tokens ?? 0) * block.width {
      (arena.base + rows.encoder)[index] = generator.uniformFloat() - 0.5
    }
    var best = (forward: Double.infinity, backward: Double.infinity)
    for round in 0..<4 {
      let start = MonotonicClock.seconds()
      layer.forward(
        input, into: output, sequences: sequences, bias: nil, encoder: states, activations: activations,
        scratch: scratch, arena: arena)
      let middle = MonotonicClock.seconds()
      for index in 0..<tokens * block.width { gradient.base[index] = 0.01 }
      let turned = MonotonicClock.seconds()
      layer.backward(
        gradient, input: input, sequences: sequences, bias: nil, biasGradient: nil, encoder: states,
        encoderGradient: nil, activations: activations, scratch: scratch, arena: arena, sink: sink)
      let end = MonotonicClock.seconds()
      if round > 0 { best = (min(best.forward, middle - start), min(best.backward, end - turned)) }
    }
    return best
  }

  /// Operations of the forward pass's products, two for each multiplication with its addition.
  var operations: Double {
    let tokens = Double(sequences.tokens)
    let (width, inner, hidden) = (Double(block.width), Double(block.inner), Double(block.hidden))
    let keys = Double(sequences.longest)
    var products =
      tokens * (4 * width * inner + (block.gated ? 3 : 2) * width * hidden) + 2 * tokens * keys * inner
    if let encoder {
      // With one query a text, keys and values of the encoder's tokens are absorbed into the query's products.
      products += tokens * 4 * width * inner + 2 * Double(encoder.tokens) * width * Double(block.heads)
    }
    return 2 * products
  }

  /// Measures every kind of layer of a model and of its side network.
  static func measure(_ architecture: BackboneArchitecture, reduction: Int, length: Int) -> [LayerTimes] {
    enableFlushToZero()
    var times: [LayerTimes] = []
    for stack in architecture.stacks {
      for isSide in [false, true] {
        let block = isSide ? side(stack.block, reduction) : stack.block
        for texts in [1, 2, 4] {
          let probe = LayerProbe(block, texts: texts, length: length)
          let (forward, backward) = probe.seconds()
          times.append(
            LayerTimes(
              stack: stack.kind.rawValue, isSide: isSide, texts: texts, forwardMs: forward * 1000,
              backwardMs: backward * 1000, forwardGflops: probe.operations / forward / 1e9,
              backwardGflops: 2 * probe.operations / backward / 1e9))
        }
      }
    }
    return times
  }

  /// The side network's layer: every width divided, with heads of 32.
  private static func side(_ block: BlockConfiguration, _ reduction: Int) -> BlockConfiguration {
    var side = block
    side.width = max(32, block.width / reduction / 32 * 32)
    side.headSize = 32
    side.heads = side.width / 32
    side.hidden = max(16, block.hidden / reduction)
    return side
  }
}

/// Gradients that nobody wants.
private final class DiscardingSink: GradientSink {
  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {}
}
