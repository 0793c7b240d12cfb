import CKernels

/// The function between the two products of a feed-forward block.
package enum Activation: Sendable, Equatable {
  /// The identity.
  case none
  /// max(0, x).
  case relu
  /// x·Φ(x) with the exact normal distribution (BERT; Hendrycks and Gimpel 2016).
  case gelu
  /// The approximation of `gelu` by tanh (the gated feed-forward of T5 v1.1).
  case geluTanh

  /// The number that the C kernels know it by.
  var kernelNumber: Int32 {
    switch self {
    case .none: return Int32(HEARTH_ACTIVATION_NONE)
    case .relu: return Int32(HEARTH_ACTIVATION_RELU)
    case .gelu: return Int32(HEARTH_ACTIVATION_GELU)
    case .geluTanh: return Int32(HEARTH_ACTIVATION_GELU_TANH)
    }
  }
}

/// Writes `y = f(x)`; `y` may be `x`.
package func applyActivation(_ f: Activation, _ x: Matrix, into y: Matrix, using set: KernelSet = .best) {
  checkSameShape(x, y)
  for row in 0..<x.rows {
    set.kernels.pointee.activate(f.kernelNumber, x.base + row * x.stride, y.base + row * y.stride, x.columns)
  }
}

/// Writes `dx = dy · f'(x)`; `dx` may be `x` or `dy`.
package func activationBackward(
  _ f: Activation, input x: Matrix, gradient dy: Matrix, into dx: Matrix, using set: KernelSet = .best
) {
  checkSameShape(x, dy)
  checkSameShape(x, dx)
  for row in 0..<x.rows {
    set.kernels.pointee.activate_backward(
      f.kernelNumber, x.base + row * x.stride, dy.base + row * dy.stride, dx.base + row * dx.stride,
      x.columns)
  }
}

/// Writes `y = f(g) ∘ u`, the gated linear unit (Shazeer 2020); `y` may be `g` or `u`.
package func gatedActivation(
  _ f: Activation, gate g: Matrix, linear u: Matrix, into y: Matrix, using set: KernelSet = .best
) {
  checkSameShape(g, u)
  checkSameShape(g, y)
  for row in 0..<g.rows {
    set.kernels.pointee.gate(
      f.kernelNumber, g.base + row * g.stride, u.base + row * u.stride, y.base + row * y.stride, g.columns)
  }
}

/// Writes the gradients of `gatedActivation`; each may be the operand that it belongs to.
package func gatedActivationBackward(
  _ f: Activation, gate g: Matrix, linear u: Matrix, gradient dy: Matrix, gateGradient dg: Matrix,
  linearGradient du: Matrix, using set: KernelSet = .best
) {
  checkSameShape(g, u)
  checkSameShape(g, dy)
  checkSameShape(g, dg)
  checkSameShape(g, du)
  for row in 0..<g.rows {
    set.kernels.pointee.gate_backward(
      f.kernelNumber, g.base + row * g.stride, u.base + row * u.stride, dy.base + row * dy.stride,
      dg.base + row * dg.stride, du.base + row * du.stride, g.columns)
  }
}

/// Checks that an element-wise kernel's operands agree.
func checkSameShape(_ a: Matrix, _ b: Matrix) {
  precondition(
    a.rows == b.rows && a.columns == b.columns,
    "operands of \(a.rows) x \(a.columns) and \(b.rows) x \(b.columns)")
}
