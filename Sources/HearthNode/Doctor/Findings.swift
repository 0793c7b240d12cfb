extension Diagnosis {
  /// Share of the FMA peak under which a matrix multiplication is called slow; a fitting core reaches 0.8.
  static let healthyGemmShare = 0.6
  /// Bytes of available memory under which the smallest real backbones stop fitting comfortably.
  static let comfortableMemory = 1 << 30
  /// Bytes of free disk under which the cache of a small data set may not fit.
  static let comfortableDisk = 2 << 30
  /// Bytes a second under which reading a float16 cache is slower than computing on it.
  static let comfortableReadRate = 100e6

  /// What is not as it should be, what blocks work first.
  package var findings: [Finding] {
    let all =
      processorFindings + linearAlgebraFindings + memoryFindings + diskFindings + (mesh?.findings ?? [])
    return all.filter { $0.severity == .blocking } + all.filter { $0.severity == .advice }
  }

  /// True when no finding blocks work.
  package var canWork: Bool { findings.allSatisfy { $0.severity != .blocking } }

  private var processorFindings: [Finding] {
    var findings: [Finding] = []
    if processor.kernels == "portable" {
      findings.append(
        Finding(
          .advice, "this CPU has none of the vector instructions that Hearth's kernels use",
          remedy: "expect a fraction of the usual speed; an x86-64 CPU with AVX2 or an ARM64 CPU does better")
      )
    }
    if processor.usableCores < processor.onlineCores {
      let quota = processor.coreQuota.map { " (control group quota \(decimal($0, 2)) cores)" } ?? ""
      findings.append(
        Finding(
          .advice, "\(processor.usableCores) of \(processor.onlineCores) cores may be used\(quota)",
          remedy: "raise the CPU affinity or quota of this container or service to use the others"))
    }
    return findings
  }

  private var linearAlgebraFindings: [Finding] {
    if linearAlgebra.contradictsCpu {
      return [
        Finding(
          .advice,
          "OpenBLAS runs its \(linearAlgebra.core) kernels, which do not fit this CPU; "
            + "no rate is given: \(linearAlgebra.explanation)",
          remedy: "unset OPENBLAS_CORETYPE, or install an OpenBLAS with DYNAMIC_ARCH (Debian's "
            + "libopenblas0-pthread)")
      ]
    }
    if let rate = linearAlgebra.gemmGflops, processor.peakGflops > 0,
      rate < Self.healthyGemmShare * processor.peakGflops
    {
      let share = decimal(100 * rate / processor.peakGflops, 0)
      return [
        Finding(
          .advice,
          "matrix multiplication reaches \(share)% of this core's peak with the \(linearAlgebra.core) kernels",
          remedy: "close other programs and measure again; if it stays, a newer OpenBLAS may know this CPU")
      ]
    }
    return []
  }

  private var memoryFindings: [Finding] {
    guard memory.available < Self.comfortableMemory else { return [] }
    let limit = memory.limit.map { ", under a limit of \(ByteCount($0))" } ?? ""
    return [
      Finding(
        .advice, "\(ByteCount(memory.available)) of memory are available\(limit)",
        remedy: "close other programs, or train with --micro-batch 1, a small --max-length and a "
          + "--memory-budget that leaves room")
    ]
  }

  private var diskFindings: [Finding] {
    var findings: [Finding] = []
    if let failure = state.failure {
      findings.append(
        Finding(
          .blocking, "the state directory '\(state.path)' cannot be written: \(failure)",
          remedy: "make it writable for this user, or set HEARTH_HOME to a directory that is"))
    }
    if let failure = temporary.failure {
      findings.append(
        Finding(
          .blocking, "the directory for temporary files '\(temporary.path)' cannot be written: \(failure)",
          remedy: "make it writable for this user, or set TMPDIR to a directory that is"))
    }
    if state.failure == nil, let free = state.free, free < Self.comfortableDisk {
      findings.append(
        Finding(
          .advice, "\(ByteCount(free)) are free at '\(state.measuredAt)'",
          remedy: "make room, or keep activation caches elsewhere with --cache-directory"))
    }
    if let rate = state.readRate, rate < Self.comfortableReadRate {
      findings.append(
        Finding(
          .advice, "the disk at '\(state.measuredAt)' reads \(ByteCount(Int(rate)))/s",
          remedy: "keep activation caches on a faster disk with --cache-directory, or use --cache int8"))
    }
    return findings
  }
}
