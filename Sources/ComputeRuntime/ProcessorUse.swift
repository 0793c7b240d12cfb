import Glibc

/// How much processor time somebody has used, for telling a quiet machine from a busy one.
package enum ProcessorUse {
  private static let ticksPerSecond = Double(max(1, sysconf(Int32(_SC_CLK_TCK))))

  /// Seconds that all processes together have used since boot; nil where the kernel does not tell.
  package static func machineSeconds() -> Double? {
    guard let line = systemFileText("/proc/stat")?.split(separator: "\n").first else { return nil }
    let ticks = line.split(separator: " ").dropFirst().prefix(8).compactMap { Double($0) }
    guard ticks.count == 8 else { return nil }
    // user, nice, system, idle, waiting, interrupt, soft interrupt, stolen: all but idle and waiting.
    return (ticks.reduce(0, +) - ticks[3] - ticks[4]) / ticksPerSecond
  }

  /// Seconds that a process has used on all its threads; nil when it is not there.
  package static func seconds(process: Int32) -> Double? {
    // The command's name may hold spaces and parentheses; the fields begin behind the last one.
    guard let text = systemFileText("/proc/\(process)/stat"), let end = text.lastIndex(of: ")") else {
      return nil
    }
    let fields = text[text.index(after: end)...].split(separator: " ")
    guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else {
      return nil
    }
    return (user + system) / ticksPerSecond
  }

  /// This process.
  package static var ownProcess: Int32 { getpid() }
}
