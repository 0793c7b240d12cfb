import CKernels

/// The levels of vector instructions that the transformer kernels are compiled for.
package enum TransformerKernelSet: Int32, CaseIterable, Sendable {
  /// What the architecture guarantees: SSE2 or NEON.
  case portable = 0
  /// AVX2 and FMA.
  case avx2 = 1
  /// AVX-512 F, BW, VL and DQ.
  case avx512 = 2

  /// True when this CPU runs the set.
  package var isSupported: Bool { hearth_transformer_supports(rawValue) }

  /// Runs `body` with this set on the calling thread, for tests; otherwise the best set is used.
  package func force<Result>(_ body: () -> Result) -> Result {
    precondition(isSupported, "this CPU does not run the \(self) kernels")
    hearth_transformer_force(rawValue)
    defer { hearth_transformer_force(-1) }
    return body()
  }
}
