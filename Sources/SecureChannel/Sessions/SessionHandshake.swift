package import CryptoPrimitives
package import HouseholdTrust
package import MeshModel
package import MeshProtocol
import WireCoding

/// What a handshake asks of the one who owns the connection, in this order.
package enum HandshakeEffect: Sendable {
  /// Send these bytes.
  case send([UInt8])
  /// The session stands; feed `leftover` and everything that follows to its record ciphers.
  case established(EstablishedSession)
  /// The dialling side wants to be admitted: give a `PairingInviter` these bytes, and all that follow.
  case pairing(received: [UInt8])
  /// Close the connection; nothing follows.
  case failed(HandshakeFailure)
}

/// What this device brings to a handshake.
package struct HandshakeIdentity: Sendable {
  /// Who this device is, and whom it trusts.
  package var trust: TrustSnapshot
  /// Which start of its daemon this is.
  package var boot: BootID
  /// The wire versions that it speaks.
  package var versions: WireVersions
  /// Bits for what it can do beside the wire version.
  package var features: UInt32
  /// The port on which it accepts connections and datagrams.
  package var listeningPort: UInt16
  /// The index that datagrams of this session shall carry to it; at most 24 bits.
  package var receiverIndex: UInt32

  /// What this device brings to a handshake.
  package init(
    trust: TrustSnapshot, boot: BootID, versions: WireVersions = .current, features: UInt32 = 0,
    listeningPort: UInt16, receiverIndex: UInt32
  ) {
    precondition(receiverIndex <= DatagramLimits.largestIndex, "a receiver's index of \(receiverIndex)")
    self.trust = trust
    self.boot = boot
    self.versions = versions
    self.features = features
    self.listeningPort = listeningPort
    self.receiverIndex = receiverIndex
  }
}

/// The way from a new connection to a proved session, as a value: bytes in, effects out.
///
///     dialling                         accepting
///     preamble               ->
///                            <-        preamble
///     e (under the PSK)      ->
///                            <-        e, s, certificate, boot
///     s, certificate, boot   ->
///     first record           ->
///                            <-        first record
///
/// Drive it so: perform `start()`, then for every read perform `receive(bytes)`, until `established`, `pairing`
/// or `failed`. Close the connection when `HandshakeLimits.time` is over before that. Both preambles are in the
/// prologue of `Noise_XXpsk0_25519_ChaChaPoly_SHA512`, so whoever changes the offered versions breaks the
/// handshake. The pre-shared key is the older of the two sides' network keys; unless it is both sides' current
/// one, the session is for updates only.
package struct SessionHandshake: ~Copyable, Sendable {
  private enum State: ~Copyable, Sendable {
    case preamble
    case noise(NoiseHandshake, Preamble, SessionStanding)
    case firstRecord(SessionFacts, RecordCiphers)
    /// The owner feeds the bytes to somebody else now.
    case handedOn
    /// Failed: what still comes is not looked at.
    case over
  }

  private static let prologueLabel = "hearth session 1"

  private let identity: HandshakeIdentity
  private let role: HandshakeRole
  private let askedPurpose: SessionPurpose?
  private let expected: DeviceID?
  private let offeredKey: NetworkKey?
  private let ephemeralKey: AgreementKey
  private let datagramKey: SecretBytes
  private var state: State
  private var buffer: [UInt8] = []

  /// The handshake of the side that dials; `expecting` refuses every other device.
  ///
  /// `offering` is for dialling again with an older network key when the other side seems to know only that.
  package init(
    dialling purpose: SessionPurpose, expecting: DeviceID? = nil, offering: NetworkKey? = nil,
    as identity: HandshakeIdentity, entropy: inout some EntropySource
  ) {
    precondition(purpose != .pairing, "a pairing connection is a PairingJoiner's")
    self.init(
      .initiator, purpose, expecting, offering ?? identity.trust.ring.current, identity, entropy: &entropy)
  }

  /// The handshake of the side that was dialled.
  package init(accepting identity: HandshakeIdentity, entropy: inout some EntropySource) {
    self.init(.responder, nil, nil, identity.trust.ring.current, identity, entropy: &entropy)
  }

  private init(
    _ role: HandshakeRole, _ purpose: SessionPurpose?, _ expected: DeviceID?, _ offeredKey: NetworkKey?,
    _ identity: HandshakeIdentity, entropy: inout some EntropySource
  ) {
    self.identity = identity
    self.role = role
    askedPurpose = purpose
    self.expected = expected
    self.offeredKey = offeredKey
    ephemeralKey = AgreementKey(entropy: &entropy)
    datagramKey = SecretBytes(count: ChaChaPoly.keyByteCount, entropy: &entropy)
    state = .preamble
  }

  /// The first effects; none for the side that was dialled.
  package mutating func start() -> [HandshakeEffect] {
    guard role == .initiator, let askedPurpose else { return [] }
    guard let offeredKey else { return fail(.noNetworkKey) }
    return [.send(ownPreamble(askedPurpose, offeredKey).encoded)]
  }

  /// Takes the next bytes of the connection, however they are cut.
  package mutating func receive(_ bytes: [UInt8]) -> [HandshakeEffect] {
    buffer += bytes
    var effects: [HandshakeEffect] = []
    while true {
      let step: [HandshakeEffect]?
      do throws(HandshakeFailure) { step = try advance() } catch { step = fail(error) }
      guard let step else { return effects }
      effects += step
      switch step.last {
      case .established, .pairing, .failed: return effects
      case .send, nil: break
      }
    }
  }

  /// One step with what is in the buffer; nil when more bytes are needed.
  private mutating func advance() throws(HandshakeFailure) -> [HandshakeEffect]? {
    // What a step does not put back is over.
    let current = exchange(&state, with: .over)
    switch consume current {
    case .preamble:
      state = .preamble
      return try readPreamble()
    case .noise(var noise, let preamble, let standing):
      guard let message = try takeFrame() else {
        state = .noise(noise, preamble, standing)
        return nil
      }
      let payload: [UInt8]
      do { payload = try noise.readMessage(message) } catch { throw .noise(error) }
      return try answer(noise, payload, preamble, standing)
    case .firstRecord(let facts, let ciphers):
      guard let record = try takeFrame() else {
        state = .firstRecord(facts, ciphers)
        return nil
      }
      return [.established(try establish(facts, ciphers, record))]
    case .handedOn:
      preconditionFailure("bytes behind a handshake belong to the session's record ciphers")
    case .over:
      buffer = []
      return nil
    }
  }

  private mutating func fail(_ failure: HandshakeFailure) -> [HandshakeEffect] {
    state = .over
    buffer = []
    return [.failed(failure)]
  }

  /// The next length-prefixed frame; nil while it is not complete.
  private mutating func takeFrame() throws(HandshakeFailure) -> [UInt8]? {
    guard buffer.count >= RecordLimits.lengthByteCount else { return nil }
    let count = Int(buffer[0]) | Int(buffer[1]) << 8
    guard count <= HandshakeLimits.frameByteCount else { throw .overLimit(byteCount: count) }
    let end = RecordLimits.lengthByteCount + count
    guard buffer.count >= end else { return nil }
    defer { buffer.removeFirst(end) }
    return Array(buffer[RecordLimits.lengthByteCount..<end])
  }
}

// The steps, in the order in which they happen.
extension SessionHandshake {
  private func ownPreamble(_ purpose: SessionPurpose, _ key: NetworkKey) -> Preamble {
    Preamble(purpose: purpose, epochHint: key.epochHint, versions: identity.versions)
  }

  private mutating func readPreamble() throws(HandshakeFailure) -> [HandshakeEffect]? {
    guard buffer.count >= Preamble.byteCount else { return nil }
    let theirs: Preamble
    do { theirs = try Preamble(decoding: buffer.prefix(Preamble.byteCount)) } catch {
      throw .malformedPreamble(error)
    }
    if role == .responder && theirs.purpose == .pairing {
      let received = buffer
      state = .handedOn
      buffer = []
      return [.pairing(received: received)]
    }
    buffer.removeFirst(Preamble.byteCount)
    guard theirs.purpose == askedPurpose ?? theirs.purpose, theirs.purpose != .pairing else {
      throw .otherPurpose(theirs.purpose)
    }
    guard let offeredKey else { throw .noNetworkKey }
    let own = ownPreamble(theirs.purpose, offeredKey)
    let (key, standing) = agreedKey(offering: offeredKey, theirHint: theirs.epochHint)
    var prologue = ByteWriter()
    prologue.text(Self.prologueLabel)
    identity.trust.household.encode(to: &prologue)
    (role == .initiator ? own : theirs).encode(to: &prologue)
    (role == .initiator ? theirs : own).encode(to: &prologue)
    var noise = NoiseHandshake(
      .xxpsk0, role: role, prologue: prologue.bytes, preSharedKey: key.noisePSK(),
      staticKey: identity.trust.keys.agreement.copy(), ephemeralKey: ephemeralKey.copy())
    var effects: [HandshakeEffect] = []
    if role == .initiator {
      effects.append(.send(try frame(&noise, payload: [])))
    } else {
      effects.append(.send(own.encoded))
    }
    state = .noise(noise, theirs, standing)
    return effects
  }

  /// The older of both sides' keys; this side's own when it does not know the other's.
  private func agreedKey(offering own: NetworkKey, theirHint: [UInt8]) -> (NetworkKey, SessionStanding) {
    guard let theirs = identity.trust.ring.key(hint: theirHint) else { return (own, .updateOnly) }
    let isCurrent = theirs.id == own.id && own.id == identity.trust.ring.current?.id
    return (theirs.id < own.id ? theirs : own, isCurrent ? .full : .updateOnly)
  }

  /// Goes on after a handshake message with this payload has been read.
  private mutating func answer(
    _ noise: consuming NoiseHandshake, _ payload: [UInt8], _ preamble: Preamble, _ standing: SessionStanding
  ) throws(HandshakeFailure) -> [HandshakeEffect] {
    let ownProof = IdentityProof(identity.trust, boot: identity.boot).encoded
    // Only the first message comes without a static key, and its payload is empty: it could be replayed.
    guard let remoteKey = noise.remoteStaticKey else {
      guard payload.isEmpty else { throw .malformedMessage(.trailingBytes(count: payload.count)) }
      let effects: [HandshakeEffect] = [.send(try frame(&noise, payload: ownProof))]
      state = .noise(noise, preamble, standing)
      return effects
    }
    let proof: IdentityProof
    do { proof = try IdentityProof(decoding: payload) } catch { throw .malformedMessage(error) }
    try check(proof, remoteKey)
    var effects: [HandshakeEffect] = []
    if role == .initiator { effects.append(.send(try frame(&noise, payload: ownProof))) }
    let common = identity.versions.common(with: preamble.versions)
    let facts = SessionFacts(
      proof: proof, purpose: preamble.purpose, standing: common == nil ? .statusOnly : standing,
      wireVersion: common ?? preamble.versions.newest, offeredVersions: preamble.versions,
      isInitiator: role == .initiator, handshakeHash: noise.handshakeHash)
    var ciphers = RecordCiphers(noise.split())
    let hello = SessionHello(
      purpose: preamble.purpose, features: identity.features, listeningPort: identity.listeningPort,
      receiverIndex: identity.receiverIndex, datagramKey: datagramKey.copy())
    var helloBytes = hello.encoded()
    effects.append(.send(ciphers.sealer.framed(helloBytes)))
    wipe(&helloBytes)
    state = .firstRecord(facts, ciphers)
    return effects
  }

  private func check(
    _ proof: IdentityProof, _ remoteKey: AgreementPublicKey
  ) throws(HandshakeFailure) {
    let device = proof.certificate.device
    guard proof.certificate.agreementKey == remoteKey else { throw .keyMismatch(device) }
    switch identity.trust.evaluate(proof.certificate, chain: proof.chain) {
    case .member: break
    case .ownIdentity: throw proof.boot == identity.boot ? .thisDevice : .clone(proof.boot)
    case .revoked: throw .revoked(device)
    case let standing: throw .notOfHousehold(device, standing)
    }
    if let expected, expected != device { throw .otherDevice(device) }
  }

  private mutating func establish(
    _ facts: SessionFacts, _ ciphers: consuming RecordCiphers, _ record: [UInt8]
  ) throws(HandshakeFailure) -> EstablishedSession {
    var message: [UInt8]
    do { message = try ciphers.opener.opened(record) } catch { throw .record(error) }
    defer { wipe(&message) }
    let hello: SessionHello
    do { hello = try SessionHello(decoding: message) } catch { throw .malformedMessage(error) }
    // The prologue has covered the purpose already; a sender that says two things is broken.
    guard hello.purpose == facts.purpose else {
      throw .malformedMessage(.invalid(field: "session purpose", value: UInt64(hello.purpose.rawValue)))
    }
    let leftover = buffer
    state = .handedOn
    buffer = []
    let datagrams = DatagramCiphers(
      sealer: DatagramSealer(key: datagramKey.copy(), receiverIndex: hello.receiverIndex),
      opener: DatagramOpener(key: hello.datagramKey.copy()))
    return EstablishedSession(
      facts: facts, features: hello.features, listeningPort: hello.listeningPort,
      leftover: leftover, records: ciphers, datagrams: datagrams)
  }

  private func frame(
    _ noise: inout NoiseHandshake, payload: [UInt8]
  ) throws(HandshakeFailure) -> [UInt8] {
    let message: [UInt8]
    do { message = try noise.writeMessage(payload: payload) } catch { throw .noise(error) }
    return lengthPrefix(message.count) + message
  }
}
