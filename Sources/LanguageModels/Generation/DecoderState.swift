import NeuralNetworks
package import TensorKernels

/// A backbone's decoder that goes on by one token for each of several hypotheses of one text.
package final class DecoderState: TokenScoring {
  /// Nothing goes wrong here.
  package typealias Failure = Never

  private let backbone: any EncoderDecoderBackbone
  private let stack: IncrementalStack
  private let arena: Arena
  private let places: Places

  /// A decoder of the given capacity.
  package init(_ backbone: any EncoderDecoderBackbone, capacity: IncrementalStack.Capacity) {
    self.backbone = backbone
    let shape = backbone.architecture.stacks[1]
    stack = IncrementalStack(
      shape, blocks: (0..<shape.layers).map { backbone.block(stack: 1, layer: $0) },
      relativeBias: backbone.relativeBias(stack: 1), capacity: capacity)
    places = Places(backbone, capacity)
    arena = Arena(floatCount: places.floatCount)
  }

  /// Floats of all arenas that a decoder of this capacity plans.
  package static func floatCount(
    _ backbone: any EncoderDecoderBackbone, capacity: IncrementalStack.Capacity
  ) -> Int {
    IncrementalStack.floatCount(backbone.architecture.stacks[1], capacity: capacity)
      + Places(backbone, capacity).floatCount
  }

  /// Starts over with the encoder's final states of another text, [tokens × width].
  package func begin(_ states: Matrix) { stack.begin(states) }

  /// Reads one token of each hypothesis and returns what leaves the last block, before any final norm: [tokens × width],
  /// valid until the next call.
  ///
  /// `tap(index, rows)` is called as `Backbone.forward` does for the decoder's stack.
  package func advance(
    _ tokens: [Int32], tap: (_ index: Int, _ rows: Matrix) -> Void = { _, _ in }
  ) -> Matrix {
    let stream = arena.matrix(places.stream, rows: tokens.count, columns: backbone.architecture.width)
    backbone.embedTargets(tokens, position: stack.written, into: stream)
    tap(0, stream)
    for layer in 0..<backbone.architecture.stacks[1].layers {
      stack.run(layer, stream)
      tap(layer + 1, stream)
    }
    stack.advance()
    return stream
  }

  /// Reads one token of each hypothesis and writes the logits of the next: [tokens × vocabulary], valid until the
  /// next call.
  package func step(_ tokens: [Int32]) -> Matrix {
    let stream = advance(tokens)
    backbone.finalNorm(stack: 1)?.forward(stream, into: stream, statistics: nil)
    let logits = arena.matrix(
      places.logits, rows: tokens.count, columns: backbone.architecture.vocabulary)
    backbone.headLogits(stream, into: logits)
    return logits
  }

  /// Hypothesis `i` goes on from what hypothesis `parents[i]` has written.
  package func reorder(_ parents: [Int]) { stack.reorder(parents) }

  /// Where everything lies in the arena.
  private struct Places {
    let stream, logits: Int
    let floatCount: Int

    init(_ backbone: any EncoderDecoderBackbone, _ capacity: IncrementalStack.Capacity) {
      var layout = ArenaLayout()
      stream = layout.reserve(capacity.hypotheses * backbone.architecture.width)
      logits = layout.reserve(capacity.hypotheses * backbone.architecture.vocabulary)
      floatCount = layout.floatCount
    }
  }
}
