package import HouseholdTrust
package import MeshModel
package import MeshProtocol
package import WireCoding

/// Limits of what is accepted from a side that has not proved itself.
package enum HandshakeLimits {
  /// From the first byte to the proof; the owner of the connection keeps the clock.
  package static let time: Duration = .seconds(2)
  /// Bytes of the longest frame before the proof.
  package static let frameByteCount = 4_096
  /// Extensions of a session's first record.
  package static let extensions = 16
  /// Bytes of one such extension.
  package static let extensionByteCount = 256
}

/// Why a handshake did not give a session; the connection is closed without a word.
package enum HandshakeFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// This device has no network key yet.
  case noNetworkKey
  /// The first bytes are no preamble of ours.
  case malformedPreamble(DecodingFailure)
  /// The other side answered for another purpose than asked.
  case otherPurpose(SessionPurpose)
  /// A frame before the proof is longer than allowed.
  case overLimit(byteCount: Int)
  /// A handshake message was refused.
  case noise(NoiseFailure)
  /// A record after the handshake was refused.
  case record(RecordFailure)
  /// An authentic message holds bytes that mean nothing.
  case malformedMessage(DecodingFailure)
  /// The certificate is not that of the key with which the other side shook hands.
  case keyMismatch(DeviceID)
  /// The certificate does not count in this household.
  case notOfHousehold(DeviceID, PeerStanding)
  /// The device was removed from the household.
  case revoked(DeviceID)
  /// The other side is another device than expected.
  case otherDevice(DeviceID)
  /// This device has dialled itself.
  case thisDevice
  /// The other side has this device's identity on another start: a copied disk.
  case clone(BootID)

  /// What is wrong, and what to do.
  package var description: String {
    switch self {
    case .noNetworkKey:
      "this device has no network key yet; run 'hearth join', or 'hearth up' near a member that has it"
    case .malformedPreamble(let failure): "the other side does not speak Hearth's protocol: \(failure)"
    case .otherPurpose(let purpose): "the other side opened a \(purpose) session, which was not asked for"
    case .overLimit(let byteCount):
      "a handshake frame of \(byteCount) bytes; \(HandshakeLimits.frameByteCount) are allowed before the proof"
    case .noise(let failure): failure.description
    case .record(let failure): failure.description
    case .malformedMessage(let failure):
      "a handshake message holds \(failure); compare the versions of both devices with 'hearth peers'"
    case .keyMismatch(let device):
      "the other side shows the certificate of \(device.short) without having its key"
    case .notOfHousehold(let device, let standing):
      "device \(device.short) is not accepted (\(standing)); compare the households, or invite it again"
    case .revoked(let device):
      "device \(device.short) was removed from the household; give the machine a new identity and invite it"
    case .otherDevice(let device): "another device answered there: \(device.short)"
    case .thisDevice: "this device dialled itself"
    case .clone(let boot):
      "another machine (start \(boot)) has this device's identity; make a new identity on the copy"
    }
  }

  /// The failure as the one who dialled reports it.
  package var dialFailure: DialFailure {
    switch self {
    case .revoked(let device): .revoked(device)
    case .otherDevice(let device): .otherDevice(device)
    case .thisDevice: .thisDevice
    case .clone: .clone
    default: .notOfHousehold
    }
  }

  /// The name under which the one who was dialled counts the failure.
  package var dropReason: DropReason {
    if case .malformedPreamble = self { .malformedPreamble } else { .handshakeRefused }
  }
}
