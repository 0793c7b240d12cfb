package import PeerDiscovery
import Synchronization

/// Publishes this device in multicast DNS and finds others, through Avahi's daemon.
///
/// It goes on by itself when the daemon or the bus is missing, restarts or dies. Everything that touches Avahi
/// happens on Avahi's own thread; no call of this class waits for it except `stop`.
package final class AvahiDiscovery: Sendable {
  /// What multicast DNS tells.
  package enum Event: Hashable, Sendable {
    /// A daemon of some household is said to be at an address.
    case hint(DiscoveryHint)
    /// The report has changed in more than its counters.
    case report(AvahiReport)
  }

  /// What was found, in order; the oldest gives way when nobody fetches.
  ///
  /// For one consumer; ends after `stop`.
  package let events: AsyncStream<Event>
  private let connection: AvahiConnection
  private let hasStopped = Mutex(false)

  /// Starts to browse; nil when the process has no file descriptor or memory left for it.
  package init?(serviceType: String = ServiceRecord.serviceType) {
    let (events, continuation) = AsyncStream.makeStream(
      of: Event.self, bufferingPolicy: .bufferingNewest(AvahiLimits.events))
    guard let connection = AvahiConnection(serviceType: serviceType, output: continuation) else { return nil }
    self.events = events
    self.connection = connection
    guard connection.start() else { return nil }
  }

  deinit {
    if !hasStopped.withLock({ $0 }) { AvahiConnection.end(connection, then: {}) }
  }

  /// Publishes an announcement in place of the one before; nil publishes nothing.
  package func publish(_ announcement: ServiceAnnouncement?) {
    connection.want(announcement)
  }

  /// How things stand with Avahi.
  package var report: AvahiReport { connection.currentReport }

  /// Says goodbye to the network and frees everything; waits while a call to the daemon is under way.
  package func stop() async {
    let isFirst = hasStopped.withLock { stopped in
      defer { stopped = true }
      return !stopped
    }
    guard isFirst else { return }
    await withCheckedContinuation { continuation in
      AvahiConnection.end(connection) { continuation.resume() }
    }
  }
}
