import Synchronization
import TensorKernels

/// A sum of gradients that no order can change, in 32 bits: fixed point with one exponent a leaf
/// (docs/decisions/0007).
///
/// Each value is rounded once to a multiple of 2^-exponent of its leaf and added as an integer. The exponent follows
/// from the largest magnitudes of earlier steps, which are recorded with every addition and do not depend on an order
/// either, with `headroomBits` above them. A step whose values do not fit records its maxima all the same: the
/// exponents that follow from them fit, so a step is computed again at most once. The first step knows no maxima and is
/// always computed twice.
///
/// - Safety: sums are written under the lock of their chunk, maxima under theirs; everything but `add` runs while nobody
///   adds.
package final class ScaledGradientAccumulator: GradientSums, @unchecked Sendable {
  /// A leaf's gradients may grow by this power of two from one step to the next before a step is computed twice.
  package static let headroomBits: Int32 = 4
  /// The exponent of a leaf that has not had a gradient yet: nothing is added, the maximum is recorded.
  package static let unknownExponent: Int32 = .max
  /// Exponents beyond these would make a scale that is no normal float.
  package static let exponentRange: ClosedRange<Int32> = -100...100

  /// Number of sums.
  package let count: Int
  /// Zeroed pages, which exist once they are written.
  private let storage: Arena
  private let sums: UnsafeMutableBufferPointer<Int32>
  /// First index of each leaf in the flat vector, and its end.
  private let leaves: [Range<Int>]
  private let limitBits: Int32
  private let locks = ChunkLocks()
  /// Bits of the largest magnitude of each leaf since `begin`.
  private let maxima: Mutex<[UInt32]>
  private var current: [Int32]
  private var next: [Int32]

  /// Zeroed sums for the trainable leaves of `tree`.
  ///
  /// - Parameters:
  ///   - tree: the parameters.
  ///   - maximumContributions: the most values that are ever added to one sum in a step, on all threads and devices
  ///     together.
  package init(_ tree: ParameterTree, maximumContributions: Int) {
    precondition(
      maximumContributions > 0 && maximumContributions <= 1 << 16,
      "32-bit sums of \(maximumContributions) values")
    count = tree.vectorCount
    leaves = tree.parameters.compactMap { leaf in leaf.gradientOffset.map { $0..<$0 + leaf.count } }
    // One bit for the sign and one in reserve, so that rounding never reaches it.
    limitBits = 30 - Int32(Int.bitWidth - (maximumContributions - 1).leadingZeroBitCount)
    storage = Arena(floatCount: max(count, 16))
    sums = UnsafeMutableBufferPointer(
      start: UnsafeMutableRawPointer(storage.base).bindMemory(to: Int32.self, capacity: count), count: count)
    maxima = Mutex([UInt32](repeating: 0, count: leaves.count))
    current = [Int32](repeating: Self.unknownExponent, count: leaves.count)
    next = current
  }

  /// The exponents of the next step, one a leaf in the order of the tree.
  package var exponents: [Int32] { next }

  /// Goes on with the exponents of a saved run; false when there are not as many as leaves, or one is out of range.
  package func restore(exponents: [Int32]) -> Bool {
    guard
      exponents.count == leaves.count,
      exponents.allSatisfy({ $0 == Self.unknownExponent || Self.exponentRange.contains($0) })
    else { return false }
    next = exponents
    current = exponents
    return true
  }

  /// Takes over the exponents that the last step has led to.
  package func begin() {
    current = next
    maxima.withLock { $0.withUnsafeMutableBufferPointer { $0.update(repeating: 0) } }
  }

  /// Adds one micro-batch's gradient of a trainable leaf, or of some of its rows; any thread may call it at any time.
  package func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {
    guard let offset = parameter.gradientOffset, let base = sums.baseAddress else {
      preconditionFailure("a gradient of the frozen parameter \(parameter.name)")
    }
    let leaf = leafIndex(at: offset)
    precondition(
      offset + parameter.count <= leaves[leaf].upperBound,
      "\(parameter.name) ends at \(offset + parameter.count), its leaf at \(leaves[leaf].upperBound)")
    let exponent = current[leaf]
    var largest: UInt32 = 0
    if exponent == Self.unknownExponent {
      largest = largestMagnitude(gradient, count: parameter.count).bitPattern
    } else {
      locks.forEachChunk(of: offset..<offset + parameter.count) { range in
        let magnitude = accumulateScaled(
          gradient + (range.lowerBound - offset), count: range.count, exponent: exponent,
          into: base + range.lowerBound)
        largest = max(largest, magnitude.bitPattern)
      }
    }
    maxima.withLock { $0[leaf] = max($0[leaf], largest) }
  }

  /// Whether every value fitted; decides the exponents of the next step (or of the same step again).
  package func conclude() -> GradientSumOutcome {
    var outcome = GradientSumOutcome.complete
    for (leaf, bits) in maxima.withLock({ $0 }).enumerated() where bits != 0 {
      guard bits < Float.infinity.bitPattern else { return .diverged }
      // The largest magnitude is under 2^magnitude.
      let magnitude = Int32(bits >> 23) - 126
      let wanted = min(
        max(limitBits - Self.headroomBits - magnitude, Self.exponentRange.lowerBound),
        Self.exponentRange.upperBound)
      let exponent = current[leaf]
      if exponent == Self.unknownExponent || exponent > limitBits - magnitude {
        guard wanted <= limitBits - magnitude else { return .diverged }
        next[leaf] = wanted
        outcome = .redo
      } else if wanted < exponent {
        next[leaf] = wanted
      } else if wanted > exponent + 1 {
        // Slowly, so that a few small steps do not take the room that the next large one needs.
        next[leaf] = exponent + 1
      } else {
        next[leaf] = exponent
      }
    }
    return outcome
  }

  /// Rounds the sums of `range` to floats.
  package func read(_ range: Range<Int>, into gradients: UnsafeMutablePointer<Float>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "sums \(range) of \(count)")
    guard let base = sums.baseAddress, !range.isEmpty else { return }
    UnsafeMutableBufferPointer(start: gradients, count: range.count).update(repeating: 0)
    var leaf = leafIndex(at: range.lowerBound)
    while leaf < leaves.count, leaves[leaf].lowerBound < range.upperBound {
      let here = leaves[leaf].clamped(to: range)
      if !here.isEmpty, current[leaf] != Self.unknownExponent {
        scaledToFloat(
          base + here.lowerBound, count: here.count, exponent: current[leaf],
          into: gradients + (here.lowerBound - range.lowerBound))
      }
      leaf += 1
    }
  }

  /// Zeroes the sums of `range`.
  package func zero(_ range: Range<Int>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= count, "sums \(range) of \(count)")
    UnsafeMutableBufferPointer(rebasing: sums[range]).update(repeating: 0)
  }

  /// Calls `body` with the integer sums, one for each float of the flat vector.
  package func withSums<Result>(_ body: (UnsafeMutableBufferPointer<Int32>) -> Result) -> Result {
    body(sums)
  }

  // MARK: Sums of several devices

  /// Bits of the largest magnitude of each leaf, in the order of the tree.
  package var evidence: [UInt32] { maxima.withLock { $0 } }

  /// Takes in another device's maxima; false when there are not as many as leaves.
  package func include(evidence: [UInt32]) -> Bool {
    guard evidence.count == leaves.count else { return false }
    maxima.withLock { maxima in
      for (leaf, bits) in evidence.enumerated() { maxima[leaf] = max(maxima[leaf], bits) }
    }
    return true
  }

  /// Four.
  package var bytesPerSum: Int { MemoryLayout<Int32>.stride }

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
    withAligned(integers, as: Int32.self) { addScaled($0, count: range.count, into: base + range.lowerBound) }
  }

  /// The last leaf that begins at or before `offset`.
  private func leafIndex(at offset: Int) -> Int {
    var (low, high) = (0, leaves.count - 1)
    while low < high {
      let middle = (low + high + 1) / 2
      if leaves[middle].lowerBound <= offset { low = middle } else { high = middle - 1 }
    }
    return low
  }
}
