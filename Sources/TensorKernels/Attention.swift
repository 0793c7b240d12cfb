import CKernels

/// What multi-head attention needs to know besides its operands.
package struct AttentionShape: Sendable, Equatable {
  /// Number of heads; head `h` is the columns `h * headSize ..< (h + 1) * headSize` of every operand.
  package var heads: Int
  /// Columns of one head.
  package var headSize: Int
  /// Factor of the scores: 1/√headSize in BERT, 1 in T5.
  package var scale: Float
  /// Query `i` sees keys `0 ... i` only.
  package var causal: Bool

  /// Heads of equal size over the columns of the operands.
  package init(heads: Int, headSize: Int, scale: Float, causal: Bool) {
    self.heads = heads
    self.headSize = headSize
    self.scale = scale
    self.causal = causal
  }
}

/// A bias of the scores that depends on the distance from the query to the key.
///
/// It is the relative position bias of T5 (Raffel et al., JMLR 2020).
/// The bias of head `h` at distance `key − query` is
/// `values[h * (2 * span - 1) + (span - 1) + (key - query)]`, so that one query's biases are contiguous.
///
/// - Safety: the creator keeps `heads * (2 * span - 1)` floats at `values` while the value is in use.
package struct PositionBias: @unchecked Sendable {
  /// The first bias of the first head.
  package var values: UnsafePointer<Float>
  /// At least the length of the longest sequence.
  package var span: Int

  /// Biases for sequences of up to `span` positions.
  package init(values: UnsafePointer<Float>, span: Int) {
    self.values = values
    self.span = span
  }
}

/// Writes `out = softmax(scale · q·kᵀ + bias) · v` for every head of every sequence.
///
/// Query sequence `i` attends to key sequence `i`. The probabilities exist only in the cache; backward
/// recomputes them from `logSumExp` ([query rows × heads], nil when not training), as FlashAttention does
/// (Dao et al. 2022). A query whose scores are all −∞ gives 0. `dropout` drops probabilities after the softmax; the
/// mask's row is the head and the query's position in its sequence, its column the key's position.
package func attentionForward(
  _ shape: AttentionShape, q: Matrix, k: Matrix, v: Matrix, queries: PackedSequences,
  keys: PackedSequences, bias: PositionBias?, dropout: SampleDropout? = nil, into out: Matrix,
  logSumExp: UnsafeMutablePointer<Float>?, using set: KernelSet = .best
) {
  checkAttention(shape, (q, out), (k, v), queries, keys, bias)
  withAttentionOperands(shape, q, k, v, queries, keys, bias, dropout) { operands in
    let done = set.kernels.pointee.attention_forward(&operands, out.base, out.stride, logSumExp)
    precondition(done, "no memory for the scratch of attention over \(keys.longest) keys")
  }
}

/// Writes the gradients of `attentionForward` to `dq`, `dk` and `dv`, and adds the bias' to `biasGradient`.
///
/// `out` and `logSumExp` are what forward wrote with the same `dropout`; `biasGradient` has the layout of `bias`.
package func attentionBackward(
  _ shape: AttentionShape, q: Matrix, k: Matrix, v: Matrix, out: Matrix, logSumExp: UnsafePointer<Float>,
  gradient dOut: Matrix, queries: PackedSequences, keys: PackedSequences, bias: PositionBias?,
  dropout: SampleDropout? = nil, dq: Matrix, dk: Matrix, dv: Matrix,
  biasGradient: UnsafeMutablePointer<Float>?, using set: KernelSet = .best
) {
  checkAttention(shape, (q, out), (k, v), queries, keys, bias)
  checkAttention(shape, (dOut, dq), (dk, dv), queries, keys, bias)
  var gradient = hearth_attention_gradient(
    out: out.base, log_sum_exp: logSumExp, d_out: dOut.base, out_stride: out.stride,
    d_out_stride: dOut.stride, dq: dq.base, dk: dk.base, dv: dv.base, dq_stride: dq.stride,
    dk_stride: dk.stride, dv_stride: dv.stride, bias_gradient: biasGradient)
  withAttentionOperands(shape, q, k, v, queries, keys, bias, dropout) { operands in
    let done = set.kernels.pointee.attention_backward(&operands, &gradient)
    precondition(done, "no memory for the scratch of attention over \(keys.longest) keys")
  }
}

private func withAttentionOperands(
  _ shape: AttentionShape, _ q: Matrix, _ k: Matrix, _ v: Matrix, _ queries: PackedSequences,
  _ keys: PackedSequences, _ bias: PositionBias?, _ dropout: SampleDropout?,
  _ body: (inout hearth_attention) -> Void
) {
  // A mask's row is the head above 20 bits of the query's position.
  precondition(
    dropout == nil || (queries.longest <= 1 << 20 && shape.heads <= 1 << 12),
    "dropout in attention of \(shape.heads) heads over \(queries.longest) queries")
  var kernelDropout = dropout?.dropout.kernelOperand ?? hearth_dropout()
  queries.offsets.withUnsafeBufferPointer { queryOffsets in
    keys.offsets.withUnsafeBufferPointer { keyOffsets in
      guard let firstQuery = queryOffsets.baseAddress, let firstKey = keyOffsets.baseAddress else { return }
      withUnsafePointer(to: &kernelDropout) { kernelDropout in
        var operands = hearth_attention(
          q: q.base, k: k.base, v: v.base, q_stride: q.stride, k_stride: k.stride, v_stride: v.stride,
          query_offsets: firstQuery, key_offsets: firstKey, sequences: queries.count, heads: shape.heads,
          head_size: shape.headSize, scale: shape.scale, causal: shape.causal, bias: bias?.values,
          bias_span: bias?.span ?? 0, dropout: dropout == nil ? nil : kernelDropout,
          samples: dropout?.samples)
        body(&operands)
      }
    }
  }
}

/// Checks the shapes that the kernels rely on.
private func checkAttention(
  _ shape: AttentionShape, _ queryRows: (Matrix, Matrix), _ keyRows: (Matrix, Matrix),
  _ queries: PackedSequences, _ keys: PackedSequences, _ bias: PositionBias?
) {
  let width = shape.heads * shape.headSize
  precondition(shape.heads > 0 && shape.headSize > 0, "\(shape.heads) heads of \(shape.headSize) columns")
  precondition(
    queries.count == keys.count, "\(queries.count) query sequences meet \(keys.count) key sequences")
  checkAttentionRows(queryRows.0, queryRows.1, rows: queries.tokens, width: width, side: "query")
  checkAttentionRows(keyRows.0, keyRows.1, rows: keys.tokens, width: width, side: "key")
  if let bias {
    precondition(
      bias.span >= max(queries.longest, keys.longest),
      "a bias of span \(bias.span) does not cover \(queries.longest) queries and \(keys.longest) keys")
  }
}

private func checkAttentionRows(_ a: Matrix, _ b: Matrix, rows: Int, width: Int, side: String) {
  precondition(
    a.rows >= rows && b.rows >= rows && a.columns == width && b.columns == width,
    "attention's \(side) operands are \(a.rows) x \(a.columns) and \(b.rows) x \(b.columns), "
      + "not \(rows) x \(width)")
}
