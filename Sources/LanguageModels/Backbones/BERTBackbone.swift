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

  private var stack: FrozenStack
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
    let shape = StackShape(
      kind: .encoder, layers: configuration.layers, block: configuration.blockConfiguration,
      relativeBias: nil, hasFinalNorm: false)
    var blocks: [BlockParameters] = []
    for layer in 0..<configuration.layers {
      blocks.append(
        try Self.block("\(prefix)encoder.layer.\(layer)", shape.block, leaves))
    }
    stack = FrozenStack(shape: shape, blocks: blocks, relativeBias: nil, finalNorm: nil)
    architecture = BackboneArchitecture(
      name: "bert", width: width, stacks: [shape], vocabulary: configuration.vocabulary,
      decoderStartID: nil, maximumLength: configuration.positions)
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
      + stack.leaves
  }

  /// Floats of the arena that `forward` needs for any batch within `capacity`.
  package func workspaceFloats(capacity: BackboneCapacity) -> Int {
    Plan(stack, capacity).floatCount
  }

  /// Runs the encoder; its stack is number 0.
  package func forward(
    _ batch: BackboneBatch, workspace: Arena, tap: (_ stack: Int, _ index: Int, _ rows: Matrix) -> Void
  ) {
    let plan = Plan(stack, BackboneCapacity(of: batch))
    precondition(
      batch.decoder == nil && batch.encoder.longest <= positions.rows,
      "\(batch.decoder?.count ?? 0) targets, longest input \(batch.encoder.longest) of \(positions.rows)")
    precondition(
      plan.floatCount <= workspace.floatCount,
      "a workspace of \(workspace.floatCount) floats, the batch needs \(plan.floatCount)")
    let stream = workspace.matrix(plan.stream, rows: batch.encoder.tokens, columns: architecture.width)
    embed(batch, into: stream)
    stack.forward(
      stream, sequences: batch.encoder, encoder: nil, buffers: plan.buffers, workspace: workspace
    ) { index, rows in tap(0, index, rows) }
  }

  private func embed(_ batch: BackboneBatch, into stream: Matrix) {
    LanguageModels.embed(batch.encoderIDs, embedding, into: stream)
    if batch.encoderTypes.isEmpty {
      for row in 0..<stream.rows {
        addRows(types.matrix.rowRange(0, count: 1), into: stream.rowRange(row, count: 1))
      }
    } else {
      LanguageModels.embed(batch.encoderTypes, types, into: stream, accumulate: true)
    }
    for index in 0..<batch.encoder.count {
      let count = batch.encoder.length(index)
      addRows(
        positions.matrix.rowRange(0, count: count),
        into: stream.rowRange(batch.encoder.offsets[index], count: count))
    }
    embeddingNorm.forward(stream, into: stream, statistics: nil)
  }

  /// The frozen leaves of one block.
  package func block(stack: Int, layer: Int) -> BlockParameters {
    precondition(stack == 0, "BERT has no stack \(stack)")
    return self.stack.blocks[layer].parameters
  }

  /// None: BERT learns absolute positions.
  package func relativeBias(stack: Int) -> Parameter? { nil }
  /// None: the last block ends with a norm.
  package func finalNorm(stack: Int) -> NormParameters? { nil }

  /// Every leaf, by place.
  package var leaves: BackboneLeaves {
    let embedding = StackEmbedding(
      words: embedding, positions: positions, types: types, norm: embeddingNorm)
    return BackboneLeaves(stacks: [stack.leaves(embedding: embedding)], head: nil)
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
    copy.stack = FrozenStack(shape: stack.shape, leaves.stacks[0])
    copy.owner = owner
    return copy
  }

  private struct Plan {
    let stream: Int
    let buffers: StackBuffers
    let floatCount: Int

    init(_ stack: FrozenStack, _ capacity: BackboneCapacity) {
      var layout = ArenaLayout()
      stream = layout.reserve(capacity.encoderTokens * stack.shape.block.width)
      buffers = StackBuffers(
        stack, capacity: BlockCapacity(tokens: capacity.encoderTokens), longest: capacity.longestEncoder,
        layout: &layout)
      floatCount = layout.floatCount
    }
  }
}

extension BERTConfiguration {
  /// The block of this encoder.
  package var blockConfiguration: BlockConfiguration {
    BlockConfiguration(
      width: width, heads: heads, headSize: headSize, hidden: hidden, norm: .layer, epsilon: epsilon,
      placement: .post, activation: activation, gated: false, biases: true,
      attentionScale: 1 / Float(headSize).squareRoot(), causal: false, crossAttention: false)
  }
}
