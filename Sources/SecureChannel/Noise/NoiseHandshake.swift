package import CryptoPrimitives

/// A Noise handshake as a value: messages in, messages out, no connection and no clock.
///
/// The sides take turns, the initiator first: `writeMessage`, `readMessage`, until `isComplete`; then `split`.
/// After a failure the value is of no further use. Taking a turn that is not ours is a bug and stops.
package struct NoiseHandshake: ~Copyable {
  /// Bytes of the longest message (Noise §3).
  package static let messageByteLimit = 65_535
  /// Bytes of a pre-shared key.
  package static let preSharedKeyByteCount = 32

  /// Which side this is.
  package let role: HandshakeRole
  /// The static key that the other side has sent; nil before it has.
  package private(set) var remoteStaticKey: AgreementPublicKey?

  private let pattern: NoisePattern
  private let preSharedKey: SecretBytes
  private let staticKey: AgreementKey
  private let ephemeralKey: AgreementKey
  private var remoteEphemeralKey: AgreementPublicKey?
  private var symmetric: SymmetricState
  private var turn = 0

  /// A handshake that has sent and seen nothing.
  ///
  /// The prologue is what both sides must agree on though it was said in clear. The pre-shared key has 32
  /// bytes, or none for a pattern without. The ephemeral key must be fresh.
  package init(
    _ pattern: NoisePattern, role: HandshakeRole, prologue: [UInt8], preSharedKey: consuming SecretBytes,
    staticKey: consuming AgreementKey, ephemeralKey: consuming AgreementKey
  ) {
    let expected = pattern.usesPreSharedKey ? Self.preSharedKeyByteCount : 0
    precondition(
      preSharedKey.count == expected, "a pre-shared key of \(preSharedKey.count) bytes for \(pattern.name)")
    self.pattern = pattern
    self.role = role
    self.preSharedKey = preSharedKey
    self.staticKey = staticKey
    self.ephemeralKey = ephemeralKey
    symmetric = SymmetricState(protocolName: pattern.name)
    symmetric.mixHash(prologue)
  }

  /// Whether all messages have been written and read.
  package var isComplete: Bool { turn == pattern.messages.count }

  /// Whether this side writes the next message.
  package var isOurTurn: Bool { !isComplete && (turn % 2 == 0) == (role == .initiator) }

  /// What both sides have seen, as one hash; equal on both only if everything was (§11.2).
  package var handshakeHash: [UInt8] { symmetric.hash }

  /// The next message, with a payload.
  package mutating func writeMessage(payload: [UInt8] = []) throws(NoiseFailure) -> [UInt8] {
    precondition(isOurTurn, "handshake message \(turn + 1) is not this side's to write")
    var message: [UInt8] = []
    for token in pattern.messages[turn] {
      switch token {
      case .ephemeral:
        message += ephemeralKey.publicKey.bytes
        mixEphemeral(ephemeralKey.publicKey.bytes)
      case .staticKey:
        message += symmetric.encryptAndHash(staticKey.publicKey.bytes)
      case .ee, .es, .se:
        try mixAgreement(token)
      case .preSharedKey:
        symmetric.mixKeyAndHash(preSharedKey)
      }
    }
    message += symmetric.encryptAndHash(payload)
    precondition(message.count <= Self.messageByteLimit, "a handshake message of \(message.count) bytes")
    turn += 1
    return message
  }

  /// Reads the other side's next message; its payload.
  package mutating func readMessage(_ message: [UInt8]) throws(NoiseFailure) -> [UInt8] {
    precondition(!isComplete && !isOurTurn, "handshake message \(turn + 1) is not this side's to read")
    guard message.count <= Self.messageByteLimit else {
      throw .overLimit(message: turn, byteCount: message.count)
    }
    var rest = message[...]
    for token in pattern.messages[turn] {
      switch token {
      case .ephemeral:
        let key = try takeKey(&rest, of: message)
        remoteEphemeralKey = key
        mixEphemeral(key.bytes)
      case .staticKey:
        remoteStaticKey = try takeStaticKey(&rest, of: message)
      case .ee, .es, .se:
        try mixAgreement(token)
      case .preSharedKey:
        symmetric.mixKeyAndHash(preSharedKey)
      }
    }
    guard rest.count >= symmetric.overheadByteCount else {
      throw .truncated(message: turn, byteCount: message.count)
    }
    guard let payload = symmetric.decryptAndHash(Array(rest)) else { throw .notAuthentic(message: turn) }
    turn += 1
    return payload
  }

  /// The keys of the session that follows.
  package borrowing func split() -> SessionKeys {
    precondition(isComplete, "split after \(turn) of \(pattern.messages.count) messages")
    let both = symmetric.split()
    let initiators = both.part(0..<32)
    let responders = both.part(32..<64)
    return role == .initiator
      ? SessionKeys(sending: initiators, receiving: responders)
      : SessionKeys(sending: responders, receiving: initiators)
  }

  private mutating func mixEphemeral(_ key: [UInt8]) {
    symmetric.mixHash(key)
    if pattern.usesPreSharedKey { symmetric.mixPublicKey(key) }
  }

  private mutating func mixAgreement(_ token: NoiseToken) throws(NoiseFailure) {
    let usesOurStatic: Bool
    let usesTheirStatic: Bool
    switch token {
    case .es: (usesOurStatic, usesTheirStatic) = (role == .responder, role == .initiator)
    case .se: (usesOurStatic, usesTheirStatic) = (role == .initiator, role == .responder)
    default: (usesOurStatic, usesTheirStatic) = (false, false)
    }
    guard let remote = usesTheirStatic ? remoteStaticKey : remoteEphemeralKey else {
      preconditionFailure("message \(turn + 1) of \(pattern.name) agrees on a key before it is sent")
    }
    // Two calls and not one expression: a key cannot be copied out of the property that holds it.
    let secret =
      usesOurStatic ? staticKey.sharedSecret(with: remote) : ephemeralKey.sharedSecret(with: remote)
    guard let secret else { throw .lowOrderKey(message: turn) }
    symmetric.mixKey(secret)
  }

  private func takeKey(
    _ rest: inout ArraySlice<UInt8>, of message: [UInt8]
  ) throws(NoiseFailure) -> AgreementPublicKey {
    guard let key = AgreementPublicKey(bytes: rest.prefix(AgreementPublicKey.byteCount)) else {
      throw .truncated(message: turn, byteCount: message.count)
    }
    rest = rest.dropFirst(AgreementPublicKey.byteCount)
    return key
  }

  private mutating func takeStaticKey(
    _ rest: inout ArraySlice<UInt8>, of message: [UInt8]
  ) throws(NoiseFailure) -> AgreementPublicKey {
    let byteCount = AgreementPublicKey.byteCount + symmetric.overheadByteCount
    guard rest.count >= byteCount else { throw .truncated(message: turn, byteCount: message.count) }
    guard let bytes = symmetric.decryptAndHash(Array(rest.prefix(byteCount))),
      let key = AgreementPublicKey(bytes: bytes)
    else { throw .notAuthentic(message: turn) }
    rest = rest.dropFirst(byteCount)
    return key
  }
}

/// The two keys of a session, one a direction.
package struct SessionKeys: ~Copyable, Sendable {
  /// The key for what this side sends.
  package let sending: SecretBytes
  /// The key for what the other side sends.
  package let receiving: SecretBytes
}
