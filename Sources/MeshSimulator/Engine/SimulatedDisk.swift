/// The disk of a simulated device: files are replaced as a whole, and only what was synced survives a loss of power.
///
/// That is what an atomic replace gives (write aside, fsync, rename, fsync of the directory): after a crash a file is
/// wholly old or wholly new.
package struct SimulatedDisk: Sendable {
  private var durable: [String: SimulatedFile] = [:]
  private var pending: [String: SimulatedFile] = [:]
  /// How often something was made durable.
  package private(set) var syncCount = 0

  /// An empty disk.
  package init() {}

  /// Replaces a file; a loss of power may still take it back.
  package mutating func write(_ content: SimulatedFile, to file: String) { pending[file] = content }

  /// Makes a file durable.
  package mutating func sync(_ file: String) {
    guard let content = pending.removeValue(forKey: file) else { return }
    durable[file] = content
    syncCount += 1
  }

  /// What a running program reads.
  package func read(_ file: String) -> SimulatedFile? { pending[file] ?? durable[file] }

  /// What would be there after a loss of power.
  package func durable(_ file: String) -> SimulatedFile? { durable[file] }

  /// Power is lost: what was not synced is gone.
  package mutating func losePower() { pending.removeAll() }

  /// The machine goes down in order: the system writes out what it holds.
  package mutating func flush() {
    durable.merge(pending) { _, written in written }
    pending.removeAll()
  }
}
