package import Determinism

/// The disk of a simulated device: files are replaced as a whole, and only what was synced is sure to survive a loss
/// of power.
///
/// That is what an atomic replace gives (write aside, fsync, rename, fsync of the directory): after a crash a file is
/// wholly old or wholly new. What nobody syncs the system writes by itself after a while.
package struct SimulatedDisk: Sendable {
  /// How long the system holds what was written and not synced (Linux: `dirty_expire_centisecs`).
  package static let writeBack: Duration = .seconds(30)

  private struct Pending: Sendable {
    let content: SimulatedFile
    let since: MonotonicInstant
  }

  private var durable: [String: SimulatedFile] = [:]
  private var pending: [String: Pending] = [:]

  /// An empty disk.
  package init() {}

  /// Replaces a file; a loss of power may still take it back.
  package mutating func write(_ content: SimulatedFile, to file: String, at time: MonotonicInstant) {
    writeBack(at: time)
    // The clock of a dirty page starts when it first became dirty.
    pending[file] = Pending(content: content, since: pending[file]?.since ?? time)
  }

  /// Makes a file durable.
  package mutating func sync(_ file: String) {
    guard let written = pending.removeValue(forKey: file) else { return }
    durable[file] = written.content
  }

  /// What a running program reads.
  package func read(_ file: String) -> SimulatedFile? { pending[file]?.content ?? durable[file] }

  /// What is there whatever happens.
  package func durable(_ file: String) -> SimulatedFile? { durable[file] }

  /// Power is lost: what was neither synced nor written back is gone.
  package mutating func losePower(at time: MonotonicInstant) {
    writeBack(at: time)
    pending.removeAll()
  }

  private mutating func writeBack(at time: MonotonicInstant) {
    for file in pending.keys.sorted() {
      if let written = pending[file], written.since.duration(to: time) >= Self.writeBack { sync(file) }
    }
  }
}
