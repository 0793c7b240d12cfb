import MeshProtocol

/// The bounds of a transport: nothing from outside makes it hold more than these allow.
package struct TransportLimits: Sendable, Equatable {
  /// Longest encrypted record, the longest message that Noise allows (§3).
  package static let recordByteCount = 65_535
  /// Bytes of the length before each message of a stream.
  package static let lengthByteCount = 2
  /// Longest message before the other side is authenticated.
  package static let handshakeMessageByteCount = 4096
  /// Longest datagram, so that it is never cut into fragments on a path of 1,280 bytes or more.
  package static let datagramByteCount = 1200

  /// Accepted connections that have not proved themselves yet.
  package var unauthenticatedConnections = 64
  /// Connections a second that one source address may open.
  package var connectionsPerSecond = 20
  /// Connections that one source address may open at once.
  package var connectionBurst = 5
  /// Source addresses whose rate is remembered; more of them share one.
  package var rememberedSources = 1024
  /// Sessions at once; counted until the owner has taken their `closed`.
  package var sessions = SessionLimits.sessions
  /// Sessions at once with one device.
  package var sessionsPerDevice = 16
  /// Datagrams that wait for the owner.
  package var waitingDatagrams = 1024
  /// Reports of drops that wait for the owner; more are only counted.
  package var waitingDropReports = 256
  /// What one control session may queue in either direction.
  package var controlQueue = QueueMarks(low: 64 << 10, high: 1 << 20)
  /// What one bulk session may queue in either direction.
  package var bulkQueue = QueueMarks(low: 1 << 20, high: 4 << 20)

  /// The limits of a household.
  package init() {}
}

/// When a queue counts as full, and when as nearly empty again, in bytes.
package struct QueueMarks: Sendable, Equatable {
  /// Below this the sender goes on.
  package var low: Int
  /// From here on nothing more is taken.
  package var high: Int

  /// The marks of a queue; the low one is below the high one.
  package init(low: Int, high: Int) {
    precondition(0 < low && low < high, "queue marks \(low) and \(high)")
    self.low = low
    self.high = high
  }
}

/// How long a transport waits for what.
package struct TransportTiming: Sendable, Equatable {
  /// For the answer to a connection request.
  package var connect: Duration = .seconds(3)
  /// From the connection to the proof, on both sides.
  package var handshake: Duration = .seconds(2)
  /// After so long without a record this side sends an empty one.
  package var keepAlive: Duration = .seconds(10)
  /// After so long without a record from the other side the session is closed as silent.
  package var silence: Duration = .seconds(30)
  /// For the other side to take the goodbye.
  package var goodbye: Duration = .seconds(1)
  /// After so long without an acknowledgement the kernel breaks a control connection (RFC 5482).
  package var controlUserTimeout: Duration = .seconds(15)
  /// The same for a bulk connection.
  package var bulkUserTimeout: Duration = .seconds(5)

  /// The times of a household.
  package init() {}
}
