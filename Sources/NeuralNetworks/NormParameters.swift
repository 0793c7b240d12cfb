package import TensorKernels

/// A norm over rows: RMS norm (Zhang and Sennrich, 2019) or layer norm (Ba et al., 2016).
package struct NormParameters: Sendable {
  /// Which norm.
  package var kind: NormKind
  /// Added to the mean square or the variance.
  package var epsilon: Float
  /// The scale.
  package var weight: Parameter
  /// The shift of a layer norm; nil for an RMS norm.
  package var bias: Parameter?

  /// A norm from its leaves.
  package init(kind: NormKind, epsilon: Float, weight: Parameter, bias: Parameter?) {
    precondition(
      (kind == .layer) == (bias != nil),
      "\(weight.name): a \(kind) norm \(bias == nil ? "without" : "with") shift")
    self.kind = kind
    self.epsilon = epsilon
    self.weight = weight
    self.bias = bias
  }

  /// The norm at `prefix.weight` and, for a layer norm, `prefix.bias`.
  package init(_ tree: ParameterTree, _ prefix: String, kind: NormKind, epsilon: Float) {
    self.init(
      kind: kind, epsilon: epsilon, weight: tree["\(prefix).weight"],
      bias: kind == .layer ? tree["\(prefix).bias"] : nil)
  }

  /// True when a leaf of the norm is trainable.
  package var isTrainable: Bool { weight.isTrainable || (bias?.isTrainable ?? false) }
  /// Width of a row.
  package var width: Int { weight.count }
  /// Floats of scratch that the backward needs.
  package var gradientScratch: Int { 2 * width }

  /// `y = norm(x)`; `y` may be the same memory as `x`.
  ///
  /// `statistics` takes `kind.statisticsPerRow` floats a row for the backward; nil when there is none.
  package func forward(_ x: Matrix, into y: Matrix, statistics: UnsafeMutablePointer<Float>?) {
    normForward(
      kind, x, weight: UnsafePointer(weight.values), bias: bias.map { UnsafePointer($0.values) },
      epsilon: epsilon, into: y, statistics: statistics)
  }

  /// Writes (or adds, when `accumulate`) the gradient of `x` to `dx`, and hands the leaves' to `sink`.
  ///
  /// - Parameters:
  ///   - x: the rows that `forward` read.
  ///   - statistics: what `forward` wrote.
  ///   - dy: gradient of the output; may be the same memory as `dx` when not accumulating.
  ///   - dx: gradient of the input.
  ///   - scratch: `gradientScratch` floats.
  package func backward(
    input x: Matrix, statistics: UnsafePointer<Float>, gradient dy: Matrix, into dx: Matrix,
    accumulate: Bool, scratch: UnsafeMutablePointer<Float>, sink: any GradientSink
  ) {
    let trainable = isTrainable
    if trainable { scratch.update(repeating: 0, count: gradientScratch) }
    normBackward(
      kind, input: x, weight: UnsafePointer(weight.values), statistics: statistics, gradient: dy, into: dx,
      accumulate: accumulate, weightGradient: trainable ? scratch : nil,
      biasGradient: trainable && bias != nil ? scratch + width : nil)
    if weight.isTrainable { sink.add(scratch, of: weight) }
    if let bias, bias.isTrainable { sink.add(scratch + width, of: bias) }
  }
}
