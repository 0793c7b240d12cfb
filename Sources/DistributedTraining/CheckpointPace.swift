import ComputeRuntime

/// When a state is written to the disk: the first at once, later ones so rarely that they take next to no time.
///
/// - Safety: the driver's thread alone uses it.
final class CheckpointPace {
  private let write: (TrainingState) -> Void
  private let seconds: Double
  private let ratio: Double
  private var notBefore = -Double.infinity

  init(_ entry: RunEntry, write: @escaping (TrainingState) -> Void) {
    self.write = write
    seconds = entry.checkpointSeconds
    ratio = entry.checkpointRatio
  }

  /// Writes the state if it is time; `state` copies it only then.
  func writeIfDue(_ state: () throws -> TrainingState?) rethrows {
    let start = MonotonicClock.seconds()
    guard start >= notBefore, let state = try state() else { return }
    write(state)
    let end = MonotonicClock.seconds()
    notBefore = end + max(seconds, ratio * (end - start))
  }
}
