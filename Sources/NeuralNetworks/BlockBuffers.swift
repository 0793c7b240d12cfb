package import TensorKernels

/// The largest micro-batch that a set of buffers serves.
package struct BlockCapacity: Sendable, Equatable {
  /// Rows of the block's own stream.
  package var tokens: Int
  /// Rows of the encoder's states, in a decoder.
  package var encoderTokens: Int
  /// Longest sequence of encoder states, in a decoder.
  package var longestEncoder: Int

  /// A capacity; an encoder leaves the last two at zero.
  package init(tokens: Int, encoderTokens: Int = 0, longestEncoder: Int = 0) {
    precondition(
      tokens > 0 && encoderTokens >= 0 && longestEncoder >= 0,
      "a block of \(tokens) tokens, \(encoderTokens) encoder tokens, longest \(longestEncoder)")
    self.tokens = tokens
    self.encoderTokens = encoderTokens
    self.longestEncoder = longestEncoder
  }
}

/// What the forward of one layer leaves behind, as offsets into an arena.
///
/// Training needs one set a layer, since the backward reads it; a forward without backward uses one set for
/// all layers. That is the only difference between the two: `TransformerBlock.forward` is the same code.
/// What one product makes again, the hidden layer and cross-attention's keys and values, the backward computes
/// again: that is most of what a set would hold (docs/decisions/0004-recomputed-activations.md).
package struct BlockActivations: Sendable {
  /// True when the set keeps what a backward needs.
  package let isTraining: Bool
  let capacity: BlockCapacity
  let selfAttention: AttentionActivations
  let crossAttention: AttentionActivations?
  let feedForward: FeedForwardActivations

  /// Reserves a set in `layout`.
  ///
  /// - Parameters:
  ///   - bottlenecks: true when the blocks have bottlenecks, whose inputs a backward reads.
  ///   - hidden: true to keep the feed-forward's hidden rows, which saves the backward one product in three of the
  ///     sub-layer and takes [tokens × hidden], twice that when gated.
  package init(
    _ configuration: BlockConfiguration, capacity: BlockCapacity, training: Bool, bottlenecks: Bool = false,
    hidden: Bool = false, layout: inout ArenaLayout
  ) {
    let bottlenecks = training && bottlenecks
    isTraining = training
    self.capacity = capacity
    let tokens = capacity.tokens
    selfAttention = AttentionActivations(
      configuration, tokens: tokens, projections: 3, training: training, bottleneck: bottlenecks,
      layout: &layout)
    if configuration.crossAttention {
      crossAttention = AttentionActivations(
        configuration, tokens: tokens, projections: 1, training: training, bottleneck: bottlenecks,
        layout: &layout)
    } else {
      crossAttention = nil
    }
    feedForward = FeedForwardActivations(
      configuration, tokens: tokens, training: training, bottleneck: bottlenecks,
      keepsHidden: training && hidden, layout: &layout)
  }
}

/// Saved rows of an attention sub-layer.
///
/// Optional members exist only when training.
struct AttentionActivations: Sendable {
  /// [tokens × 3·inner] query, key, value; in cross-attention [tokens × inner] query.
  let projected: Int
  /// [tokens × inner] output of the heads.
  let context: Int
  /// [tokens × heads].
  let logSumExp: Int?
  /// [tokens × statisticsPerRow] of the norm.
  let statistics: Int?
  /// [tokens × width] the sub-layer's output stream.
  let stream: Int?
  /// [tokens × width] residual sum before the norm, with norms after.
  let residual: Int?
  /// [tokens × width] what the bottleneck read.
  let branch: Int?

  init(
    _ configuration: BlockConfiguration, tokens: Int, projections: Int, training: Bool, bottleneck: Bool,
    layout: inout ArenaLayout
  ) {
    branch = bottleneck ? layout.reserve(tokens * configuration.width) : nil
    let inner = configuration.inner
    projected = layout.reserve(tokens * projections * inner)
    context = layout.reserve(tokens * inner)
    logSumExp = training ? layout.reserve(tokens * configuration.heads) : nil
    statistics = training ? layout.reserve(tokens * configuration.norm.statisticsPerRow) : nil
    stream = training ? layout.reserve(tokens * configuration.width) : nil
    let keepsResidual = training && configuration.placement == .post
    residual = keepsResidual ? layout.reserve(tokens * configuration.width) : nil
  }
}

/// Saved rows of a feed-forward sub-layer; all exist only when training.
struct FeedForwardActivations: Sendable {
  /// [tokens × statisticsPerRow] of the norm.
  let statistics: Int?
  /// [tokens × width] residual sum before the norm, with norms after.
  let residual: Int?
  /// [tokens × width] what the bottleneck read.
  let branch: Int?
  /// [tokens × hiddenColumns] before the activation, or [tokens × hidden] after it, `hiddenStride` floats apart, where
  /// that says as much; nil when the backward computes it again.
  let hidden: Int?

  init(
    _ configuration: BlockConfiguration, tokens: Int, training: Bool, bottleneck: Bool, keepsHidden: Bool,
    layout: inout ArenaLayout
  ) {
    branch = bottleneck ? layout.reserve(tokens * configuration.width) : nil
    statistics = training ? layout.reserve(tokens * configuration.norm.statisticsPerRow) : nil
    let keepsResidual = training && configuration.placement == .post
    residual = keepsResidual ? layout.reserve(tokens * configuration.width) : nil
    let columns = configuration.keepsActivated ? configuration.hiddenStride : configuration.hiddenColumns
    hidden = keepsHidden ? layout.reserve(tokens * columns) : nil
  }
}

extension BlockConfiguration {
  /// Columns of what the feed-forward's first layers give.
  var hiddenColumns: Int { hidden * (gated ? 2 : 1) }
  /// Rows that are a multiple of 4 KiB apart would collide in the first cache when a product reads them.
  var hiddenStride: Int { hidden % 1024 == 0 ? hidden + 16 : hidden }
  /// True when the activated rows say all that a backward needs of those before: ReLU's slope is where it is not 0.
  var keepsActivated: Bool { !gated && activation == .relu }
}

/// Temporary rows of one forward or backward, as offsets into an arena; all layers of a stack share one.
package struct BlockScratch: Sendable {
  /// Rows of the feed-forward that a forward without backward computes at a time.
  ///
  /// Fewer rows would keep the hidden layer in the second-level cache, but OpenBLAS packs the weights again
  /// at every call: on T5-Base's two products 128 rows lost 10 to 16 % of its rate, 256 rows 1 to 5 %.
  static let feedForwardRows = 512
  /// Rows that absorbed cross-attention handles at a time; a longer target is projected.
  static let absorbedRows = 64

  let capacity: BlockCapacity
  /// Rows of the hidden buffers.
  let hiddenRows: Int
  /// [tokens × width] normalised rows.
  let normed: Int
  /// [hiddenRows × hidden] activated rows, `hiddenStride` floats apart.
  let hidden: Int
  let hiddenStride: Int
  /// [hiddenRows × hidden] before the activation, [hiddenRows × 2·hidden] gate and linear half when gated; a
  /// forward needs it for a gate only.
  let preActivation: Int?
  /// [encoder tokens × 2·inner] key, value of cross-attention.
  let encoderProjected: Int
  let absorbed: AbsorbedScratch?
  let gradient: GradientScratch?

  /// Reserves the buffers in `layout`.
  package init(
    _ configuration: BlockConfiguration, capacity: BlockCapacity, training: Bool,
    layout: inout ArenaLayout
  ) {
    self.capacity = capacity
    hiddenRows = training ? capacity.tokens : min(capacity.tokens, Self.feedForwardRows)
    normed = layout.reserve(capacity.tokens * configuration.width)
    let normedGradient = training ? layout.reserve(capacity.tokens * configuration.width) : 0
    // The feed-forward's rows and those of the attentions are never alive together.
    let shared = layout.mark()
    let hiddenWidth = configuration.hiddenColumns
    hiddenStride = configuration.hiddenStride
    hidden = layout.reserve(hiddenRows * hiddenStride)
    preActivation = configuration.gated || training ? layout.reserve(hiddenRows * hiddenWidth) : nil
    let hiddenGradient = training ? layout.reserve(hiddenRows * configuration.hidden) : 0
    let preActivationGradient =
      training && configuration.gated ? layout.reserve(hiddenRows * hiddenWidth) : hiddenGradient
    let end = layout.mark()
    layout.rewind(to: shared)
    let encoderFloats = configuration.crossAttention ? capacity.encoderTokens * 2 * configuration.inner : 0
    encoderProjected = layout.reserve(encoderFloats)
    absorbed =
      configuration.crossAttention
      ? AbsorbedScratch(configuration, capacity: capacity, training: training, layout: &layout) : nil
    let attention =
      training
      ? (
        context: layout.reserve(capacity.tokens * configuration.inner),
        projected: layout.reserve(capacity.tokens * 3 * configuration.inner),
        encoderProjected: layout.reserve(encoderFloats)
      ) : nil
    if layout.mark() < end { _ = layout.reserve(end - layout.mark()) }
    gradient = attention.map { attention in
      GradientScratch(
        normed: normedGradient, hidden: hiddenGradient, preActivation: preActivationGradient,
        context: attention.context, projected: attention.projected,
        encoderProjected: attention.encoderProjected,
        parameter: layout.reserve(GradientScratch.parameterFloats(configuration)))
    }
  }
}

/// Temporary rows of absorbed cross-attention.
struct AbsorbedScratch: Sendable {
  /// [rows·heads × width] queries carried to the encoder's width.
  let query: Int
  /// [rows·heads × width] mixtures of encoder states.
  let context: Int
  /// [rows·heads × longest encoder] attention.
  let scores: Int
  /// [rows·heads × width] gradient of `context`, when training.
  let contextGradient: Int?
  /// [rows·heads × longest encoder] gradient of the scores, when training.
  let slopes: Int?

  init(
    _ configuration: BlockConfiguration, capacity: BlockCapacity, training: Bool, layout: inout ArenaLayout
  ) {
    let rows = min(capacity.tokens, BlockScratch.absorbedRows) * configuration.heads
    query = layout.reserve(rows * configuration.width)
    context = layout.reserve(rows * configuration.width)
    scores = layout.reserve(rows * capacity.longestEncoder)
    contextGradient = training ? layout.reserve(rows * configuration.width) : nil
    slopes = training ? layout.reserve(rows * capacity.longestEncoder) : nil
  }
}

/// Temporary rows of a backward.
struct GradientScratch: Sendable {
  /// [tokens × width] gradient of the normalised rows.
  let normed: Int
  /// [tokens × hidden] gradient of the activated rows.
  let hidden: Int
  /// [tokens × hidden], the same memory as `hidden`, or [tokens × 2·hidden] when gated: gradient before the
  /// activation.
  let preActivation: Int
  /// [tokens × inner] gradient of the heads' output.
  let context: Int
  /// [tokens × 3·inner] gradient of query, key, value.
  let projected: Int
  /// [encoder tokens × 2·inner] gradient of cross-attention's key, value.
  let encoderProjected: Int
  /// A finished gradient on its way to the sink.
  let parameter: Int

  /// Floats of the largest finished gradient of a block.
  static func parameterFloats(_ configuration: BlockConfiguration) -> Int {
    let (inner, width) = (configuration.inner, configuration.width)
    let hiddenWidth = configuration.hidden * (configuration.gated ? 2 : 1)
    return max(
      3 * inner * (width + 1), width * (inner + 1), hiddenWidth * (width + 1),
      width * (configuration.hidden + 1))
  }
}

extension Workspace {
  /// The activated hidden rows.
  func hiddenMatrix(rows: Int) -> Matrix {
    precondition(
      rows <= scratch.hiddenRows, "\(rows) hidden rows in a buffer for \(scratch.hiddenRows)")
    let kept = configuration.keepsActivated ? activations.feedForward.hidden : nil
    return Matrix(
      arena.base + (kept ?? scratch.hidden), rows: rows, columns: configuration.hidden,
      stride: scratch.hiddenStride)
  }
}

extension Arena {
  /// The matrix of `rows` × `columns` floats at `offset`.
  package func matrix(_ offset: Int, rows: Int, columns: Int) -> Matrix {
    precondition(
      offset >= 0 && offset + rows * columns <= floatCount,
      "\(rows) x \(columns) floats at \(offset) of an arena of \(floatCount)")
    return Matrix(base + offset, rows: rows, columns: columns)
  }
}
