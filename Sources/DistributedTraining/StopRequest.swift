import Synchronization

/// Whether this device wants all to stop at the next boundary between optimizer steps; any thread may raise it.
final class StopRequest: Sendable {
  private let raised = Atomic(false)

  var isRaised: Bool { raised.load(ordering: .acquiring) }
  func raise() { raised.store(true, ordering: .releasing) }
}
