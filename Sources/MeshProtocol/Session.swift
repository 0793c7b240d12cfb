package import MeshModel

/// A transport's name for one of its connections, never used twice in one run.
package struct SessionID: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The transport's running number.
  package let value: UInt64

  /// The session with this number.
  package init(_ value: UInt64) { self.value = value }

  /// `#` and the number.
  package var description: String { "#\(value)" }

  /// Whether `left` is older.
  package static func < (left: SessionID, right: SessionID) -> Bool { left.value < right.value }
}

/// How many sessions there are at most, for the transport that holds them and for the device that keeps the table.
package enum SessionLimits {
  /// Sessions of all purposes at once: for each other device of the largest household (256) one that stands and one
  /// that takes its place.
  package static let sessions = 512
}

/// What a connection is for; each has a connection of its own, so that bulk never delays control.
package enum SessionPurpose: UInt8, Hashable, Sendable, CaseIterable {
  /// Membership, trust, orders.
  case control = 1
  /// Activations, gradients, weights.
  case bulk = 2
  /// Admission of a new device.
  case pairing = 3
}

/// How far a session reaches.
package enum SessionStanding: UInt8, Hashable, Sendable {
  /// Everything.
  case full = 1
  /// The other side's network key is old: it gets the membership log and the sealed new key, nothing else.
  case updateOnly = 2
  /// No wire version is common: both sides show the other's version, nothing else.
  case statusOnly = 3
}

/// An authenticated session, as the transport reports it.
package struct SessionInfo: Hashable, Sendable {
  /// The device that proved itself.
  package let peer: DeviceID
  /// Which start of its daemon it is.
  package let boot: BootID
  /// What the connection is for.
  package let purpose: SessionPurpose
  /// How far it reaches.
  package let standing: SessionStanding
  /// The wire version in use; the other side's newest when there is none in common.
  package let wireVersion: UInt8
  /// The wire versions that the other side offers.
  package let offeredVersions: WireVersions
  /// Whether this device dialled.
  package let isInitiator: Bool
  /// Where the other side is seen.
  package let remote: NetworkAddress
  /// Where the other side accepts connections and datagrams: its address with the port that it told.
  package let listening: NetworkAddress
  /// From the first byte to the proof, on this device.
  package let handshakeTime: Duration

  /// A session's facts.
  package init(
    peer: DeviceID, boot: BootID, purpose: SessionPurpose, standing: SessionStanding, wireVersion: UInt8,
    offeredVersions: WireVersions, isInitiator: Bool, remote: NetworkAddress, listening: NetworkAddress,
    handshakeTime: Duration
  ) {
    self.peer = peer
    self.boot = boot
    self.purpose = purpose
    self.standing = standing
    self.wireVersion = wireVersion
    self.offeredVersions = offeredVersions
    self.isInitiator = isInitiator
    self.remote = remote
    self.listening = listening
    self.handshakeTime = handshakeTime
  }
}

/// Why a session ended; the raw values are the wire's (goodbye frames).
package enum CloseReason: UInt8, Hashable, Sendable, CaseIterable {
  /// The other side closed the connection, or it broke.
  case disconnected = 0
  /// The daemon stops.
  case shuttingDown = 1
  /// Another session to the same device for the same purpose is kept.
  case duplicate = 2
  /// The other device is, or has become, revoked.
  case revoked = 3
  /// Nothing was heard for too long.
  case silent = 4
  /// A record could not be opened or was out of order.
  case brokenRecord = 5
  /// The other side sent more than a limit allows.
  case overLimit = 6
  /// The person leaves the household with this device.
  case left = 7
  /// The device goes to sleep.
  case asleep = 8
  /// Keys changed or grew old; a new session follows, or has done so already.
  case renewed = 9
  /// What the session was opened for is done.
  case finished = 10
}

/// Why dialling an address did not give a session.
package enum DialFailure: Hashable, Sendable {
  /// Nothing answered in time.
  case timedOut
  /// The machine answered that nobody listens.
  case refused
  /// No route, no such interface, or another error of the system, with its number.
  case unreachable(code: Int32)
  /// The connection stood, the handshake did not finish in time.
  case handshakeTimedOut
  /// The other side closed during the handshake, as it does when it does not know our network key.
  case handshakeClosed
  /// The other side could not prove that it is of the household.
  case notOfHousehold
  /// The other side is another device than expected.
  case otherDevice(DeviceID)
  /// The other side is this device.
  case thisDevice
  /// The other side is revoked.
  case revoked(DeviceID)
  /// The other side has this device's identity on another start: a copied disk.
  case clone
}
