import COpenBLAS

/// Which of OpenBLAS's kernel families runs, and whether that fits the CPU.
package struct BLASReport: Sendable, Equatable {
  /// Core (kernel family) in use.
  package let coreName: String
  /// Name, version and build options of the library.
  package let library: String
  /// Core that the library had chosen itself, when it was changed.
  package let changedFrom: String?
  /// True when the core in use wastes the CPU; no rate may be published then.
  package let contradictsCPU: Bool
  /// Why the core is what it is, and what to do when it is wrong.
  package let explanation: String
}

/// Chooses OpenBLAS's core.
///
/// A library older than the CPU does not know its model number and falls back to kernels of its own youth:
/// Prescott on recent Intel processors, at a fifth of the speed, Cooperlake on Zen 4, at two thirds. So the core is
/// chosen here by CPU features, unless OPENBLAS_CORETYPE says that the user wants another.
package enum BLASCore {
  /// Selects the core and one thread a call, once; later calls return the same report.
  ///
  /// It must not run while another thread is inside OpenBLAS; `matrixMultiply` calls it before its first product.
  package static func select() -> BLASReport { report }

  private static let report: BLASReport = selectOnce(CPUFeatures.detect())

  private static func selectOnce(_ cpu: CPUFeatures) -> BLASReport {
    let found = String(cString: openblas_get_corename())
    let library = String(cString: openblas_get_config())
    let user = hearth_blas_user_core().map { String(cString: $0) }
    var changedFrom: String?
    var explanation: String
    let wanted = preferredCore(cpu)
    if let user {
      explanation = "OPENBLAS_CORETYPE=\(user) is set by the user"
    } else if let wanted, !isSuitable(core: found, for: cpu) || found != wanted {
      if hearth_blas_switch_core(wanted) != 0 {
        changedFrom = found
        explanation = "OpenBLAS had chosen \(found); \(wanted) fits this CPU (\(cpu.brand))"
      } else {
        explanation = "this OpenBLAS build cannot change its core at run time"
      }
    } else {
      explanation = "OpenBLAS chose it"
    }
    hearth_blas_one_thread()
    let core = String(cString: openblas_get_corename())
    let contradicts = !isSuitable(core: core, for: cpu)
    if contradicts {
      explanation += "; \(core) wastes this CPU: "
      explanation += user == nil ? "install a newer OpenBLAS" : "unset OPENBLAS_CORETYPE"
    }
    return BLASReport(
      coreName: core, library: library, changedFrom: changedFrom == core ? nil : changedFrom,
      contradictsCPU: contradicts, explanation: explanation)
  }

  /// The core to run on `cpu`, or nil when the library's own choice stands.
  package static func preferredCore(_ cpu: CPUFeatures) -> String? {
    guard cpu.architecture == "x86_64", cpu.avx2, cpu.fma else { return nil }
    // Measured on Zen 4, one core: Zen 104–107 GF/s, SkylakeX 97–104, Cooperlake 68 of a peak of 116.
    if cpu.isAMDBeforeZen5 { return "Zen" }
    return cpu.avx512 ? "SkylakeX" : "Haswell"
  }

  /// Whether `core` uses the vector width that `cpu` computes with.
  package static func isSuitable(core: String, for cpu: CPUFeatures) -> Bool {
    guard cpu.architecture == "x86_64" else { return core.lowercased() != "generic" }
    guard cpu.avx2, cpu.fma else { return true }
    let wide = ["skylakex", "sapphirerapids"]
    let medium = ["haswell", "zen"]
    let name = core.lowercased()
    if cpu.avx512 && !cpu.isAMDBeforeZen5 { return wide.contains(name) || name == "cooperlake" }
    return medium.contains(name) || (cpu.avx512 && wide.contains(name))
  }
}
