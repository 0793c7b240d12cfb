import LanguageModels
import NeuralNetworks
import TensorKernels
import Testing

/// Counts what a backward hands over.
private final class CountingSink: GradientSink {
  private(set) var additions = 0
  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) { additions += 1 }
}

/// PAC §4.1 lets nothing flow back into the backbone; §4.2 caches its activations because they never change.
@Suite("A frozen backbone")
struct BackboneFrozenTests {
  static let directories = ["tiny-bert", "tiny-t5", "tiny-t5-gated"]

  @Test("is a pure function: same taps again, whatever the workspace held", arguments: directories)
  func pureFunction(directory: String) throws {
    let fixture = try BackboneFixture(directory)
    let first = fixture.run(poison: 0)
    #expect(fixture.run(poison: 0) == first)
    #expect(fixture.run(poison: .nan) == first)
  }

  @Test("writes nothing behind the workspace that it planned", arguments: directories)
  func staysInside(directory: String) throws {
    let run = try BackboneFixture(directory).run(poison: 12345, extraFloats: 4096)
    #expect(run.beyond.allSatisfy { $0 == 12345 })
  }

  @Test("needs no more workspace for a smaller batch", arguments: directories)
  func workspaceGrows(directory: String) throws {
    let backbone = try BackboneFixture(directory).backbone
    var previous = 0
    for tokens in [1, 7, 64, 200, 1000] {
      let floats = backbone.workspaceFloats(
        capacity: BackboneCapacity(
          encoderTokens: tokens, longestEncoder: min(tokens, 60), decoderTokens: tokens / 7,
          longestDecoder: min(tokens / 7, 30)))
      #expect(floats >= previous)
      previous = floats
    }
  }

  @Test("leaves its weights as they were, byte for byte", arguments: directories)
  func weightsUnchanged(directory: String) throws {
    let fixture = try BackboneFixture(directory)
    let before = Array(fixture.region.bytes)
    _ = fixture.run()
    #expect(Array(fixture.region.bytes) == before)
  }

  @Test("has no parameter with a place in a gradient vector", arguments: directories)
  func nothingTrainable(directory: String) throws {
    let backbone = try BackboneFixture(directory).backbone
    #expect(backbone.parameters.allSatisfy { $0.gradientOffset == nil })
    let tree = ParameterTree(trainable: [], frozen: backbone.parameters) { _, _ in }
    #expect(tree.trainableCount == 0)
    #expect(tree.parameters.count == backbone.parameters.count)
    for (index, stack) in backbone.architecture.stacks.enumerated() {
      for layer in 0..<stack.layers {
        #expect(backbone.block(stack: index, layer: layer).leaves.allSatisfy { !$0.isTrainable })
      }
    }
  }

  @Test("gives a gradient sink nothing even when a block of it runs backward", arguments: directories)
  func noGradient(directory: String) throws {
    let backbone = try BackboneFixture(directory).backbone
    let shape = backbone.architecture.stacks[0].block
    let block = TransformerBlock(shape, backbone.block(stack: 0, layer: 0))
    let sequences = PackedSequences(lengths: [3, 2])
    var layout = ArenaLayout()
    let capacity = BlockCapacity(tokens: sequences.tokens)
    let activations = BlockActivations(shape, capacity: capacity, training: true, layout: &layout)
    let scratch = BlockScratch(shape, capacity: capacity, training: true, layout: &layout)
    let rows = (0..<3).map { _ in layout.reserve(sequences.tokens * shape.width) }
    let arena = Arena(floatCount: layout.floatCount)
    let matrices = rows.map { arena.matrix($0, rows: sequences.tokens, columns: shape.width) }
    for index in 0..<sequences.tokens * shape.width {
      matrices[0].base[index] = Float(index % 7) - 3
      matrices[2].base[index] = Float(index % 5) - 2
    }
    let sink = CountingSink()
    block.forward(
      matrices[0], into: matrices[1], sequences: sequences, bias: nil, encoder: nil,
      activations: activations, scratch: scratch, arena: arena)
    block.backward(
      matrices[2], input: matrices[0], sequences: sequences, bias: nil, biasGradient: nil, encoder: nil,
      encoderGradient: nil, activations: activations, scratch: scratch, arena: arena, sink: sink)
    #expect(sink.additions == 0)
    #expect(copy(matrices[2]).contains { $0 != 0 }, "the backward did run")
  }
}
