import CKernels

/// Replaces every row by its softmax.
package func softmaxRows(_ x: Matrix) {
  for row in 0..<x.rows {
    hearth_softmax(x.base + row * x.stride, x.columns)
  }
}
