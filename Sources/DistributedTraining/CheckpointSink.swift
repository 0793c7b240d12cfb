/// Takes the states of a run for the disk, as rarely as it likes.
///
/// - Safety: the driver's thread alone calls it.
package protocol CheckpointSink: AnyObject {
  /// Whether a state of so many bytes would be taken now: it is copied only then.
  func isDue(bytes: Int) -> Bool
  /// Takes a state; the run goes on at once. The activations of its steps are in the cache by now, but perhaps not on the disk.
  func take(_ state: TrainingState)
}
