import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Testing
import WireCoding

/// One pairing between a household's first device and a new one, with the bytes between them.
final class PairingPair {
  var home: TestHousehold
  var window: PairingWindow
  var inviter: PairingInviter
  var joiner: PairingJoiner
  let joinerKeys: DeviceKeys
  var now: MonotonicInstant
  var sent: [(fromJoiner: Bool, bytes: [UInt8])] = []
  var request: AdmissionRequest?
  var admitted: Household?
  var isCompleted = (joiner: false, inviter: false)
  var joinerFailure: PairingFailure?
  var inviterFailure: PairingFailure?
  /// What the person says; nil leaves the request open.
  var answer: Bool? = true

  init(
    _ home: TestHousehold, _ window: PairingWindow, by secret: consuming PairingSecret,
    discriminator: UInt16 = 0, versions: WireVersions = .current, name: String = "new device",
    seed: UInt64 = 1, at now: MonotonicInstant = .zero
  ) {
    var entropy = SeededEntropy(seed: seed)
    self.home = home
    self.window = window
    self.now = now
    joinerKeys = DeviceKeys(entropy: &entropy)
    inviter = PairingInviter(home.devices[0].snapshot, at: now, entropy: &entropy)
    joiner = PairingJoiner(
      by: secret, keys: joinerKeys, name: name, discriminator: discriminator, versions: versions, at: now,
      entropy: &entropy)
  }

  /// Runs until nothing is under way; `change` sees each chunk with its number and gives what arrives.
  func run(change: (Int, [UInt8]) -> [UInt8]? = { $1 }) {
    take(joiner.start(), fromJoiner: true)
    var next = 0
    while next < sent.count, sent.count < 100 {
      let (fromJoiner, bytes) = sent[next]
      if let arriving = change(next, bytes) {
        if fromJoiner {
          take(inviter.receive(arriving, &window, at: now), fromJoiner: false)
        } else {
          take(joiner.receive(arriving, at: now), fromJoiner: true)
        }
      }
      next += 1
    }
  }

  func take(_ effects: [PairingEffect], fromJoiner: Bool) {
    for effect in effects {
      switch effect {
      case .send(let bytes): sent.append((fromJoiner, bytes))
      case .approve(let request, let binding):
        self.request = request
        guard let answer else { break }
        var entropy = SeededEntropy(seed: 77)
        if answer, (try? home.devices[0].admit(request, binding: binding, entropy: &entropy)) != nil {
          take(inviter.welcome(Welcome(home.devices[0].log)), fromJoiner: false)
        } else {
          take(inviter.decline(&window), fromJoiner: false)
        }
      case .admitted(let household):
        admitted = household
        take(joiner.stored(), fromJoiner: true)
      case .completed:
        if fromJoiner { isCompleted.joiner = true } else { isCompleted.inviter = true }
      case .failed(let failure):
        if fromJoiner { joinerFailure = failure } else { inviterFailure = failure }
      }
    }
  }
}

private func code(_ text: String) -> PairingCode {
  guard let code = PairingCode(typed: text) else { preconditionFailure("'\(text)' is no code") }
  return code
}

private func window(code text: String = "4821-9037", at now: MonotonicInstant = .zero) -> PairingWindow {
  var window = PairingWindow()
  window.open(code(text), discriminator: 0x5A5, at: now)
  return window
}

private func seconds(_ count: Int64) -> MonotonicInstant {
  MonotonicInstant(nanoseconds: count * 1_000_000_000)
}

@Suite("Pairing by code")
struct PairingByCodeTests {
  @Test("the right code admits the device, which is then a member for the others, and burns the code")
  func admits() throws {
    let pair = PairingPair(try TestHousehold(seed: 1), window(), by: .code(code("48219037")))
    pair.run()
    #expect(pair.isCompleted == (true, true))
    let household = try #require(pair.admitted)
    #expect(household.device == pair.joinerKeys.device)
    #expect(household.certificate.name == "new device")
    #expect(household.id == pair.home.devices[0].id)
    #expect(!household.isAdmin)
    #expect(pair.window.discriminator(at: .zero) == nil)
    // The network key has come with the log: the two can open a session now.
    let identity = HandshakeIdentity(
      trust: household.snapshot, boot: BootID(counter: 1, nonce: 1), listeningPort: 1, receiverIndex: 1)
    let session = HandshakePair(identity, pair.home.identity(0))
    session.run()
    #expect(session.initiatorSession?.standing == .full)
  }

  @Test("one wrong digit is refused on both sides and nothing is asked of the person")
  func wrongCode() throws {
    let pair = PairingPair(try TestHousehold(seed: 2), window(), by: .code(code("48219038")))
    pair.run()
    #expect(pair.inviterFailure == .refused(.wrongCode))
    #expect(pair.joinerFailure == .refused(.wrongCode))
    #expect(pair.request == nil && pair.admitted == nil)
    #expect(pair.window.discriminator(at: .zero) == 0x5A5)
  }

  @Test("three wrong guesses burn the code, and then the right one is refused too")
  func burnsOnThree() throws {
    let home = try TestHousehold(seed: 3)
    var open = window()
    for guess in 0..<3 {
      #expect(open.isOpen(at: .zero))
      let pair = PairingPair(home, open, by: .code(code("0000-000\(guess)")), seed: UInt64(guess))
      pair.run()
      #expect(pair.inviterFailure == .refused(.wrongCode))
      open = pair.window
    }
    #expect(!open.isOpen(at: .zero))
    let right = PairingPair(home, open, by: .code(code("48219037")))
    right.run()
    #expect(right.joinerFailure == .refused(.closed))
  }

  @Test("many connections at once get three guesses together, not three each")
  func parallelGuesses() throws {
    let home = try TestHousehold(seed: 4)
    var shared = window()
    var outcomes: [PairingFailure] = []
    // All have their offer before the first of them answers.
    var pairs: [PairingPair] = []
    for guess in 0..<8 {
      let pair = PairingPair(home, shared, by: .code(code("1000-000\(guess)")), seed: UInt64(guess))
      // Up to the joiner's answer, which is held back: chunk 4 of preamble, preamble, hello, offer, answer.
      pair.run { number, bytes in number == 4 ? nil : bytes }
      #expect(pair.sent.count == 5)
      pairs.append(pair)
    }
    for pair in pairs {
      for effect in pair.inviter.receive(pair.sent[4].bytes, &shared, at: .zero) {
        if case .failed(let failure) = effect { outcomes.append(failure) }
      }
    }
    #expect(outcomes.count { $0 == .refused(.wrongCode) } == 3)
    #expect(outcomes.count { $0 == .refused(.closed) } == 5)
  }

  @Test("a code ends after five minutes")
  func ends() throws {
    let home = try TestHousehold(seed: 5)
    #expect(window().discriminator(at: seconds(299)) == 0x5A5)
    #expect(window().discriminator(at: seconds(300)) == nil)
    let pair = PairingPair(home, window(), by: .code(code("48219037")), at: seconds(300))
    pair.run()
    #expect(pair.joinerFailure == .refused(.closed))
  }

  @Test("twenty wrong guesses within an hour close pairing, new codes included, until the hour is over")
  func closesOnTwenty() throws {
    let home = try TestHousehold(seed: 6)
    var open = PairingWindow()
    for guess in 0..<20 {
      let now = seconds(Int64(guess) * 60)
      if open.discriminator(at: now) == nil { open.open(code("48219037"), discriminator: 1, at: now) }
      let pair = PairingPair(home, open, by: .code(code("00000000")), seed: UInt64(guess), at: now)
      pair.run()
      #expect(pair.inviterFailure == .refused(.wrongCode), "guess \(guess)")
      open = pair.window
    }
    let now = seconds(20 * 60)
    open.open(code("48219037"), discriminator: 1, at: now)
    #expect(open.isShut(at: now) && !open.isOpen(at: now))
    let right = PairingPair(home, open, by: .code(code("48219037")), at: now)
    right.run()
    #expect(right.joinerFailure == .refused(.closed))
    // The first guess was at 0.
    #expect(open.isShut(at: seconds(3_599)))
    #expect(!open.isShut(at: seconds(3_600)))
  }

  @Test("wrong guesses of an earlier start count with the new ones, also those from before this clock began")
  func countsOnAfterARestart() throws {
    let home = try TestHousehold(seed: 6)
    var open = PairingWindow()
    // Nineteen of ten minutes ago; the machine was switched on a minute ago.
    open.restore(failures: (0..<19).map { _ in seconds(-540) })
    #expect(!open.isShut(at: seconds(60)) && open.wrongGuesses == 0)
    open.open(code("48219037"), discriminator: 1, at: seconds(60))
    let guess = PairingPair(home, open, by: .code(code("00000000")), seed: 1, at: seconds(60))
    guess.run()
    #expect(guess.inviterFailure == .refused(.wrongCode))
    #expect(guess.window.wrongGuesses == 1)
    #expect(guess.window.isShut(at: seconds(60)))
    #expect(guess.window.isShut(at: seconds(3_059)))
    #expect(!guess.window.isShut(at: seconds(3_060)), "an hour after the first nineteen")
    // However many are brought back, the latest twenty are what counts.
    var many = PairingWindow()
    many.restore(failures: (0..<32).map { seconds(Int64($0) * 100) })
    #expect(many.isShut(at: seconds(1_200 + 3_599)) && !many.isShut(at: seconds(1_200 + 3_600)))
  }

  @Test("another discriminator than the announced one finds no invitation; none at all finds it")
  func discriminators() throws {
    let home = try TestHousehold(seed: 7)
    let other = PairingPair(home, window(), by: .code(code("48219037")), discriminator: 0x111)
    other.run()
    #expect(other.joinerFailure == .refused(.closed))
    let announced = PairingPair(home, window(), by: .code(code("48219037")), discriminator: 0x5A5)
    announced.run()
    #expect(announced.isCompleted == (true, true))
  }

  @Test("a person who says no ends it, and the code burns")
  func declined() throws {
    let pair = PairingPair(try TestHousehold(seed: 8), window(), by: .code(code("48219037")))
    pair.answer = false
    pair.run()
    #expect(pair.joinerFailure == .refused(.declined))
    #expect(pair.inviterFailure == .refused(.declined))
    #expect(pair.admitted == nil)
    #expect(!pair.window.isOpen(at: .zero))
  }

  @Test("while one device is being approved, another with the right code is told to wait")
  func busy() throws {
    let first = PairingPair(try TestHousehold(seed: 9), window(), by: .code(code("48219037")))
    first.answer = nil
    first.run()
    #expect(first.request != nil)
    let second = PairingPair(first.home, first.window, by: .code(code("48219037")), seed: 2)
    second.run()
    #expect(second.joinerFailure == .refused(.busy))
    // When the first connection breaks, the code can be used again.
    _ = first.inviter.breakOff(&first.window)
    let third = PairingPair(first.home, first.window, by: .code(code("48219037")), seed: 3)
    third.run()
    #expect(third.isCompleted == (true, true))
  }

  @Test("a bit changed in any chunk ends the pairing, and the joiner has nothing to keep")
  func flippedBits() throws {
    let home = try TestHousehold(seed: 10)
    let honest = PairingPair(home, window(), by: .code(code("48219037")))
    honest.run()
    let lengths = honest.sent.map(\.bytes.count)
    for chunk in lengths.indices.dropLast() {
      for position in stride(from: 0, to: lengths[chunk], by: max(1, lengths[chunk] / 40)) {
        let pair = PairingPair(home, window(), by: .code(code("48219037")))
        pair.run { number, bytes in
          var bytes = bytes
          if number == chunk { bytes[position] ^= 1 << UInt8(position % 8) }
          return bytes
        }
        #expect(pair.admitted == nil, "chunk \(chunk), byte \(position)")
        #expect(pair.isCompleted == (false, false))
      }
    }
  }

  @Test("the joiner is admitted by nothing but the last part of the signed welcome")
  func nothingBeforeTheWelcome() throws {
    let home = try TestHousehold(seed: 11)
    let honest = PairingPair(home, window(), by: .code(code("48219037")))
    honest.run()
    // Preambles, hello, offer, answer, confirm, three messages, request, welcome, part, stored.
    #expect(honest.sent.count == 13)
    for stop in 0..<12 {
      let pair = PairingPair(home, window(), by: .code(code("48219037")))
      pair.run { number, bytes in number < stop ? bytes : nil }
      #expect(pair.admitted == nil)
      #expect(pair.joinerFailure == nil)
      #expect(pair.joiner.breakOff().count == 1)
      let late = pair.joiner.receive(honest.sent[11].bytes, at: .zero)
      #expect(late.isEmpty)
    }
  }

  @Test("both sides give up when their time is over")
  func timeOuts() throws {
    let pair = PairingPair(try TestHousehold(seed: 12), window(), by: .code(code("48219037")))
    pair.answer = nil
    pair.run()
    #expect(pair.joiner.deadline == seconds(120))
    #expect(pair.inviter.deadline == seconds(120))
    #expect(pair.inviter.tick(&pair.window, at: seconds(119)).isEmpty)
    pair.take(pair.inviter.tick(&pair.window, at: seconds(120)), fromJoiner: false)
    pair.take(pair.joiner.tick(at: seconds(120)), fromJoiner: true)
    #expect(pair.inviterFailure == .timedOut)
    #expect(pair.joinerFailure == .timedOut)
    // A person who answers too late changes nothing.
    #expect(pair.inviter.welcome(Welcome(pair.home.devices[0].log)).isEmpty)
    let silent = PairingPair(try TestHousehold(seed: 12), window(), by: .code(code("48219037")))
    #expect(silent.inviter.deadline == seconds(10))
    silent.take(silent.inviter.tick(&silent.window, at: seconds(10)), fromJoiner: false)
    #expect(silent.inviterFailure == .timedOut)
  }

  @Test("lowered wire versions in the preamble make the code look wrong: the channel covers both preambles")
  func downgrade() throws {
    let versions = WireVersions(oldest: 1, newest: 3)
    let pair = PairingPair(
      try TestHousehold(seed: 13), window(), by: .code(code("48219037")), versions: versions)
    pair.run { number, bytes in
      number == 0 ? Preamble(purpose: .pairing, versions: .current).encoded : bytes
    }
    #expect(pair.inviterFailure == .refused(.wrongCode))
  }

  @Test("a share that is the neutral element counts as a wrong guess")
  func neutralElement() throws {
    let pair = PairingPair(try TestHousehold(seed: 14), window(), by: .code(code("48219037")))
    pair.run { number, bytes in
      guard number == 4 else { return bytes }
      // Frame: length 2, kind 1, share 32, tag 64.
      return Array(bytes[..<3]) + [UInt8](repeating: 0, count: 32) + Array(bytes[35...])
    }
    #expect(pair.inviterFailure == .refused(.wrongCode))
    let fromInviter = PairingPair(try TestHousehold(seed: 14), window(), by: .code(code("48219037")))
    fromInviter.run { number, bytes in
      guard number == 3 else { return bytes }
      return Array(bytes[..<19]) + [UInt8](repeating: 0, count: 32)
    }
    #expect(fromInviter.joinerFailure == .wrongCode)
  }

  @Test("a member who is no admin cannot admit: its welcome is refused, whatever log it shows")
  func inviterIsNoAdmin() throws {
    let pair = PairingPair(try TestHousehold(seed: 16), window(), by: .code(code("48219037")))
    var entropy = SeededEntropy(seed: 8)
    pair.inviter = PairingInviter(pair.home.devices[1].snapshot, at: .zero, entropy: &entropy)
    pair.run()
    #expect(pair.request != nil)
    #expect(pair.joinerFailure == .unprovenWelcome)
    #expect(pair.admitted == nil)
  }

  @Test("a welcome whose signature is not the admin's is refused though the channel is authentic")
  func unsignedWelcome() throws {
    for isSigned in [true, false] {
      var home = try TestHousehold(seed: 17)
      let admin = home.devices[0].keys
      // The exchange by token, with the inviting side played here: it has the token and the admin's agreement
      // key, and once also the signing key.
      var twin = SeededEntropy(seed: 5)
      let token = InviteToken(household: home.devices[0].id, admin: admin.device, entropy: &twin)
      var again = SeededEntropy(seed: 5)
      _ = again.bytes(InviteToken.idByteCount)
      let tokenSecret = SecretBytes(count: InviteToken.secretByteCount, entropy: &again)
      var entropy = SeededEntropy(seed: 6)
      var joiner = PairingJoiner(
        by: .token(token.copy()), keys: DeviceKeys(entropy: &entropy), name: "new", at: .zero,
        entropy: &entropy)
      let theirs = sent(joiner.start())
      let own = Preamble(purpose: .pairing, versions: .current).encoded
      let hello = sent(joiner.receive(own, at: .zero))
      // Frame of 17 bytes with kind 2 and the id, then the first message of Noise with kind 7.
      let prologue =
        Array("hearth pairing noise 1".utf8) + theirs + own + [2] + token.id
      var noise = NoiseHandshake(
        .xxpsk0, role: .responder, prologue: prologue,
        preSharedKey: SHA512Digest.secret(
          before: Array("hearth pairing psk of token 1".utf8), secret: tokenSecret
        ).part(0..<32), staticKey: admin.agreement.copy(), ephemeralKey: AgreementKey(entropy: &entropy))
      _ = try noise.readMessage(Array(hello[22...]))
      let second = try noise.writeMessage()
      let last = sent(
        joiner.receive([UInt8(second.count + 1), 0, 7] + second, at: .zero))
      let third = Array(last[3..<(2 + Int(last[0]))])
      _ = try noise.readMessage(third)
      let hash = noise.handshakeHash
      let keys = noise.split()
      var opener = RecordOpener(key: keys.receiving.copy())
      var sealer = RecordSealer(key: keys.sending.copy())
      let message = try opener.opened(last[(2 + Int(last[0]) + 2)...])
      let request = try AdmissionRequest(decoding: message.dropFirst())
      _ = try home.devices[0].admit(request, binding: hash, entropy: &entropy)
      let welcome = Welcome(home.devices[0].log).encoded
      let statement = Array("hearth pairing welcome 1".utf8) + hash + SHA512Digest(of: welcome).bytes
      let signer = isSigned ? admin : DeviceKeys(entropy: &entropy)
      let count = (0..<4).map { UInt8(truncatingIfNeeded: welcome.count >> (8 * $0)) }
      let header = [17] + signer.signing.sign(statement).bytes + count
      let effects = joiner.receive(
        sealer.framed(header) + sealer.framed([18] + welcome), at: .zero)
      switch effects.last {
      case .admitted(let household): #expect(isSigned && household.id == home.devices[0].id)
      case .failed(let failure): #expect(!isSigned && failure == .unprovenWelcome)
      default: #expect(Bool(false), "neither admitted nor refused")
      }
    }
  }

  private func sent(_ effects: [PairingEffect]) -> [UInt8] {
    effects.flatMap { (effect) -> [UInt8] in if case .send(let bytes) = effect { bytes } else { [] } }
  }

  @Test("a name that is none fails on the joiner before anything is asked")
  func badName() throws {
    let pair = PairingPair(try TestHousehold(seed: 15), window(), by: .code(code("48219037")), name: "")
    pair.run()
    guard case .invalidName = pair.joinerFailure else {
      return #expect(Bool(false), "an empty name was sent")
    }
    #expect(pair.request == nil)
  }
}

@Suite("Pairing by token")
struct PairingByTokenTests {
  private func tokenPair(
    _ home: TestHousehold, openToken: (inout TestHousehold) -> InviteToken, at now: MonotonicInstant = .zero
  ) throws -> PairingPair {
    var home = home
    let token = openToken(&home)
    var window = PairingWindow()
    let isOpen = window.open(token.copy(), at: .zero)
    #expect(isOpen)
    let typed = try InviteToken(text: token.text())
    return PairingPair(home, window, by: .token(typed), at: now)
  }

  private func token(of home: inout TestHousehold) -> InviteToken {
    InviteToken(household: home.devices[0].id, admin: home.devices[0].device, entropy: &home.entropy)
  }

  @Test("a token admits one device, once")
  func admitsOnce() throws {
    var home = try TestHousehold(seed: 21)
    let token = token(of: &home)
    var window = PairingWindow()
    _ = window.open(token.copy(), at: .zero)
    let pair = PairingPair(home, window, by: .token(token.copy()))
    pair.run()
    #expect(pair.isCompleted == (true, true))
    #expect(pair.admitted?.id == home.devices[0].id)
    #expect(pair.window.openTokens(at: .zero).isEmpty)
    let again = PairingPair(pair.home, pair.window, by: .token(token.copy()), seed: 2)
    again.run()
    #expect(again.joinerFailure == .refused(.closed))
  }

  @Test("a token ends after a day")
  func ends() throws {
    let home = try TestHousehold(seed: 22)
    let late = try tokenPair(home, openToken: token(of:), at: seconds(24 * 3_600))
    late.run()
    #expect(late.joinerFailure == .refused(.closed))
    let early = try tokenPair(home, openToken: token(of:), at: seconds(24 * 3_600 - 1))
    early.run()
    #expect(early.isCompleted == (true, true))
  }

  @Test("the token's admin is who answers; another admin with the same secret is refused")
  func otherAdmin() throws {
    var home = try TestHousehold(seed: 23)
    let token = InviteToken(
      household: home.devices[0].id, admin: home.devices[1].device, entropy: &home.entropy)
    let pair = try tokenPair(home) { _ in token.copy() }
    pair.run()
    #expect(pair.joinerFailure == .otherAdmin(home.devices[0].device))
    #expect(pair.admitted == nil)
  }

  @Test("a token of another household's name is refused though the secret fits")
  func otherHousehold() throws {
    var home = try TestHousehold(seed: 24)
    let foreign = try TestHousehold(seed: 25)
    let token = InviteToken(
      household: foreign.devices[0].id, admin: home.devices[0].device, entropy: &home.entropy)
    let pair = try tokenPair(home) { _ in token.copy() }
    pair.run()
    #expect(pair.joinerFailure == .otherHousehold(home.devices[0].id))
  }

  @Test("an id with another secret is refused and counted, but does not burn the token")
  func wrongSecret() throws {
    var home = try TestHousehold(seed: 26)
    let right = token(of: &home)
    let wrong = token(of: &home)
    var window = PairingWindow()
    _ = window.open(right.copy(), at: .zero)
    let pair = PairingPair(home, window, by: .token(wrong.copy()))
    // The wrong token under the id of the right one: hello is chunk 2, after both preambles.
    pair.run { number, bytes in number == 2 ? Array(bytes.prefix(3)) + right.id : bytes }
    #expect(pair.inviterFailure == .wrongToken)
    #expect(pair.window.openTokens(at: .zero) == [right.id])
  }

  @Test("while one device is being approved, another with the same token is told to wait")
  func busy() throws {
    let home = try TestHousehold(seed: 29)
    let first = try tokenPair(home, openToken: token(of:))
    first.answer = nil
    first.run()
    #expect(first.request != nil)
    // The same seeds give the same token again.
    let second = try tokenPair(home, openToken: token(of:))
    second.window = first.window
    second.run()
    #expect(second.joinerFailure == .refused(.busy))
    #expect(second.request == nil)
  }

  @Test("a bit changed in any chunk ends it")
  func flippedBits() throws {
    let home = try TestHousehold(seed: 27)
    let honest = try tokenPair(home, openToken: token(of:))
    honest.run()
    let lengths = honest.sent.map(\.bytes.count)
    for chunk in lengths.indices.dropLast() {
      for position in stride(from: 0, to: lengths[chunk], by: max(1, lengths[chunk] / 20)) {
        let pair = try tokenPair(home, openToken: token(of:))
        pair.run { number, bytes in
          var bytes = bytes
          if number == chunk { bytes[position] ^= 1 << UInt8(position % 8) }
          return bytes
        }
        #expect(pair.admitted == nil, "chunk \(chunk), byte \(position)")
      }
    }
  }

  @Test("no more tokens are open than the limit")
  func tokenLimit() throws {
    var home = try TestHousehold(seed: 28)
    var window = PairingWindow()
    for number in 0...PairingLimits.openTokens {
      let isOpen = window.open(token(of: &home), at: .zero)
      #expect(isOpen == (number < PairingLimits.openTokens))
    }
  }
}

@Suite("Pairing codes and tokens as text")
struct PairingTextTests {
  @Test("a code is shown as two groups of four and read with hyphens and spaces wherever")
  func codeText() throws {
    #expect(code("4821-9037").shown() == "4821-9037")
    #expect(code(" 48 21-90 37").shown() == "4821-9037")
    for text in ["", "4821-903", "4821-90371", "4821-903x", "４８２１９０３７"] {
      let isNone = PairingCode(typed: text) == nil
      #expect(isNone, "'\(text)'")
    }
  }

  @Test("codes are uniform: every digit is as frequent in every place")
  func uniformCodes() {
    var entropy = SeededEntropy(seed: 1)
    var counts = [[Int]](repeating: [Int](repeating: 0, count: 10), count: 8)
    let drawn = 20_000
    for _ in 0..<drawn {
      let digits = PairingCode(entropy: &entropy).shown().utf8.filter { $0 != UInt8(ascii: "-") }
      for (place, digit) in digits.enumerated() { counts[place][Int(digit) - 48] += 1 }
    }
    // Chi-square with 9 degrees of freedom; 33.7 is its 99.99th percentile.
    for place in counts {
      let expected = Double(drawn) / 10
      let chiSquare = place.reduce(0) { $0 + (Double($1) - expected) * (Double($1) - expected) / expected }
      #expect(chiSquare < 33.7)
    }
  }

  @Test("a token's text says what it is, survives line breaks and capitals, and notices any wrong character")
  func tokenText() throws {
    let home = try TestHousehold(seed: 31)
    var entropy = SeededEntropy(seed: 2)
    let token = InviteToken(household: home.devices[0].id, admin: home.devices[0].device, entropy: &entropy)
    let text = token.text()
    #expect(text.hasPrefix("hearth1"))
    #expect(text.count == 142)
    let read = try InviteToken(text: " " + text.prefix(70).uppercased() + "\n" + text.dropFirst(70))
    #expect(read.id == token.id && read.admin == token.admin && read.household == token.household)
    #expect(read.text() == text)
    for position in 0..<142 {
      var changed = Array(text.utf8)
      changed[position] = changed[position] == UInt8(ascii: "a") ? UInt8(ascii: "b") : UInt8(ascii: "a")
      let isRefused = (try? InviteToken(text: String(decoding: changed, as: UTF8.self))) == nil
      #expect(isRefused, "position \(position)")
    }
    for (bad, failure) in [
      ("", InviteTokenFailure.noToken), ("hearth1", .cutOff), (String(text.dropLast()), .cutOff),
      (text + "a", .cutOff), ("hearth1" + String(repeating: "1", count: 135), .cutOff),
      (text + text, .tooLong(byteCount: 284)),
    ] {
      #expect(throws: failure) { _ = try InviteToken(text: bad) }
    }
  }
}
