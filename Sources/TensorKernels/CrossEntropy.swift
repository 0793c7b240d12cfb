import CKernels

/// The summed cross-entropy of the rows of `logits` against `labels`.
///
/// A negative label ignores its row: no loss and a zero gradient. `dLogits` becomes
/// (softmax − one-hot) · `gradientScale` and may be `logits`.
package func softmaxCrossEntropy(
  logits: Matrix, labels: UnsafePointer<Int32>, into dLogits: Matrix?, gradientScale: Float
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
    let logSumExp = hearth_log_sum_exp(scores, logits.columns, gradient, gradientScale)
    gradient?[label] -= gradientScale
    loss += Double(logSumExp) - Double(score)
  }
  return loss
}

/// Logits that the streamed head holds at a time: 16 MiB, about 130 positions of T5's vocabulary.
private let streamedLogits = 1 << 22

/// The summed cross-entropy of a frozen output head whose logits are `scale · x · embeddingᵀ`.
///
/// Rows are taken in groups whose logits fit the thread's scratch memory, so that the logits of a whole
/// micro-batch never exist. `dX`, when not nil, becomes the loss' gradient with respect to `x`. Rows with a
/// negative label count for nothing.
package func streamedHeadCrossEntropy(
  _ x: Matrix, embedding: Matrix, scale: Float, labels: UnsafePointer<Int32>, into dX: Matrix?
) -> Double {
  precondition(
    x.columns == embedding.columns, "states of \(x.columns) columns meet a head of \(embedding.columns)")
  if let dX { checkSameShape(x, dX) }
  let group = max(1, min(x.rows, streamedLogits / max(1, embedding.rows)))
  guard let scratch = hearth_transformer_scratch(group * embedding.rows) else {
    preconditionFailure("no memory for \(group) x \(embedding.rows) logits")
  }
  var loss = 0.0
  var first = 0
  while first < x.rows {
    let count = min(group, x.rows - first)
    let logits = Matrix(scratch, rows: count, columns: embedding.rows)
    matrixMultiply(
      x.rowRange(first, count: count), .none, embedding, .transposed, into: logits,
      epilogue: Epilogue(scale: scale))
    loss += softmaxCrossEntropy(
      logits: logits, labels: labels + first, into: dX == nil ? nil : logits, gradientScale: scale)
    if let dX {
      matrixMultiply(logits, .none, embedding, .none, into: dX.rowRange(first, count: count))
    }
    first += count
  }
  return loss
}
