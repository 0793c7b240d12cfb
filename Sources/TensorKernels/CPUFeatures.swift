import CKernels

/// What the CPU offers to the kernels.
package struct CPUFeatures: Sendable, Equatable {
  /// The processor's own name, or "unknown".
  package let brand: String
  /// "x86_64" or "arm64".
  package let architecture: String
  /// 256-bit integer and float vectors.
  package let avx2: Bool
  /// Fused multiply-add.
  package let fma: Bool
  /// AVX-512 F, BW, VL and DQ together.
  package let avx512: Bool
  /// 8-bit dot products.
  package let vnni: Bool
  /// 128-bit vectors of ARM.
  package let neon: Bool
  /// Made by AMD with 256-bit multipliers (Zen 1 to 4): AVX-512 adds no arithmetic rate there.
  package let isAMDBeforeZen5: Bool
  /// Name of the kernel set in use: "avx512", "avx2", "neon" or "portable".
  package let kernelSet: String

  /// Features as given, for choices that tests make.
  package init(
    brand: String, architecture: String, avx2: Bool, fma: Bool, avx512: Bool, vnni: Bool, neon: Bool,
    isAMDBeforeZen5: Bool, kernelSet: String
  ) {
    self.brand = brand
    self.architecture = architecture
    self.avx2 = avx2
    self.fma = fma
    self.avx512 = avx512
    self.vnni = vnni
    self.neon = neon
    self.isAMDBeforeZen5 = isAMDBeforeZen5
    self.kernelSet = kernelSet
  }

  /// Asks the CPU.
  package static func detect() -> CPUFeatures {
    let bits = hearth_cpu_features()
    func has(_ feature: Int) -> Bool { bits & Int32(feature) != 0 }
    #if arch(arm64)
      let architecture = "arm64"
    #else
      let architecture = "x86_64"
    #endif
    return CPUFeatures(
      brand: brandOfProcessor(), architecture: architecture, avx2: has(HEARTH_CPU_AVX2),
      fma: has(HEARTH_CPU_FMA),
      avx512: has(HEARTH_CPU_AVX512), vnni: has(HEARTH_CPU_VNNI), neon: has(HEARTH_CPU_NEON),
      isAMDBeforeZen5: has(HEARTH_CPU_AMD_BEFORE_ZEN5), kernelSet: KernelSet.best.name)
  }
}

private func brandOfProcessor() -> String {
  let brand = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
    buffer.initialize(repeating: 0)
    hearth_cpu_brand(buffer.baseAddress!, buffer.count)
    return String(cString: buffer.baseAddress!)
  }
  let words = brand.split(separator: " ")
  return words.isEmpty ? "unknown" : words.joined(separator: " ")
}
