extension Reference {
  /// scale·op(a)·op(b) + bias, rounded once, row by row.
  package static func product(
    _ a: Matrix, _ ta: Transposition, _ b: Matrix, _ tb: Transposition, bias: UnsafePointer<Float>? = nil,
    scale: Float = 1
  ) -> [Float] {
    let (rows, depth) = ta == .none ? (a.rows, a.columns) : (a.columns, a.rows)
    let columns = tb == .none ? b.columns : b.rows
    var result: [Float] = []
    result.reserveCapacity(rows * columns)
    for row in 0..<rows {
      for column in 0..<columns {
        var sum = 0.0
        for step in 0..<depth {
          let left = ta == .none ? a[row, step] : a[step, row]
          let right = tb == .none ? b[step, column] : b[column, step]
          sum += Double(left) * Double(right)
        }
        result.append(Float(Double(scale) * sum + Double(bias?[column] ?? 0)))
      }
    }
    return result
  }

  /// One AdamW step of one parameter in double; returns the new parameter and moments.
  package static func adamW(
    _ s: AdamWStep, parameter: Double, gradient: Double, m: Double, v: Double
  ) -> (parameter: Double, m: Double, v: Double) {
    let g = gradient * Double(s.gradientScale)
    let (beta1, beta2) = (Double(s.beta1), Double(s.beta2))
    let first = beta1 * m + (1 - beta1) * g
    let second = beta2 * v + (1 - beta2) * g * g
    var (decayed1, decayed2) = (1.0, 1.0)
    for _ in 0..<s.step {
      decayed1 *= beta1
      decayed2 *= beta2
    }
    let update = first / (1 - decayed1) / ((second / (1 - decayed2)).squareRoot() + Double(s.epsilon))
    let rate = Double(s.learningRate)
    return (parameter - rate * Double(s.weightDecay) * parameter - rate * update, first, second)
  }

  /// The integer nearest to x·2^exponent, ties to even.
  package static func fixedPoint(_ x: Float, exponent: Int32) -> Int64 {
    Int64(
      (Double(x) * Double(sign: .plus, exponent: Int(exponent), significand: 1)).rounded(.toNearestOrEven))
  }

  /// CRC-32C bit by bit.
  package static func crc32c(_ bytes: [UInt8], seed: UInt32 = 0) -> UInt32 {
    var remainder = ~seed
    for byte in bytes {
      remainder ^= UInt32(byte)
      for _ in 0..<8 { remainder = (remainder >> 1) ^ (0x82F6_3B78 & (0 &- (remainder & 1))) }
    }
    return ~remainder
  }
}
