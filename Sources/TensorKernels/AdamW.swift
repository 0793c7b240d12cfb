import CKernels

/// The constants of one AdamW step (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019).
package struct AdamWStep: Sendable {
  /// α.
  package var learningRate: Float
  /// Decay of the first moment.
  package var beta1: Float
  /// Decay of the second moment.
  package var beta2: Float
  /// Added to the root of the second moment.
  package var epsilon: Float
  /// λ of the decoupled decay.
  package var weightDecay: Float
  /// 1 for the first step.
  package var step: Int
  /// Factor of every gradient: mean over the batch and clipping.
  package var gradientScale: Float

  /// The constants of step `step`.
  package init(
    learningRate: Float, beta1: Float, beta2: Float, epsilon: Float, weightDecay: Float, step: Int,
    gradientScale: Float
  ) {
    self.learningRate = learningRate
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
    self.step = step
    self.gradientScale = gradientScale
  }
}

/// Updates parameters and both moments in one pass over memory.
package func adamW(
  _ s: AdamWStep, parameters: UnsafeMutablePointer<Float>, gradients: UnsafePointer<Float>,
  m: UnsafeMutablePointer<Float>, v: UnsafeMutablePointer<Float>, count: Int, using set: KernelSet = .best
) {
  precondition(s.step >= 1 && count >= 0, "AdamW step \(s.step) over \(count) parameters")
  var step = hearth_adamw_step(
    learning_rate: s.learningRate, beta1: s.beta1, beta2: s.beta2, epsilon: s.epsilon,
    decay: s.learningRate * s.weightDecay,
    correction1: Float(1 / (1 - power(Double(s.beta1), s.step))),
    correction2: Float((1 / (1 - power(Double(s.beta2), s.step))).squareRoot()),
    gradient_scale: s.gradientScale)
  set.kernels.pointee.adamw(&step, parameters, gradients, m, v, count)
}

/// base^exponent by repeated squaring.
func power(_ base: Double, _ exponent: Int) -> Double {
  var result = 1.0
  var factor = base
  var rest = exponent
  while rest > 0 {
    if rest & 1 == 1 { result *= factor }
    factor *= factor
    rest >>= 1
  }
  return result
}
