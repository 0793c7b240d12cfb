package import Determinism

/// When what devices told of a job is written to the disk: when the job's phase changes, and otherwise now and then.
///
/// It is for people, who ask for it after a restart; states and records, which the job goes on from, are written by
/// themselves. So nothing waits for it, and a job of short epochs does not write all the time.
package struct HistoryPace: Equatable, Sendable {
  /// Least time between two writes in one phase.
  package static let interval: Duration = .seconds(10)

  /// Whether something was told that is not on the disk.
  package private(set) var isDirty = false
  /// Whether a write is under way.
  package private(set) var isWriting = false
  private var phase: JobReport.State?
  private var isCached = false
  private var hasPhaseChanged = false
  private var last: MonotonicInstant?

  /// A job of which nothing has been told.
  package init() {}

  /// Takes in where the job is: its state, whether something new was told, and whether a newly told epoch read the cache.
  package mutating func note(isNews: Bool, state: JobReport.State, isCached: Bool? = nil) {
    if isNews { isDirty = true }
    if phase != state || isCached.map({ $0 != self.isCached }) ?? false { hasPhaseChanged = true }
    phase = state
    if let isCached { self.isCached = isCached }
  }

  /// Whether a write begins now; `ended` follows then.
  package mutating func begin(at now: MonotonicInstant) -> Bool {
    guard isDirty, !isWriting else { return false }
    let isDue = hasPhaseChanged || last.map { $0.duration(to: now) >= Self.interval } ?? true
    guard isDue else { return false }
    (isDirty, isWriting, hasPhaseChanged, last) = (false, true, false, now)
    return true
  }

  /// A write has ended; what did not get to the disk is written the next time.
  package mutating func ended(isStored: Bool = true) {
    isWriting = false
    if !isStored { isDirty = true }
  }

  /// Whether a daemon that stops has something to write; `ended` follows then.
  package mutating func beginLast() -> Bool {
    guard isDirty, !isWriting else { return false }
    (isDirty, isWriting) = (false, true)
    return true
  }
}
