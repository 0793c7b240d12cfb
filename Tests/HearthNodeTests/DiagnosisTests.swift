import HearthNode
import Testing

@Suite struct DiagnosisTests {
  /// A machine without a fault, to break one thing at a time.
  private func healthy() -> Diagnosis {
    Diagnosis(
      version: "1", system: "Linux 6.1",
      processor: Diagnosis.Processor(
        brand: "Test CPU", architecture: "x86_64", kernels: "avx512", onlineCores: 4, usableCores: 4,
        coreQuota: nil, peakGflops: 200),
      linearAlgebra: Diagnosis.LinearAlgebra(
        library: "OpenBLAS 0.3.21", core: "SkylakeX", changedFrom: "Prescott", contradictsCpu: false,
        explanation: "AVX-512", gemmGflops: 170),
      memory: Diagnosis.Memory(total: 16 << 30, available: 8 << 30, limit: nil),
      state: directory("/state"), temporary: directory("/tmp"))
  }

  private func directory(_ path: String) -> Diagnosis.Directory {
    Diagnosis.Directory(
      path: path, measuredAt: path, free: 100 << 30, writeRate: 1e9, readRate: 1e9, failure: nil)
  }

  @Test func aHealthyMachineHasNoFindings() {
    #expect(healthy().findings == [])
    #expect(healthy().canWork)
    let text = healthy().text(style: ConsoleStyle(columns: nil, colored: false))
    #expect(text.contains("sgemm 170.0 GFLOP/s, 85% of the FMA peak 200.0 GFLOP/s"))
    #expect(text.contains("core SkylakeX, changed from Prescott"))
    #expect(text.contains("Nothing is wrong."))
  }

  @Test func noRateIsShownWhenTheCoreContradictsTheCPU() {
    var diagnosis = healthy()
    diagnosis.linearAlgebra.core = "Prescott"
    diagnosis.linearAlgebra.contradictsCpu = true
    diagnosis.linearAlgebra.gemmGflops = nil
    #expect(diagnosis.findings.count == 1)
    #expect(diagnosis.findings[0].problem.contains("Prescott"))
    #expect(diagnosis.canWork)
    let text = diagnosis.text(style: ConsoleStyle(columns: nil, colored: false))
    #expect(text.contains("not rated") && !text.contains("170"))
  }

  @Test func aSlowMultiplicationIsAFindingWithItsShare() {
    var diagnosis = healthy()
    diagnosis.linearAlgebra.gemmGflops = 60
    #expect(diagnosis.findings.map(\.problem).first?.contains("30%") == true)
  }

  @Test func aDirectoryThatCannotBeWrittenBlocksWorkAndComesFirst() {
    var diagnosis = healthy()
    diagnosis.memory.available = 100 << 20
    diagnosis.temporary.failure = "Read-only file system"
    #expect(diagnosis.findings.map(\.severity) == [.blocking, .advice])
    #expect(!diagnosis.canWork)
    diagnosis.temporary.failure = nil
    diagnosis.state.failure = "Permission denied"
    #expect(diagnosis.findings[0].remedy.contains("HEARTH_HOME"))
    #expect(!diagnosis.canWork)
  }

  @Test func everyAdviceNamesItsNumbersAndARemedy() {
    var diagnosis = healthy()
    diagnosis.processor.usableCores = 2
    diagnosis.processor.coreQuota = 1.5
    diagnosis.processor.kernels = "portable"
    diagnosis.memory = Diagnosis.Memory(total: 1 << 30, available: 512 << 20, limit: 1 << 30)
    diagnosis.state.free = 1 << 30
    diagnosis.state.readRate = 20e6
    let findings = diagnosis.findings
    #expect(findings.count == 5)
    #expect(findings.allSatisfy { $0.severity == .advice && !$0.remedy.isEmpty })
    let problems = findings.map(\.problem).joined(separator: "\n")
    for number in ["2 of 4", "1.50 cores", "512.0 MiB", "1.0 GiB", "19.1 MiB/s"] {
      #expect(problems.contains(number), "\(number)")
    }
  }

  @Test func theReportHoldsMeasurementsAndFindingsInOneLine() throws {
    let line = try jsonLine(DoctorReport(healthy()))
    #expect(line.contains(#""findings":[]"#) && line.contains(#""can_work":true"#))
    #expect(line.contains(#""peak_gflops":200"#) && !line.contains("\n"))
  }

  @Test func theStateDirectoryFollowsTheXDGRules() {
    #expect(StateDirectory.path(environment: ["HEARTH_HOME": "/h", "HOME": "/u"]) == "/h")
    #expect(StateDirectory.path(environment: ["XDG_STATE_HOME": "/x", "HOME": "/u"]) == "/x/hearth")
    #expect(
      StateDirectory.path(environment: ["XDG_STATE_HOME": "relative", "HOME": "/u"])
        == "/u/.local/state/hearth")
    #expect(StateDirectory.path(environment: [:]) == nil)
  }
}
