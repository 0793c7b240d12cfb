import Glibc
package import TensorKernels

/// What this process may use of its machine.
package struct MachineProfile: Sendable {
  /// Brand and instruction sets of the CPU, and the kernel set that they select.
  package var cpu: CPUFeatures
  /// Cores that are online.
  package var onlineCores: Int
  /// Cores that affinity and control groups leave to this process; at least 1.
  package var usableCores: Int
  /// CPU quota of the control groups, in cores; nil when there is none.
  package var coreQuota: Double?
  /// Seconds after which that quota is given anew; nil when there is none.
  package var quotaPeriod: Double?
  /// Bytes of memory: the machine's, or the control group's when that is less.
  package var totalMemory: Int
  /// Bytes that can be had without swapping or reaching a limit.
  package var availableMemory: Int
  /// Memory limit of the control groups in bytes; nil when there is none.
  package var memoryLimit: Int?

  /// Measures the machine at this moment.
  package static func current() -> MachineProfile {
    let limits = currentLimits()
    let memory = systemFileText("/proc/meminfo") ?? ""
    let total = (systemNumber("MemTotal", in: memory) ?? 0) * 1024
    let available = (systemNumber("MemAvailable", in: memory) ?? 0) * 1024
    return MachineProfile(
      cpu: CPUFeatures.detect(),
      onlineCores: max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN)))),
      usableCores: usableCoreCount(),
      coreQuota: limits.cores, quotaPeriod: limits.period,
      totalMemory: min(total, limits.memory ?? total),
      availableMemory: min(available, limits.memoryLeft ?? available),
      memoryLimit: limits.memory.flatMap { $0 < total ? $0 : nil })
  }

  /// Seconds for which a message waits in the mean until a processor takes it up that has used up its quota of the period:
  /// nothing without a quota, or when it lasts for so many threads.
  package func standstill(threads: Int) -> Double {
    guard let coreQuota, let quotaPeriod, quotaPeriod > 0 else { return 0 }
    let stopped = max(0, 1 - coreQuota / Double(threads)) * quotaPeriod
    return stopped * stopped / (2 * quotaPeriod)
  }

  /// Bytes that an ordinary user may still write at `path`, or at its nearest existing ancestor.
  ///
  /// nil when not even that can be asked.
  package static func freeDiskBytes(at path: String) -> Int? {
    var current = path.isEmpty ? "." : path
    while true {
      var statistics = statvfs()
      if statvfs(current, &statistics) == 0 {
        return Int(clamping: UInt64(statistics.f_bavail) &* UInt64(statistics.f_frsize))
      }
      guard errno == ENOENT || errno == ENOTDIR, current != "/", current != "." else { return nil }
      guard let slash = current.lastIndex(of: "/") else {
        current = "."
        continue
      }
      current = slash == current.startIndex ? "/" : String(current[..<slash])
    }
  }
}

/// Cores that the scheduler's affinity and the control groups' quota leave to this process; at least 1.
///
/// A quota of 1.5 cores counts as 2: two threads reach it, one cannot.
package func usableCoreCount() -> Int {
  // sched_getaffinity is a GNU extension that Swift's Glibc module does not show; the kernel tells the same here.
  let affinity = systemFileText("/proc/self/status").flatMap(affinityCount(status:))
  let allowed = affinity ?? max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
  guard let quota = currentLimits().cores else { return allowed }
  return max(1, min(allowed, Int(quota.rounded(.up))))
}

/// Cores in the "Cpus_allowed" mask (hexadecimal words, commas between) of a /proc/PID/status text.
package func affinityCount(status: String) -> Int? {
  for line in status.split(separator: "\n") where line.hasPrefix("Cpus_allowed:") {
    let digits = line.dropFirst("Cpus_allowed:".count).compactMap(\.hexDigitValue)
    let count = digits.reduce(0) { $0 + $1.nonzeroBitCount }
    return count > 0 ? count : nil
  }
  return nil
}

private func currentLimits() -> ControlGroupLimits {
  var limits = ControlGroupLimits(
    membership: systemFileText("/proc/self/cgroup") ?? "", mount: "/sys/fs/cgroup",
    read: { systemFileText($0) })
  // To measure what happens beyond a limit, somebody must be let through who does not look at it first.
  if getenv(ignoresMemoryLimit) != nil { (limits.memory, limits.memoryLeft) = (nil, nil) }
  return limits
}

/// Environment variable, for measurements only: plans know nothing of the control groups' memory limits.
private let ignoresMemoryLimit = "HEARTH_IGNORE_MEMORY_LIMIT"
