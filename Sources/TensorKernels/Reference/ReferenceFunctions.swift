extension Reference {
  /// f(x) by the C library.
  package static func activation(_ f: Activation, _ x: Double) -> Double {
    switch f {
    case .none: return x
    case .relu: return max(0, x)
    case .gelu: return 0.5 * x * (1 + erf(x * 0.5.squareRoot()))
    case .geluTanh: return 0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    }
  }

  /// f'(x) by the C library.
  package static func activationSlope(_ f: Activation, _ x: Double) -> Double {
    switch f {
    case .none: return 1
    case .relu: return x > 0 ? 1 : 0
    case .gelu:
      let density = exp(-0.5 * x * x) / (2 * Double.pi).squareRoot()
      return 0.5 * (1 + erf(x * 0.5.squareRoot())) + x * density
    case .geluTanh:
      let factor = (2 / Double.pi).squareRoot()
      let t = tanh(factor * (x + 0.044715 * x * x * x))
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * factor * (1 + 3 * 0.044715 * x * x)
    }
  }

  /// The normalised row before weight and bias, and 1/σ (or 1/rms).
  package static func normalized(
    _ kind: NormKind, _ x: [Double], epsilon: Double
  ) -> (row: [Double], inverse: Double) {
    let count = Double(x.count)
    let mean = kind == .layer ? x.reduce(0, +) / count : 0
    let variance = x.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / count
    let inverse = 1 / (variance + epsilon).squareRoot()
    return (x.map { ($0 - mean) * inverse }, inverse)
  }

  /// The gradient with respect to `x` of a normalised row, `g` being dy ∘ weight.
  package static func normGradient(_ kind: NormKind, _ x: [Double], g: [Double], epsilon: Double) -> [Double]
  {
    let count = Double(x.count)
    let (row, inverse) = normalized(kind, x, epsilon: epsilon)
    let slope = zip(g, row).map { $0 * $1 }.reduce(0, +) / count
    let shift = kind == .layer ? g.reduce(0, +) / count : 0
    return zip(g, row).map { inverse * ($0 - $1 * slope - shift) }
  }
}
