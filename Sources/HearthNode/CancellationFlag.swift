import Synchronization

/// A request to stop, set once from any thread and read between steps.
package final class CancellationFlag: Sendable {
  private let state = Atomic<Bool>(false)

  /// A flag that is not set.
  package init() {}

  /// True once `cancel` was called.
  package var isCancelled: Bool { state.load(ordering: .acquiring) }

  /// Asks the run to stop after the step in flight.
  package func cancel() { state.store(true, ordering: .releasing) }
}
