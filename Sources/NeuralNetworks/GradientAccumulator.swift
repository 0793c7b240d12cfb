import Synchronization
import TensorKernels

/// A sum of gradients that no order can change: 64-bit fixed point.
///
/// Each value is rounded once to a multiple of 2^-exponent and added as an integer, so the sum over
/// micro-batches is the same bits for every order, number of threads and number of devices (docs/ARCHITECTURE.md,
/// "Integer sums"). The default exponent 34 changes an adapter by a quarter of what
/// float32 weights leave uncertain in it and, with up to 8 micro-batches a step, takes values up to 2^25
/// (docs/decisions/0025). A value beyond that sets `overflowed`; the caller then discards the sums and redoes the step with a smaller exponent.
///
/// All threads of a step add to one accumulator: 8 bytes a parameter, whatever the number of threads.
///
/// - Safety: a sum is written under the lock of its chunk of the vector; `begin`, `conclude`, `reset`, `merge`, `zero`, `read`
///   and `withSums` run while nobody adds.
package final class GradientAccumulator: GradientSums, @unchecked Sendable {
  /// The exponent to start with: a resolution of 2^−34 (docs/decisions/0025).
  package static let defaultExponent: Int32 = 34
  /// Exponents of runs that earlier builds began: they end with them.
  private static let earlierExponents: [Int32] = [44, 36]
  /// The exponent of coarse sums: a resolution of 2^−24 (docs/decisions/0012).
  package static let coarseExponent: Int32 = 24
  /// How much an overflow takes from the exponent.
  package static let exponentStep: Int32 = 8
  /// No exponent is smaller than this one: a gradient over 2^42 is no gradient.
  package static let smallestExponent: Int32 = 16

  /// Binary digits after the point.
  package private(set) var exponent: Int32
  /// True when a value did not fit or was not finite; the sums are then meaningless until `reset`.
  package var overflowed: Bool { overflow.load(ordering: .relaxed) }
  private let overflow = Atomic<Bool>(false)
  /// Zeroed pages, which exist once they are written: a stage of a pipeline has only those of its own leaves.
  private let storage: Arena
  private let sums: UnsafeMutableBufferPointer<Int64>
  private let limitBits: Int32
  private let locks = ChunkLocks()
  /// The exponent of the next step.
  private var nextExponent: Int32
  /// The exponent to start with: all others are some whole steps below.
  private let firstExponent: Int32

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
    nextExponent = exponent
    firstExponent = exponent
    let contributionBits = Int32(Int.bitWidth - (maximumContributions - 1).leadingZeroBitCount)
    limitBits = 62 - contributionBits
    storage = Arena(floatCount: max(2 * count, 16))
    sums = UnsafeMutableBufferPointer(
      start: UnsafeMutableRawPointer(storage.base).bindMemory(to: Int64.self, capacity: count), count: count)
  }

  /// Zeroes the sums and the overflow flag, and changes the exponent when one is given.
  package func reset(exponent: Int32? = nil) {
    if let exponent {
      self.exponent = exponent
      nextExponent = exponent
    }
    overflow.store(false, ordering: .relaxed)
    sums.update(repeating: 0)
  }

  /// Adds one micro-batch's gradient of a trainable leaf, or of some of its rows; any thread may call it at any time.
  package func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {
    guard let offset = parameter.gradientOffset, let base = sums.baseAddress else {
      preconditionFailure("a gradient of the frozen parameter \(parameter.name)")
    }
    precondition(
      offset + parameter.count <= sums.count,
      "\(parameter.name) ends at \(offset + parameter.count) of \(sums.count) sums")
    locks.forEachChunk(of: offset..<offset + parameter.count) { range in
      let fits = accumulateFixedPoint(
        gradient + (range.lowerBound - offset), count: range.count, exponent: exponent, limitBits: limitBits,
        into: base + range.lowerBound)
      if !fits { overflow.store(true, ordering: .relaxed) }
    }
  }

  /// The exponent of the next step, alone in an array.
  package var exponents: [Int32] { [nextExponent] }

  /// Goes on with the exponent of a saved run; false when it is not exactly one to which overflows can have led.
  ///
  /// So the exponent of coarse sums does not fit fine ones, nor the other way round.
  package func restore(exponents: [Int32]) -> Bool {
    let earlier = firstExponent == Self.defaultExponent ? Self.earlierExponents : []
    let all = ([firstExponent] + earlier).flatMap { first in
      stride(from: first, through: Self.smallestExponent, by: -Int(Self.exponentStep))
    }
    guard exponents.count == 1, all.contains(exponents[0]) else { return false }
    nextExponent = exponents[0]
    exponent = nextExponent
    return true
  }

  /// Takes over the exponent that the last step has led to.
  package func begin() {
    exponent = nextExponent
    overflow.store(false, ordering: .relaxed)
  }

  /// Whether every value fitted; if not, the step is computed again with a smaller exponent.
  package func conclude() -> GradientSumOutcome {
    guard overflowed else { return .complete }
    nextExponent = exponent - Self.exponentStep
    return nextExponent >= Self.smallestExponent ? .redo : .diverged
  }

  /// Adds the sums of another accumulator of the same size and exponent; exact.
  package func merge(_ other: GradientAccumulator) {
    precondition(
      other.sums.count == sums.count && other.exponent == exponent,
      "merging \(other.sums.count) sums at 2^-\(other.exponent) into \(sums.count) at 2^-\(exponent)")
    if other.overflowed { overflow.store(true, ordering: .relaxed) }
    guard let source = other.sums.baseAddress, let target = sums.baseAddress else { return }
    addFixedPoint(source, count: sums.count, into: target)
  }

  /// Calls `body` with the fixed-point sums, one for each float of the flat vector.
  package func withSums<Result>(_ body: (UnsafeMutableBufferPointer<Int64>) -> Result) -> Result {
    body(sums)
  }

  /// Number of sums: one for each float of the flat vector.
  package var count: Int { sums.count }

  /// Rounds the sums to floats; must not be called after an overflow.
  package func read(into gradients: UnsafeMutablePointer<Float>) {
    read(0..<sums.count, into: gradients)
  }

  /// Rounds the sums of `range` to floats; must not be called after an overflow.
  package func read(_ range: Range<Int>, into gradients: UnsafeMutablePointer<Float>) {
    precondition(!overflowed, "sums that overflowed at exponent \(exponent) hold no gradient")
    precondition(
      range.lowerBound >= 0 && range.upperBound <= sums.count, "sums \(range) of \(sums.count)")
    guard let base = sums.baseAddress else { return }
    fixedPointToFloat(base + range.lowerBound, count: range.count, exponent: exponent, into: gradients)
  }

  /// Zeroes the sums of `range`.
  package func zero(_ range: Range<Int>) {
    precondition(
      range.lowerBound >= 0 && range.upperBound <= sums.count, "sums \(range) of \(sums.count)")
    UnsafeMutableBufferPointer(rebasing: sums[range]).update(repeating: 0)
  }

  // MARK: Sums of several devices

  /// One word: 1 when a value did not fit.
  package var evidence: [UInt32] { [overflowed ? 1 : 0] }

  /// Takes in whether another device's values fitted; false when that is not one word.
  package func include(evidence: [UInt32]) -> Bool {
    guard evidence.count == 1, evidence[0] <= 1 else { return false }
    if evidence[0] == 1 { overflow.store(true, ordering: .relaxed) }
    return true
  }

  /// Eight.
  package var bytesPerSum: Int { MemoryLayout<Int64>.stride }

  /// Calls `body` with the integers of `range` as bytes.
  package func withIntegers<Result>(
    _ range: Range<Int>, _ body: (UnsafeMutableRawBufferPointer) -> Result
  ) -> Result {
    body(UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: sums[range])))
  }

  /// Adds another device's integers to those of `range`; exact.
  package func add(integers: UnsafeRawBufferPointer, to range: Range<Int>) {
    precondition(
      integers.count == range.count * bytesPerSum, "\(integers.count) bytes for the sums \(range)")
    guard let base = sums.baseAddress, !range.isEmpty else { return }
    withAligned(integers, as: Int64.self) {
      addFixedPoint($0, count: range.count, into: base + range.lowerBound)
    }
  }
}
