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
  package func forward(
    _ input: Matrix, into output: Matrix, sequences: PackedSequences, bias: PositionBias?,
    encoder: EncoderStates?, activations: BlockActivations, scratch: BlockScratch, arena: Arena
  ) {
    let workspace = Workspace(
      rows: input.rows, configuration: configuration, activations: activations, scratch: scratch,
      arena: arena)
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
    selfProjection.forward(rows, into: projected)
    let context = workspace.matrix(saved.context, columns: configuration.inner)
    let (query, key, value) = split(projected)
    attentionForward(
      attentionShape(causal: configuration.causal), q: query, k: key, v: value, queries: sequences,
      keys: sequences, bias: bias, into: context, logSumExp: workspace.pointer(saved.logSumExp))
    addResidual(
      x, attention.output, context, into: y, norm: attention.norm, residual: saved.residual,
      statistics: saved.statistics, workspace)
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
    attention.query.forward(rows, into: query)
    let context = workspace.matrix(saved.context, columns: configuration.inner)
    if let absorbed = workspace.scratch.absorbed,
      AbsorbedCrossAttention.isCheaper(configuration, queries: sequences, keys: encoder.sequences)
    {
      AbsorbedCrossAttention(configuration: configuration, parameters: attention).forward(
        query, queries: sequences, encoder: encoder, into: context, absorbed, workspace.arena)
    } else {
      let projected = workspace.encoderMatrix(workspace.scratch.encoderProjected, encoder.rows.rows)
      encoderProjection.forward(encoder.rows, into: projected)
      attentionForward(
        attentionShape(causal: false), q: query, k: projected.columnRange(0, count: configuration.inner),
        v: projected.columnRange(configuration.inner, count: configuration.inner), queries: sequences,
        keys: encoder.sequences, bias: nil, into: context, logSumExp: workspace.pointer(saved.logSumExp))
    }
    addResidual(
      x, attention.output, context, into: y, norm: attention.norm, residual: saved.residual,
      statistics: saved.statistics, workspace)
  }

  private func forwardFeedForward(_ x: Matrix, into y: Matrix, _ workspace: Workspace) {
    let saved = workspace.activations.feedForward
    let feedForward = parameters.feedForward
    let rows = normalizedInput(x, feedForward.norm, saved.statistics, workspace)
    let isPost = configuration.placement == .post
    let sum = isPost ? saved.residual.map { workspace.matrix($0, columns: configuration.width) } ?? y : y
    if sum.base != x.base { copyRows(x, into: sum) }
    var first = 0
    while first < x.rows {
      let count = min(workspace.scratch.hiddenRows, x.rows - first)
      let hidden = workspace.hiddenMatrix(rows: count)
      forwardHidden(rows.rowRange(first, count: count), into: hidden, workspace)
      feedForward.down.forward(hidden, into: sum.rowRange(first, count: count), accumulate: true)
      first += count
    }
    if isPost { feedForward.norm.forward(sum, into: y, statistics: workspace.pointer(saved.statistics)) }
  }

  private func forwardHidden(_ rows: Matrix, into hidden: Matrix, _ workspace: Workspace) {
    guard configuration.gated else {
      parameters.feedForward.up.forward(rows, into: hidden, activation: configuration.activation)
      return
    }
    let halves = preActivation(rows, workspace)
    gatedActivation(
      configuration.activation, gate: halves.columnRange(0, count: configuration.hidden),
      linear: halves.columnRange(configuration.hidden, count: configuration.hidden), into: hidden)
  }

  /// The hidden rows before the activation: gate and linear half when gated.
  func preActivation(_ rows: Matrix, _ workspace: Workspace) -> Matrix {
    guard let offset = workspace.scratch.preActivation else {
      preconditionFailure("buffers without a place for what is before the activation")
    }
    let before = workspace.matrix(offset, rows: rows.rows, columns: hiddenProjection.outputs)
    hiddenProjection.forward(rows, into: before)
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
    _ x: Matrix, _ output: LinearParameters, _ context: Matrix, into y: Matrix, norm: NormParameters,
    residual: Int?, statistics: Int?, _ workspace: Workspace
  ) {
    let sum = residual.map { workspace.matrix($0, columns: configuration.width) } ?? y
    if sum.base != x.base { copyRows(x, into: sum) }
    output.forward(context, into: sum, accumulate: true)
    if configuration.placement == .post {
      norm.forward(sum, into: y, statistics: workspace.pointer(statistics))
    }
  }

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

private func copyRows(_ x: Matrix, into y: Matrix) {
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

  init(
    rows: Int, configuration: BlockConfiguration, activations: BlockActivations, scratch: BlockScratch,
    arena: Arena
  ) {
    precondition(
      rows > 0 && rows <= activations.capacity.tokens && rows <= scratch.capacity.tokens,
      "\(rows) rows in buffers for \(activations.capacity.tokens) and \(scratch.capacity.tokens)")
    self.rows = rows
    self.configuration = configuration
    self.activations = activations
    self.scratch = scratch
    self.arena = arena
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
