/// When a state of a job's training is written to the disk: so rarely that it takes next to no time, whatever the disk
/// and the processor do.
///
/// A write that takes a second at a quarter of a processor holds the whole household up, because every step waits for
/// its slowest device. So the pause before a write is a multiple of what the last one took, and before the first one of
/// what its bytes may take.
package struct CheckpointPace: Sendable {
  /// A write may take one part of so many of the time.
  package static let ratio = 50.0
  /// Least seconds between two writes.
  package static let leastSeconds = 1.0
  /// Bytes a second that the first write is taken to go at.
  package static let firstRate = 50e6

  /// Since when nothing was written, in seconds; nil before the first state that could have been.
  private var since: Double?
  /// Seconds that the last write took.
  private var took: Double?

  /// The pace of a job whose training has not begun.
  package init() {}

  /// Whether a state of so many bytes, which is there now, is to be written at `now`, in seconds.
  package mutating func isDue(bytes: Int, now: Double) -> Bool {
    let since = since ?? now
    self.since = since
    let pause =
      took.map { max(Self.leastSeconds, Self.ratio * $0) } ?? Self.ratio * Double(bytes) / Self.firstRate
    return now - since >= pause
  }

  /// A write has ended, well or not.
  package mutating func wrote(from start: Double, to end: Double) {
    since = end
    took = end - start
  }
}
