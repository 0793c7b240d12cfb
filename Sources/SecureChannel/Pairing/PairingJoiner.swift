package import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
import MeshProtocol
import WireCoding

/// By what a device wants to be admitted.
package enum PairingSecret: ~Copyable, Sendable {
  /// The digits that a person has typed.
  case code(PairingCode)
  /// The invite token.
  case token(InviteToken)
}

/// The joining side of one pairing connection, as a value; see `PairingInviter` for the exchange.
///
/// Perform `start()`, then `receive(bytes)` for every read and `tick` when `deadline` is over. The keys and the
/// household are in memory only until `admitted`; whoever keeps them then calls `stored()`. A pairing that fails
/// leaves nothing behind.
package struct PairingJoiner: ~Copyable, Sendable {
  private enum State: ~Copyable, Sendable {
    case start
    case preamble
    case offer
    case confirm(CPaceKey)
    case noise(NoiseHandshake)
    case welcome(RecordCiphers, AgreementPublicKey, WelcomeCollector)
    case admitted(RecordCiphers)
    case over
  }

  /// The way of pairing, without its secret.
  private enum Way: Sendable {
    case code
    case token(id: [UInt8], admin: DeviceID, household: HouseholdID)
  }

  private let way: Way
  private let secret: SecretBytes
  private let keys: DeviceKeys
  private let name: String
  private let versions: WireVersions
  private let discriminator: UInt16
  private let nonce: [UInt8]
  private let ephemeralKey: AgreementKey
  private var scalar: RistrettoScalar?
  private var stream = PairingStream()
  private var state: State = .start
  private var handshakeHash: [UInt8] = []
  private var isOver = false

  /// When to call `tick`.
  package private(set) var deadline: MonotonicInstant

  /// The joining side of a new connection.
  ///
  /// The discriminator is the one that the household announces; 0 when the address was typed.
  package init(
    by secret: consuming PairingSecret, keys: DeviceKeys, name: String, discriminator: UInt16 = 0,
    versions: WireVersions = .current, at now: MonotonicInstant, entropy: inout some EntropySource
  ) {
    switch consume secret {
    case .code(let code):
      way = .code
      self.secret = code.secret.copy()
    case .token(let token):
      way = .token(id: token.id, admin: token.admin, household: token.household)
      self.secret = token.secret.copy()
    }
    self.keys = keys
    self.name = name
    self.versions = versions
    self.discriminator = discriminator
    nonce = entropy.bytes(PairingProtocol.nonceByteCount)
    ephemeralKey = AgreementKey(entropy: &entropy)
    scalar = RistrettoScalar(entropy: &entropy)
    deadline = now.advanced(by: PairingLimits.handshakeTime)
  }

  /// The first effects.
  package mutating func start() -> [PairingEffect] {
    guard case .start = exchange(&state, with: .over) else {
      preconditionFailure("a pairing was started twice")
    }
    let preamble = Preamble(purpose: .pairing, versions: versions, discriminator: discriminator).encoded
    stream.note(preamble)
    state = .preamble
    return [.send(preamble)]
  }

  /// Takes the next bytes of the connection, however they are cut.
  package mutating func receive(_ bytes: [UInt8], at now: MonotonicInstant) -> [PairingEffect] {
    stream.append(bytes)
    var effects: [PairingEffect] = []
    while true {
      do throws(PairingFailure) {
        guard let step = try advance(now) else { return effects }
        effects += step
      } catch {
        return effects + fail(error)
      }
    }
  }

  /// Ends the pairing when its time is over.
  package mutating func tick(at now: MonotonicInstant) -> [PairingEffect] {
    now >= deadline && !isOver ? fail(.timedOut) : []
  }

  /// Ends the pairing because the connection has.
  package mutating func breakOff() -> [PairingEffect] { isOver ? [] : fail(.brokenOff) }

  /// Tells the inviter that the household is on this device's disk.
  package mutating func stored() -> [PairingEffect] {
    guard case .admitted(var ciphers) = exchange(&state, with: .over) else { return [] }
    let record = ciphers.sealer.framed([PairingKind.stored.rawValue])
    end()
    return [.send(record), .completed]
  }
}

// The steps, in the order in which they happen.
extension PairingJoiner {
  /// One step with what has come; nil when more bytes are needed.
  private mutating func advance(_ now: MonotonicInstant) throws(PairingFailure) -> [PairingEffect]? {
    guard !isOver else { return nil }
    // What a step does not put back is over.
    let current = exchange(&state, with: .over)
    switch consume current {
    case .start: preconditionFailure("a pairing receives before it was started")
    case .preamble: return try readPreamble()
    case .offer: return try readOffer()
    case .confirm(let key): return try readConfirmation(key)
    case .noise(let noise): return try readNoise(noise, now)
    case .welcome(let ciphers, let key, let collector): return try readWelcome(ciphers, key, collector)
    case .admitted(let ciphers):
      state = .admitted(ciphers)
      return nil
    case .over: return nil
    }
  }

  private mutating func fail(_ failure: PairingFailure) -> [PairingEffect] {
    end()
    return [.failed(failure)]
  }

  private mutating func end() {
    isOver = true
    state = .over
    stream.end()
  }

  private mutating func readPreamble() throws(PairingFailure) -> [PairingEffect]? {
    guard try stream.takePreamble() != nil else {
      state = .preamble
      return nil
    }
    switch way {
    case .code:
      stream.note([PairingKind.helloByCode.rawValue] + nonce)
      state = .offer
      return [.send(PairingStream.frame(.helloByCode, nonce))]
    case .token(let id, _, _):
      stream.note([PairingKind.helloByToken.rawValue] + id)
      let first = try beginNoise(PairingProtocol.preSharedKey(of: secret, byToken: true))
      return [.send(PairingStream.frame(.helloByToken, id)), first]
    }
  }

  /// The next message in clear; a refusal ends the pairing.
  private mutating func takeMessage(_ expected: PairingKind) throws(PairingFailure) -> PairingMessage? {
    guard let frame = try stream.takeFrame(limit: PairingLimits.frameByteCount) else { return nil }
    let message = try PairingMessage(frame)
    try throwRefusal(message)
    guard message.kind == expected else { throw .unexpected(kind: message.kind.rawValue) }
    return message
  }

  private func throwRefusal(_ message: PairingMessage) throws(PairingFailure) {
    guard message.kind == .refusal else { return }
    let reason = try message.fields(1)[0][0]
    guard let refusal = PairingRefusal(rawValue: reason) else {
      throw .malformed(.invalid(field: "pairing refusal", value: UInt64(reason)))
    }
    throw .refused(refusal)
  }

  private mutating func readOffer() throws(PairingFailure) -> [PairingEffect]? {
    // The channel is what was said before the offer.
    let channel = PairingProtocol.channel(stream.transcript)
    guard let message = try takeMessage(.offer) else {
      state = .offer
      return nil
    }
    let fields = try message.fields(PairingProtocol.nonceByteCount, CPace.shareByteCount)
    stream.note([message.kind.rawValue] + message.body)
    guard let scalar = scalar.take() else { preconditionFailure("an offer is expected once") }
    let exchange = CPace(
      code: secret, channel: channel, sessionID: nonce + fields[0], scalar: scalar)
    guard let key = exchange.key(with: fields[1], isFirst: false) else { throw .wrongCode }
    let answer = exchange.share + key.confirmation()
    stream.note([PairingKind.answer.rawValue] + answer)
    state = .confirm(key)
    return [.send(PairingStream.frame(.answer, answer))]
  }

  private mutating func readConfirmation(
    _ key: consuming CPaceKey
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeMessage(.confirm) else {
      state = .confirm(key)
      return nil
    }
    guard key.confirms(message.body) else { throw .wrongCode }
    stream.note([message.kind.rawValue] + message.body)
    return [try beginNoise(PairingProtocol.preSharedKey(of: key.secret, byToken: false))]
  }

  private mutating func beginNoise(
    _ preSharedKey: consuming SecretBytes
  ) throws(PairingFailure) -> PairingEffect {
    var noise = NoiseHandshake(
      .xxpsk0, role: .initiator, prologue: PairingProtocol.prologue(stream.transcript),
      preSharedKey: preSharedKey, staticKey: keys.agreement.copy(), ephemeralKey: ephemeralKey.copy())
    let effect = try noiseEffect(&noise)
    state = .noise(noise)
    return effect
  }

  private func noiseEffect(_ noise: inout NoiseHandshake) throws(PairingFailure) -> PairingEffect {
    let message: [UInt8]
    do { message = try noise.writeMessage() } catch { throw .noise(error) }
    return .send(PairingStream.frame(.noise, message))
  }

  private mutating func readNoise(
    _ noise: consuming NoiseHandshake, _ now: MonotonicInstant
  ) throws(PairingFailure) -> [PairingEffect]? {
    guard let message = try takeMessage(.noise) else {
      state = .noise(noise)
      return nil
    }
    let payload: [UInt8]
    do { payload = try noise.readMessage(message.body) } catch { throw .noise(error) }
    guard payload.isEmpty else { throw .malformed(.trailingBytes(count: payload.count)) }
    guard let remoteKey = noise.remoteStaticKey else {
      preconditionFailure("the second message of XX holds a static key")
    }
    let last = try noiseEffect(&noise)
    handshakeHash = noise.handshakeHash
    let request: AdmissionRequest
    do { request = try AdmissionRequest(keys: keys, name: name, binding: handshakeHash) } catch {
      throw .invalidName(error)
    }
    var ciphers = RecordCiphers(noise.split())
    let record = ciphers.sealer.framed([PairingKind.request.rawValue] + request.encoded)
    state = .welcome(ciphers, remoteKey, WelcomeCollector())
    deadline = now.advanced(by: PairingLimits.approvalTime)
    return [last, .send(record)]
  }

  private mutating func readWelcome(
    _ ciphers: consuming RecordCiphers, _ remoteKey: AgreementPublicKey, _ collector: WelcomeCollector
  ) throws(PairingFailure) -> [PairingEffect]? {
    var collector = collector
    guard let record = try stream.takeFrame(limit: RecordLimits.recordByteCount) else {
      state = .welcome(ciphers, remoteKey, collector)
      return nil
    }
    let bytes: [UInt8]
    do { bytes = try ciphers.opener.opened(record) } catch { throw .record(error) }
    let message = try PairingMessage(bytes)
    try throwRefusal(message)
    guard let welcome = try collector.add(message) else {
      state = .welcome(ciphers, remoteKey, collector)
      return []
    }
    let household = try household(of: welcome, signature: collector.signature, remoteKey)
    state = .admitted(ciphers)
    return [.admitted(household)]
  }

  /// The household of a welcome, after everything about it has been proved.
  private func household(
    of welcomeBytes: [UInt8], signature: Signature?, _ remoteKey: AgreementPublicKey
  ) throws(PairingFailure) -> Household {
    let welcome: Welcome
    do { welcome = try Welcome(decoding: welcomeBytes) } catch { throw .malformed(error) }
    let log = welcome.log()
    let inviter = log.members.first { $0.agreementKey == remoteKey }
    let message = PairingProtocol.welcomeMessage(welcomeBytes, handshakeHash: handshakeHash)
    guard let inviter, log.view.isAdmin(inviter.device), let signature,
      inviter.signingKey.verifies(signature, of: message)
    else { throw .unprovenWelcome }
    if case .token(_, let admin, let expected) = way {
      guard inviter.device == admin else { throw .otherAdmin(inviter.device) }
      guard welcome.genesis.household == expected else {
        throw .otherHousehold(welcome.genesis.household)
      }
    }
    do { return try Household(log: log, keys: keys) } catch { throw .notAdmitted(error) }
  }
}
