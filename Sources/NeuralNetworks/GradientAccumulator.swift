import TensorKernels

/// A sum of gradients that no order can change: 64-bit fixed point.
///
/// Each value is rounded once to a multiple of 2^-exponent and added as an integer, so the sum over
/// micro-batches is the same bits for every order, number of threads and number of devices (docs/ARCHITECTURE.md,
/// "Integer sums"). The default exponent 44 keeps a value of 2^-20 exact to float32 and, with up to 8
/// micro-batches a step, takes values up to 2^15. A value beyond that sets `overflowed`; the caller then
/// discards the sums and redoes the step with a smaller exponent.
package final class GradientAccumulator: GradientSink {
  /// The exponent to start with.
  package static let defaultExponent: Int32 = 44

  /// Binary digits after the point.
  package private(set) var exponent: Int32
  /// True when a value did not fit or was not finite; the sums are then meaningless until `reset`.
  package private(set) var overflowed = false
  private let sums: UnsafeMutableBufferPointer<Int64>
  private let limitBits: Int32

  /// Zeroed sums for a flat vector of `count` floats.
  ///
  /// - Parameters:
  ///   - count: `ParameterTree.vectorCount`.
  ///   - maximumContributions: the most values that are ever added to one sum, on all threads and devices
  ///     together; decides how much headroom a single value must leave.
  ///   - exponent: binary digits after the point.
  package init(count: Int, maximumContributions: Int, exponent: Int32 = defaultExponent) {
    precondition(count >= 0 && maximumContributions > 0, "\(count) sums of \(maximumContributions) values")
    self.exponent = exponent
    let contributionBits = Int32(Int.bitWidth - (maximumContributions - 1).leadingZeroBitCount)
    limitBits = 62 - contributionBits
    sums = .allocate(capacity: count)
    sums.initialize(repeating: 0)
  }

  deinit {
    sums.deallocate()
  }

  /// Zeroes the sums and the overflow flag, and changes the exponent when one is given.
  package func reset(exponent: Int32? = nil) {
    if let exponent { self.exponent = exponent }
    overflowed = false
    sums.update(repeating: 0)
  }

  /// Adds one micro-batch's gradient of a trainable parameter.
  package func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {
    guard let offset = parameter.gradientOffset, let base = sums.baseAddress else {
      preconditionFailure("a gradient of the frozen parameter \(parameter.name)")
    }
    precondition(
      offset + parameter.count <= sums.count,
      "\(parameter.name) ends at \(offset + parameter.count) of \(sums.count) sums")
    let fits = accumulateFixedPoint(
      gradient, count: parameter.count, exponent: exponent, limitBits: limitBits, into: base + offset)
    if !fits { overflowed = true }
  }

  /// Adds the sums of another accumulator of the same size and exponent; exact.
  package func merge(_ other: GradientAccumulator) {
    precondition(
      other.sums.count == sums.count && other.exponent == exponent,
      "merging \(other.sums.count) sums at 2^-\(other.exponent) into \(sums.count) at 2^-\(exponent)")
    if other.overflowed { overflowed = true }
    guard let source = other.sums.baseAddress, let target = sums.baseAddress else { return }
    addFixedPoint(source, count: sums.count, into: target)
  }

  /// Calls `body` with the fixed-point sums, one for each float of the flat vector.
  package func withSums<Result>(_ body: (UnsafeMutableBufferPointer<Int64>) -> Result) -> Result {
    body(sums)
  }

  /// Rounds the sums to floats; must not be called after an overflow.
  package func read(into gradients: UnsafeMutablePointer<Float>) {
    precondition(!overflowed, "sums that overflowed at exponent \(exponent) hold no gradient")
    guard let base = sums.baseAddress else { return }
    fixedPointToFloat(base, count: sums.count, exponent: exponent, into: gradients)
  }
}
