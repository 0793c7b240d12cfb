import TensorKernels

/// The leaves of one attention sub-layer.
package struct AttentionParameters: Sendable {
  /// Projects the rows that ask.
  package var query: LinearParameters
  /// Projects the rows that are compared with.
  package var key: LinearParameters
  /// Projects the rows that are mixed.
  package var value: LinearParameters
  /// Projects the heads back to the residual stream.
  package var output: LinearParameters
  /// The sub-layer's norm.
  package var norm: NormParameters
  /// Behind the output, before the residual sum, when the sub-layer has one.
  package var bottleneck: BottleneckParameters?

  /// A sub-layer from its leaves.
  package init(
    query: LinearParameters, key: LinearParameters, value: LinearParameters, output: LinearParameters,
    norm: NormParameters
  ) {
    self.query = query
    self.key = key
    self.value = value
    self.output = output
    self.norm = norm
  }

  init(_ tree: ParameterTree, _ prefix: String, _ configuration: BlockConfiguration) {
    let biases = configuration.biases
    self.init(
      query: LinearParameters(tree, "\(prefix).query", bias: biases),
      key: LinearParameters(tree, "\(prefix).key", bias: biases),
      value: LinearParameters(tree, "\(prefix).value", bias: biases),
      output: LinearParameters(tree, "\(prefix).output", bias: biases),
      norm: NormParameters(
        tree, "\(prefix).norm", kind: configuration.norm, epsilon: configuration.epsilon))
  }
}

extension AttentionParameters {
  /// True when a leaf that scores or mixes is trainable; without one, nothing is needed below the output.
  func isTrainable(placement: NormPlacement) -> Bool {
    query.isTrainable || key.isTrainable || value.isTrainable || (placement == .pre && norm.isTrainable)
  }

  /// True when any leaf of the sub-layer is trainable.
  var isTrainable: Bool {
    query.isTrainable || key.isTrainable || value.isTrainable || output.isTrainable || norm.isTrainable
      || (bottleneck?.isTrainable ?? false)
  }
}

/// The leaves of a feed-forward sub-layer.
package struct FeedForwardParameters: Sendable {
  /// Width to hidden; the linear half when there is a gate.
  package var up: LinearParameters
  /// Width to hidden, followed by the activation; nil when `up` is what is activated.
  package var gate: LinearParameters?
  /// Hidden to width.
  package var down: LinearParameters
  /// The sub-layer's norm.
  package var norm: NormParameters
  /// Behind `down`, before the residual sum, when the sub-layer has one.
  package var bottleneck: BottleneckParameters?

  /// A sub-layer from its leaves.
  package init(up: LinearParameters, gate: LinearParameters?, down: LinearParameters, norm: NormParameters) {
    self.up = up
    self.gate = gate
    self.down = down
    self.norm = norm
  }

  init(_ tree: ParameterTree, _ prefix: String, _ configuration: BlockConfiguration) {
    let biases = configuration.biases
    self.init(
      up: LinearParameters(tree, "\(prefix).up", bias: biases),
      gate: configuration.gated ? LinearParameters(tree, "\(prefix).gate", bias: biases) : nil,
      down: LinearParameters(tree, "\(prefix).down", bias: biases),
      norm: NormParameters(
        tree, "\(prefix).norm", kind: configuration.norm, epsilon: configuration.epsilon))
  }
}

/// The leaves of one transformer block.
package struct BlockParameters: Sendable {
  /// Attention among the block's own rows.
  package var selfAttention: AttentionParameters
  /// Attention to an encoder's states, in a decoder.
  package var crossAttention: AttentionParameters?
  /// The feed-forward.
  package var feedForward: FeedForwardParameters

  /// A block from its sub-layers.
  package init(
    selfAttention: AttentionParameters, crossAttention: AttentionParameters?,
    feedForward: FeedForwardParameters
  ) {
    self.selfAttention = selfAttention
    self.crossAttention = crossAttention
    self.feedForward = feedForward
  }

  /// The block whose leaves have the names of `BlockConfiguration.parameterShapes(prefix:)`.
  package init(_ tree: ParameterTree, prefix: String, configuration: BlockConfiguration) {
    self.init(
      selfAttention: AttentionParameters(tree, "\(prefix).selfAttention", configuration),
      crossAttention: configuration.crossAttention
        ? AttentionParameters(tree, "\(prefix).crossAttention", configuration) : nil,
      feedForward: FeedForwardParameters(tree, "\(prefix).feedForward", configuration))
  }

  /// Leaves beside the canonical ones: low-rank pairs and bottlenecks.
  package var additions: [Parameter] {
    var linears: [LinearParameters] = []
    var bottlenecks: [BottleneckParameters?] = []
    for attention in [selfAttention, crossAttention].compactMap({ $0 }) {
      linears += [attention.query, attention.key, attention.value, attention.output]
      bottlenecks.append(attention.bottleneck)
    }
    linears += [feedForward.gate, feedForward.up, feedForward.down].compactMap { $0 }
    bottlenecks.append(feedForward.bottleneck)
    return linears.compactMap(\.lowRank).flatMap { [$0.a, $0.b] }
      + bottlenecks.compactMap { $0 }.flatMap(\.leaves)
  }

  /// True when a sub-layer has a bottleneck, whose input a backward needs.
  var hasBottleneck: Bool {
    selfAttention.bottleneck != nil || crossAttention?.bottleneck != nil || feedForward.bottleneck != nil
  }

  /// Every leaf, in the canonical order of `BlockConfiguration.parameterShapes(prefix:)`.
  package var leaves: [Parameter] {
    var leaves: [Parameter] = []
    func append(_ linears: [LinearParameters]) {
      leaves += linears.map(\.weight)
      leaves += linears.compactMap(\.bias)
    }
    func append(_ norm: NormParameters) {
      leaves.append(norm.weight)
      if let bias = norm.bias { leaves.append(bias) }
    }
    for attention in [selfAttention, crossAttention].compactMap({ $0 }) {
      append([attention.query, attention.key, attention.value])
      append([attention.output])
      append(attention.norm)
    }
    append([feedForward.gate, feedForward.up].compactMap { $0 })
    append([feedForward.down])
    append(feedForward.norm)
    return leaves
  }
}

extension LinearParameters {
  /// The same values as leaves that are only read.
  package var frozen: LinearParameters {
    var copy = LinearParameters(weight: weight.frozen, bias: bias?.frozen)
    copy.lowRank = lowRank.map { LowRankPair(a: $0.a.frozen, b: $0.b.frozen, scale: $0.scale) }
    copy.frozenWeight = frozenWeight
    return copy
  }
}

extension NormParameters {
  /// The same values as leaves that are only read.
  package var frozen: NormParameters {
    NormParameters(kind: kind, epsilon: epsilon, weight: weight.frozen, bias: bias?.frozen)
  }
}

extension BottleneckParameters {
  /// The same values as leaves that are only read.
  package var frozen: BottleneckParameters { BottleneckParameters(down: down.frozen, up: up.frozen) }
}

extension AttentionParameters {
  /// The same values as leaves that are only read.
  package var frozen: AttentionParameters {
    var copy = AttentionParameters(
      query: query.frozen, key: key.frozen, value: value.frozen, output: output.frozen, norm: norm.frozen)
    copy.bottleneck = bottleneck?.frozen
    return copy
  }
}

extension FeedForwardParameters {
  /// The same values as leaves that are only read.
  package var frozen: FeedForwardParameters {
    var copy = FeedForwardParameters(
      up: up.frozen, gate: gate?.frozen, down: down.frozen, norm: norm.frozen)
    copy.bottleneck = bottleneck?.frozen
    return copy
  }
}

extension BlockParameters {
  /// The same values as leaves that are only read.
  package var frozen: BlockParameters {
    BlockParameters(
      selfAttention: selfAttention.frozen, crossAttention: crossAttention?.frozen,
      feedForward: feedForward.frozen)
  }
}
