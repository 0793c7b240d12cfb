import CKernels

/// The two normalisations of Transformer blocks.
package enum NormKind: Sendable, Equatable {
  /// x / √(mean x² + ε) · weight (T5; Zhang and Sennrich 2019).
  case rms
  /// (x − mean) / √(variance + ε) · weight + bias (BERT; Ba et al. 2016).
  case layer

  /// Statistics of one row that backward needs: 1/rms, or mean and 1/σ.
  var statisticsPerRow: Int { self == .rms ? 1 : 2 }
}

/// Writes `y = norm(x)` row by row; `y` may be `x`.
///
/// `statistics` ([rows] for `.rms`, [rows × 2] for `.layer`) is nil when not training.
package func normForward(
  _ kind: NormKind, _ x: Matrix, weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
  epsilon: Float, into y: Matrix, statistics: UnsafeMutablePointer<Float>?, using set: KernelSet = .best
) {
  checkSameShape(x, y)
  var norm = kernelNorm(kind, x.columns, weight, bias, epsilon)
  for row in 0..<x.rows {
    set.kernels.pointee.norm_forward(
      &norm, x.base + row * x.stride, nil, y.base + row * y.stride,
      statistics.map { $0 + row * kind.statisticsPerRow })
  }
}

/// Adds `r` to the residual stream `x`, then writes `y = norm(x)`, in one pass over memory.
package func addNormForward(
  _ kind: NormKind, residual x: Matrix, _ r: Matrix, weight: UnsafePointer<Float>,
  bias: UnsafePointer<Float>?, epsilon: Float, into y: Matrix, statistics: UnsafeMutablePointer<Float>?,
  using set: KernelSet = .best
) {
  checkSameShape(x, r)
  checkSameShape(x, y)
  var norm = kernelNorm(kind, x.columns, weight, bias, epsilon)
  for row in 0..<x.rows {
    set.kernels.pointee.norm_forward(
      &norm, x.base + row * x.stride, r.base + row * r.stride, y.base + row * y.stride,
      statistics.map { $0 + row * kind.statisticsPerRow })
  }
}

/// Writes `dx` (or adds to it when `accumulate`), and adds to the parameters' gradients that are not nil.
///
/// `x` and `statistics` are those of the forward pass; without `accumulate`, `dx` may be `dy`. The
/// parameters' gradients are summed in row order.
package func normBackward(
  _ kind: NormKind, input x: Matrix, weight: UnsafePointer<Float>, statistics: UnsafePointer<Float>,
  gradient dy: Matrix, into dx: Matrix, accumulate: Bool, weightGradient: UnsafeMutablePointer<Float>?,
  biasGradient: UnsafeMutablePointer<Float>?, using set: KernelSet = .best
) {
  checkSameShape(x, dy)
  checkSameShape(x, dx)
  var norm = kernelNorm(kind, x.columns, weight, nil, 0)
  for row in 0..<x.rows {
    set.kernels.pointee.norm_backward(
      &norm, x.base + row * x.stride, statistics + row * kind.statisticsPerRow, dy.base + row * dy.stride,
      dx.base + row * dx.stride, accumulate, weightGradient, biasGradient)
  }
}

private func kernelNorm(
  _ kind: NormKind, _ columns: Int, _ weight: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?,
  _ epsilon: Float
) -> hearth_norm {
  hearth_norm(count: columns, layer: kind == .layer, epsilon: epsilon, weight: weight, bias: bias)
}
