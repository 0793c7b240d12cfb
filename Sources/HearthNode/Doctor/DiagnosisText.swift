extension Diagnosis {
  /// What a person reads: measurements, then each finding with what to do about it.
  package func text(style: ConsoleStyle) -> String {
    var lines = tableLines(measurements.map { [$0.name + ":", $0.value] })
    lines.append("")
    let findings = findings
    if findings.isEmpty { lines.append(style.paint("Nothing is wrong.", .green)) }
    for finding in findings {
      let mark =
        finding.severity == .blocking ? style.paint("PROBLEM", .red) : style.paint("advice", .yellow)
      lines.append("\(mark)  \(finding.problem); to do: \(finding.remedy)")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private var measurements: [(name: String, value: String)] {
    let quota = processor.coreQuota.map { ", quota \(decimal($0, 2))" } ?? ""
    let limit = memory.limit.map { ", limit \(ByteCount($0))" } ?? ""
    return [
      ("hearth", version),
      ("system", "\(system), \(processor.architecture)"),
      ("CPU", "\(processor.brand), kernel set \(processor.kernels)"),
      ("cores", "\(processor.usableCores) usable of \(processor.onlineCores)\(quota)"),
      ("BLAS", blasText),
      ("speed of a core", speedText),
      ("memory", "\(ByteCount(memory.available)) available of \(ByteCount(memory.total))\(limit)"),
      ("state directory", directoryText(state)),
      ("temporary files", directoryText(temporary)),
    ] + (mesh?.measurements ?? [])
  }

  private var blasText: String {
    let change = linearAlgebra.changedFrom.map { ", changed from \($0)" } ?? ""
    return "\(linearAlgebra.library), core \(linearAlgebra.core)\(change)"
  }

  private var speedText: String {
    let peak = "FMA peak \(decimal(processor.peakGflops, 1)) GFLOP/s"
    guard let rate = linearAlgebra.gemmGflops, processor.peakGflops > 0 else {
      return "\(peak); sgemm not rated, the BLAS core contradicts the CPU"
    }
    let share = decimal(100 * rate / processor.peakGflops, 0)
    return "sgemm \(decimal(rate, 1)) GFLOP/s, \(share)% of the \(peak)"
  }

  private func directoryText(_ directory: Directory) -> String {
    guard directory.failure == nil else { return "'\(directory.path)' cannot be written" }
    var parts = [directory.path]
    if let free = directory.free { parts.append("\(ByteCount(free)) free") }
    if let rate = directory.writeRate { parts.append("writes \(ByteCount(Int(rate)))/s") }
    if let rate = directory.readRate { parts.append("reads \(ByteCount(Int(rate)))/s") }
    return parts.joined(separator: ", ")
  }
}
