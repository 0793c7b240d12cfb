import CKernels

// Sums of gradients as integers: no order of addition can change them (docs/ARCHITECTURE.md, "integer sums").

/// sums[i] += Int64(rint(x[i]·2^exponent)), ties to even.
///
/// Returns false when any |x| ≥ 2^(limitBits − exponent) or is not finite; the caller then discards the
/// sums. `limitBits` is at most 62; with n addends choose 62 − ⌈log2 n⌉ and no sum overflows.
package func accumulateFixedPoint(
  _ x: UnsafePointer<Float>, count: Int, exponent: Int32, limitBits: Int32,
  into sums: UnsafeMutablePointer<Int64>, using set: KernelSet = .best
) -> Bool {
  precondition(
    limitBits >= 1 && limitBits <= 62 && abs(exponent) <= 100 && count >= 0,
    "fixed point of \(limitBits) bits at exponent \(exponent) for \(count) values")
  let limit = Float(sign: .plus, exponent: Int(limitBits - exponent), significand: 1)
  let scale = Double(sign: .plus, exponent: Int(exponent), significand: 1)
  return set.kernels.pointee.accumulate_fixed(x, count, scale, limit, sums) != 0
}

/// sums[i] += x[i], wrapping.
package func addFixedPoint(_ x: UnsafePointer<Int64>, count: Int, into sums: UnsafeMutablePointer<Int64>) {
  for i in 0..<count { sums[i] &+= x[i] }
}

/// sums[i] += x[i], wrapping.
package func addScaled(_ x: UnsafePointer<Int32>, count: Int, into sums: UnsafeMutablePointer<Int32>) {
  for i in 0..<count { sums[i] &+= x[i] }
}

/// y[i] = x[i]·2^−exponent, rounded once to float32; every kernel set gives the same bits.
package func fixedPointToFloat(
  _ x: UnsafePointer<Int64>, count: Int, exponent: Int32, into y: UnsafeMutablePointer<Float>,
  using set: KernelSet = .best
) {
  // A power of two scales a float without rounding, so Int64 → Float is the only rounding.
  precondition(abs(exponent) <= 100 && count >= 0, "exponent \(exponent) for \(count) sums")
  let scale = Float(sign: .plus, exponent: -Int(exponent), significand: 1)
  set.kernels.pointee.fixed_to_float(x, count, scale, y)
}

/// sums[i] += Int32(rint(x[i]·2^exponent)), ties to even; returns the largest |x|, or NaN when there is one.
///
/// The sums are meaningless when that is 2^(30 − exponent) or more: the caller checks it, with room for its number of
/// addends.
package func accumulateScaled(
  _ x: UnsafePointer<Float>, count: Int, exponent: Int32, into sums: UnsafeMutablePointer<Int32>,
  using set: KernelSet = .best
) -> Float {
  precondition(abs(exponent) <= 100 && count >= 0, "fixed point at exponent \(exponent) for \(count) values")
  let scale = Float(sign: .plus, exponent: Int(exponent), significand: 1)
  return Float(bitPattern: set.kernels.pointee.accumulate_scaled(x, count, scale, sums))
}

/// The largest |x|, or NaN when there is one.
package func largestMagnitude(_ x: UnsafePointer<Float>, count: Int, using set: KernelSet = .best) -> Float {
  precondition(count >= 0, "\(count) values cannot be")
  return Float(bitPattern: set.kernels.pointee.largest_magnitude(x, count))
}

/// y[i] = x[i]·2^−exponent, rounded once to float32; every kernel set gives the same bits.
package func scaledToFloat(
  _ x: UnsafePointer<Int32>, count: Int, exponent: Int32, into y: UnsafeMutablePointer<Float>,
  using set: KernelSet = .best
) {
  precondition(abs(exponent) <= 100 && count >= 0, "exponent \(exponent) for \(count) sums")
  let scale = Float(sign: .plus, exponent: -Int(exponent), significand: 1)
  set.kernels.pointee.scaled_to_float(x, count, scale, y)
}
