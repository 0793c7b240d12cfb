package import NeuralNetworks
package import TensorKernels

/// A frozen BERT encoder (Devlin et al., NAACL 2019).
///
/// Its final state is its last tap, since BERT's norms follow the residual sums.
package struct BERTBackbone: Backbone {
  /// One encoder stack.
  package let architecture: BackboneArchitecture
  /// The word embedding, [vocabulary × width].
  package private(set) var embedding: Parameter

  /// The encoder alone.
  package private(set) var stacks: [FrozenStack]

  private var positions: Parameter
  private var types: Parameter
  private var embeddingNorm: NormParameters
  // The leaves borrow its memory.
  private let checkpoint: Checkpoint
  // The memory of leaves that took others' place.
  private var owner: (any AnyObject & Sendable)?

  /// Borrows the weights of a Hugging Face checkpoint, whose names may begin with `bert.`.
  package init(
    _ checkpoint: Checkpoint, _ configuration: BERTConfiguration
  ) throws(CheckpointFailure) {
    self.checkpoint = checkpoint
    let leaves = FrozenLeaves(checkpoint: checkpoint)
    let prefix = configuration.weightPrefix(in: checkpoint)
    let width = configuration.width
    let embeddings = "\(prefix)embeddings"
    embedding = try leaves.matrix(
      "\(embeddings).word_embeddings.weight", configuration.vocabulary, width)
    positions = try leaves.matrix(
      "\(embeddings).position_embeddings.weight", configuration.positions, width)
    types = try leaves.matrix("\(embeddings).token_type_embeddings.weight", configuration.types, width)
    embeddingNorm = try leaves.norm(
      "\(embeddings).LayerNorm", .layer, width: width, epsilon: configuration.epsilon)
    let shape = configuration.architecture.stacks[0]
    var blocks: [BlockParameters] = []
    for layer in 0..<configuration.layers {
      blocks.append(
        try Self.block("\(prefix)encoder.layer.\(layer)", shape.block, leaves))
    }
    stacks = [FrozenStack(shape: shape, blocks: blocks, relativeBias: nil, finalNorm: nil)]
    architecture = configuration.architecture
  }

  private static func block(
    _ prefix: String, _ shape: BlockConfiguration, _ leaves: FrozenLeaves
  ) throws(CheckpointFailure) -> BlockParameters {
    let (width, hidden) = (shape.width, shape.hidden)
    let attention = "\(prefix).attention"
    return BlockParameters(
      selfAttention: AttentionParameters(
        query: try leaves.linear("\(attention).self.query", outputs: width, inputs: width, bias: true),
        key: try leaves.linear("\(attention).self.key", outputs: width, inputs: width, bias: true),
        value: try leaves.linear("\(attention).self.value", outputs: width, inputs: width, bias: true),
        output: try leaves.linear("\(attention).output.dense", outputs: width, inputs: width, bias: true),
        norm: try leaves.norm(
          "\(attention).output.LayerNorm", .layer, width: width, epsilon: shape.epsilon)),
      crossAttention: nil,
      feedForward: FeedForwardParameters(
        up: try leaves.linear("\(prefix).intermediate.dense", outputs: hidden, inputs: width, bias: true),
        gate: nil,
        down: try leaves.linear("\(prefix).output.dense", outputs: width, inputs: hidden, bias: true),
        norm: try leaves.norm("\(prefix).output.LayerNorm", .layer, width: width, epsilon: shape.epsilon)))
  }

  /// Every leaf that the forward reads.
  package var parameters: [Parameter] {
    [embedding, positions, types, embeddingNorm.weight] + (embeddingNorm.bias.map { [$0] } ?? [])
      + stacks.flatMap(\.leaves)
  }

  /// Words, segments and positions, normalised.
  package func embedTokens(of batch: BackboneBatch, stack: Int, into stream: Matrix) {
    precondition(
      stack == 0 && batch.decoder == nil && batch.encoder.longest <= positions.rows,
      "stack \(stack), \(batch.decoder?.count ?? 0) targets, longest input \(batch.encoder.longest) of "
        + "\(positions.rows)")
    embed(batch.encoderIDs, embedding, into: stream)
    if batch.encoderTypes.isEmpty {
      for row in 0..<stream.rows {
        addRows(types.matrix.rowRange(0, count: 1), into: stream.rowRange(row, count: 1))
      }
    } else {
      embed(batch.encoderTypes, types, into: stream, accumulate: true)
    }
    for index in 0..<batch.encoder.count {
      let count = batch.encoder.length(index)
      addRows(
        positions.matrix.rowRange(0, count: count),
        into: stream.rowRange(batch.encoder.offsets[index], count: count))
    }
    embeddingNorm.forward(stream, into: stream, statistics: nil)
  }

  /// Every leaf, by place.
  package var leaves: BackboneLeaves {
    let embedding = StackEmbedding(
      words: embedding, positions: positions, types: types, norm: embeddingNorm)
    return BackboneLeaves(stacks: [stacks[0].leaves(embedding: embedding)], head: nil)
  }

  /// The same model over other leaves.
  package func replacing(
    _ leaves: BackboneLeaves, keepingAlive owner: (any AnyObject & Sendable)?
  ) -> BERTBackbone {
    let part = leaves.stacks[0].embedding
    var copy = self
    copy.embedding = part.words.frozen
    copy.positions = part.positions?.frozen ?? positions
    copy.types = part.types?.frozen ?? types
    copy.embeddingNorm = part.norm?.frozen ?? embeddingNorm
    copy.stacks = [FrozenStack(shape: stacks[0].shape, leaves.stacks[0])]
    copy.owner = owner
    return copy
  }
}

extension BERTConfiguration {
  /// The stack of this model.
  package var architecture: BackboneArchitecture {
    BackboneArchitecture(
      name: "bert", width: width,
      stacks: [
        StackShape(
          kind: .encoder, layers: layers, block: blockConfiguration, relativeBias: nil, hasFinalNorm: false)
      ],
      vocabulary: vocabulary, decoderStartID: nil, maximumLength: positions)
  }

  /// The block of this encoder.
  package var blockConfiguration: BlockConfiguration {
    BlockConfiguration(
      width: width, heads: heads, headSize: headSize, hidden: hidden, norm: .layer, epsilon: epsilon,
      placement: .post, activation: activation, gated: false, biases: true,
      attentionScale: 1 / Float(headSize).squareRoot(), causal: false, crossAttention: false)
  }
}
