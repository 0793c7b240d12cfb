import CryptoPrimitives
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Testing
import WireCoding

@Suite("Session handshake")
struct SessionHandshakeTests {
  @Test("two members get a full session that carries records and datagrams both ways")
  func members() throws {
    let home = try TestHousehold(seed: 1)
    let pair = HandshakePair(home.identity(0, boot: 3), home.identity(1, boot: 9), purpose: .bulk)
    pair.run()
    let dialled = try #require(pair.initiatorSession)
    let accepted = try #require(pair.responderSession)
    #expect(dialled.peer == home.devices[1].certificate)
    #expect(accepted.peer == home.devices[0].certificate)
    #expect(dialled.boot == BootID(counter: 9, nonce: 1))
    #expect(accepted.boot == BootID(counter: 3, nonce: 0))
    #expect(dialled.isInitiator && !accepted.isInitiator)
    #expect(dialled.handshakeHash == accepted.handshakeHash)
    #expect((dialled.listeningPort, accepted.listeningPort) == (7_001, 7_000))
    #expect((dialled.features, accepted.features) == (2, 1))
    for session in [dialled, accepted] {
      #expect(session.purpose == .bulk)
      #expect(session.standing == .full)
      #expect(session.wireVersion == 1)
      #expect(session.leftover == [])
    }
    var ours = dialled.takeRecords()
    var theirs = accepted.takeRecords()
    #expect(try theirs.opener.opened(ours.sealer.framed([1, 2]).dropFirst(2)) == [1, 2])
    #expect(try ours.opener.opened(theirs.sealer.framed([3]).dropFirst(2)) == [3])
    var ourDatagrams = dialled.takeDatagrams()
    var theirDatagrams = accepted.takeDatagrams()
    let datagram = ourDatagrams.sealer.sealed([4])
    #expect(DatagramHeader(of: datagram)?.receiverIndex == 5)
    #expect(try theirDatagrams.opener.opened(datagram) == [4])
    #expect(try ourDatagrams.opener.opened(theirDatagrams.sealer.sealed([5])) == [5])
  }

  @Test("bytes may arrive one by one or all at once, and what follows the handshake is left over")
  func anyCut() throws {
    let home = try TestHousehold(seed: 2)
    for step in [1, 7, 100_000] {
      var entropy = SeededEntropy(seed: 4)
      var initiator = SessionHandshake(dialling: .control, as: home.identity(0), entropy: &entropy)
      var responder = SessionHandshake(accepting: home.identity(1), entropy: &entropy)
      var toResponder = bytes(of: initiator.start())
      var sessions: [EstablishedSession] = []
      for _ in 0..<4 where sessions.count < 2 {
        let answers = feed(toResponder, step) { responder.receive($0) }
        sessions += established(answers)
        // The responder may send records right behind its last handshake bytes.
        let behind: [UInt8] = sessions.isEmpty ? [] : [9, 9, 9]
        let replies = feed(bytes(of: answers) + behind, 100_000) { initiator.receive($0) }
        sessions += established(replies)
        toResponder = bytes(of: replies)
      }
      #expect(sessions.count == 2)
      #expect(sessions.last?.leftover == [9, 9, 9])
    }
  }

  private func bytes(of effects: [HandshakeEffect]) -> [UInt8] {
    effects.flatMap { (effect) -> [UInt8] in if case .send(let bytes) = effect { bytes } else { [] } }
  }

  private func established(_ effects: [HandshakeEffect]) -> [EstablishedSession] {
    effects.compactMap { if case .established(let session) = $0 { session } else { nil } }
  }

  private func feed(
    _ bytes: [UInt8], _ step: Int, to receive: ([UInt8]) -> [HandshakeEffect]
  ) -> [HandshakeEffect] {
    var effects: [HandshakeEffect] = []
    for start in stride(from: 0, to: bytes.count, by: step) {
      effects += receive(Array(bytes[start..<min(start + step, bytes.count)]))
    }
    return effects
  }

  @Test("a changed bit in any byte of any chunk stops both sides from getting a session")
  func flippedBits() throws {
    let home = try TestHousehold(seed: 3)
    let honest = HandshakePair(home.identity(0), home.identity(1))
    honest.run()
    let lengths = honest.sent.map(\.bytes.count)
    // Preambles, three messages, two first records.
    #expect(lengths.count == 7)
    for chunk in lengths.indices {
      for position in stride(from: 0, to: lengths[chunk], by: 3) {
        let pair = HandshakePair(home.identity(0), home.identity(1))
        pair.run { number, bytes in
          var bytes = bytes
          if number == chunk { bytes[position] ^= 1 << UInt8(position % 8) }
          return bytes
        }
        // The side that reads the changed chunk has no session, and there is a failure or a wait for more.
        let readerIsResponder = honest.sent[chunk].fromInitiator
        let session = readerIsResponder ? pair.responderSession : pair.initiatorSession
        #expect(session == nil, "chunk \(chunk), byte \(position)")
        let isLast = chunk >= lengths.count - 2
        if !isLast { #expect(pair.initiatorSession == nil || pair.responderSession == nil) }
      }
    }
  }

  @Test("a man in the middle who lowers the offered versions is noticed: both preambles are in the prologue")
  func downgrade() throws {
    let home = try TestHousehold(seed: 4)
    let versions = WireVersions(oldest: 1, newest: 3)
    for chunk in 0...1 {
      let pair = HandshakePair(
        home.identity(0, versions: versions), home.identity(1, versions: versions))
      pair.run { number, bytes in
        guard number == chunk, let preamble = try? Preamble(decoding: bytes) else { return bytes }
        return Preamble(
          purpose: preamble.purpose, epochHint: preamble.epochHint,
          versions: WireVersions(oldest: 1, newest: 1)
        ).encoded
      }
      #expect(pair.responderFailure == .noise(.notAuthentic(message: 0)))
      #expect(pair.responderSession == nil && pair.initiatorSession == nil)
    }
  }

  @Test("the newest common version is used; without one the session shows the status only")
  func versions() throws {
    let home = try TestHousehold(seed: 5)
    func run(_ left: WireVersions, _ right: WireVersions) throws -> (EstablishedSession, EstablishedSession) {
      let pair = HandshakePair(home.identity(0, versions: left), home.identity(1, versions: right))
      pair.run()
      return (try #require(pair.initiatorSession), try #require(pair.responderSession))
    }
    let common = try run(WireVersions(oldest: 1, newest: 3), WireVersions(oldest: 2, newest: 5))
    #expect((common.0.wireVersion, common.1.wireVersion) == (3, 3))
    #expect((common.0.standing, common.1.standing) == (.full, .full))
    let none = try run(WireVersions(oldest: 1, newest: 2), WireVersions(oldest: 3, newest: 4))
    #expect((none.0.standing, none.1.standing) == (.statusOnly, .statusOnly))
    #expect((none.0.wireVersion, none.1.wireVersion) == (4, 2))
    #expect(none.0.offeredVersions == WireVersions(oldest: 3, newest: 4))
  }

  @Test("a device of another household gets no further than the first message")
  func otherHousehold() throws {
    let home = try TestHousehold(seed: 6)
    let foreign = try TestHousehold(seed: 7)
    let pair = HandshakePair(foreign.identity(0), home.identity(0))
    pair.run()
    #expect(pair.responderFailure == .noise(.notAuthentic(message: 0)))
    #expect(pair.initiatorSession == nil)
    // Two preambles and one message: the other side has said nothing of who it is.
    #expect(pair.sent.count == 3)
  }

  @Test("a revoked device is refused by those who know it, also with a network key that was good")
  func revoked() throws {
    var home = try TestHousehold(seed: 8, deviceCount: 3)
    let gone = home.devices[2]
    let entries = try home.devices[0].revoke(gone.device, reason: .lost, entropy: &home.entropy)
    _ = home.devices[1].merge(entries)
    // It dials with its old key; the member knows that key, so the handshake reaches the certificate.
    let dialling = HandshakePair(home.identity(2), home.identity(1))
    dialling.run()
    #expect(dialling.responderFailure == .revoked(gone.device))
    #expect(dialling.responderSession == nil && dialling.initiatorSession == nil)
    let accepting = HandshakePair(home.identity(1), home.identity(2))
    accepting.run()
    #expect(accepting.initiatorFailure == .revoked(gone.device))
    #expect(accepting.initiatorFailure?.dialFailure == .revoked(gone.device))
    #expect(accepting.responderSession == nil)
  }

  @Test("a member with an older network key gets an update-only session, whoever dials", arguments: [0, 1])
  func olderKey(_ initiator: Int) throws {
    var home = try TestHousehold(seed: 9)
    _ = try home.devices[0].rotateNetworkKey(entropy: &home.entropy)
    let pair = HandshakePair(home.identity(initiator), home.identity(1 - initiator))
    pair.run()
    #expect(pair.initiatorSession?.standing == .updateOnly)
    #expect(pair.responderSession?.standing == .updateOnly)
  }

  @Test("a key of nine epochs ago is forgotten")
  func forgottenKey() throws {
    var home = try TestHousehold(seed: 10)
    for _ in 0..<9 { _ = try home.devices[0].rotateNetworkKey(entropy: &home.entropy) }
    let pair = HandshakePair(home.identity(1), home.identity(0))
    pair.run()
    #expect(pair.responderFailure == .noise(.notAuthentic(message: 0)))
  }

  @Test("two admins who made a key each while apart meet under an older one, offered on purpose")
  func forkedKeys() throws {
    var home = try TestHousehold(seed: 11)
    let promotion = try home.devices[0].promote(home.devices[1].device)
    _ = home.devices[1].merge(promotion)
    _ = try home.devices[0].rotateNetworkKey(entropy: &home.entropy)
    _ = try home.devices[1].rotateNetworkKey(entropy: &home.entropy)
    let pair = HandshakePair(home.identity(0), home.identity(1))
    pair.run()
    #expect(pair.responderFailure == .noise(.notAuthentic(message: 0)))
    let older = try #require(home.devices[0].snapshot.ring.keys.dropFirst().first)
    let again = HandshakePair(home.identity(0), home.identity(1), offering: older)
    again.run()
    #expect(again.initiatorSession?.standing == .updateOnly)
    #expect(again.responderSession?.standing == .updateOnly)
  }

  @Test("dialling oneself, and a copy of one's own disk, are told apart by the boot id")
  func ownIdentity() throws {
    let home = try TestHousehold(seed: 12)
    let itself = HandshakePair(home.identity(0, boot: 4), home.identity(0, boot: 4))
    itself.run()
    #expect(itself.initiatorFailure == .thisDevice)
    let copy = HandshakePair(home.identity(0, boot: 4), home.identity(0, boot: 5))
    copy.run()
    #expect(copy.initiatorFailure == .clone(BootID(counter: 5, nonce: 0)))
    #expect(copy.initiatorFailure?.dialFailure == .clone)
  }

  @Test("another member than expected is refused")
  func otherDevice() throws {
    let home = try TestHousehold(seed: 13, deviceCount: 3)
    let pair = HandshakePair(home.identity(0), home.identity(1), expecting: home.devices[2].device)
    pair.run()
    #expect(pair.initiatorFailure == .otherDevice(home.devices[1].device))
    #expect(pair.responderSession == nil)
    let right = HandshakePair(home.identity(0), home.identity(1), expecting: home.devices[1].device)
    right.run()
    #expect(right.initiatorSession != nil)
  }

  @Test("a member that shows another's certificate is refused, as it lacks that key")
  func borrowedCertificate() throws {
    let home = try TestHousehold(seed: 14, deviceCount: 3)
    // The third device shakes hands with its own key and shows the second one's certificate.
    let thief = home.devices[2].snapshot
    let victim = home.devices[1].certificate
    let network = try #require(thief.ring.current)
    var entropy = SeededEntropy(seed: 3)
    var initiator = SessionHandshake(dialling: .control, as: home.identity(0), entropy: &entropy)
    let own = Preamble(purpose: .control, epochHint: network.epochHint, versions: .current)
    guard case .send(let theirs)? = initiator.start().first else { return #expect(Bool(false)) }
    var prologue = ByteWriter()
    prologue.text("hearth session 1")
    thief.household.encode(to: &prologue)
    prologue.raw(theirs)
    own.encode(to: &prologue)
    var noise = NoiseHandshake(
      .xxpsk0, role: .responder, prologue: prologue.bytes, preSharedKey: network.noisePSK(),
      staticKey: thief.keys.agreement.copy(), ephemeralKey: AgreementKey(entropy: &entropy))
    guard case .send(let first)? = initiator.receive(own.encoded).first else { return #expect(Bool(false)) }
    _ = try noise.readMessage(Array(first.dropFirst(2)))
    var proof = ByteWriter()
    victim.encode(to: &proof)
    BootID(counter: 1, nonce: 1).encode(to: &proof)
    proof.count(0)
    let second = try noise.writeMessage(payload: proof.bytes)
    var failure: HandshakeFailure?
    for effect in initiator.receive([UInt8(second.count & 255), UInt8(second.count >> 8)] + second) {
      if case .failed(let found) = effect { failure = found }
    }
    #expect(failure == .keyMismatch(victim.device))
  }

  @Test("an answer with a recorded handshake is refused: the responder's ephemeral key is new")
  func replayed() throws {
    let home = try TestHousehold(seed: 15)
    let recorded = HandshakePair(home.identity(0), home.identity(1), seed: 1)
    recorded.run()
    let fromInitiator = recorded.sent.filter(\.fromInitiator).map(\.bytes)
    var entropy = SeededEntropy(seed: 99)
    var responder = SessionHandshake(accepting: home.identity(1), entropy: &entropy)
    var failures: [HandshakeFailure] = []
    for bytes in fromInitiator {
      for effect in responder.receive(bytes) {
        switch effect {
        case .failed(let failure): failures.append(failure)
        case .established: #expect(Bool(false), "a recording gave a session")
        default: break
        }
      }
    }
    // What still comes after the failure is not even looked at.
    #expect(failures == [.noise(.notAuthentic(message: 2))])
  }

  @Test("a frame over 4 KiB is refused from its length alone, before it has come")
  func frameLimit() throws {
    let home = try TestHousehold(seed: 16)
    var entropy = SeededEntropy(seed: 1)
    var initiator = SessionHandshake(dialling: .control, as: home.identity(0), entropy: &entropy)
    var responder = SessionHandshake(accepting: home.identity(1), entropy: &entropy)
    guard case .send(let preamble)? = initiator.start().first else { return #expect(Bool(false)) }
    _ = responder.receive(preamble)
    guard case .failed(let failure)? = responder.receive([0x01, 0x10]).first else {
      return #expect(Bool(false), "4,097 bytes were accepted")
    }
    #expect(failure == .overLimit(byteCount: 4_097))
  }

  @Test("what is no preamble of ours is refused, and a pairing connection is handed on")
  func otherPreambles() throws {
    let home = try TestHousehold(seed: 17)
    func answer(_ bytes: [UInt8]) -> HandshakeEffect? {
      var entropy = SeededEntropy(seed: 1)
      var responder = SessionHandshake(accepting: home.identity(1), entropy: &entropy)
      return responder.receive(bytes).first
    }
    for bytes in [Array("GET / HTTP/1.1\r\nHost: x\r\n".utf8), [UInt8](repeating: 0, count: 24)] {
      guard case .failed(.malformedPreamble) = answer(bytes) else {
        return #expect(Bool(false), "\(bytes) was accepted")
      }
    }
    let pairing = Preamble(purpose: .pairing, versions: .current, discriminator: 77).encoded + [1, 2]
    guard case .pairing(let received) = answer(pairing) else {
      return #expect(Bool(false), "a pairing preamble was not handed on")
    }
    #expect(received == pairing)
  }

  @Test("a device without a network key fails at once, and says what to do")
  func noNetworkKey() throws {
    #expect(HandshakeFailure.noNetworkKey.description.contains("hearth join"))
    #expect(HandshakeFailure.noNetworkKey.dialFailure == .notOfHousehold)
    #expect(HandshakeFailure.malformedPreamble(.trailingBytes(count: 1)).dropReason == .malformedPreamble)
    #expect(HandshakeFailure.thisDevice.dropReason == .handshakeRefused)
  }
}

@Suite("Preamble")
struct PreambleTests {
  @Test("24 bytes in the order of the protocol's table")
  func layout() throws {
    let preamble = Preamble(
      purpose: .bulk, epochHint: [1, 2, 3, 4, 5, 6, 7, 8], versions: WireVersions(oldest: 2, newest: 9),
      discriminator: 0xABC)
    #expect(
      preamble.encoded == Array("hearth".utf8) + [1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 2, 9, 0xBC, 0x0A, 0, 0, 0, 0])
    #expect(preamble.encoded.count == Preamble.byteCount)
    #expect(try Preamble(decoding: preamble.encoded) == preamble)
  }

  @Test("reserved bytes of a later version are kept, so that the prologue is what was sent")
  func reserved() throws {
    var bytes = Preamble(purpose: .control, versions: .current).encoded
    bytes[23] = 0x7F
    #expect(try Preamble(decoding: bytes).encoded == bytes)
  }

  @Test(
    "a wrong magic, version, purpose, order of versions or discriminator is refused",
    arguments: [(0, 0), (6, 2), (7, 0), (7, 4), (16, 9), (19, 0x10)])
  func refused(_ position: Int, _ value: Int) {
    var bytes = Preamble(purpose: .control, versions: .current).encoded
    bytes[position] = UInt8(value)
    #expect(throws: DecodingFailure.self) { try Preamble(decoding: bytes) }
  }
}
