/// What all devices decide alike between two optimizer steps, from numbers that all of them have.
package struct StepBoundary: Sendable, Equatable {
  /// Bytes of state that a pipeline may move a step, on average, so that a lost stage is not lost for long.
  package static let gatheredBytesPerStep = 1 << 20
  /// Steps between two gatherings, at least and at most.
  package static let gatherInterval = 8...64

  /// The largest state of which every device keeps all of a gathering.
  package static let wholeBytes = 128 << 20

  /// Steps between two gatherings of the stages' states.
  package let interval: Int
  /// Whether every device keeps all stages' states, or only one of another stage each.
  package let gathersWhole: Bool
  /// Whether a device has asked in this step that all stop after it.
  package private(set) var stops = false

  /// The rule for a state of so many bytes.
  package init(stateBytes: Int) {
    gathersWhole = stateBytes <= Self.wholeBytes
    interval = min(
      max(stateBytes / Self.gatheredBytesPerStep, Self.gatherInterval.lowerBound),
      Self.gatherInterval.upperBound)
  }

  /// Whether the stages' states are gathered once `step` steps are done, in a run that began after `start`.
  ///
  /// At the start too, when there is something to lose: what was handed over came perhaps from a device that leaves.
  package func gathers(after step: Int, start: Int) -> Bool {
    step > 0 && (step == start || step % interval == 0)
  }

  /// A step begins: nobody has asked yet.
  package mutating func begin() { stops = false }

  /// A share of the step says whether its device asks for a stop; all devices see all shares.
  package mutating func note(asks: Bool) { stops = stops || asks }
}
