import CryptoPrimitives
import SecureChannel
import Testing

func agreementKey(_ bytes: [UInt8]) -> AgreementKey {
  guard let key = AgreementKey(privateBytes: SecretBytes(copying: bytes)) else {
    preconditionFailure("an agreement key of \(bytes.count) bytes")
  }
  return key
}

func handshake(_ vector: NoiseVector, _ role: HandshakeRole) throws -> NoiseHandshake {
  let pattern = try #require(NoisePattern.allCases.first { $0.name == vector.name })
  let isInitiator = role == .initiator
  return NoiseHandshake(
    pattern, role: role, prologue: vector.prologue, preSharedKey: SecretBytes(copying: vector.preSharedKey),
    staticKey: agreementKey(isInitiator ? vector.initiatorStatic : vector.responderStatic),
    ephemeralKey: agreementKey(isInitiator ? vector.initiatorEphemeral : vector.responderEphemeral))
}

@Suite("Noise against published vectors")
struct NoiseVectorTests {
  @Test("all published vectors are there: one of cacophony, eight of flynn/noise")
  func vectorsAreThere() {
    #expect(NoiseVector.all.count == 9)
    #expect(NoiseVector.all.count { $0.name == NoisePattern.xxpsk0.name } == 4)
    #expect(NoiseVector.all.allSatisfy { $0.messages.count >= 5 })
  }

  @Test("both sides write and read every message as published", arguments: NoiseVector.all)
  func messagesAreAsPublished(_ vector: NoiseVector) throws {
    var initiator = try handshake(vector, .initiator)
    var responder = try handshake(vector, .responder)
    for (index, message) in vector.messages.prefix(3).enumerated() {
      if index % 2 == 0 {
        #expect(try initiator.writeMessage(payload: message.payload) == message.ciphertext)
        #expect(try responder.readMessage(message.ciphertext) == message.payload)
      } else {
        #expect(try responder.writeMessage(payload: message.payload) == message.ciphertext)
        #expect(try initiator.readMessage(message.ciphertext) == message.payload)
      }
    }
    let initiatorIsComplete = initiator.isComplete
    let responderIsComplete = responder.isComplete
    #expect(initiatorIsComplete && responderIsComplete)
    let hashes = (initiator.handshakeHash, responder.handshakeHash)
    #expect(hashes.0 == hashes.1)
    if let published = vector.handshakeHash { #expect(hashes.0 == published) }
    let remoteStatics = (initiator.remoteStaticKey?.bytes, responder.remoteStaticKey?.bytes)
    #expect(remoteStatics.0 == publicBytes(vector.responderStatic))
    #expect(remoteStatics.1 == publicBytes(vector.initiatorStatic))
    try checkTransport(vector, initiator.split(), responder.split())
  }

  /// The transport messages go on alternating where the handshake's stopped.
  private func checkTransport(
    _ vector: NoiseVector, _ initiator: consuming SessionKeys, _ responder: consuming SessionKeys
  ) throws {
    // The messages of a Noise session are what records are, without the length.
    var initiatorOut = RecordSealer(key: initiator.sending.copy())
    var initiatorIn = RecordOpener(key: initiator.receiving.copy())
    var responderOut = RecordSealer(key: responder.sending.copy())
    var responderIn = RecordOpener(key: responder.receiving.copy())
    // flynn/noise starts again with the initiator; cacophony goes on with whose turn it is, the responder.
    let firstIsInitiator = vector.handshakeHash == nil
    for (index, message) in vector.messages.dropFirst(3).enumerated() {
      if (index % 2 == 0) == firstIsInitiator {
        #expect(Array(initiatorOut.framed(message.payload).dropFirst(2)) == message.ciphertext)
        #expect(try responderIn.opened(message.ciphertext) == message.payload)
      } else {
        #expect(Array(responderOut.framed(message.payload).dropFirst(2)) == message.ciphertext)
        #expect(try initiatorIn.opened(message.ciphertext) == message.payload)
      }
    }
  }

  private func publicBytes(_ privateBytes: [UInt8]) -> [UInt8] { agreementKey(privateBytes).publicKey.bytes }
}

@Suite("Noise refuses what is not right")
struct NoiseRefusalTests {
  private static let vector =
    NoiseVector.all.first { $0.name == NoisePattern.xxpsk0.name && !$0.prologue.isEmpty } ?? NoiseVector()

  /// Reads messages 1 to 3 with `change` applied to one of them; what the reader of that one says.
  private func failure(
    reading message: Int, responderVector: NoiseVector? = nil, change: ([UInt8]) -> [UInt8] = { $0 }
  ) throws -> NoiseFailure? {
    var initiator = try handshake(Self.vector, .initiator)
    var responder = try handshake(responderVector ?? Self.vector, .responder)
    for index in 0...message {
      do {
        if index % 2 == 0 {
          let written = try initiator.writeMessage(payload: [1, 2, 3])
          _ = try responder.readMessage(index == message ? change(written) : written)
        } else {
          let written = try responder.writeMessage(payload: [4, 5, 6])
          _ = try initiator.readMessage(index == message ? change(written) : written)
        }
      } catch {
        return error
      }
    }
    return nil
  }

  @Test("a wrong pre-shared key fails at the first message")
  func wrongPreSharedKey() throws {
    var other = Self.vector
    other.preSharedKey[31] ^= 1
    #expect(try failure(reading: 0, responderVector: other) == .notAuthentic(message: 0))
  }

  @Test("a prologue that differs in one bit fails at the first message, so a downgrade shows")
  func wrongPrologue() throws {
    var other = Self.vector
    other.prologue[0] ^= 0x80
    #expect(try failure(reading: 0, responderVector: other) == .notAuthentic(message: 0))
  }

  @Test("any flipped bit of any message is refused", arguments: 0..<3)
  func flippedBits(_ message: Int) throws {
    var count = 0
    _ = try failure(reading: message) { written in
      count = written.count
      return written
    }
    for position in 0..<count {
      for bit in 0..<8 {
        let found = try failure(reading: message) { written in
          var changed = written
          changed[position] ^= 1 << bit
          return changed
        }
        #expect(found == .notAuthentic(message: message), "byte \(position), bit \(bit)")
      }
    }
  }

  @Test("any truncated message is refused", arguments: 0..<3)
  func truncated(_ message: Int) throws {
    var count = 0
    _ = try failure(reading: message) { written in
      count = written.count
      return written
    }
    for length in 0..<count {
      let found = try failure(reading: message) { Array($0.prefix(length)) }
      #expect(
        found == .truncated(message: message, byteCount: length) || found == .notAuthentic(message: message))
    }
    #expect(try failure(reading: message) { $0 + [0] } == .notAuthentic(message: message))
    let tooLong = [UInt8](repeating: 9, count: NoiseHandshake.messageByteLimit + 1)
    #expect(
      try failure(reading: message) { _ in tooLong } == .overLimit(message: message, byteCount: tooLong.count)
    )
  }

  @Test("a message of another handshake is refused, and so is a message read twice or out of order")
  func replayedAndReordered() throws {
    var initiator = try handshake(Self.vector, .initiator)
    var responder = try handshake(Self.vector, .responder)
    let first = try initiator.writeMessage()
    _ = try responder.readMessage(first)
    let second = try responder.writeMessage()
    _ = try initiator.readMessage(second)
    let third = try initiator.writeMessage()
    // The first in place of the third, and the third in place of the first.
    #expect(throws: NoiseFailure.self) { try responder.readMessage(first) }
    var another = try handshake(Self.vector, .responder)
    #expect(throws: NoiseFailure.notAuthentic(message: 0)) { try another.readMessage(third) }
    // Recorded messages do not fit a responder with a fresh ephemeral key.
    var fresh = Self.vector
    fresh.responderEphemeral = [UInt8](repeating: 7, count: 32)
    var later = try handshake(fresh, .responder)
    _ = try later.readMessage(first)
    _ = try later.writeMessage()
    #expect(throws: NoiseFailure.notAuthentic(message: 2)) { try later.readMessage(third) }
  }

  @Test(
    "an ephemeral key of low order is refused",
    arguments: [
      // Points of small order on Curve25519 (order 1, 2, 4, 8 and non-canonical twins), from RFC 7748's
      // security considerations and the table at cr.yp.to/ecdh.html.
      "0000000000000000000000000000000000000000000000000000000000000000",
      "0100000000000000000000000000000000000000000000000000000000000000",
      "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
      "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
      "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ])
  func lowOrder(_ point: String) throws {
    var vector = Self.vector
    vector.name = NoisePattern.xx.name
    vector.preSharedKey = []
    var responder = try handshake(vector, .responder)
    // Without a pre-shared key the first message is a bare key, so anybody can send this one.
    _ = try responder.readMessage(hex(point))
    #expect(throws: NoiseFailure.lowOrderKey(message: 1)) { try responder.writeMessage() }
  }
}
