package import MeshModel

/// How a dial ended that gave no session.
package enum DialOutcome: Hashable, Sendable {
  /// Nothing answered in time.
  case noAnswer
  /// The machine answered that nobody listens.
  case refused
  /// The system knows no way there.
  case noRoute
  /// The connection stood, the handshake did not finish in time.
  case handshakeTimeout
  /// The other side closed during the handshake.
  case handshakeClosed
  /// The other side could not prove that it is of the household.
  case notOfHousehold
  /// The other side is another device than the one looked for.
  case otherDevice(DeviceID)
  /// The other side is this device.
  case thisDevice
  /// The other side has been removed from the household.
  case revoked(DeviceID)
  /// The other side has this device's identity on another start.
  case clone

  /// What it says about the device that was looked for.
  package var absence: AbsenceReason {
    switch self {
    case .noAnswer, .noRoute: .noAnswer
    case .refused: .refused
    case .handshakeTimeout: .handshakeTimeout
    case .handshakeClosed, .notOfHousehold: .handshakeFailed
    case .otherDevice, .thisDevice: .otherDevice
    case .revoked: .revoked
    case .clone: .clone
    }
  }

  /// True when another dial of the address would end alike, until something changes there.
  var isFinal: Bool {
    switch self {
    case .notOfHousehold, .thisDevice, .revoked: true
    case .noAnswer, .refused, .noRoute, .handshakeTimeout, .handshakeClosed, .otherDevice, .clone: false
    }
  }

  /// How near the dial came to a session: of several addresses the nearest explains the absence.
  var nearness: Int {
    switch self {
    case .thisDevice, .otherDevice: 0
    case .noRoute, .noAnswer: 1
    case .refused: 2
    case .handshakeTimeout: 3
    case .handshakeClosed: 4
    case .notOfHousehold: 5
    case .clone: 6
    case .revoked: 7
    }
  }
}
