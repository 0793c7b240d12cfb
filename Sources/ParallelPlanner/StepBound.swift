import PipelineSchedules

/// A lower bound of what the last stages of a pipeline take, which grows as stages are put before them.
///
/// Every field is the length of a chain of work that no schedule can shorten, so the bound never exceeds the
/// simulation; where the slowest stage never waits, it equals it (PAC's Eq. 4–6 with the dominant stage in the
/// place of the last).
struct StepBound {
  /// From the first forward pass of these stages to their last backward pass.
  var work: Int64 = 0
  /// The same, to the end of the last reduction.
  var end: Int64 = 0
  /// One micro-batch through all of them and back.
  var roundTrip: Int64 = 0
  /// Forward passes and boundaries of one micro-batch (for a fill).
  var way: Int64 = 0
  /// The slowest forward pass or boundary (for a fill).
  var slowest: Int64 = 0

  /// The bound of the last stage alone.
  init(last split: StageSplit, reduction: Int64, microBatches: Int) {
    work = Int64(microBatches) * split.work
    end = work + reduction
    roundTrip = split.work
    way = split.forward
    slowest = split.forward
  }

  /// The bound after one more stage was put in front, with `fromEnd` stages after it.
  func preceded(
    by split: StageSplit, reduction: Int64, boundary: BoundaryTimes, fromEnd: Int, microBatches: Int
  ) -> StepBound {
    let count = Int64(microBatches)
    let inFlight = Int64(PipelineSchedule.inFlight(fromEnd: fromEnd, microBatches: microBatches))
    var bound = self
    bound.roundTrip = roundTrip + split.work + boundary.forward + boundary.backward
    // The first micro-batch goes down, the later stages work, the last gradient comes back.
    var work = self.work + split.work + boundary.forward + boundary.backward
    // This stage alone.
    work = max(work, count * split.work)
    // All messages over the boundary, one after the other.
    let messages = max(
      count * boundary.forward + boundary.backward, boundary.forward + count * boundary.backward)
    work = max(work, roundTrip + split.work + messages)
    // After a stage's in-flight micro-batches it waits for a gradient: round trips follow each other.
    let rounds = (count + inFlight - 1) / inFlight
    for round in [1, rounds] {
      let later = (count - 1 - (round - 1) * inFlight) * split.backward
      work = max(work, round * bound.roundTrip + later + max(0, count - round * inFlight) * split.forward)
    }
    bound.work = work
    bound.end = max(split.forward + boundary.forward + end, work + reduction)
    bound.way = split.forward + boundary.forward + way
    bound.slowest = max(slowest, split.forward, boundary.forward)
    return bound
  }
}
