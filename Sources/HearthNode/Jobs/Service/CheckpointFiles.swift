import ComputeRuntime
package import DistributedTraining
package import HearthStorage

/// The two newest states of a job's training on this device's disk.
///
/// Each is a file of its own that appears whole or not at all, and a new state takes the place of the older one: whatever
/// happens to a write, the state before it stays.
package struct CheckpointFiles: Sendable {
  /// Puts a file in its place in one atomic step.
  package typealias Writing = @Sendable (_ bytes: [UInt8], _ path: String) throws(FileFailure) -> Void

  /// Most bytes of one state.
  package static let byteLimit = 64 << 30
  private static let names = ["state.0", "state.1"]

  private let directory: String
  private let writing: Writing

  /// The states in a job's directory.
  package init(directory: String, writing: @escaping Writing = Self.writePrivately) {
    self.directory = directory
    self.writing = writing
  }

  /// Writes a file that only this device's owner can read, and puts it on the disk.
  package static let writePrivately: Writing = { (bytes, path) throws(FileFailure) in
    try AtomicFile.write(bytes, to: path, permissions: 0o600)
  }

  /// What was found on the disk.
  package struct Found: Sendable {
    /// States, the newest first.
    package var states: [TrainingState] = []
    /// Where the next one goes: never in the place of the newest.
    package var nextSlot = 0
    /// What is wrong with the files that cannot be used.
    package var faults: [String] = []
  }

  /// Reads the states; a file that is torn, damaged or something else is passed over and told.
  package func read() -> Found {
    var found = Found()
    var kept: [(slot: Int, state: TrainingState)] = []
    for (slot, name) in Self.names.enumerated() {
      let path = "\(directory)/\(name)"
      do {
        let bytes = try readWholeFile(path, limit: Self.byteLimit)
        kept.append((slot, try TrainingState(decoding: bytes)))
      } catch let failure as FileFailure where failure.isMissing {
        continue
      } catch {
        found.faults.append("'\(path)': \(error)")
      }
    }
    kept.sort { $1.state.step < $0.state.step }
    found.states = kept.map(\.state)
    if let newest = kept.first { found.nextSlot = 1 - newest.slot }
    return found
  }

  /// Writes a state in the place `slot`; it survives a power cut from then on.
  package func write(_ state: TrainingState, slot: Int) throws(FileFailure) {
    try writing(state.encoded, "\(directory)/\(Self.names[slot])")
  }

  /// Removes the states.
  package func remove() {
    // Best effort: what stays is removed with the job.
    for name in Self.names { _ = try? removeFile("\(directory)/\(name)") }
  }
}

/// Writes states of training while the training goes on; only the newest that waits is written.
///
/// A disk that refuses costs nothing but what would have to be computed again after a power cut: it is told once, and
/// tried again with the next state.
///
/// - Safety: everything that changes is touched under the monitor only.
final class CheckpointWriter: @unchecked Sendable {
  /// A state, and what must be on the disk before it.
  private struct Order {
    let state: TrainingState
    let first: @Sendable () throws -> Void
  }

  private let files: CheckpointFiles
  private let warn: @Sendable (String) -> Void
  private let monitor = Monitor()
  private var waiting: Order?
  private var isWriting = false
  private var pace = CheckpointPace()
  private var slot: Int
  private var written: Int
  private var isWarned = false

  init(_ files: CheckpointFiles, found: CheckpointFiles.Found, warn: @escaping @Sendable (String) -> Void) {
    self.files = files
    self.warn = warn
    slot = found.nextSlot
    written = found.states.first?.step ?? 0
  }

  /// Whether it is time for a state of so many bytes.
  func isDue(bytes: Int) -> Bool {
    monitor.locked { !isWriting && pace.isDue(bytes: bytes, now: MonotonicClock.seconds()) }
  }

  /// Has a state written, unless one of the same step is on the disk; what must be there `first` is done before.
  func submit(_ new: TrainingState, after first: @escaping @Sendable () throws -> Void) {
    let starts = monitor.locked {
      guard new.step > written else { return false }
      waiting = Order(state: new, first: first)
      defer { isWriting = true }
      return !isWriting
    }
    if starts { OperatingSystemThread.detached(name: "hearth-state") { [self] in run() } }
  }

  /// Blocks until all that was submitted is on the disk, or was refused.
  func flush() { monitor.locked { while isWriting { monitor.wait() } } }

  private func run() {
    while let (order, slot) = nextOrder() {
      let start = MonotonicClock.seconds()
      defer { monitor.locked { pace.wrote(from: start, to: MonotonicClock.seconds()) } }
      do {
        try order.first()
        try files.write(order.state, slot: slot)
        monitor.locked {
          self.slot = 1 - slot
          written = order.state.step
          isWarned = false
        }
      } catch {
        let isNews = monitor.locked {
          defer { isWarned = true }
          return !isWarned
        }
        if isNews { warn("\(error)") }
      }
    }
  }

  private func nextOrder() -> (Order, slot: Int)? {
    monitor.locked {
      guard let order = waiting else {
        isWriting = false
        monitor.wakeAll()
        return nil
      }
      waiting = nil
      return (order, slot)
    }
  }
}
