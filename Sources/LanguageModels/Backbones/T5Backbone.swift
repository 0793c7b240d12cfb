package import NeuralNetworks
package import TensorKernels

/// A frozen T5 encoder-decoder (Raffel et al., JMLR 2020; v1.1 with gated feed-forward and its own head).
///
/// Stack 0 is the encoder, stack 1 the decoder. The final state of a stack is `finalNorm(stack:)` of its last
/// tap.
package struct T5Backbone: Backbone {
  /// An encoder and a decoder stack.
  package let architecture: BackboneArchitecture
  /// The word embedding of both stacks, [vocabulary × width].
  package private(set) var embedding: Parameter
  /// The language-model head, [vocabulary × width]; the embedding itself when tied.
  package private(set) var headWeight: Parameter
  /// Multiplies the decoder's final states before the head: width^(−1/2) when tied, else 1.
  package let headScale: Float

  /// The id that ends a text.
  package let endID: Int32

  /// The encoder and the decoder.
  package private(set) var stacks: [FrozenStack]
  // The leaves borrow its memory.
  private let checkpoint: Checkpoint
  // The memory of leaves that took others' place.
  private var owner: (any AnyObject & Sendable)?

  /// Borrows the weights of a Hugging Face checkpoint.
  package init(
    _ checkpoint: Checkpoint, _ configuration: T5Configuration
  ) throws(CheckpointFailure) {
    self.checkpoint = checkpoint
    endID = configuration.endID
    let leaves = FrozenLeaves(checkpoint: checkpoint)
    let (vocabulary, width) = (configuration.vocabulary, configuration.width)
    let encoderTable = "encoder.embed_tokens.weight"
    let isShared = checkpoint.contains("shared.weight") || !checkpoint.contains(encoderTable)
    embedding = try leaves.matrix(isShared ? "shared.weight" : encoderTable, vocabulary, width)
    headWeight =
      configuration.isTied ? embedding : try leaves.matrix("lm_head.weight", vocabulary, width)
    headScale = configuration.isTied ? 1 / Float(width).squareRoot() : 1
    stacks = [
      try Self.stack(.encoder, configuration, leaves), try Self.stack(.decoder, configuration, leaves),
    ]
    architecture = configuration.architecture
  }

  private static func stack(
    _ kind: StackKind, _ configuration: T5Configuration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> FrozenStack {
    let shape = configuration.stackShape(kind)
    let name = kind.rawValue
    var blocks: [BlockParameters] = []
    for layer in 0..<shape.layers {
      blocks.append(try block("\(name).block.\(layer).layer", shape.block, leaves))
    }
    return FrozenStack(
      shape: shape, blocks: blocks,
      relativeBias: try leaves.matrix(
        "\(name).block.0.layer.0.SelfAttention.relative_attention_bias.weight", configuration.buckets,
        configuration.heads),
      finalNorm: try leaves.norm(
        "\(name).final_layer_norm", .rms, width: configuration.width, epsilon: configuration.epsilon))
  }

  private static func block(
    _ prefix: String, _ shape: BlockConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> BlockParameters {
    let last = shape.crossAttention ? 2 : 1
    let dense = "\(prefix).\(last).DenseReluDense"
    let (width, hidden) = (shape.width, shape.hidden)
    return BlockParameters(
      selfAttention: try attention("\(prefix).0", "SelfAttention", shape, leaves),
      crossAttention: shape.crossAttention
        ? try attention("\(prefix).1", "EncDecAttention", shape, leaves) : nil,
      feedForward: FeedForwardParameters(
        up: try leaves.linear(
          "\(dense).\(shape.gated ? "wi_1" : "wi")", outputs: hidden, inputs: width, bias: false),
        gate: shape.gated
          ? try leaves.linear("\(dense).wi_0", outputs: hidden, inputs: width, bias: false) : nil,
        down: try leaves.linear("\(dense).wo", outputs: width, inputs: hidden, bias: false),
        norm: try leaves.norm("\(prefix).\(last).layer_norm", .rms, width: width, epsilon: shape.epsilon)))
  }

  private static func attention(
    _ prefix: String, _ name: String, _ shape: BlockConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> AttentionParameters {
    let (width, inner) = (shape.width, shape.inner)
    return AttentionParameters(
      query: try leaves.linear("\(prefix).\(name).q", outputs: inner, inputs: width, bias: false),
      key: try leaves.linear("\(prefix).\(name).k", outputs: inner, inputs: width, bias: false),
      value: try leaves.linear("\(prefix).\(name).v", outputs: inner, inputs: width, bias: false),
      output: try leaves.linear("\(prefix).\(name).o", outputs: width, inputs: inner, bias: false),
      norm: try leaves.norm("\(prefix).layer_norm", .rms, width: width, epsilon: shape.epsilon))
  }

  /// Every leaf that the forward reads, and the head.
  package var parameters: [Parameter] {
    let head = headWeight.name == embedding.name ? [] : [headWeight]
    return [embedding] + stacks.flatMap(\.leaves) + head
  }

  /// Words alone: T5's positions are relative.
  package func embedTokens(of batch: BackboneBatch, stack: Int, into stream: Matrix) {
    embed(stack == 0 ? batch.encoderIDs : batch.decoderIDs, embedding, into: stream)
  }

  /// Writes the head's output for the decoder's final states: [rows × width] to [rows × vocabulary].
  package func headLogits(_ finalStates: Matrix, into logits: Matrix) {
    matrixMultiply(
      finalStates, .none, headWeight.matrix, .transposed, into: logits, epilogue: Epilogue(scale: headScale))
  }

  /// Every leaf, by place.
  package var leaves: BackboneLeaves {
    BackboneLeaves(
      stacks: stacks.map { $0.leaves(embedding: StackEmbedding(words: embedding)) },
      head: LanguageModelHead(weight: headWeight, scale: headScale, bias: nil))
  }

  /// The same model over other leaves.
  package func replacing(
    _ leaves: BackboneLeaves, keepingAlive owner: (any AnyObject & Sendable)?
  ) -> T5Backbone {
    var copy = self
    copy.embedding = leaves.stacks[0].embedding.words.frozen
    copy.headWeight = leaves.head?.weight.frozen ?? headWeight
    copy.stacks = zip(stacks, leaves.stacks).map { FrozenStack(shape: $0.shape, $1) }
    copy.owner = owner
    return copy
  }
}

extension T5Configuration {
  /// The stacks of this model.
  package var architecture: BackboneArchitecture {
    BackboneArchitecture(
      name: "t5", width: width, stacks: [stackShape(.encoder), stackShape(.decoder)], vocabulary: vocabulary,
      decoderStartID: decoderStartID, maximumLength: nil)
  }

  /// One of the stacks.
  package func stackShape(_ kind: StackKind) -> StackShape {
    let isDecoder = kind == .decoder
    return StackShape(
      kind: kind, layers: isDecoder ? decoderLayers : encoderLayers,
      block: BlockConfiguration(
        width: width, heads: heads, headSize: headSize, hidden: hidden, norm: .rms, epsilon: epsilon,
        placement: .pre, activation: activation, gated: isGated, biases: false, attentionScale: 1,
        causal: isDecoder, crossAttention: isDecoder),
      relativeBias: RelativeBiasShape(
        buckets: buckets, maximumDistance: bucketDistance, bidirectional: !isDecoder),
      hasFinalNorm: true)
  }
}
