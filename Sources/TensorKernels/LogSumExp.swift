import CKernels

/// log Σ exp(x) over one row's columns, shifted by the largest so that nothing overflows.
package func logSumExp(_ row: Matrix, using set: KernelSet = .best) -> Float {
  precondition(row.rows == 1 && row.columns > 0, "log-sum-exp of \(row.rows) x \(row.columns)")
  return set.kernels.pointee.log_sum_exp(row.base, row.columns, nil, 0)
}
