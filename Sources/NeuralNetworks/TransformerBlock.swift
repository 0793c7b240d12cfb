package import TensorKernels

/// An encoder's rows, as a decoder's cross-attention reads them.
package struct EncoderStates: Sendable {
  /// The rows of all sequences, packed.
  package var rows: Matrix
  /// Their extents; as many sequences as the decoder has.
  package var sequences: PackedSequences

  /// States of packed sequences.
  package init(rows: Matrix, sequences: PackedSequences) {
    precondition(
      rows.rows == sequences.tokens, "\(rows.rows) encoder rows for \(sequences.tokens) tokens")
    self.rows = rows
    self.sequences = sequences
  }
}

/// One transformer block of any model here: self-attention, optional cross-attention, feed-forward.
///
/// T5's (Raffel et al., JMLR 2020) has RMS norms before its sub-layers, no biases, unscaled attention with
/// relative position biases; BERT's (Devlin et al., NAACL 2019) has layer norms after them, biases and scaled
/// attention. The backbone and the side network run this same code. Sequences are packed: no row is padding.
/// Forward and backward allocate nothing; whoever calls them plans the memory.
package struct TransformerBlock: Sendable {
  /// Shape and arithmetic.
  package let configuration: BlockConfiguration
  /// The leaves.
  package let parameters: BlockParameters

  let selfProjection: LinearGroup
  let queryProjection: LinearGroup?
  let encoderProjection: LinearGroup?
  let hiddenProjection: LinearGroup

  /// A block over leaves whose shapes must be the configuration's.
  package init(_ configuration: BlockConfiguration, _ parameters: BlockParameters) {
    let shapes = configuration.parameterShapes(prefix: "")
    let leaves = parameters.leaves
    precondition(
      leaves.count == shapes.count, "a block of \(shapes.count) parameters got \(leaves.count)")
    for (shape, leaf) in zip(shapes, leaves) {
      precondition(
        leaf.rows == shape.rows && leaf.columns == shape.columns,
        "\(leaf.name) is \(leaf.rows) x \(leaf.columns), the block needs \(shape.rows) x \(shape.columns)")
    }
    self.configuration = configuration
    self.parameters = parameters
    let attention = parameters.selfAttention
    selfProjection = LinearGroup([attention.query, attention.key, attention.value])
    queryProjection = parameters.crossAttention.map { LinearGroup([$0.query]) }
    encoderProjection = parameters.crossAttention.map { LinearGroup([$0.key, $0.value]) }
    let feedForward = parameters.feedForward
    hiddenProjection = LinearGroup([feedForward.gate, feedForward.up].compactMap { $0 })
  }

  /// Computes the block's output rows.
  ///
  /// - Parameters:
  ///   - input: [tokens × width].
  ///   - output: [tokens × width]; may be the same memory as `input` unless training, where the backward
  ///     needs the unchanged input.
  ///   - sequences: extents of the rows.
  ///   - bias: relative position biases of self-attention, if the stack has them.
  ///   - encoder: what cross-attention reads; nil in an encoder.
  ///   - activations: where rows for the backward go.
  ///   - scratch: temporary rows.
  ///   - arena: the memory that both are offsets of.
  ///   - dropout: what this step drops; nil drops nothing.
  package func forward(
    _ input: Matrix, into output: Matrix, sequences: PackedSequences, bias: PositionBias?,
    encoder: EncoderStates?, activations: BlockActivations, scratch: BlockScratch, arena: Arena,
    dropout: BlockDropout? = nil
  ) {
    let workspace = Workspace(
      rows: input.rows, configuration: configuration, activations: activations, scratch: scratch,
      arena: arena, sequences: sequences, dropout: dropout)
    precondition(
      dropout == nil || activations.isTraining, "dropout is for training, where all rows are handled at once")
    precondition(
      !activations.isTraining || !parameters.hasBottleneck || activations.feedForward.branch != nil,
      "training bottlenecks needs buffers that keep their inputs")
    precondition(
      input.columns == configuration.width && output.columns == configuration.width
        && output.rows == input.rows && sequences.tokens == input.rows,
      "a block of width \(configuration.width) from \(input.rows) x \(input.columns) to "
        + "\(output.rows) x \(output.columns) over \(sequences.tokens) tokens")
    precondition(
      !activations.isTraining || input.base != output.base, "training keeps its input, so output is elsewhere"
    )
    precondition(
      (encoder != nil) == configuration.crossAttention, "cross-attention needs an encoder's states")

    var stream = workspace.stream(activations.selfAttention, else: output)
    forwardSelfAttention(input, into: stream, sequences: sequences, bias: bias, workspace)
    if let encoder, let saved = activations.crossAttention {
      let next = workspace.stream(saved, else: output)
      forwardCrossAttention(stream, into: next, sequences: sequences, encoder: encoder, saved, workspace)
      stream = next
    }
    forwardFeedForward(stream, into: output, workspace)
  }

  private func forwardSelfAttention(
    _ x: Matrix, into y: Matrix, sequences: PackedSequences, bias: PositionBias?, _ workspace: Workspace
  ) {
    let saved = workspace.activations.selfAttention
    let attention = parameters.selfAttention
    let rows = normalizedInput(x, attention.norm, saved.statistics, workspace)
    let projected = workspace.matrix(saved.projected, columns: 3 * configuration.inner)
    selfProjection.forward(rows, into: projected, dropout: workspace.lowRank(Self.selfSites))
    let context = workspace.matrix(saved.context, columns: configuration.inner)
    let (query, key, value) = split(projected)
    workspace.dropping(.selfProbabilities) {
      attentionForward(
        attentionShape(causal: configuration.causal), q: query, k: key, v: value, queries: sequences,
        keys: sequences, bias: bias, dropout: $0, into: context,
        logSumExp: workspace.pointer(saved.logSumExp))
    }
    addResidual(x, attention, context, into: y, saved, (.selfOutput, .selfAttention), workspace)
  }

  private func forwardCrossAttention(
    _ x: Matrix, into y: Matrix, sequences: PackedSequences, encoder: EncoderStates,
    _ saved: AttentionActivations, _ workspace: Workspace
  ) {
    guard let attention = parameters.crossAttention, let encoderProjection else { return }
    precondition(
      encoder.sequences.count == sequences.count && encoder.rows.columns == configuration.width,
      "\(sequences.count) sequences against \(encoder.sequences.count) of width \(encoder.rows.columns)")
    let rows = normalizedInput(x, attention.norm, saved.statistics, workspace)
    let query = workspace.matrix(saved.projected, columns: configuration.inner)
    attention.query.forward(rows, into: query, dropout: workspace.lowRank(.crossQuery))
    let context = workspace.matrix(saved.context, columns: configuration.inner)
    if let absorbed = workspace.scratch.absorbed, isAbsorbed(sequences, encoder, workspace.dropout) {
      AbsorbedCrossAttention.with(configuration, attention) {
        $0.forward(query, queries: sequences, encoder: encoder, into: context, absorbed, workspace.arena)
      }
    } else {
      let projected = workspace.encoderMatrix(workspace.scratch.encoderProjected, encoder.rows.rows)
      encoderProjection.forward(
        encoder.rows, into: projected,
        dropout: workspace.lowRank(Self.encoderSites, sequences: encoder.sequences))
      workspace.dropping(.crossProbabilities) {
        attentionForward(
          attentionShape(causal: false), q: query, k: projected.columnRange(0, count: configuration.inner),
          v: projected.columnRange(configuration.inner, count: configuration.inner), queries: sequences,
          keys: encoder.sequences, bias: nil, dropout: $0, into: context,
          logSumExp: workspace.pointer(saved.logSumExp))
      }
    }
    addResidual(x, attention, context, into: y, saved, (.crossOutput, .crossAttention), workspace)
  }

  /// True when cross-attention never projects the encoder's rows.
  ///
  /// Dropped rows would be others for each low-rank pair, and the weights of a row would no longer sum to one.
  func isAbsorbed(_ sequences: PackedSequences, _ encoder: EncoderStates, _ dropout: BlockDropout?) -> Bool {
    let drops =
      dropout?.attention != nil
      || dropout?.lowRank != nil
        && (parameters.crossAttention?.key.lowRank != nil || parameters.crossAttention?.value.lowRank != nil)
    return !drops
      && AbsorbedCrossAttention.isCheaper(configuration, queries: sequences, keys: encoder.sequences)
  }

  private func forwardFeedForward(_ x: Matrix, into y: Matrix, _ workspace: Workspace) {
    let saved = workspace.activations.feedForward
    let feedForward = parameters.feedForward
    let rows = normalizedInput(x, feedForward.norm, saved.statistics, workspace)
    let isPost = configuration.placement == .post
    let sum = isPost ? saved.residual.map { workspace.matrix($0, columns: configuration.width) } ?? y : y
    if sum.base != x.base { copyRows(x, into: sum) }
    // A branch's rows may take the place of the normalised ones, which a piece has read when it writes.
    let branch = workspace.branch(feedForward.bottleneck, saved.branch)
    var first = 0
    while first < x.rows {
      let count = min(workspace.scratch.hiddenRows, x.rows - first)
      let hidden = workspace.hiddenMatrix(rows: count)
      forwardHidden(rows.rowRange(first, count: count), into: hidden, workspace)
      feedForward.down.forward(
        hidden, into: (branch ?? sum).rowRange(first, count: count), accumulate: branch == nil,
        dropout: workspace.lowRank(.down))
      first += count
    }
    if let branch { addBranch(branch, feedForward.bottleneck, into: sum, site: .feedForward, workspace) }
    if isPost { feedForward.norm.forward(sum, into: y, statistics: workspace.pointer(saved.statistics)) }
  }

  private func forwardHidden(_ rows: Matrix, into hidden: Matrix, _ workspace: Workspace) {
    if workspace.keptBefore != nil || configuration.gated {
      activate(preActivation(rows, workspace), into: hidden)
    } else {
      parameters.feedForward.up.forward(
        rows, into: hidden, activation: configuration.activation, dropout: workspace.lowRank(.up))
    }
    workspace.drop(workspace.dropout?.hidden, hidden, site: .hidden)
  }

  /// Writes the activated rows.
  func activate(_ before: Matrix, into hidden: Matrix) {
    guard configuration.gated else {
      applyActivation(configuration.activation, before, into: hidden)
      return
    }
    let half = configuration.hidden
    gatedActivation(
      configuration.activation, gate: before.columnRange(0, count: half),
      linear: before.columnRange(half, count: half), into: hidden)
  }

  /// The hidden rows before the activation: gate and linear half when gated.
  func preActivation(_ rows: Matrix, _ workspace: Workspace) -> Matrix {
    guard let offset = workspace.keptBefore ?? workspace.scratch.preActivation else {
      preconditionFailure("buffers without a place for what is before the activation")
    }
    let before = workspace.matrix(offset, rows: rows.rows, columns: hiddenProjection.outputs)
    hiddenProjection.forward(rows, into: before, dropout: workspace.lowRank(hiddenSites))
    return before
  }

  /// What a sub-layer reads: the normalised rows when norms stand before, else the rows themselves.
  private func normalizedInput(
    _ x: Matrix, _ norm: NormParameters, _ statistics: Int?, _ workspace: Workspace
  ) -> Matrix {
    guard configuration.placement == .pre else { return x }
    let normed = workspace.matrix(workspace.scratch.normed, columns: configuration.width)
    norm.forward(x, into: normed, statistics: workspace.pointer(statistics))
    return normed
  }

  /// `y = x + output(context)`, normalised when norms stand after.
  private func addResidual(
    _ x: Matrix, _ attention: AttentionParameters, _ context: Matrix, into y: Matrix,
    _ saved: AttentionActivations, _ sites: (lowRank: DropoutSite, residual: DropoutSite),
    _ workspace: Workspace
  ) {
    let sum = saved.residual.map { workspace.matrix($0, columns: configuration.width) } ?? y
    if sum.base != x.base { copyRows(x, into: sum) }
    let branch = workspace.branch(attention.bottleneck, saved.branch)
    attention.output.forward(
      context, into: branch ?? sum, accumulate: branch == nil, dropout: workspace.lowRank(sites.lowRank))
    if let branch { addBranch(branch, attention.bottleneck, into: sum, site: sites.residual, workspace) }
    if configuration.placement == .post {
      attention.norm.forward(sum, into: y, statistics: workspace.pointer(saved.statistics))
    }
  }

  /// Adds what a sub-layer computed aside to the residual sum, through its bottleneck and its dropout.
  private func addBranch(
    _ branch: Matrix, _ bottleneck: BottleneckParameters?, into sum: Matrix, site: DropoutSite,
    _ workspace: Workspace
  ) {
    var rows = branch
    if let bottleneck {
      rows = workspace.matrix(workspace.scratch.normed, columns: configuration.width)
      if rows.base != branch.base { copyRows(branch, into: rows) }
      bottleneck.forward(rows)
    }
    guard let dropout = workspace.dropout, let residual = dropout.residual else {
      addRows(rows, into: sum)
      return
    }
    residual.apply(
      rows, into: sum, sequences: workspace.sequences, layer: dropout.layer, site: site, accumulate: true)
  }

  static let selfSites: [DropoutSite] = [.selfQuery, .selfKey, .selfValue]
  static let encoderSites: [DropoutSite] = [.crossKey, .crossValue]
  var hiddenSites: [DropoutSite] { configuration.gated ? [.gate, .up] : [.up] }

  func attentionShape(causal: Bool) -> AttentionShape {
    AttentionShape(
      heads: configuration.heads, headSize: configuration.headSize, scale: configuration.attentionScale,
      causal: causal)
  }

  /// Query, key and value columns of [tokens × 3·inner].
  func split(_ projected: Matrix) -> (query: Matrix, key: Matrix, value: Matrix) {
    let inner = configuration.inner
    return (
      projected.columnRange(0, count: inner), projected.columnRange(inner, count: inner),
      projected.columnRange(2 * inner, count: inner)
    )
  }
}

func copyRows(_ x: Matrix, into y: Matrix) {
  for row in 0..<x.rows {
    (y.base + row * y.stride).update(from: x.base + row * x.stride, count: x.columns)
  }
}

/// The buffers of one call, as matrices of the call's number of rows.
struct Workspace {
  let rows: Int
  let configuration: BlockConfiguration
  let activations: BlockActivations
  let scratch: BlockScratch
  let arena: Arena
  let sequences: PackedSequences
  let dropout: BlockDropout?

  init(
    rows: Int, configuration: BlockConfiguration, activations: BlockActivations, scratch: BlockScratch,
    arena: Arena, sequences: PackedSequences, dropout: BlockDropout?
  ) {
    precondition(
      rows > 0 && rows <= activations.capacity.tokens && rows <= scratch.capacity.tokens,
      "\(rows) rows in buffers for \(activations.capacity.tokens) and \(scratch.capacity.tokens)")
    self.rows = rows
    self.configuration = configuration
    self.activations = activations
    self.scratch = scratch
    self.arena = arena
    self.sequences = sequences
    self.dropout = dropout
  }

  /// Where the rows before the activation are kept, if they are.
  var keptBefore: Int? { configuration.keepsActivated ? nil : activations.feedForward.hidden }

  /// The dropout of a low-rank pair over the block's own rows.
  func lowRank(_ site: DropoutSite) -> LowRankDropout? {
    guard let dropout, let rows = dropout.lowRank else { return nil }
    return LowRankDropout(dropout: rows, sequences: sequences, layer: dropout.layer, site: site)
  }

  /// The dropouts of a group's low-rank pairs, over the block's own rows unless told otherwise.
  func lowRank(_ sites: [DropoutSite], sequences other: PackedSequences? = nil) -> GroupDropout? {
    guard let dropout, let rows = dropout.lowRank else { return nil }
    return GroupDropout(dropout: rows, sequences: other ?? sequences, layer: dropout.layer, sites: sites)
  }

  /// Drops values of `rows` in place.
  func drop(_ rowDropout: RowDropout?, _ rows: Matrix, site: DropoutSite) {
    guard let rowDropout, let dropout else { return }
    rowDropout.apply(rows, into: rows, sequences: sequences, layer: dropout.layer, site: site)
  }

  /// Calls `body` with the dropout of attention's weights.
  func dropping(_ site: DropoutSite, _ body: (SampleDropout?) -> Void) {
    guard let dropout, let weights = dropout.attention else {
      body(nil)
      return
    }
    weights.with(layer: dropout.layer, site: site, sequences: sequences) { body($0) }
  }

  /// Where a sub-layer's output goes when it cannot be added to the residual stream at once; else nil.
  func branch(_ bottleneck: BottleneckParameters?, _ saved: Int?) -> Matrix? {
    guard bottleneck != nil || dropout?.residual != nil else { return nil }
    let offset = bottleneck == nil ? scratch.normed : saved ?? scratch.normed
    return matrix(offset, columns: configuration.width)
  }

  func matrix(_ offset: Int, columns: Int) -> Matrix {
    arena.matrix(offset, rows: rows, columns: columns)
  }

  func matrix(_ offset: Int, rows: Int, columns: Int) -> Matrix {
    arena.matrix(offset, rows: rows, columns: columns)
  }

  /// Key and value columns of all encoder rows.
  func encoderMatrix(_ offset: Int, _ encoderRows: Int) -> Matrix {
    precondition(
      encoderRows <= activations.capacity.encoderTokens && encoderRows <= scratch.capacity.encoderTokens,
      "\(encoderRows) encoder rows in buffers for \(activations.capacity.encoderTokens)")
    return arena.matrix(offset, rows: encoderRows, columns: 2 * configuration.inner)
  }

  func pointer(_ offset: Int?) -> UnsafeMutablePointer<Float>? {
    offset.map { arena.base + $0 }
  }

  /// The stream that a sub-layer writes: its own when training, else the block's output.
  func stream(_ saved: AttentionActivations, else output: Matrix) -> Matrix {
    saved.stream.map { matrix($0, columns: configuration.width) } ?? output
  }
}
