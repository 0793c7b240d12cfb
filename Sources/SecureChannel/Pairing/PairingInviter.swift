package import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
import MeshProtocol
import WireCoding

/// What a pairing asks of the one who owns the connection, in this order.
package enum PairingEffect: Sendable {
  /// Send these bytes.
  case send([UInt8])
  /// Inviter: ask the person whether this device may join, then `Household.admit` with the binding and
  /// `welcome(_:)`, or `decline()`.
  case approve(AdmissionRequest, binding: [UInt8])
  /// Joiner: keep this household, sync the disk, then call `stored()`.
  case admitted(Household)
  /// The other side has what it needs; close the connection.
  case completed
  /// Close the connection; nothing is kept.
  case failed(PairingFailure)
}

/// The inviting side of one pairing connection, as a value: bytes in, effects out.
///
///     joiner                                   inviter
///     preamble                          ->
///                                       <-     preamble
///     by code: nonce                    ->
///                                       <-     nonce, share of CPace
///     share, confirmation               ->
///                                       <-     confirmation
///     (by token instead: the token's id ->)
///     XXpsk0 under the key of CPace, or of the token: three messages
///     keys, name, own signature         ->
///                                       <-     log with the new certificate, signed by the admin
///     stored                            ->
///
/// Drive it so: perform `receive(bytes)` for every read, `tick` when `deadline` is over, and `breakOff()` when
/// the connection ends, always with the one window of the device.
package struct PairingInviter: ~Copyable, Sendable {
  private enum State: ~Copyable, Sendable {
    case preamble
    case hello
    case answer(CPace, UInt64)
    case noise(NoiseHandshake, PairingClaim)
    case request(RecordCiphers, AgreementPublicKey)
    case approval(RecordCiphers)
    case stored(RecordCiphers)
    case over
  }

  private let trust: TrustSnapshot
  private let versions: WireVersions
  private let nonce: [UInt8]
  private let ephemeralKey: AgreementKey
  private var scalar: RistrettoScalar?
  private var stream = PairingStream()
  private var state: State = .preamble
  private var discriminator: UInt16 = 0
  private var claim: PairingClaim?
  private var handshakeHash: [UInt8] = []
  private var isOver = false

  /// When to call `tick`.
  package private(set) var deadline: MonotonicInstant

  /// The id of the token that the joiner has proved to have; nil when it has proved a code, or nothing yet.
  package var provenToken: [UInt8]? { if case .token(let id) = claim { id } else { nil } }

  /// The inviting side of a new connection.
  package init(
    _ trust: TrustSnapshot, versions: WireVersions = .current, at now: MonotonicInstant,
    entropy: inout some EntropySource
  ) {
    self.trust = trust
    self.versions = versions
    nonce = entropy.bytes(PairingProtocol.nonceByteCount)
    ephemeralKey = AgreementKey(entropy: &entropy)
    scalar = RistrettoScalar(entropy: &entropy)
    deadline = now.advanced(by: PairingLimits.handshakeTime)
  }

  /// Takes the next bytes of the connection, however they are cut.
  package mutating func receive(
    _ bytes: [UInt8], _ window: inout PairingWindow, at now: MonotonicInstant
  ) -> [PairingEffect] {
    stream.append(bytes)
    var effects: [PairingEffect] = []
    while true {
      do throws(PairingFailure) {
        guard let step = try advance(&window, now) else { return effects }
        effects += step
        if case .completed = step.last { return effects }
      } catch {
        return effects + fail(error, &window)
      }
    }
  }

  /// Ends the pairing when its time is over.
  package mutating func tick(_ window: inout PairingWindow, at now: MonotonicInstant) -> [PairingEffect] {
    guard now >= deadline, !isOver else { return [] }
    return fail(.timedOut, &window)
  }

  /// Ends the pairing because the connection has; the invitation can be used again.
  package mutating func breakOff(_ window: inout PairingWindow) -> [PairingEffect] {
    isOver ? [] : fail(.brokenOff, &window)
  }

  /// Sends the welcome to the device that was approved and is in the log now.
  package mutating func welcome(_ welcome: Welcome) -> [PairingEffect] {
    guard case .approval(var ciphers) = exchange(&state, with: .over) else {
      // The connection has ended while the person was thinking.
      return []
    }
    let bytes = welcome.encoded
    let signature = trust.keys.signing.sign(
      PairingProtocol.welcomeMessage(bytes, handshakeHash: handshakeHash))
    var header = ByteWriter()
    header.integer(PairingKind.welcome.rawValue)
    header.raw(signature.bytes)
    header.integer(UInt32(bytes.count))
    var effects: [PairingEffect] = [.send(ciphers.sealer.framed(header.bytes))]
    for start in stride(from: 0, to: bytes.count, by: PairingLimits.partByteCount) {
      let part = bytes[start..<min(start + PairingLimits.partByteCount, bytes.count)]
      effects.append(.send(ciphers.sealer.framed([PairingKind.part.rawValue] + part)))
    }
    state = .stored(ciphers)
    return effects
  }

  /// Tells the joiner that the person said no; the invitation burns.
  package mutating func decline(_ window: inout PairingWindow) -> [PairingEffect] {
    guard case .approval(var ciphers) = exchange(&state, with: .over) else { return [] }
    let refusal = [PairingKind.refusal.rawValue, PairingRefusal.declined.rawValue]
    let effects: [PairingEffect] = [.send(ciphers.sealer.framed(refusal))]
    if let claim { window.end(claim, burning: true) }
    claim = nil
    return effects + fail(.refused(.declined), &window)
  }
}

// The steps, in the order in which they happen.
extension PairingInviter {
  /// One step with what has come; nil when more bytes or the person's answer are needed.
  private mutating func advance(
    _ window: inout PairingWindow, _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard !isOver else { return nil }
    // What a step does not put back is over.
    let current = exchange(&state, with: .over)
    switch consume current {
    case .preamble: return try readPreamble()
    case .hello: return try readHello(window, now)
    case .answer(let exchange, let number): return try readAnswer(exchange, number, &window, now)
    case .noise(let noise, let claim): return try readNoise(noise, claim, &window, now)
    case .request(let ciphers, let key): return try readRequest(ciphers, key, now)
    case .approval(let ciphers):
      // The joiner has nothing to say until it is answered; what it says is read then.
      state = .approval(ciphers)
      return nil
    case .stored(let ciphers): return try readStored(ciphers, &window)
    case .over: return nil
    }
  }

  private mutating func fail(_ failure: PairingFailure, _ window: inout PairingWindow) -> [PairingEffect] {
    var effects: [PairingEffect] = []
    // In clear, so only a hint for the person at the other side. Once keys are proved there is no such frame.
    if case .refused(let refusal) = failure, handshakeHash.isEmpty {
      effects.append(.send(PairingStream.frame(.refusal, [refusal.rawValue])))
    }
    if let claim { window.end(claim, burning: false) }
    end()
    return effects + [.failed(failure)]
  }

  private mutating func end() {
    claim = nil
    isOver = true
    state = .over
    stream.end()
  }

  private mutating func readPreamble() throws(PairingFailure) -> [PairingEffect]? {
    guard let theirs = try stream.takePreamble() else {
      state = .preamble
      return nil
    }
    discriminator = theirs.discriminator
    let own = Preamble(purpose: .pairing, versions: versions, discriminator: discriminator).encoded
    stream.note(own)
    state = .hello
    return [.send(own)]
  }

  private mutating func takeMessage() throws(PairingFailure) -> PairingMessage? {
    guard let frame = try stream.takeFrame(limit: PairingLimits.frameByteCount) else { return nil }
    return try PairingMessage(frame)
  }

  private mutating func readHello(
    _ window: PairingWindow, _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeMessage() else {
      state = .hello
      return nil
    }
    let field = try message.fields(PairingProtocol.nonceByteCount)[0]
    stream.note([message.kind.rawValue] + field)
    switch message.kind {
    case .helloByToken:
      let secret = try window.tokenSecret(field, at: now)
      state = .noise(
        handshake(PairingProtocol.preSharedKey(of: secret, byToken: true)), .token(field))
      return []
    case .helloByCode:
      let number = try window.usableCode(discriminator, at: now)
      guard let scalar = scalar.take() else { preconditionFailure("a second hello in one pairing") }
      let exchange = CPace(
        code: try window.codeSecret(number), channel: PairingProtocol.channel(stream.transcript),
        sessionID: field + nonce, scalar: scalar)
      let offer = nonce + exchange.share
      stream.note([PairingKind.offer.rawValue] + offer)
      state = .answer(exchange, number)
      return [.send(PairingStream.frame(.offer, offer))]
    default: throw .unexpected(kind: message.kind.rawValue)
    }
  }

  private mutating func readAnswer(
    _ exchange: consuming CPace, _ number: UInt64, _ window: inout PairingWindow, _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeMessage() else {
      state = .answer(exchange, number)
      return nil
    }
    guard message.kind == .answer else { throw .unexpected(kind: message.kind.rawValue) }
    let fields = try message.fields(CPace.shareByteCount, CPace.tagByteCount)
    stream.note([message.kind.rawValue] + message.body)
    guard let key = exchange.key(with: fields[0], isFirst: true) else {
      try window.judge(number, isRight: false, at: now)
      throw .wrongCode
    }
    try window.judge(number, isRight: key.confirms(fields[1]), at: now)
    claim = .code(number)
    let confirmation = key.confirmation()
    stream.note([PairingKind.confirm.rawValue] + confirmation)
    state = .noise(
      handshake(PairingProtocol.preSharedKey(of: key.secret, byToken: false)), .code(number))
    return [.send(PairingStream.frame(.confirm, confirmation))]
  }

  private func handshake(_ preSharedKey: consuming SecretBytes) -> NoiseHandshake {
    NoiseHandshake(
      .xxpsk0, role: .responder, prologue: PairingProtocol.prologue(stream.transcript),
      preSharedKey: preSharedKey, staticKey: trust.keys.agreement.copy(), ephemeralKey: ephemeralKey.copy())
  }

  private mutating func readNoise(
    _ noise: consuming NoiseHandshake, _ proven: PairingClaim, _ window: inout PairingWindow,
    _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeMessage() else {
      state = .noise(noise, proven)
      return nil
    }
    guard message.kind == .noise else { throw .unexpected(kind: message.kind.rawValue) }
    let payload: [UInt8]
    do { payload = try noise.readMessage(message.body) } catch {
      if claim == nil, case .token(let id) = proven {
        try window.judge(token: id, isRight: false, at: now)
      }
      throw .noise(error)
    }
    guard payload.isEmpty else { throw .malformed(.trailingBytes(count: payload.count)) }
    guard let remoteKey = noise.remoteStaticKey else {
      // The first message is under the pre-shared key: the joiner has the token.
      if claim == nil, case .token(let id) = proven {
        try window.judge(token: id, isRight: true, at: now)
        claim = proven
      }
      let answer: [UInt8]
      do { answer = try noise.writeMessage() } catch { throw .noise(error) }
      state = .noise(noise, proven)
      return [.send(PairingStream.frame(.noise, answer))]
    }
    handshakeHash = noise.handshakeHash
    state = .request(RecordCiphers(noise.split()), remoteKey)
    return []
  }

  private mutating func takeRecord(
    _ ciphers: inout RecordCiphers
  ) throws(PairingFailure) -> PairingMessage? {
    guard let record = try stream.takeFrame(limit: PairingLimits.frameByteCount) else { return nil }
    let bytes: [UInt8]
    do { bytes = try ciphers.opener.opened(record) } catch { throw .record(error) }
    return try PairingMessage(bytes)
  }

  private mutating func readRequest(
    _ ciphers: consuming RecordCiphers, _ remoteKey: AgreementPublicKey, _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeRecord(&ciphers) else {
      state = .request(ciphers, remoteKey)
      return nil
    }
    guard message.kind == .request else { throw .unexpected(kind: message.kind.rawValue) }
    let request: AdmissionRequest
    do { request = try AdmissionRequest(decoding: message.body) } catch { throw .malformed(error) }
    guard request.agreementKey == remoteKey, request.isSigned(for: handshakeHash) else {
      throw .unprovenRequest
    }
    state = .approval(ciphers)
    deadline = now.advanced(by: PairingLimits.approvalTime)
    return [.approve(request, binding: handshakeHash)]
  }

  private mutating func readStored(
    _ ciphers: consuming RecordCiphers, _ window: inout PairingWindow
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeRecord(&ciphers) else {
      state = .stored(ciphers)
      return nil
    }
    guard message.kind == .stored, message.body.isEmpty else {
      throw .unexpected(kind: message.kind.rawValue)
    }
    if let claim { window.end(claim, burning: true) }
    end()
    return [.completed]
  }
}
