/// How finely gradients are rounded before they are added up: what a person chooses.
public enum GradientPrecision: String, Codable, CaseIterable, Sendable, Equatable {
  /// As finely as the technique's sums allow.
  case full
  /// To multiples of 2^−24, the smallest float16: fewer bytes travel (docs/decisions/0012).
  case half
}

/// How gradient sums are kept: the memory they take, and how they round.
package enum GradientSumFormat: String, Codable, Sendable, Equatable {
  /// 64-bit integers with one exponent for all parameters (docs/decisions/0003 and 0023).
  case fixed64
  /// The same with a smaller exponent, so that they need fewer bytes on a wire (docs/decisions/0012).
  case coarse64
  /// 32-bit integers with one exponent a leaf (docs/decisions/0007).
  case scaled32

  /// 64-bit sums of a precision.
  package init(_ precision: GradientPrecision) {
    switch precision {
    case .full: self = .fixed64
    case .half: self = .coarse64
    }
  }

  /// Bytes of one sum.
  package var bytesPerParameter: Int { self == .scaled32 ? 4 : 8 }

  /// Bytes of one sum on a wire, rounded up: 64-bit sums take as few bits as the largest of their block needs, usually these.
  package var usualWireBytes: Int {
    switch self {
    case .fixed64: 3
    case .coarse64: 2
    case .scaled32: 4
    }
  }

  /// Whether a step's exponents are known before its first gradient, so that sums may travel while others are added.
  package var knowsExponents: Bool { self != .scaled32 }

  /// Zeroed sums of this format.
  ///
  /// - Parameters:
  ///   - tree: the parameters.
  ///   - maximumContributions: the most values that are ever added to one sum in a step, on all threads and devices
  ///     together.
  package func makeSums(of tree: ParameterTree, maximumContributions: Int) -> any GradientSums {
    switch self {
    case .fixed64:
      GradientAccumulator(count: tree.vectorCount, maximumContributions: maximumContributions)
    case .coarse64:
      GradientAccumulator(
        count: tree.vectorCount, maximumContributions: maximumContributions,
        exponent: GradientAccumulator.coarseExponent)
    case .scaled32: ScaledGradientAccumulator(tree, maximumContributions: maximumContributions)
    }
  }
}

/// Whether a step's sums hold its gradient.
package enum GradientSumOutcome: Sendable, Equatable {
  /// Every value fitted.
  case complete
  /// The exponents were wrong and have been changed: the sums are to be cleared and the step computed again.
  case redo
  /// A value was no number, or beyond any exponent.
  case diverged
}

/// Sums of gradients in which no order of additions changes a bit.
///
/// A step is `begin`, any number of `add` on any thread, `conclude`, and, when that says so, once more from zeroed sums.
/// Only `add` may be called by several threads at once.
package protocol GradientSums: GradientSink, Sendable {
  /// Number of sums: one for each float of the flat vector.
  var count: Int { get }
  /// The exponents of the next step; all that a resumed run needs.
  var exponents: [Int32] { get }
  /// Goes on with the exponents of a saved run; false when they belong to other parameters.
  func restore(exponents: [Int32]) -> Bool
  /// Prepares for a step over sums that are zero.
  func begin()
  /// Looks at what was added since `begin`, and decides the exponents of the next step.
  func conclude() -> GradientSumOutcome
  /// Rounds the sums of `range` to floats.
  func read(_ range: Range<Int>, into gradients: UnsafeMutablePointer<Float>)
  /// Zeroes the sums of `range`.
  func zero(_ range: Range<Int>)

  // MARK: Sums of several devices

  /// What was noticed about the values since `begin`: all that `conclude` looks at, and the same for every order.
  var evidence: [UInt32] { get }
  /// Takes in what another device noticed in the same step; false when it belongs to other parameters.
  func include(evidence: [UInt32]) -> Bool
  /// Bytes of one sum.
  var bytesPerSum: Int { get }
  /// Calls `body` with the integers of `range`, `bytesPerSum` little-endian bytes each.
  func withIntegers<Result>(_ range: Range<Int>, _ body: (UnsafeMutableRawBufferPointer) -> Result) -> Result
  /// Adds another device's integers to those of `range`; both were rounded under the same exponents.
  func add(integers: UnsafeRawBufferPointer, to range: Range<Int>)
}

extension GradientSums {
  /// Overwrites the integers of `range` with those of another device.
  package func store(integers: UnsafeRawBufferPointer, to range: Range<Int>) {
    withIntegers(range) { $0.copyMemory(from: integers) }
  }
}
