/// What a handshake message carries or mixes in (Noise §5.3).
enum NoiseToken: Sendable {
  case ephemeral
  case staticKey
  /// Between the ephemeral keys.
  case ee
  /// Between the initiator's ephemeral and the responder's static key.
  case es
  /// Between the initiator's static and the responder's ephemeral key.
  case se
  case preSharedKey
}

/// A handshake pattern of the Noise Protocol Framework (revision 34) over 25519, ChaChaPoly and SHA512.
package enum NoisePattern: Sendable, CaseIterable {
  /// Both static keys are sent, encrypted; nothing is known before (§7.5).
  case xx
  /// The same with a pre-shared key before the first message (§9.4), so that outsiders cannot even begin.
  case xxpsk0

  /// The full name, which is the first thing that is hashed.
  package var name: String {
    switch self {
    case .xx: "Noise_XX_25519_ChaChaPoly_SHA512"
    case .xxpsk0: "Noise_XXpsk0_25519_ChaChaPoly_SHA512"
    }
  }

  var usesPreSharedKey: Bool { self == .xxpsk0 }

  /// The tokens of each message; the initiator writes the even ones.
  var messages: [[NoiseToken]] {
    [
      (usesPreSharedKey ? [.preSharedKey] : []) + [.ephemeral],
      [.ephemeral, .ee, .staticKey, .es],
      [.staticKey, .se],
    ]
  }
}

/// Which side of a handshake this is; the initiator dialled.
package enum HandshakeRole: Hashable, Sendable {
  case initiator
  case responder
}

/// Why a handshake message was refused; the handshake is over.
package enum NoiseFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The message ends before its keys and tags do.
  case truncated(message: Int, byteCount: Int)
  /// The message is longer than Noise allows.
  case overLimit(message: Int, byteCount: Int)
  /// A tag does not fit: bytes were changed, or a key or the prologue differs.
  case notAuthentic(message: Int)
  /// A public key is a point of low order, with which everybody agrees on zero.
  case lowOrderKey(message: Int)

  /// What is wrong with which message.
  package var description: String {
    switch self {
    case .truncated(let message, let byteCount):
      "handshake message \(message + 1) ends after \(byteCount) bytes; close the connection and dial again"
    case .overLimit(let message, let byteCount):
      "handshake message \(message + 1) has \(byteCount) bytes, \(NoiseHandshake.messageByteLimit) are allowed"
    case .notAuthentic(let message):
      "handshake message \(message + 1) is not authentic: bytes were changed on the way, or the other side "
        + "has another network key, code or token; compare the households of both devices"
    case .lowOrderKey(let message):
      "handshake message \(message + 1) holds a key of low order, which no honest device sends"
    }
  }
}
