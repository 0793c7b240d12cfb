import CKernels

/// Replaces every row by its softmax.
package func softmaxRows(_ x: Matrix, using set: KernelSet = .best) {
  for row in 0..<x.rows {
    let values = x.base + row * x.stride
    _ = set.kernels.pointee.log_sum_exp(values, x.columns, values, 1)
  }
}
