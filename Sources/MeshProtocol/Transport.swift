package import MeshModel

/// What a transport tells the one who owns it, in the order in which it happened.
package enum TransportEvent: Sendable, Equatable {
  /// A session stands: the other side has proved itself.
  case opened(SessionID, SessionInfo)
  /// A session ended; nothing follows for it.
  case closed(SessionID, CloseReason)
  /// A frame arrived on a session.
  case frame(SessionID, MeshFrame)
  /// A datagram arrived from a device that has a control session, opened and not replayed.
  case datagram(from: DeviceID, body: [UInt8])
  /// Dialling ended without a session.
  case dialFailed(NetworkAddress, SessionPurpose, DialFailure)
  /// A session's send queue fell below its low mark: sending may go on.
  case writable(SessionID)
  /// Something was dropped on the way in; counted under a stable name.
  case dropped(DropReason)
}

/// Why something from the network was dropped; the raw values are the names of the counters.
package enum DropReason: String, Hashable, Sendable, CaseIterable {
  case malformedPreamble = "malformed-preamble"
  case handshakeRefused = "handshake-refused"
  case handshakeTimeout = "handshake-timeout"
  case tooManyHandshakes = "too-many-handshakes"
  case rateLimited = "rate-limited"
  case malformedFrame = "malformed-frame"
  case brokenRecord = "broken-record"
  case unknownDatagram = "unknown-datagram"
  case brokenDatagram = "broken-datagram"
  case replayedDatagram = "replayed-datagram"
  case malformedGossip = "malformed-gossip"
  case malformedBeacon = "malformed-beacon"
  case foreignBeacon = "foreign-beacon"
  case malformedTrust = "malformed-trust"
  case notPermitted = "not-permitted"
  case queueFull = "queue-full"
  case foreignJob = "foreign-job"
  case malformedJob = "malformed-job"
  case refusedBlob = "refused-blob"
}

/// What its owner asks of a transport.
package enum TransportCommand: Sendable, Equatable {
  /// Dial an address; ends in `opened` or `dialFailed`. `expecting` refuses any other device.
  case dial(NetworkAddress, SessionPurpose, expecting: DeviceID?)
  /// Send a frame; dropped with `queueFull` when the session's queue is over its high mark.
  case send(SessionID, MeshFrame)
  /// Send a datagram under the keys of the device's control session; dropped when there is none.
  case sendDatagram(to: DeviceID, body: [UInt8])
  /// Say goodbye, flush and close.
  case close(SessionID, CloseReason)
}
