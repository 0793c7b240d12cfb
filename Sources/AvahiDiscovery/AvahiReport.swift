/// What `hearth doctor` and `hearth peers` say about Avahi: how far it got, and what went wrong last.
package struct AvahiReport: Hashable, Sendable {
  /// How far the way to Avahi's daemon leads; the raw values are stable and documented.
  package enum Daemon: String, Hashable, Sendable, CaseIterable {
    /// Nothing has been tried yet.
    case starting = "starting"
    /// The system's message bus does not answer.
    case noBus = "no-bus"
    /// The bus is there, Avahi's daemon is not.
    case noDaemon = "no-daemon"
    /// The daemon claims its host name on the network.
    case registering = "registering"
    /// Another host has the daemon's host name; the daemon is choosing another.
    case hostNameCollision = "host-name-collision"
    /// The daemon works.
    case running = "running"
    /// The daemon refused, with the error that `lastError` holds.
    case failed = "failed"
    /// This side has stopped.
    case stopped = "stopped"

    /// What the person can do about it, in one line.
    package var nextStep: String {
      switch self {
      case .starting, .registering, .running, .stopped: "nothing to do"
      case .noBus: "start the system bus (systemctl start dbus); until then beacons and known addresses serve"
      case .noDaemon:
        "install and start Avahi (apt install avahi-daemon; systemctl enable --now avahi-daemon); until then "
          + "beacons and known addresses serve"
      case .hostNameCollision: "give this machine a host name of its own"
      case .failed: "look at 'journalctl -u avahi-daemon'; it is tried again by itself"
      }
    }
  }

  /// How far the publication of this device got.
  package enum Publication: Hashable, Sendable {
    /// Nothing is to be published, or not yet.
    case none
    /// The daemon asks the network whether the name is free.
    case registering(name: String)
    /// Others can find it.
    case established(name: String)
    /// It could not be published; it is tried again.
    case failed(AvahiError)
  }

  /// How far the way to the daemon leads.
  package var daemon = Daemon.starting
  /// The daemon's name and version; nil before it answered.
  package var version: String?
  /// The host's name in multicast DNS; nil before the daemon answered.
  package var hostName: String?
  /// How far the publication got.
  package var publication = Publication.none
  /// The last error of any call; stays after recovery.
  package var lastError: AvahiError?
  /// Seconds until the next try, as it was planned; nil when none is needed.
  package var retrySeconds: Int?
  /// How often the way to the daemon had to be built again.
  package var rebuilds = 0
  /// How often another host had this device's instance name.
  package var collisions = 0
  /// Services of other daemons that are known now, once for each interface and address family.
  package var services = 0
  /// Services whose record was not one of Hearth's.
  package var refusedRecords = 0
  /// Services that were not resolved because there were too many.
  package var omittedServices = 0
  /// Events that nobody fetched in time.
  package var lostEvents = 0

  /// A report before anything was tried.
  package init() {}
}

/// An error of Avahi's library: its number, its text, and what was being done.
package struct AvahiError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What was being done.
  package let operation: String
  /// The library's number.
  package let code: Int32
  /// The library's text.
  package let text: String

  /// What was being done, the text and the number.
  package var description: String { "\(operation): \(text) (Avahi error \(code))" }
}

/// The bounds of what is kept of multicast DNS, and the waits before another try.
package enum AvahiLimits {
  /// Services that are resolved at a time, counted for each interface and address family; Avahi allows a client
  /// 1024 objects.
  package static let services = 128
  /// Events that wait to be fetched; the oldest give way.
  package static let events = 256
  /// Longest wait before another try, in seconds; the first is 1 s and it doubles.
  package static let longestRetry = 30
  /// Own instances that are remembered, so that they are not taken for others.
  package static let ownInstances = 8

  /// Seconds before try number `attempt` (1 is the first retry).
  package static func retrySeconds(attempt: Int) -> Int {
    precondition(attempt >= 1, "retry \(attempt)")
    return min(1 << min(attempt - 1, 16), longestRetry)
  }
}
