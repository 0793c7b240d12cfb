import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import SecureChannel

/// Handshakes: who proves what to whom, and what fails. By default without cryptography, with the same outcomes.
extension Simulation {
  /// The other kernel has accepted: the dialler begins.
  mutating func beginHandshake(_ id: Int) {
    guard let stream = streams[id], stream.ends[0].phase == .connecting else { return }
    let device = stream.ends[0].device
    guard let trust = devices[device].peer?.trust else { return }
    let key = offeredKey(of: device, for: stream, trust)
    streams[id]?.ends[0].phase = .handshaking
    queue.plan(.streamDeadline(id, side: 0, .handshaking), at: now.advanced(by: Self.handshakeTimeout))
    if plan.usesRealHandshake {
      let real = RealHandshake(
        dialling: stream.purpose, expecting: stream.expecting, offering: key,
        as: identity(of: device, trust), seed: devices[device].chance.next())
      streams[id]?.ends[0].handshake = HandshakeState(real: real)
      return perform(real.start(), on: id, side: 0)
    }
    guard let key else { return failHandshake(id, side: 0, .notOfHousehold) }
    var state = HandshakeState()
    state.offered = key.id
    streams[id]?.ends[0].handshake = state
    say(.preamble(hint: key.epochHint, versions(of: device)), on: id, from: 0)
  }

  /// The current network key; in a second attempt an older one, the oldest first.
  ///
  /// Two halves of a split network may both have made new keys, and then only an older one is common.
  private func offeredKey(of device: Int, for stream: SimulatedStream, _ trust: TrustSnapshot) -> NetworkKey?
  {
    let keys = trust.ring.keys
    guard stream.isSecondAttempt, keys.count > 1 else { return keys.first }
    return keys[keys.count - 1 - devices[device].closedDials[stream.address, default: 0] % (keys.count - 1)]
  }

  /// A message of the handshake has reached an end.
  mutating func continueHandshake(_ id: Int, side: Int, _ message: HandshakeMessage) {
    guard let stream = streams[id], stream.ends[side].phase == .handshaking,
      let trust = devices[stream.ends[side].device].peer?.trust
    else { return }
    switch message {
    case .bytes(let bytes): continueReal(id, side: side, bytes, trust)
    case .plain(.preamble(let hint, let versions)): heard(hint, versions, on: id, side: side, trust)
    case .plain(.ephemeral(let key)):
      guard key == stream.ends[side].handshake?.agreed else {
        return failHandshake(id, side: side, .notOfHousehold)
      }
      sayProof(on: id, from: side, trust)
    case .plain(.proof(let certificate, let chain, let boot)):
      if let failure = judge(certificate, chain, boot, on: id, side: side, trust) {
        return failHandshake(id, side: side, failure)
      }
      streams[id]?.ends[side].handshake?.peer = certificate
      streams[id]?.ends[side].handshake?.boot = boot
      if side == 0 { sayProof(on: id, from: 0, trust) }
      say(.firstRecord(port: SimulatedDevice.port), on: id, from: side)
    case .plain(.firstRecord(let port)):
      streams[id]?.ends[side].handshake?.port = port
      establish(id, side: side)
    }
  }

  private func versions(of device: Int) -> WireVersions { plan.versions(of: device) }

  private mutating func say(_ hello: PlainHello, on id: Int, from side: Int) {
    send(.hello(.plain(hello)), on: id, from: side)
  }

  private mutating func sayProof(on id: Int, from side: Int, _ trust: TrustSnapshot) {
    guard let device = streams[id]?.ends[side].device else { return }
    say(.proof(trust.certificate, chain: trust.chain, devices[device].boot), on: id, from: side)
  }

  /// As in `SessionHandshake`: the older of both sides' keys; the session is full if it is both sides' current one.
  private mutating func heard(
    _ hint: [UInt8], _ versions: WireVersions, on id: Int, side: Int, _ trust: TrustSnapshot
  ) {
    guard let device = streams[id]?.ends[side].device else { return }
    var state = streams[id]?.ends[side].handshake ?? HandshakeState()
    let offered = trust.ring.keys.first { $0.id == state.offered }
    guard let own = offered ?? trust.ring.current else {
      return failHandshake(id, side: side, .notOfHousehold)
    }
    state.versions = versions
    if let theirs = trust.ring.key(hint: hint) {
      state.agreed = min(theirs.id, own.id)
      state.standing = theirs.id == own.id && own.id == trust.ring.current?.id ? .full : .updateOnly
    } else {
      state.agreed = own.id
      state.standing = .updateOnly
    }
    if self.versions(of: device).common(with: versions) == nil { state.standing = .statusOnly }
    streams[id]?.ends[side].handshake = state
    if side == 1 {
      say(.preamble(hint: own.epochHint, self.versions(of: device)), on: id, from: 1)
    } else if let agreed = state.agreed {
      say(.ephemeral(agreed), on: id, from: 0)
    }
  }

  private func judge(
    _ certificate: DeviceCertificate, _ chain: [LogEntry], _ boot: BootID, on id: Int, side: Int,
    _ trust: TrustSnapshot
  ) -> DialFailure? {
    guard let stream = streams[id] else { return .notOfHousehold }
    let device = stream.ends[side].device
    switch trust.evaluate(certificate, chain: chain) {
    case .member: break
    case .revoked:
      if devices[device].misbehaviour != .keepsRevoked { return .revoked(certificate.device) }
    case .ownIdentity: return boot == devices[device].boot ? .thisDevice : .clone
    default: return .notOfHousehold
    }
    if side == 0, let expected = stream.expecting, expected != certificate.device {
      return .otherDevice(certificate.device)
    }
    return nil
  }

  // MARK: - Ends

  private mutating func failHandshake(_ id: Int, side: Int, _ failure: DialFailure) {
    guard let stream = streams[id] else { return }
    let device = stream.ends[side].device
    leave(id, side: side)
    send(.reset, on: id, from: side)
    if side == 0 {
      deliver(.transport(.dialFailed(stream.address, stream.purpose, failure)), to: device)
    } else {
      deliver(.transport(.dropped(.handshakeRefused)), to: device)
    }
  }

  /// The other side closed during the handshake: another key may be common, so the dial gets a second attempt.
  mutating func noteClosedHandshake(_ stream: SimulatedStream) {
    let device = stream.ends[0].device
    let hasOlderKeys = (devices[device].peer?.trust.ring.keys.count ?? 0) > 1
    if hasOlderKeys, !stream.isSecondAttempt, isRunning(device) {
      return dial(
        stream.address, stream.purpose, expecting: stream.expecting, by: device, isSecondAttempt: true)
    }
    if stream.isSecondAttempt { devices[device].closedDials[stream.address, default: 0] += 1 }
    notify(.transport(.dialFailed(stream.address, stream.purpose, .handshakeClosed)), device)
  }

  private mutating func establish(_ id: Int, side: Int) {
    guard let stream = streams[id], let state = stream.ends[side].handshake, let peer = state.peer,
      let boot = state.boot, let versions = state.versions, let port = state.port
    else { return }
    let device = stream.ends[side].device
    let other = stream.ends[1 - side].device
    let session = SessionID(devices[device].nextSession)
    devices[device].nextSession += 1
    devices[device].streamOfSession[session] = id
    if side == 0 { devices[device].closedDials[stream.address] = nil }
    streams[id]?.ends[side].phase = .open
    streams[id]?.ends[side].session = session
    streams[id]?.ends[side].peer = peer.device
    streams[id]?.ends[side].standing = state.standing
    streams[id]?.ends[side].opened = now
    streams[id]?.ends[side].handshake = nil
    let offered = self.versions(of: device)
    let remote =
      side == 0
      ? stream.address
      : NetworkAddress(devices[other].host, port: UInt16(truncatingIfNeeded: 32_768 + id % 28_000))
    let info = SessionInfo(
      peer: peer.device, boot: boot, purpose: stream.purpose, standing: state.standing,
      wireVersion: offered.common(with: versions) ?? versions.newest, offeredVersions: versions,
      isInitiator: side == 0, remote: remote, listening: NetworkAddress(remote.host, port: port),
      handshakeTime: stream.began.duration(to: now))
    record.note(handshake: info)
    trace.add(
      now, 7, device, other, bytes: peer.device.bytes,
      line: "\(device) has session \(session) with \(other), \(state.standing)")
    if devices[device].misbehaviour == .breaksBeforeMake { breakSessions(of: device, with: other, but: id) }
    deliver(.transport(.opened(session, info)), to: device)
  }

  private mutating func breakSessions(of device: Int, with other: Int, but kept: Int) {
    for id in devices[device].streams where id != kept {
      guard let stream = streams[id] else { continue }
      let side = stream.side(of: device)
      if stream.ends[1 - side].device == other, let session = stream.ends[side].session {
        close(session, .renewed, by: device)
      }
    }
  }

  // MARK: - The real one

  private func identity(of device: Int, _ trust: TrustSnapshot) -> HandshakeIdentity {
    HandshakeIdentity(
      trust: trust, boot: devices[device].boot, versions: versions(of: device),
      listeningPort: SimulatedDevice.port, receiverIndex: UInt32(device))
  }

  private mutating func continueReal(_ id: Int, side: Int, _ bytes: [UInt8], _ trust: TrustSnapshot) {
    guard let device = streams[id]?.ends[side].device else { return }
    if streams[id]?.ends[side].handshake?.real == nil {
      let real = RealHandshake(accepting: identity(of: device, trust), seed: devices[device].chance.next())
      streams[id]?.ends[side].handshake = HandshakeState(real: real)
    }
    guard let real = streams[id]?.ends[side].handshake?.real else { return }
    perform(real.receive(bytes), on: id, side: side)
  }

  private mutating func perform(_ effects: [HandshakeEffect], on id: Int, side: Int) {
    for effect in effects {
      switch effect {
      case .send(let bytes): send(.hello(.bytes(bytes)), on: id, from: side)
      case .failed(let failure): return failHandshake(id, side: side, failure.dialFailure)
      case .pairing: return failHandshake(id, side: side, .notOfHousehold)
      case .established(let session):
        streams[id]?.ends[side].handshake?.peer = session.peer
        streams[id]?.ends[side].handshake?.boot = session.boot
        streams[id]?.ends[side].handshake?.standing = session.standing
        streams[id]?.ends[side].handshake?.versions = session.offeredVersions
        streams[id]?.ends[side].handshake?.port = session.listeningPort
        establish(id, side: side)
      }
    }
  }
}
