import ArgumentParser
import FoundationEssentials
import HearthNode

/// `hearth doctor`.
struct DoctorCommand: ReportingCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract:
      "Measure this machine and its network and say what keeps Hearth from being fast, or from working.",
    discussion: """
      Measures what Hearth depends on: the CPU and the kernels chosen for it, the OpenBLAS core in use and \
      its speed against the CPU's own peak, usable cores and memory under container limits, free space and \
      speed of the disk with the state directory. Then what the household depends on: network interfaces, \
      multicast, Avahi, firewall, and each device that is not in; it works while the daemon is down. Each problem comes with one line on what to do.

      Takes about three seconds and writes (and removes) 64 MiB. Ends with code 0 unless something makes work \
      impossible (then 73: a directory that cannot be written).

      Example:
        hearth doctor
        hearth doctor --json
      """)

  @OptionGroup var reporting: ReportingOptions

  func run() throws {
    let environment = ProcessInfo.processInfo.environment
    var diagnosis = Diagnosis.examine(environment: environment)
    if let place = try? Here.place() { diagnosis.mesh = MeshExamination.examine(place: place) }
    if reporting.json {
      try OutputStream.standard.write(jsonLine(DoctorReport(diagnosis)) + "\n")
    } else {
      let style = ConsoleStyle.of(descriptor: OutputStream.standard.descriptor, environment: environment)
      try OutputStream.standard.write(diagnosis.text(style: style))
    }
    if !diagnosis.canWork { throw ExitCode(ExitReason.cannotCreateOutput.rawValue) }
  }
}
