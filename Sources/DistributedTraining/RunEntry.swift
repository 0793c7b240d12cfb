package import ParallelPlanner

/// How a device enters a plan epoch: with what it has of the job so far.
package struct RunEntry: Sendable {
  /// States that it has, from memory or disk; none in a fresh job.
  package var held: [TrainingState]
  /// The plan that is prepared in the background; nil when there is none.
  package var next: Plan?

  /// An entry; the default is a fresh job's.
  package init(held: [TrainingState] = [], next: Plan? = nil) {
    self.held = held
    self.next = next
  }
}

/// How a device's part of a plan epoch ended in order.
package enum RunEnding: Sendable, Equatable {
  /// The plan's part of this device is done.
  case finished
  /// All devices stopped after that step, because one of them asked for it.
  case stopped(step: Int)
  /// This device has no role in the plan and has handed over what it has, or learned what the next plan wants of it.
  case handedOver
}

/// What was agreed and moved when a plan epoch began, as this device saw it.
package struct RunHandover: Sendable, Equatable {
  /// Optimizer steps that are not done again.
  package var start: Int
  /// Bytes that this device has received for it.
  package var bytes: Int
  /// Units whose activations it has received.
  package var unitsFetched: Int
  /// Units whose activations it computes again, or helps to.
  package var unitsToCompute: Int
}
