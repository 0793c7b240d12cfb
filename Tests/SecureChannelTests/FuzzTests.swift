import CryptoPrimitives
import Determinism
import Foundation
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Testing
import WireCoding

/// Seeded bytes from nobody in particular, for everything that reads what comes from outside.
///
/// HEARTH_FUZZ_CASES says how many cases each entry gets (2,000 unless set), HEARTH_FUZZ_SEED which (1 unless
/// set); `scripts/fuzz` runs them for as long as it is told. A crash is repeated by the same two numbers.
struct Fuzz {
  static let cases = number("HEARTH_FUZZ_CASES") ?? 2_000
  static let seed = UInt64(number("HEARTH_FUZZ_SEED") ?? 1)

  private static func number(_ variable: String) -> Int? {
    ProcessInfo.processInfo.environment[variable].flatMap { Int($0) }
  }

  var generator: SeededGenerator

  init(_ entry: UInt64, case number: Int) {
    generator = SeededGenerator(seed: Self.seed, entry, UInt64(number))
  }

  mutating func below(_ bound: Int) -> Int { generator.uniform(below: bound) }

  mutating func bytes(atMost limit: Int) -> [UInt8] {
    (0..<below(limit + 1)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
  }

  /// Bytes with no pattern, or a good sample with a few places changed, cut, doubled or put in.
  mutating func input(like samples: [[UInt8]], limit: Int = 600) -> [UInt8] {
    guard below(5) > 0, !samples.isEmpty else { return bytes(atMost: limit) }
    var input = samples[below(samples.count)]
    for _ in 0...below(3) {
      let place = below(input.count + 1)
      switch below(6) {
      case 0: input.insert(contentsOf: bytes(atMost: 8), at: place)
      case 1: input.removeSubrange(place..<min(input.count, place + below(9)))
      case 2: input = Array(input[..<place])
      case 3: input += input[place...]
      case 4 where place < input.count: input[place] = [0, 1, 0x7F, 0x80, 0xFF][below(5)]
      case 5 where place < input.count: input[place] ^= 1 << UInt8(below(8))
      default: break
      }
    }
    return input
  }
}

@Suite("Fuzz: nothing from outside crashes or is taken for what it is not")
struct FuzzTests {
  @Test("what a decoder accepts is encoded to the same bytes again")
  func decodersAreCanonical() throws {
    let home = try TestHousehold(seed: 41, deviceCount: 3)
    let proof = IdentityProof(home.devices[2].snapshot, boot: BootID(counter: 1, nonce: 2)).encoded
    let preamble = Preamble(purpose: .control, versions: .current, discriminator: 9).encoded
    let request = try AdmissionRequest(keys: home.devices[0].keys, name: "a name", binding: [1]).encoded
    var accepted = (preambles: 0, proofs: 0, requests: 0)
    for number in 0..<Fuzz.cases {
      var fuzz = Fuzz(1, case: number)
      var input = fuzz.input(like: [preamble], limit: 30)
      if let value = try? Preamble(decoding: input) {
        accepted.preambles += 1
        #expect(value.encoded == input, "case \(number)")
      }
      input = fuzz.input(like: [proof])
      if let value = try? IdentityProof(decoding: input) {
        accepted.proofs += 1
        #expect(value.encoded == input, "case \(number)")
      }
      input = fuzz.input(like: [request])
      if let value = try? AdmissionRequest(decoding: input) {
        accepted.requests += 1
        #expect(value.encoded == input, "case \(number)")
      }
    }
    // Changed names, keys and hints decode, so the canonical check has had something to look at.
    #expect(accepted.preambles > 0 && accepted.proofs > 0 && accepted.requests > 0)
  }

  @Test("a session's first record is read or refused, and its unknown extensions are skipped")
  func sessionHello() throws {
    var entropy = SeededEntropy(seed: 1)
    let hello = SessionHello(
      purpose: .bulk, features: 7, listeningPort: 9, receiverIndex: 3,
      datagramKey: SecretBytes(count: 32, entropy: &entropy))
    let plain = hello.encoded()
    var extended = Array(plain.dropLast(2)) + [2, 0]
    extended += [5, 0, 3, 0, 1, 2, 3] + [6, 0, 0, 0]
    let isRead = (try? SessionHello(decoding: extended))?.receiverIndex == 3
    #expect(isRead)
    let mustUnderstand = Array(plain.dropLast(2)) + [1, 0, 5, 0x80, 0, 0]
    #expect(throws: DecodingFailure.mustUnderstand(tag: 0x8005)) {
      _ = try SessionHello(decoding: mustUnderstand)
    }
    for number in 0..<Fuzz.cases {
      var fuzz = Fuzz(2, case: number)
      let input = fuzz.input(like: [plain, extended], limit: 100)
      if let read = try? SessionHello(decoding: input) {
        #expect(read.receiverIndex <= DatagramLimits.largestIndex)
      }
    }
  }

  @Test("either side of a session handshake gives no session for changed or random bytes")
  func sessionHandshake() throws {
    let home = try TestHousehold(seed: 42)
    let honest = HandshakePair(home.identity(0), home.identity(1), seed: 1)
    honest.run()
    for number in 0..<(Fuzz.cases / 4) {
      var fuzz = Fuzz(3, case: number)
      // The same seed as the recording, so that everything up to the changed chunk fits.
      let target = fuzz.below(honest.sent.count)
      let isToResponder = honest.sent[target].fromInitiator
      var entropy = SeededEntropy(seed: 1)
      var initiator = SessionHandshake(dialling: .control, as: home.identity(0), entropy: &entropy)
      var responder = SessionHandshake(accepting: home.identity(1), entropy: &entropy)
      _ = initiator.start()
      var effects: [HandshakeEffect] = []
      for (index, chunk) in honest.sent.enumerated()
      where index <= target && chunk.fromInitiator == isToResponder {
        let bytes = index == target ? fuzz.input(like: [chunk.bytes]) : chunk.bytes
        if index == target && bytes == chunk.bytes { continue }
        effects += isToResponder ? responder.receive(bytes) : initiator.receive(bytes)
        if effects.contains(where: isEnd) { break }
      }
      // Bytes behind a good end are left over, so a changed chunk may still begin with the good one.
      for case .established(let session) in effects { #expect(!session.leftover.isEmpty, "case \(number)") }
    }
  }

  private func isEnd(_ effect: HandshakeEffect) -> Bool {
    switch effect {
    case .send: false
    case .established, .pairing, .failed: true
    }
  }

  @Test("records and datagrams: only what was sealed opens")
  func recordsAndDatagrams() throws {
    let key = SecretBytes(copying: [UInt8](0..<32))
    var sealer = RecordSealer(key: key.copy())
    var datagrams = DatagramSealer(key: key.copy(), receiverIndex: 77)
    let record = Array(sealer.framed([1, 2, 3, 4]).dropFirst(2))
    let datagram = datagrams.sealed([5, 6, 7])
    for number in 0..<Fuzz.cases {
      var fuzz = Fuzz(4, case: number)
      var opener = RecordOpener(key: key.copy())
      let input = fuzz.input(like: [record])
      if let message = try? opener.opened(input) { #expect(input == record && message == [1, 2, 3, 4]) }
      var receiver = DatagramOpener(key: key.copy())
      let arrived = fuzz.input(like: [datagram], limit: 1_300)
      if let body = try? receiver.opened(arrived) { #expect(arrived == datagram && body == [5, 6, 7]) }
      if let header = DatagramHeader(of: arrived) {
        #expect(header.receiverIndex <= DatagramLimits.largestIndex)
      }
    }
  }

  @Test("the inviting side asks nobody and the joining side admits nothing for changed or random bytes")
  func pairing() throws {
    let home = try TestHousehold(seed: 43)
    guard let code = PairingCode(typed: "4821-9037") else { return #expect(Bool(false)) }
    var open = PairingWindow()
    open.open(code.copy(), discriminator: 3, at: .zero)
    let honest = PairingPair(home, open, by: .code(code.copy()))
    honest.run()
    for number in 0..<(Fuzz.cases / 8) {
      var fuzz = Fuzz(5, case: number)
      let target = fuzz.below(honest.sent.count - 1)
      let pair = PairingPair(home, open, by: .code(code.copy()))
      var isSame = false
      pair.run { index, bytes in
        guard index == target else { return bytes }
        let changed = fuzz.input(like: [bytes])
        isSame = changed.starts(with: bytes)
        return changed
      }
      if !isSame { #expect(pair.admitted == nil, "case \(number), chunk \(target)") }
    }
  }

  @Test("messages inside a pairing are read or refused, and a welcome is never longer than announced")
  func pairingMessages() throws {
    let home = try TestHousehold(seed: 44)
    let welcome = Welcome(home.devices[0].log).encoded
    let header = [17] + [UInt8](repeating: 1, count: 64) + [UInt8(welcome.count & 255), 2, 0, 0]
    let samples: [[UInt8]] = [header, [18] + welcome.prefix(200), [18, 1], [6, 1], [19], [16] + welcome]
    for number in 0..<Fuzz.cases {
      var fuzz = Fuzz(6, case: number)
      var collector = WelcomeCollector()
      for _ in 0...fuzz.below(6) {
        let input = fuzz.below(2) == 0 ? samples[fuzz.below(samples.count)] : fuzz.input(like: samples)
        guard let message = try? PairingMessage(input) else { continue }
        _ = try? message.fields(fuzz.below(70), fuzz.below(5))
        guard let whole = try? collector.add(message) else { continue }
        #expect(whole.count <= Welcome.byteLimit && !whole.isEmpty)
      }
    }
  }

  @Test("typed codes and tokens are read or refused")
  func texts() throws {
    let home = try TestHousehold(seed: 45)
    var entropy = SeededEntropy(seed: 3)
    let token = InviteToken(household: home.devices[0].id, admin: home.devices[0].device, entropy: &entropy)
    let samples = [Array(token.text().utf8), Array("4821-9037".utf8)]
    for number in 0..<Fuzz.cases {
      var fuzz = Fuzz(7, case: number)
      let text = String(decoding: fuzz.input(like: samples, limit: 300), as: UTF8.self)
      if let code = PairingCode(typed: text) {
        let digits = text.filter { $0 != "-" && $0 != " " }
        #expect(code.shown() == digits.prefix(4) + "-" + digits.suffix(4))
      }
      if let read = try? InviteToken(text: text) {
        #expect(read.text() == text.filter { !$0.isWhitespace }.lowercased(), "case \(number)")
      }
    }
  }

  @Test("CPace and Noise take any bytes for a share or a message")
  func handshakeMessages() throws {
    for number in 0..<(Fuzz.cases / 8) {
      var fuzz = Fuzz(8, case: number)
      var entropy = SeededEntropy(seed: UInt64(number))
      let own = CPace(
        code: SecretBytes(copying: Array("48219037".utf8)), channel: fuzz.bytes(atMost: 300),
        sessionID: fuzz.bytes(atMost: 300), scalar: RistrettoScalar(entropy: &entropy))
      let share = fuzz.input(like: [own.share], limit: 40)
      if let key = own.key(with: share, isFirst: fuzz.below(2) == 0) {
        #expect(RistrettoPoint.isValid(share))
        #expect(key.confirms(fuzz.bytes(atMost: 70)) == false)
      }
      var responder = NoiseHandshake(
        .xx, role: .responder, prologue: [], preSharedKey: SecretBytes(count: 0) { _ in },
        staticKey: AgreementKey(entropy: &entropy), ephemeralKey: AgreementKey(entropy: &entropy))
      // Plain XX takes any 32 bytes for a key; the third message is then authentic for nobody.
      guard (try? responder.readMessage(fuzz.bytes(atMost: 100))) != nil,
        (try? responder.writeMessage()) != nil
      else { continue }
      #expect(throws: NoiseFailure.self) { try responder.readMessage(fuzz.bytes(atMost: 200)) }
    }
  }
}
