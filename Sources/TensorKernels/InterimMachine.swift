/// What OpenBLAS runs on; replaced, with the whole file, by the tuned kernels.
package struct BLASReport: Sendable {
  /// Core (kernel family) in use.
  package let coreName: String
  /// Name and version of the library.
  package let library: String
  /// Core that the library had chosen itself, when it was changed.
  package let changedFrom: String?
  /// True when the core in use cannot be right for this CPU.
  package let contradictsCPU: Bool
  /// Why the core is what it is.
  package let explanation: String
}

/// Chooses the BLAS core.
package enum BLASCore {
  /// Reports the plain loops, which use no BLAS.
  package static func select() -> BLASReport {
    BLASReport(
      coreName: "none", library: "plain loops", changedFrom: nil, contradictsCPU: true,
      explanation: "the plain kernels call no BLAS")
  }
}

/// The CPU as kernels see it.
package struct CPUFeatures: Sendable {
  /// Brand, as the CPU tells it.
  package let brand: String
  /// Instruction set architecture.
  package let architecture: String
  /// Kernel set in use.
  package let kernelSet: String

  /// Reports the plain loops.
  package static func detect() -> CPUFeatures {
    #if arch(arm64)
      CPUFeatures(brand: "unknown", architecture: "arm64", kernelSet: "portable")
    #else
      CPUFeatures(brand: "unknown", architecture: "x86_64", kernelSet: "portable")
    #endif
  }
}

/// GFLOP/s of fused multiply-adds of this core; the plain loops measure none.
package func measurePeakGFLOPS() -> Double { 0 }

/// GFLOP/s of a float32 matrix multiplication; the plain loops measure none.
package func measureGemmGFLOPS(m: Int, n: Int, k: Int) -> Double { 0 }
