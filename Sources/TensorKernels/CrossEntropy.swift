import CKernels

/// The summed cross-entropy of the rows of `logits` against `labels`.
///
/// A negative label ignores its row: no loss and a zero gradient. `dLogits` becomes
/// (softmax − one-hot) · `gradientScale` and may be `logits`.
package func softmaxCrossEntropy(
  logits: Matrix, labels: UnsafePointer<Int32>, into dLogits: Matrix?, gradientScale: Float,
  using set: KernelSet = .best
) -> Double {
  if let dLogits { checkSameShape(logits, dLogits) }
  var loss = 0.0
  for row in 0..<logits.rows {
    let scores = logits.base + row * logits.stride
    let gradient = dLogits.map { $0.base + row * $0.stride }
    let label = Int(labels[row])
    guard label >= 0 else {
      gradient?.update(repeating: 0, count: logits.columns)
      continue
    }
    precondition(label < logits.columns, "label \(label) of row \(row) among \(logits.columns) classes")
    // Read before the gradient, which may be in the same memory.
    let score = scores[label]
    let logSumExp = set.kernels.pointee.log_sum_exp(scores, logits.columns, gradient, gradientScale)
    gradient?[label] -= gradientScale
    loss += Double(logSumExp) - Double(score)
  }
  return loss
}

/// The summed cross-entropy of a frozen output head whose logits are `scale · x · embeddingᵀ + bias`.
///
/// The logits never exist: each block of the embedding is read once, for the scores and for the gradient, as in
/// attention. `dX`, when not nil, becomes the loss' gradient with respect to `x`. Rows with a negative label count
/// for nothing.
package func streamedHeadCrossEntropy(
  _ x: Matrix, embedding: Matrix, scale: Float, bias: UnsafePointer<Float>? = nil,
  labels: UnsafePointer<Int32>, into dX: Matrix?, using set: KernelSet = .best
) -> Double {
  precondition(
    x.columns == embedding.columns, "states of \(x.columns) columns meet a head of \(embedding.columns)")
  if let dX { checkSameShape(x, dX) }
  for row in 0..<x.rows {
    precondition(
      Int(labels[row]) < embedding.rows, "label \(labels[row]) of row \(row) among \(embedding.rows) outputs")
  }
  var head = hearth_head(
    x: x.base, x_stride: x.stride, rows: x.rows, width: x.columns, weight: embedding.base,
    weight_stride: embedding.stride, outputs: embedding.rows, scale: scale, bias: bias, labels: labels,
    dx: dX?.base,
    dx_stride: dX?.stride ?? 0)
  var loss = 0.0
  let done = set.kernels.pointee.head_cross_entropy(&head, &loss)
  precondition(done, "no memory for the scratch of \(x.rows) x \(x.columns) states under a head")
  return loss
}
