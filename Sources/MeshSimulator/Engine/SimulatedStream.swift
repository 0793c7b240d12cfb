package import Determinism
package import MeshModel
package import MeshProtocol

/// What travels on a simulated connection.
package enum StreamSegment: Sendable {
  /// Asks the other machine for a connection.
  case open
  /// The other machine's kernel accepted.
  case accepted
  /// The other machine rejects: nobody listens, its firewall says no, or the connection is unknown there.
  case reset
  /// A message of the handshake.
  case hello(HandshakeMessage)
  /// A frame of the session.
  case frame(MeshFrame)
  /// The session ends, for this reason.
  case end(CloseReason)

  /// Bytes of the IP packets: payload, record length and tag, TCP and IP headers.
  var byteCount: Int {
    switch self {
    case .open, .accepted, .reset: WireOverhead.segment
    case .hello(let message): WireOverhead.segment + 2 + message.byteCount
    case .frame(let frame):
      WireOverhead.stream(byteCount: 2 + MeshFrame.headerByteCount + frame.body.count + 16)
    case .end: WireOverhead.stream(byteCount: 2 + MeshFrame.headerByteCount + 1 + 16)
    }
  }
}

/// Bytes that packets have beside their content.
package enum WireOverhead {
  /// IPv4 header (20), TCP header (20) and its time stamps (12).
  package static let segment = 52
  /// IPv4 header (20) and UDP header (8).
  package static let packet = 28
  /// What the encryption of a datagram adds: type, receiver, counter, tag.
  package static let sealedDatagram = 28
  /// Content of a full TCP segment on Ethernet.
  package static let segmentContent = 1_448

  /// Bytes on the wire for that much content of a stream.
  package static func stream(byteCount: Int) -> Int {
    byteCount + segment * max(1, (byteCount + segmentContent - 1) / segmentContent)
  }
}

/// One direction of a simulated connection: reliable and in order while packets get through at all.
package struct StreamDirection: Sendable {
  /// The first wait before a segment is sent again.
  package static let firstRetry: Duration = .milliseconds(200)
  /// The longest wait.
  package static let longestRetry: Duration = .seconds(4)
  /// How long something may stay unconfirmed before the connection counts as broken.
  package static let userTimeout: Duration = .seconds(15)
  /// Bytes that may wait before `queueFull`.
  package static let highMark = 1 << 20

  private var segments: [StreamSegment] = []
  private var head = 0
  /// Bytes that wait.
  package private(set) var queuedBytes = 0
  /// The largest `queuedBytes` so far.
  package private(set) var largestQueue = 0
  /// Since when the head, or something already delivered, waits for its confirmation.
  package var unconfirmedSince: MonotonicInstant?
  /// Whether a retry or a check of confirmations is planned already.
  package var isRetryPlanned = false
  /// The next wait before a retry.
  package var retryDelay = StreamDirection.firstRetry
  /// What is sent later arrives later.
  package var lastArrival = MonotonicInstant.zero

  /// The segment whose turn it is.
  package var first: StreamSegment? { head < segments.count ? segments[head] : nil }

  /// Appends a segment; false when the queue is over its high mark.
  package mutating func append(_ segment: StreamSegment) -> Bool {
    guard queuedBytes + segment.byteCount <= Self.highMark else { return false }
    segments.append(segment)
    queuedBytes += segment.byteCount
    largestQueue = max(largestQueue, queuedBytes)
    return true
  }

  /// The segment whose turn it is has gone out.
  package mutating func removeFirst() {
    queuedBytes -= segments[head].byteCount
    head += 1
    if head > 32, 2 * head > segments.count {
      segments.removeFirst(head)
      head = 0
    }
  }
}

/// A simulated connection between two processes.
package struct SimulatedStream: Sendable {
  /// How far the connection is, seen by one end.
  package enum Phase: Hashable, Sendable {
    /// Nobody there yet (or any more).
    case absent
    /// The dialler waits for the other kernel.
    case connecting
    /// The connection stands, the handshake runs.
    case handshaking
    /// The session stands.
    case open
  }

  /// One end: a process of a device.
  package struct End: Sendable {
    /// The device.
    package let device: Int
    /// Which of its processes.
    package var life: Int
    /// How far it is.
    package var phase: Phase
    /// The process's name for the session, once it has one.
    package var session: SessionID?
    /// What the end keeps between two messages of the handshake.
    package var handshake: HandshakeState?
    /// Who the other side has proved to be, once the session stands.
    package var peer: DeviceID?
    /// How far the session reaches.
    package var standing = SessionStanding.full
    /// Since when the session stands.
    package var opened: MonotonicInstant?
    /// Why this end closed the session; nil when it has not.
    package var closing: CloseReason?
  }

  /// What the connection is for.
  package let purpose: SessionPurpose
  /// The dialler (0) and the other side (1).
  package var ends: [End]
  /// What travels from the dialler (0) and to it (1).
  package var directions = [StreamDirection(), StreamDirection()]
  /// What was dialled.
  package let address: NetworkAddress
  /// Whom the dialler expects there.
  package let expecting: DeviceID?
  /// Whether the dial was closed in its first handshake and offers an older network key now.
  package let isSecondAttempt: Bool
  /// When the dialler began.
  package let began: MonotonicInstant

  /// The end of a device (a device does not connect to itself).
  package func side(of device: Int) -> Int { ends[0].device == device ? 0 : 1 }
}
