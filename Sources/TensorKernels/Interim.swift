import COpenBLAS
import Glibc

package enum Transposition: Sendable { case none, transposed }
package enum Activation: Sendable, Equatable { case none, relu, gelu, geluTanh }
package struct Epilogue: @unchecked Sendable {
  package var bias: UnsafePointer<Float>?
  package var activation: Activation
  package var scale: Float
  package var accumulate: Bool
  package init(bias: UnsafePointer<Float>? = nil, activation: Activation = .none, scale: Float = 1, accumulate: Bool = false) {
    self.bias = bias; self.activation = activation; self.scale = scale; self.accumulate = accumulate
  }
}
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
package func matrixMultiply(_ a: Matrix, _ ta: Transposition = .none, _ b: Matrix, _ tb: Transposition = .none, into c: Matrix, epilogue: Epilogue = Epilogue()) {
  let m = c.rows, n = c.columns, k = ta == .none ? a.columns : a.rows
  let direct = epilogue.bias == nil && epilogue.activation == .none
  if direct {
    cblas_sgemm(CblasRowMajor, ta == .none ? CblasNoTrans : CblasTrans, tb == .none ? CblasNoTrans : CblasTrans, Int32(m), Int32(n), Int32(k), epilogue.scale, a.base, Int32(a.stride), b.base, Int32(b.stride), epilogue.accumulate ? 1 : 0, c.base, Int32(c.stride))
    return
  }
  var t = [Float](repeating: 0, count: m * n)
  cblas_sgemm(CblasRowMajor, ta == .none ? CblasNoTrans : CblasTrans, tb == .none ? CblasNoTrans : CblasTrans, Int32(m), Int32(n), Int32(k), epilogue.scale, a.base, Int32(a.stride), b.base, Int32(b.stride), 0, &t, Int32(n))
  for i in 0..<m { for j in 0..<n {
    let v = act(epilogue.activation, t[i * n + j] + (epilogue.bias?[j] ?? 0))
    c[i, j] = v + (epilogue.accumulate ? c[i, j] : 0)
  } }
}
func withDecoded(_ x: EncodedRows, _ body: (Matrix) -> Void) {
  let p = UnsafeMutablePointer<Float>.allocate(capacity: max(1, x.rows * x.width))
  let m = Matrix(p, rows: x.rows, columns: x.width)
  decodeRows(x, into: m); body(m); p.deallocate()
}
package func decodeMultiply(_ x: EncodedRows, weight: Matrix, into c: Matrix, epilogue: Epilogue = Epilogue()) {
  withDecoded(x) { matrixMultiply($0, .none, weight, .transposed, into: c, epilogue: epilogue) }
}
package func decodeWeightGradient(_ dy: Matrix, _ x: EncodedRows, into dW: Matrix, accumulate: Bool) {
  withDecoded(x) { matrixMultiply(dy, .transposed, $0, .none, into: dW, epilogue: Epilogue(accumulate: accumulate)) }
}
package func encodeRows(_ x: Matrix, into y: EncodedRows) -> Int {
  var bad = 0
  for r in 0..<x.rows {
    let p = y.base + r * y.rowBytes
    switch y.element {
    case .float32: for c in 0..<x.columns { let v = x[r, c]; if !v.isFinite { bad += 1 }; p.storeBytes(of: v, toByteOffset: 4 * c, as: Float.self) }
    case .float16: for c in 0..<x.columns { let v = Float16(x[r, c]); if !v.isFinite { bad += 1 }; p.storeBytes(of: v, toByteOffset: 2 * c, as: Float16.self) }
    case .int8:
      var m: Float = 0
      for c in 0..<x.columns { let v = x[r, c]; if !v.isFinite { bad += 1 }; m = max(m, v.magnitude) }
      let s = m / 127
      p.storeBytes(of: s, as: Float.self)
      for c in 0..<x.columns { p.storeBytes(of: Int8(s > 0 ? (x[r, c] / s).rounded(.toNearestOrEven) : 0), toByteOffset: 4 + c, as: Int8.self) }
    }
  }
  return bad
}
package func decodeRows(_ x: EncodedRows, into y: Matrix) {
  for r in 0..<x.rows {
    let p = x.base + r * x.rowBytes
    switch x.element {
    case .float32: for c in 0..<x.width { y[r, c] = p.load(fromByteOffset: 4 * c, as: Float.self) }
    case .float16: for c in 0..<x.width { y[r, c] = Float(p.load(fromByteOffset: 2 * c, as: Float16.self)) }
    case .int8:
      let s = p.load(as: Float.self)
      for c in 0..<x.width { y[r, c] = s * Float(p.load(fromByteOffset: 4 + c, as: Int8.self)) }
    }
  }
}
package func columnSums(_ x: Matrix, into sums: UnsafeMutablePointer<Float>, accumulate: Bool) {
  if !accumulate { for c in 0..<x.columns { sums[c] = 0 } }
  for r in 0..<x.rows { for c in 0..<x.columns { sums[c] += x[r, c] } }
}
package func addRows(_ x: Matrix, into y: Matrix, scale: Float = 1) { for r in 0..<x.rows { for c in 0..<x.columns { y[r, c] += scale * x[r, c] } } }
package func blendRows(_ a: Matrix, _ b: Matrix, weight: Float, into c: Matrix) { for i in 0..<a.rows { for j in 0..<a.columns { c[i, j] = weight * a[i, j] + (1 - weight) * b[i, j] } } }
package func dotProduct(_ a: Matrix, _ b: Matrix) -> Float { var s = 0.0; for i in 0..<a.rows { for j in 0..<a.columns { s += Double(a[i, j]) * Double(b[i, j]) } }; return Float(s) }
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
package func squaredError(prediction: Matrix, target: UnsafePointer<Float>, into gradient: Matrix?, gradientScale: Float) -> Double {
  var s = 0.0
  for r in 0..<prediction.rows { let d = prediction[r, 0] - target[r]; s += Double(d) * Double(d); gradient?[r, 0] = 2 * d * gradientScale }
  return s
}
package func streamedHeadCrossEntropy(_ x: Matrix, embedding: Matrix, scale: Float, labels: UnsafePointer<Int32>, into dX: Matrix?) -> Double {
  let p = UnsafeMutablePointer<Float>.allocate(capacity: x.rows * embedding.rows); defer { p.deallocate() }
  let l = Matrix(p, rows: x.rows, columns: embedding.rows)
  matrixMultiply(x, .none, embedding, .transposed, into: l, epilogue: Epilogue(scale: scale))
  let loss = softmaxCrossEntropy(logits: l, labels: labels, into: l, gradientScale: scale)
  if let dX { matrixMultiply(l, .none, embedding, .none, into: dX) }
  return loss
}
package func gatherRows(_ table: Matrix, _ ids: UnsafePointer<Int32>, count: Int, into y: Matrix, accumulate: Bool) { for r in 0..<count { for c in 0..<table.columns { y[r, c] = table[Int(ids[r]), c] + (accumulate ? y[r, c] : 0) } } }
package struct AdamWStep: Sendable { package var learningRate, beta1, beta2, epsilon, weightDecay: Float; package var step: Int; package var gradientScale: Float
  package init(learningRate: Float, beta1: Float, beta2: Float, epsilon: Float, weightDecay: Float, step: Int, gradientScale: Float) { self.learningRate = learningRate; self.beta1 = beta1; self.beta2 = beta2; self.epsilon = epsilon; self.weightDecay = weightDecay; self.step = step; self.gradientScale = gradientScale } }
package func adamW(_ s: AdamWStep, parameters: UnsafeMutablePointer<Float>, gradients: UnsafePointer<Float>, m: UnsafeMutablePointer<Float>, v: UnsafeMutablePointer<Float>, count: Int) {
  let c1 = 1 - powf(s.beta1, Float(s.step)), c2 = 1 - powf(s.beta2, Float(s.step))
  for i in 0..<count {
    let g = gradients[i] * s.gradientScale
    m[i] = s.beta1 * m[i] + (1 - s.beta1) * g; v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g
    parameters[i] -= s.learningRate * (m[i] / c1 / ((v[i] / c2).squareRoot() + s.epsilon) + s.weightDecay * parameters[i])
  }
}
package func sumOfSquares(_ x: UnsafePointer<Float>, count: Int) -> Double { var s = 0.0; for i in 0..<count { s += Double(x[i]) * Double(x[i]) }; return s }
package func accumulateFixedPoint(_ x: UnsafePointer<Float>, count: Int, exponent: Int32, limitBits: Int32, into sums: UnsafeMutablePointer<Int64>) -> Bool {
  let limit = exp2f(Float(limitBits - exponent)), scale = exp2(Double(exponent)); var ok = true
  for i in 0..<count { if !(x[i].magnitude < limit) { ok = false } else { sums[i] &+= Int64((Double(x[i]) * scale).rounded(.toNearestOrEven)) } }
  return ok
}
package func addFixedPoint(_ x: UnsafePointer<Int64>, count: Int, into sums: UnsafeMutablePointer<Int64>) { for i in 0..<count { sums[i] &+= x[i] } }
package func fixedPointToFloat(_ x: UnsafePointer<Int64>, count: Int, exponent: Int32, into y: UnsafeMutablePointer<Float>) { let s = exp2(-Double(exponent)); for i in 0..<count { y[i] = Float(Double(x[i]) * s) } }
package func crc32c(_ bytes: UnsafeRawBufferPointer, seed: UInt32 = 0) -> UInt32 {
  var c = ~seed
  for b in bytes { c ^= UInt32(b); for _ in 0..<8 { c = (c >> 1) ^ (0x82F6_3B78 & (0 &- (c & 1))) } }
  return ~c
}
package final class Arena: @unchecked Sendable {
  package let base: UnsafeMutablePointer<Float>; package let floatCount: Int
  package init(floatCount: Int) { self.floatCount = floatCount; base = UnsafeMutableRawPointer.allocate(byteCount: max(64, floatCount * 4), alignment: 64).assumingMemoryBound(to: Float.self); base.initialize(repeating: 0, count: max(16, floatCount)) }
  deinit { base.deallocate() }
}
package struct ArenaLayout: Sendable {
  private var top = 0; package private(set) var floatCount = 0
  package init() {}
  package mutating func reserve(_ floats: Int) -> Int { let o = top; top += (floats + 15) / 16 * 16; floatCount = max(floatCount, top); return o }
  package func mark() -> Int { top }
  package mutating func rewind(to mark: Int) { top = mark }
}
package func enableFlushToZero() {}
