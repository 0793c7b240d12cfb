package import TensorKernels

/// A backbone that writes text: stack 0 reads the input, stack 1 writes, a head turns its states into words.
package protocol EncoderDecoderBackbone: Backbone {
  /// The id that ends a text.
  var endID: Int32 { get }
  /// Writes what enters the decoder's first block for one token of each hypothesis, all at `position`:
  /// [ids × width].
  func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix)
  /// Writes the head's output for the decoder's final states: [rows × width] to [rows × vocabulary].
  func headLogits(_ finalStates: Matrix, into logits: Matrix)
}

extension T5Backbone: EncoderDecoderBackbone {
  /// Words alone: T5's positions are relative.
  package func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix) {
    embed(ids, embedding, into: stream)
  }
}

extension BARTBackbone: EncoderDecoderBackbone {
  /// Words plus the position's row, normalised.
  package func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix) {
    for row in ids.indices {
      embed([ids[row]], firstPosition: position, stack: 1, into: stream.rowRange(row, count: 1))
    }
  }
}
