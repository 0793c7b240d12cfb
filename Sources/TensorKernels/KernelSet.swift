import CKernels

/// One of the instruction-set levels that the C kernels are compiled for.
///
/// The same inputs give the same bits under the same set; two sets agree within rounding.
///
/// - Safety: `kernels` points at a constant of the C target.
package struct KernelSet: @unchecked Sendable, Equatable {
  /// Level: 0 portable (SSE2 or NEON), 1 AVX2, 2 AVX-512.
  package let index: Int32
  let kernels: UnsafePointer<hearth_kernels>

  init?(index: Int32) {
    guard let kernels = hearth_kernels_of(index) else { return nil }
    self.index = index
    self.kernels = kernels
  }

  /// The sets that this CPU runs, best first; never empty.
  package static let available: [KernelSet] = (0..<Int32(HEARTH_SET_COUNT)).reversed().compactMap {
    KernelSet(index: $0)
  }

  /// The set in use unless a caller forces another.
  package static let best: KernelSet = available[0]

  /// Short name, as reports show it.
  package var name: String {
    switch index {
    case 2: return "avx512"
    case 1: return "avx2"
    default:
      #if arch(arm64)
        return "neon"
      #else
        return "portable"
      #endif
    }
  }

  /// Same level, same kernels.
  package static func == (a: KernelSet, b: KernelSet) -> Bool { a.index == b.index }
}

/// Makes subnormal operands and results count as zero on the calling thread, from now on.
package func enableFlushToZero() {
  _ = hearth_flush_subnormals()
}

/// Runs `body` with subnormals as zero on the calling thread, and leaves the thread as it was.
///
/// For threads that belong to somebody else: their own arithmetic must not change.
package func withSubnormalsFlushed<Value, Failure: Error>(
  _ body: () throws(Failure) -> Value
) throws(Failure) -> Value {
  let control = hearth_flush_subnormals()
  defer { hearth_restore_subnormals(control) }
  return try body()
}

/// Runs independent chains of fused multiply-adds and returns the floating-point operations done.
///
/// Timing it gives the peak that a product can reach.
package func runMultiplyAddChains(iterations: Int, using set: KernelSet = .best) -> Double {
  precondition(iterations >= 0, "\(iterations) iterations cannot be")
  return withUnsafeTemporaryAllocation(of: Float.self, capacity: 16) { sink in
    sink.initialize(repeating: 0)
    sink[0] = 0.5
    sink[1] = 0.125
    return set.kernels.pointee.multiply_add_chains(iterations, sink.baseAddress!)
  }
}
