/// Drops progress events that come faster than anybody reads; all other events pass.
///
/// A value that is told the time, so that tests need no clock.
package struct ProgressThinner: Sendable {
  /// Seconds between two progress events of one phase.
  static let interval = 0.1

  private var last = -Double.infinity

  /// A thinner that has seen nothing.
  package init() {}

  /// True when the event is to be passed on at `now` (seconds of any monotonic clock).
  ///
  /// The first progress of a phase and its last step always pass.
  package mutating func passes(_ event: RunEvent, at now: Double) -> Bool {
    switch event {
    case .phase:
      last = -.infinity
      return true
    case .progress(let progress):
      guard progress.step == progress.steps || now - last >= Self.interval else { return false }
      last = now
      return true
    default: return true
    }
  }
}
