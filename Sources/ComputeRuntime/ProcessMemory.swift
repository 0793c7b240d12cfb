import Glibc

/// What a process has in memory, as the kernel counts it, in bytes.
package struct ProcessMemory: Sendable, Equatable {
  /// All resident pages.
  package var resident: Int
  /// Resident pages that belong to no file: heap, arenas, stacks.
  package var anonymous: Int
  /// Resident pages of mapped files: weights and code.
  package var mapped: Int
  /// Most resident bytes since the process began or since `resetPeak`.
  package var peak: Int

  /// This process at this moment; nil where the kernel does not tell (no /proc).
  package static func current() -> ProcessMemory? {
    systemFileText("/proc/self/status").flatMap(ProcessMemory.init(status:))
  }

  /// Reads the text of /proc/PID/status.
  package init?(status: String) {
    func bytes(_ key: String) -> Int? { systemNumber(key, in: status).map { $0 * 1024 } }
    guard let resident = bytes("VmRSS"), let anonymous = bytes("RssAnon"), let file = bytes("RssFile"),
      let peak = bytes("VmHWM")
    else { return nil }
    self.resident = resident
    self.anonymous = anonymous
    mapped = file + (bytes("RssShmem") ?? 0)
    self.peak = peak
  }

  /// Makes the peak start again from what is resident; false where the kernel does not permit it.
  package static func resetPeak() -> Bool {
    let descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    // proc(5): "5" resets the peak resident set size.
    return write(descriptor, "5", 1) == 1
  }
}
