package import NeuralNetworks
package import TensorKernels

/// A frozen BART encoder-decoder (Lewis et al., ACL 2020): norms after the residual sums, learned positions.
///
/// Stack 0 is the encoder, stack 1 the decoder. The final state of a stack is its last tap, since BART's norms
/// follow the residual sums.
package struct BARTBackbone: Backbone {
  /// An encoder and a decoder stack.
  package let architecture: BackboneArchitecture
  /// The word embedding of both stacks and of the head, [vocabulary × width].
  package private(set) var embedding: Parameter
  /// Added to the head's output (`final_logits_bias`), [1 × vocabulary]; nil where the weights hold none.
  package let headBias: Parameter?

  /// The id that ends a text.
  package let endID: Int32

  /// The encoder and the decoder.
  package private(set) var stacks: [FrozenStack]

  private var inputs: [StackInput]
  private let embeddingScale: Float
  // The leaves borrow its memory.
  private let checkpoint: Checkpoint
  // The memory of leaves that took others' place.
  private var owner: (any AnyObject & Sendable)?

  /// What a stack adds to the word embedding.
  private struct StackInput: Sendable {
    let positions: Parameter
    let norm: NormParameters
  }

  /// Borrows the weights of a Hugging Face checkpoint, whose names may begin with `model.`.
  package init(
    _ checkpoint: Checkpoint, _ configuration: BARTConfiguration
  ) throws(CheckpointFailure) {
    self.checkpoint = checkpoint
    endID = configuration.endID
    let leaves = FrozenLeaves(checkpoint: checkpoint)
    let prefix = configuration.weightPrefix(in: checkpoint)
    let (vocabulary, width) = (configuration.vocabulary, configuration.width)
    embedding = try leaves.matrix("\(prefix)shared.weight", vocabulary, width)
    headBias =
      checkpoint.contains("final_logits_bias")
      ? try leaves.matrix("final_logits_bias", 1, vocabulary) : nil
    embeddingScale = configuration.scalesEmbedding ? Float(width).squareRoot() : 1
    stacks = [
      try Self.stack(.encoder, prefix, configuration, leaves),
      try Self.stack(.decoder, prefix, configuration, leaves),
    ]
    inputs = [
      try Self.input(.encoder, prefix, configuration, leaves),
      try Self.input(.decoder, prefix, configuration, leaves),
    ]
    architecture = configuration.architecture
  }

  private static func stack(
    _ kind: StackKind, _ prefix: String, _ configuration: BARTConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> FrozenStack {
    let shape = configuration.stackShape(kind)
    let name = "\(prefix)\(kind.rawValue)"
    var blocks: [BlockParameters] = []
    for layer in 0..<shape.layers {
      blocks.append(try block("\(name).layers.\(layer)", shape.block, leaves))
    }
    return FrozenStack(shape: shape, blocks: blocks, relativeBias: nil, finalNorm: nil)
  }

  private static func input(
    _ kind: StackKind, _ prefix: String, _ configuration: BARTConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> StackInput {
    let name = "\(prefix)\(kind.rawValue)"
    return StackInput(
      positions: try leaves.matrix(
        "\(name).embed_positions.weight", configuration.positions + BARTConfiguration.positionOffset,
        configuration.width),
      norm: try leaves.norm(
        "\(name).layernorm_embedding", .layer, width: configuration.width, epsilon: configuration.epsilon))
  }

  private static func block(
    _ prefix: String, _ shape: BlockConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> BlockParameters {
    let (width, hidden) = (shape.width, shape.hidden)
    return BlockParameters(
      selfAttention: try attention("\(prefix).self_attn", shape, leaves),
      crossAttention: shape.crossAttention ? try attention("\(prefix).encoder_attn", shape, leaves) : nil,
      feedForward: FeedForwardParameters(
        up: try leaves.linear("\(prefix).fc1", outputs: hidden, inputs: width, bias: true), gate: nil,
        down: try leaves.linear("\(prefix).fc2", outputs: width, inputs: hidden, bias: true),
        norm: try leaves.norm("\(prefix).final_layer_norm", .layer, width: width, epsilon: shape.epsilon)))
  }

  private static func attention(
    _ name: String, _ shape: BlockConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> AttentionParameters {
    func linear(_ part: String) throws(CheckpointFailure) -> LinearParameters {
      try leaves.linear("\(name).\(part)", outputs: shape.width, inputs: shape.width, bias: true)
    }
    return AttentionParameters(
      query: try linear("q_proj"), key: try linear("k_proj"), value: try linear("v_proj"),
      output: try linear("out_proj"),
      norm: try leaves.norm("\(name)_layer_norm", .layer, width: shape.width, epsilon: shape.epsilon))
  }

  /// Every leaf that the forward reads, and the head's bias.
  package var parameters: [Parameter] {
    var leaves = [embedding]
    for (input, stack) in zip(inputs, stacks) {
      leaves += [input.positions, input.norm.weight] + (input.norm.bias.map { [$0] } ?? []) + stack.leaves
    }
    return leaves + (headBias.map { [$0] } ?? [])
  }

  /// Words and positions of every sequence, normalised.
  package func embedTokens(of batch: BackboneBatch, stack: Int, into stream: Matrix) {
    let ids = stack == 0 ? batch.encoderIDs : batch.decoderIDs
    guard let sequences = stack == 0 ? batch.encoder : batch.decoder else { return }
    for index in 0..<sequences.count {
      let rows = sequences.offsets[index]..<sequences.offsets[index + 1]
      embed(
        Array(ids[rows]), firstPosition: 0, stack: stack,
        into: stream.rowRange(rows.lowerBound, count: rows.count))
    }
  }

  /// Words, scaled where the model asks for it, plus the positions from `firstPosition` on, normalised.
  func embed(_ ids: [Int32], firstPosition: Int, stack: Int, into stream: Matrix) {
    let part = inputs[stack]
    let first = firstPosition + BARTConfiguration.positionOffset
    precondition(
      first + ids.count <= part.positions.rows,
      "positions \(firstPosition)+\(ids.count) and \(part.positions.rows) rows of them")
    LanguageModels.embed(ids, embedding, into: stream)
    if embeddingScale != 1 { scaleRows(stream, by: embeddingScale) }
    addRows(part.positions.matrix.rowRange(first, count: ids.count), into: stream)
    part.norm.forward(stream, into: stream, statistics: nil)
  }

  /// Writes the head's output for the decoder's final states: [rows × width] to [rows × vocabulary].
  package func headLogits(_ finalStates: Matrix, into logits: Matrix) {
    matrixMultiply(
      finalStates, .none, embedding.matrix, .transposed, into: logits,
      epilogue: Epilogue(bias: headBias.map { UnsafePointer($0.values) }))
  }

  /// Every leaf, by place.
  package var leaves: BackboneLeaves {
    BackboneLeaves(
      stacks: zip(stacks, inputs).map { stack, input in
        stack.leaves(
          embedding: StackEmbedding(
            words: embedding, scale: embeddingScale, positions: input.positions,
            positionOffset: BARTConfiguration.positionOffset, norm: input.norm))
      },
      head: LanguageModelHead(weight: embedding, scale: 1, bias: headBias))
  }

  /// The same model over other leaves.
  package func replacing(
    _ leaves: BackboneLeaves, keepingAlive owner: (any AnyObject & Sendable)?
  ) -> BARTBackbone {
    var copy = self
    copy.embedding = leaves.stacks[0].embedding.words.frozen
    copy.stacks = zip(stacks, leaves.stacks).map { FrozenStack(shape: $0.shape, $1) }
    copy.inputs = zip(inputs, leaves.stacks).map { input, leaves in
      StackInput(
        positions: leaves.embedding.positions?.frozen ?? input.positions,
        norm: leaves.embedding.norm?.frozen ?? input.norm)
    }
    copy.owner = owner
    return copy
  }
}

extension BARTConfiguration {
  /// The stacks of this model.
  package var architecture: BackboneArchitecture {
    BackboneArchitecture(
      name: "bart", width: width, stacks: [stackShape(.encoder), stackShape(.decoder)],
      vocabulary: vocabulary, decoderStartID: decoderStartID, maximumLength: positions)
  }

  /// One of the stacks.
  package func stackShape(_ kind: StackKind) -> StackShape {
    let stack = kind == .encoder ? encoder : decoder
    let headSize = width / stack.heads
    return StackShape(
      kind: kind, layers: stack.layers,
      block: BlockConfiguration(
        width: width, heads: stack.heads, headSize: headSize, hidden: stack.hidden, norm: .layer,
        epsilon: epsilon, placement: .post, activation: activation, gated: false, biases: true,
        attentionScale: 1 / Float(headSize).squareRoot(), causal: kind == .decoder,
        crossAttention: kind == .decoder),
      relativeBias: nil, hasFinalNorm: false)
  }
}

/// Multiplies every value of `rows`.
private func scaleRows(_ rows: Matrix, by factor: Float) {
  for row in 0..<rows.rows {
    let values = rows.base + row * rows.stride
    for column in 0..<rows.columns { values[column] *= factor }
  }
}
