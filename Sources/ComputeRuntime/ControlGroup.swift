/// The limits that the kernel's control groups put on this process, in version 1 and version 2 of the interface.
///
/// A limit of any ancestor binds, so all are read. Inside a container the process' own path is often not
/// mounted; then the mount's root, which is the container's group, is what can be read.
package struct ControlGroupLimits: Sendable, Equatable {
  /// CPU time a second, in cores; nil when unlimited.
  package var cores: Double?
  /// Seconds after which that CPU time is given anew; nil when unlimited.
  package var period: Double?
  /// Most bytes of memory; nil when unlimited.
  package var memory: Int?
  /// Bytes under the memory limit that are still free or can be reclaimed from clean file pages.
  package var memoryLeft: Int?

  /// Reads the limits.
  ///
  /// - Parameters:
  ///   - membership: the text of /proc/self/cgroup.
  ///   - mount: where the hierarchies are mounted, /sys/fs/cgroup.
  ///   - read: gives the text of a file or nil.
  package init(membership: String, mount: String, read: (String) -> String?) {
    for line in membership.split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let controllers = fields[1].split(separator: ",")
      for path in Self.selfAndAncestors(String(fields[2])) {
        if fields[0] == "0" && controllers.isEmpty {
          readVersion2(mount + path, read)
          readVersion2(mount + "/unified" + path, read)
        }
        if controllers.contains("cpu") { readVersion1CPU("\(mount)/cpu\(path)", read) }
        if controllers.contains("memory") { readVersion1Memory("\(mount)/memory\(path)", read) }
      }
    }
  }

  private static func selfAndAncestors(_ path: String) -> [String] {
    let names = path.split(separator: "/")
    return (0...names.count).reversed().map { depth in
      names[..<depth].map { "/" + $0 }.joined()
    }
  }

  private mutating func readVersion2(_ directory: String, _ read: (String) -> String?) {
    if let words = read(directory + "/cpu.max")?.split(whereSeparator: \.isWhitespace), words.count >= 2,
      let quota = Double(words[0]), let period = Double(words[1]), quota > 0, period > 0
    {
      limit(cores: quota / period, period: period * 1e-6)
    }
    if let limit = read(directory + "/memory.max").flatMap(Self.number),
      let used = read(directory + "/memory.current").flatMap(Self.number)
    {
      let reclaimable =
        read(directory + "/memory.stat").flatMap { systemNumber("inactive_file", in: $0) } ?? 0
      self.limit(memory: limit, used: used - reclaimable)
    }
  }

  private mutating func readVersion1CPU(_ directory: String, _ read: (String) -> String?) {
    if let quota = read(directory + "/cpu.cfs_quota_us").flatMap(Self.number), quota > 0,
      let period = read(directory + "/cpu.cfs_period_us").flatMap(Self.number), period > 0
    {
      limit(cores: Double(quota) / Double(period), period: Double(period) * 1e-6)
    }
  }

  private mutating func readVersion1Memory(_ directory: String, _ read: (String) -> String?) {
    guard let limit = read(directory + "/memory.limit_in_bytes").flatMap(Self.number),
      let used = read(directory + "/memory.usage_in_bytes").flatMap(Self.number)
    else { return }
    // Version 1 writes "no limit" as the largest multiple of the page size.
    guard limit < 1 << 60 else { return }
    let reclaimable =
      read(directory + "/memory.stat").flatMap { systemNumber("total_inactive_file", in: $0) } ?? 0
    self.limit(memory: limit, used: used - reclaimable)
  }

  private mutating func limit(cores: Double, period: Double) {
    if let tightest = self.cores, tightest <= cores { return }
    (self.cores, self.period) = (cores, period)
  }

  private mutating func limit(memory limit: Int, used: Int) {
    memory = min(memory ?? limit, limit)
    let left = max(0, limit - max(0, used))
    memoryLeft = min(memoryLeft ?? left, left)
  }

  private static func number(_ text: String) -> Int? {
    Int(text.filter { !$0.isWhitespace })
  }
}
