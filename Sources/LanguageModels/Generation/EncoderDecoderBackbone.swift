package import NeuralNetworks
package import TensorKernels

/// The head that turns a decoder's final states into scores of the vocabulary: `scale · x · weightᵀ + bias`.
package struct OutputHead: Sendable {
  /// The words, [vocabulary × width].
  package var weight: Parameter
  /// Multiplies the products.
  package var scale: Float
  /// Added to the scores, [1 × vocabulary], in models that have it.
  package var bias: Parameter?

  /// A head from its parts.
  package init(weight: Parameter, scale: Float, bias: Parameter?) {
    self.weight = weight
    self.scale = scale
    self.bias = bias
  }
}

/// A backbone that writes text: stack 0 reads the input, stack 1 writes, a head turns its states into words.
package protocol EncoderDecoderBackbone: Backbone {
  /// The id that ends a text.
  var endID: Int32 { get }
  /// The parts of `headLogits`, for a loss that never holds all scores.
  var outputHead: OutputHead { get }
  /// Writes what enters the decoder's first block for one token of each hypothesis, all at `position`:
  /// [ids × width].
  func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix)
  /// Writes the head's output for the decoder's final states: [rows × width] to [rows × vocabulary].
  func headLogits(_ finalStates: Matrix, into logits: Matrix)
}

extension T5Backbone: EncoderDecoderBackbone {
  /// The embedding, scaled, or a head of its own.
  package var outputHead: OutputHead { OutputHead(weight: headWeight, scale: headScale, bias: nil) }

  /// Words alone: T5's positions are relative.
  package func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix) {
    embed(ids, embedding, into: stream)
  }
}

extension BARTBackbone: EncoderDecoderBackbone {
  /// The embedding and a bias.
  package var outputHead: OutputHead { OutputHead(weight: embedding, scale: 1, bias: headBias) }

  /// Words plus the position's row, normalised.
  package func embedTargets(_ ids: [Int32], position: Int, into stream: Matrix) {
    for row in ids.indices {
      embed([ids[row]], firstPosition: position, stack: 1, into: stream.rowRange(row, count: 1))
    }
  }
}
