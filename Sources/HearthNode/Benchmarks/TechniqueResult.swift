import FineTuning
import FoundationEssentials

/// What was measured of one case on both sides.
package struct TechniqueResult: Codable, Sendable, Equatable {
  /// One side.
  package struct Side: Codable, Sendable, Equatable {
    /// Why there are no figures, if so.
    package var skipped: String?
    /// Trained parameters.
    package var trainableParameters = 0
    /// Seconds of forwards; nil for a case without.
    package var forward: [Double] = []
    /// Seconds of whole steps.
    package var step: [Double] = []
    /// The memory that was planned.
    package var planned: PlannedMemory?
    /// Most bytes that were resident.
    package var peakBytes = 0

    /// Nothing measured yet.
    package init(skipped: String? = nil) { self.skipped = skipped }

    /// Median seconds of a step; nil when there was none.
    package var stepSeconds: Double? { median(step) }
    /// Median seconds of a forward.
    package var forwardSeconds: Double? { median(forward) }
    /// What a step takes beside its forward: backward, reduction and update.
    package var backwardSeconds: Double? {
      guard let step = stepSeconds, let forward = forwardSeconds else { return nil }
      return step - forward
    }
  }

  /// What was measured.
  package var measured: TechniqueCase
  /// This program.
  package var hearth: Side
  /// PyTorch, where a Python with it was given.
  package var peer: Side?
  /// True when both ran in turn; false when memory did not suffice for both at a time.
  package var paired: Bool
  /// Peer's seconds over ours, one for each pair of neighbouring steps.
  package var ratios: [Double]
  /// Share of the machine that strangers took during each counted round.
  package var othersShare: [Double]
  /// Operations of a forward and a backward, as the engine computes them.
  package var forwardOperations: Int
  /// Operations of the backward.
  package var backwardOperations: Int

  /// How many times faster a step is than the peer's, by the median of neighbouring pairs.
  package var speedup: Double? { median(ratios) }
}

/// The middle of the values, or the mean of the two in the middle.
func median(_ values: [Double]) -> Double? {
  guard !values.isEmpty else { return nil }
  let sorted = values.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
