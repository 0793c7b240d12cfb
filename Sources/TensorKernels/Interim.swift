import Glibc

package enum Activation: Sendable, Equatable { case none, relu, gelu, geluTanh }
func act(_ f: Activation, _ x: Float) -> Float {
  switch f {
  case .none: return x
  case .relu: return max(0, x)
  case .gelu: return 0.5 * x * (1 + erff(x * 0.70710678))
  case .geluTanh: return 0.5 * x * (1 + tanhf(0.7978845608 * (x + 0.044715 * x * x * x)))
  }
}
func actGrad(_ f: Activation, _ x: Float) -> Float {
  switch f {
  case .none: return 1
  case .relu: return x > 0 ? 1 : 0
  case .gelu: return 0.5 * (1 + erff(x * 0.70710678)) + x * 0.3989422804 * expf(-0.5 * x * x)
  case .geluTanh:
    let t = tanhf(0.7978845608 * (x + 0.044715 * x * x * x))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608 * (1 + 3 * 0.044715 * x * x)
  }
}
package func applyActivation(_ f: Activation, _ x: Matrix, into y: Matrix) { for i in 0..<x.rows { for j in 0..<x.columns { y[i, j] = act(f, x[i, j]) } } }
package func activationBackward(_ f: Activation, input x: Matrix, gradient dy: Matrix, into dx: Matrix) { for i in 0..<x.rows { for j in 0..<x.columns { dx[i, j] = dy[i, j] * actGrad(f, x[i, j]) } } }
package func gatedActivation(_ f: Activation, gate g: Matrix, linear u: Matrix, into y: Matrix) { for i in 0..<g.rows { for j in 0..<g.columns { y[i, j] = act(f, g[i, j]) * u[i, j] } } }
package func gatedActivationBackward(_ f: Activation, gate g: Matrix, linear u: Matrix, gradient dy: Matrix, gateGradient dg: Matrix, linearGradient du: Matrix) {
  for i in 0..<g.rows { for j in 0..<g.columns { let d = dy[i, j], a = act(f, g[i, j]), da = actGrad(f, g[i, j]), uu = u[i, j]; du[i, j] = d * a; dg[i, j] = d * uu * da } }
}
package enum NormKind: Sendable, Equatable { case rms, layer }
package func normForward(_ kind: NormKind, _ x: Matrix, weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?, epsilon: Float, into y: Matrix, statistics: UnsafeMutablePointer<Float>?) {
  let n = Float(x.columns)
  for r in 0..<x.rows {
    var mean: Float = 0
    if kind == .layer { for c in 0..<x.columns { mean += x[r, c] }; mean /= n }
    var v: Float = 0
    for c in 0..<x.columns { let d = x[r, c] - mean; v += d * d }
    let s = 1 / (v / n + epsilon).squareRoot()
    if let statistics { if kind == .rms { statistics[r] = s } else { statistics[2 * r] = mean; statistics[2 * r + 1] = s } }
    for c in 0..<x.columns { y[r, c] = (x[r, c] - mean) * s * weight[c] + (bias?[c] ?? 0) }
  }
}
package func addNormForward(_ kind: NormKind, residual x: Matrix, _ r: Matrix, weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?, epsilon: Float, into y: Matrix, statistics: UnsafeMutablePointer<Float>?) {
  addRows(r, into: x); normForward(kind, x, weight: weight, bias: bias, epsilon: epsilon, into: y, statistics: statistics)
}
package func normBackward(_ kind: NormKind, input x: Matrix, weight: UnsafePointer<Float>, statistics: UnsafePointer<Float>, gradient dy: Matrix, into dx: Matrix, accumulate: Bool, weightGradient: UnsafeMutablePointer<Float>?, biasGradient: UnsafeMutablePointer<Float>?) {
  let n = Float(x.columns)
  for r in 0..<x.rows {
    let mean = kind == .rms ? 0 : statistics[2 * r], s = kind == .rms ? statistics[r] : statistics[2 * r + 1]
    var a: Float = 0, b: Float = 0
    for c in 0..<x.columns {
      let h = (x[r, c] - mean) * s, g = dy[r, c] * weight[c]
      weightGradient?[c] += dy[r, c] * h; biasGradient?[c] += dy[r, c]
      a += g * h; b += g
    }
    if kind == .rms { b = 0 }
    for c in 0..<x.columns {
      let h = (x[r, c] - mean) * s, g = dy[r, c] * weight[c]
      let d = s * (g - (h * a + b) / n)
      dx[r, c] = d + (accumulate ? dx[r, c] : 0)
    }
  }
}
package func softmaxCrossEntropy(logits: Matrix, labels: UnsafePointer<Int32>, into dLogits: Matrix?, gradientScale: Float) -> Double {
  var loss = 0.0
  for r in 0..<logits.rows {
    if labels[r] < 0 { if let d = dLogits { for c in 0..<d.columns { d[r, c] = 0 } }; continue }
    var m = -Float.infinity; for c in 0..<logits.columns { m = max(m, logits[r, c]) }
    var z: Float = 0; for c in 0..<logits.columns { z += expf(logits[r, c] - m) }
    loss += Double(m + logf(z) - logits[r, Int(labels[r])])
    if let d = dLogits { for c in 0..<d.columns { d[r, c] = (expf(logits[r, c] - m) / z - (c == Int(labels[r]) ? 1 : 0)) * gradientScale } }
  }
  return loss
}
package func streamedHeadCrossEntropy(_ x: Matrix, embedding: Matrix, scale: Float, labels: UnsafePointer<Int32>, into dX: Matrix?) -> Double {
  let p = UnsafeMutablePointer<Float>.allocate(capacity: x.rows * embedding.rows); defer { p.deallocate() }
  let l = Matrix(p, rows: x.rows, columns: embedding.rows)
  matrixMultiply(x, .none, embedding, .transposed, into: l, epilogue: Epilogue(scale: scale))
  let loss = softmaxCrossEntropy(logits: l, labels: labels, into: l, gradientScale: scale)
  if let dX { matrixMultiply(l, .none, embedding, .none, into: dX) }
  return loss
}
