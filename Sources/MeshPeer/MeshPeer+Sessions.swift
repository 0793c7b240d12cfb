import Determinism
import GossipMembership
import HouseholdTrust
import MeshModel
import MeshProtocol
import PeerDiscovery

/// Which sessions stand and which are kept.
extension MeshPeer {
  /// Bytes of an echo's body: nothing beside the request's number is needed.
  static let echoBodyLimit = 64

  mutating func handle(_ event: TransportEvent, at now: ClockReading) {
    switch event {
    case .opened(let session, let info): opened(session, info, at: now)
    case .closed(let session, let reason): closed(session, reason, at: now)
    case .frame(let session, let frame): received(frame, on: session, at: now)
    case .datagram(let peer, let body): receivedDatagram(body, from: peer, at: now)
    case .dialFailed(let address, let purpose, let failure):
      guard purpose == .control else { return bulkDialFailed(at: address, now: now.monotonic) }
      if failure == .clone { foundClone(of: own, at: now) }
      discover(.dialFailed(address, DialOutcome(failure)), at: now)
    case .writable: break
    case .dropped(let reason): drop(reason)
    }
  }

  // MARK: - Opening and closing

  private mutating func opened(_ session: SessionID, _ info: SessionInfo, at now: ClockReading) {
    let peer = info.peer
    let dial = info.purpose == .bulk && info.isInitiator ? takeBulkDial(to: peer) : nil
    if let reason = refusal(of: peer) {
      if let dial { fail(dial, at: now.monotonic) }
      return refuse(session, reason)
    }
    table[session] = SessionTable.Entry(
      id: session, info: info, opened: now, openedAtInput: inputCount, lastHeard: now.monotonic,
      nextEcho: now.monotonic.advanced(by: MeshLimits.echoInterval), wasMember: household.view.isMember(peer))
    lastVersions[peer] = info.offeredVersions
    guard info.purpose == .control else {
      if let dial { opened(dial, session, info, at: now) }
      return
    }
    if info.standing != .statusOnly { sendSummary(on: session, wantsReply: true) }
    sendEcho(on: session, timeout: MeshLimits.echoTimeout, at: now.monotonic)
    // An old session proves by an answer that it still stands; one of an earlier start cannot.
    for rival in table.controls(of: peer) where rival.id != session {
      sendEcho(on: rival.id, timeout: MeshLimits.echoTimeout, at: now.monotonic)
    }
    limitControls(of: peer, at: now)
  }

  /// A session counts once it has carried a frame: until then the other side may be about to refuse it.
  private mutating func prove(_ entry: SessionTable.Entry, at now: ClockReading) {
    let info = entry.info
    lastSaid[info.peer] = nil
    if table.controls(of: info.peer).allSatisfy({ $0.carriedAtInput == nil || $0.id == entry.id }) {
      report(.connected(info.peer, info.remote))
    }
    discover(
      .connected(info.peer, dialled: info.isInitiator ? info.remote : nil, listening: info.listening), at: now
    )
    noteUsability(of: info.peer, at: now)
  }

  /// Why no session with this device is wanted now.
  private func refusal(of peer: DeviceID) -> CloseReason? {
    if peer == own || quarantine[peer] != nil { return .duplicate }
    if household.view.isRevoked(peer) { return .revoked }
    return table.entries.count < SessionLimits.sessions ? nil : .overLimit
  }

  private mutating func refuse(_ session: SessionID, _ reason: CloseReason) {
    effects.append(.transport(.close(session, reason)))
    drop(.notPermitted)
  }

  private mutating func limitControls(of peer: DeviceID, at now: ClockReading) {
    let controls = table.controls(of: peer)
    guard controls.count > MeshLimits.controlSessionsPerDevice else { return }
    let kept = table.preferred(of: peer, own: own)?.id
    if let oldest = controls.first(where: { $0.id != kept }) {
      close(oldest.id, .duplicate, at: now)
    }
  }

  private mutating func closed(_ session: SessionID, _ reason: CloseReason, at now: ClockReading) {
    guard let entry = table[session] else { return }
    table[session] = nil
    noteEndOfLink(session, at: now.monotonic)
    guard entry.info.purpose == .control else { return }
    switch reason {
    case .left, .shuttingDown: lastSaid[entry.info.peer] = .left
    case .asleep: lastSaid[entry.info.peer] = .asleep
    default: break
    }
    noteEnd(of: entry, reason, at: now)
  }

  /// Closes a session from this side.
  mutating func close(_ session: SessionID, _ reason: CloseReason, at now: ClockReading) {
    guard let entry = table[session] else { return }
    table[session] = nil
    effects.append(.transport(.close(session, reason)))
    noteEndOfLink(session, at: now.monotonic)
    if entry.info.purpose == .control { noteEnd(of: entry, reason, at: now) }
  }

  private mutating func noteEnd(of entry: SessionTable.Entry, _ reason: CloseReason, at now: ClockReading) {
    let peer = entry.info.peer
    guard entry.carriedAtInput != nil else {
      if entry.info.isInitiator { discover(.dialFailed(entry.info.remote, .handshakeClosed), at: now) }
      return
    }
    noteUsability(of: peer, at: now)
    guard table.controls(of: peer).allSatisfy({ $0.carriedAtInput == nil }) else { return }
    report(.disconnected(peer, reason))
    discover(.disconnected(peer, said: lastSaid[peer]), at: now)
  }

  /// Tells gossip whether a member can be sent to, when that changes.
  mutating func noteUsability(of peer: DeviceID, at now: ClockReading) {
    let isUsable =
      household.view.isMember(peer)
      && table.controls(of: peer).contains { $0.info.standing == .full && $0.carriedAtInput != nil }
    if isUsable, usable.insert(peer).inserted {
      gossip(.reachable(peer), at: now)
    } else if !isUsable, usable.remove(peer) != nil {
      gossip(.unreachablePath(peer), at: now)
    }
  }

  // MARK: - Frames

  private mutating func received(_ frame: MeshFrame, on session: SessionID, at now: ClockReading) {
    guard var entry = table[session] else { return }
    let isFirst = entry.carriedAtInput == nil
    entry.lastHeard = now.monotonic
    entry.carriedAtInput = inputCount
    table[session] = entry
    let peer = entry.info.peer
    guard entry.info.purpose == .control else { return receivedBulk(frame, on: entry, at: now.monotonic) }
    if isFirst { prove(entry, at: now) }
    if permits(frame.kind, entry) {
      use(frame, on: entry, at: now)
    } else {
      drop(.notPermitted)
    }
    guard table[session] != nil else { return }
    if usable.contains(peer), frame.kind != .gossip { gossip(.heard(peer), at: now) }
    settleDuplicates(of: peer, at: now)
  }

  /// What a session's standing lets through.
  private func permits(_ kind: FrameKind, _ entry: SessionTable.Entry) -> Bool {
    switch kind {
    case .echoRequest, .echoReply, .goodbye: true
    case .trustLog: entry.info.standing != .statusOnly
    case .gossip, .viewExchange, .job:
      entry.info.standing == .full && household.view.isMember(entry.info.peer)
    case .bulk, .burst, .burstReport: false
    }
  }

  private mutating func use(_ frame: MeshFrame, on entry: SessionTable.Entry, at now: ClockReading) {
    switch frame.kind {
    case .gossip: gossip(.message(frame.body, from: entry.info.peer, over: .session), at: now)
    case .viewExchange: gossip(.viewExchange(frame.body, from: entry.info.peer), at: now)
    case .trustLog: receivedLog(frame.body, on: entry.id, from: entry.info.peer, at: now)
    case .echoRequest:
      guard frame.body.count <= Self.echoBodyLimit else { return drop(.notPermitted) }
      send(MeshFrame(.echoReply, request: frame.request, body: frame.body), on: entry.id)
    case .echoReply where frame.request >= LinkSurvey.firstRequest:
      survey(.echo(entry.id, request: frame.request), at: now.monotonic)
    case .echoReply: receivedEcho(frame.request, on: entry.id, at: now)
    case .job: effects.append(.job(from: entry.info.peer, body: frame.body))
    case .goodbye, .bulk, .burst, .burstReport: break
    }
  }

  private mutating func receivedDatagram(_ body: [UInt8], from peer: DeviceID, at now: ClockReading) {
    guard usable.contains(peer) else { return drop(.notPermitted) }
    gossip(.message(body, from: peer, over: .datagram), at: now)
  }

  mutating func send(_ frame: MeshFrame, on session: SessionID) {
    effects.append(.transport(.send(session, frame)))
  }

  // MARK: - Duplicates

  /// Keeps the preferred of several control sessions as soon as it has carried a frame since the others were opened.
  ///
  /// Both sides dial; until then all stay, because the preferred one may be dead without anybody knowing.
  private mutating func settleDuplicates(of peer: DeviceID, at now: ClockReading) {
    let controls = table.controls(of: peer)
    guard controls.count > 1, let winner = table.preferred(of: peer, own: own) else { return }
    for rival in controls where rival.id != winner.id && rival.info.boot == winner.info.boot {
      if let follower = table.follower(of: rival) {
        retire(rival, for: follower, at: now)
      } else if let carried = winner.carriedAtInput, carried > rival.openedAtInput, !winner.isOld,
        // Which of several that one side dialled is the newest, only that side knows for certain.
        winner.info.isInitiator || rival.info.isInitiator
      {
        close(rival.id, .duplicate, at: now)
      }
    }
  }

  // MARK: - Echoes

  /// Sends an echo unless enough wait; an earlier deadline than a waiting echo's counts for that echo too.
  mutating func sendEcho(on session: SessionID, timeout: Duration, at now: MonotonicInstant) {
    guard var entry = table[session] else { return }
    let deadline = now.advanced(by: timeout)
    entry.nextEcho = now.advanced(by: MeshLimits.echoInterval)
    if entry.echoes.count < MeshLimits.echoesInFlight {
      entry.echoes.append(
        SessionTable.Echo(request: nextRequest, atInput: inputCount, sent: now, deadline: deadline))
      table[session] = entry
      send(MeshFrame(.echoRequest, request: nextRequest, body: []), on: session)
      nextRequest &+= 1
    } else if let last = entry.echoes.indices.last {
      let echo = entry.echoes[last]
      entry.echoes[last] = SessionTable.Echo(
        request: echo.request, atInput: echo.atInput, sent: echo.sent,
        deadline: min(echo.deadline, deadline))
      table[session] = entry
    }
  }

  private mutating func receivedEcho(_ request: UInt32, on session: SessionID, at now: ClockReading) {
    guard var entry = table[session],
      let place = entry.echoes.firstIndex(where: { $0.request == request })
    else { return drop(.notPermitted) }
    let echo = entry.echoes[place]
    let time = echo.sent.duration(to: now.monotonic)
    entry.echoes.removeFirst(place + 1)
    entry.answeredAtInput = entry.answeredAtInput ?? inputCount
    entry.lastAnswered = echo.atInput
    entry.roundTrip = time
    entry.shortestRoundTrip = min(entry.shortestRoundTrip ?? time, time)
    table[session] = entry
    remember(entry, at: now.monotonic)
    if usable.contains(entry.info.peer) { gossip(.measured(entry.info.peer, roundTrip: time), at: now) }
    // Asked after another start had proved itself, an earlier one still answers: both are alive.
    let isClone = table.controls(of: entry.info.peer).contains {
      $0.info.boot != entry.info.boot && $0.openedAtInput <= echo.atInput && $0.carriedAtInput != nil
        && $0.info.boot > entry.info.boot
    }
    if isClone { foundClone(of: entry.info.peer, at: now) }
  }

  mutating func checkEchoes(at now: ClockReading) {
    for entry in table.entries where entry.info.purpose == .control {
      if entry.echoes.contains(where: { $0.deadline <= now.monotonic }) {
        close(entry.id, .silent, at: now)
      } else if entry.nextEcho <= now.monotonic {
        sendEcho(on: entry.id, timeout: MeshLimits.echoTimeout, at: now.monotonic)
      }
    }
  }

  // MARK: - Clones

  private mutating func foundClone(of device: DeviceID, at now: ClockReading) {
    report(.clone(device))
    quarantine[device] = now.monotonic.advanced(by: MeshLimits.cloneQuarantine)
    for entry in table.controls(of: device) { close(entry.id, .duplicate, at: now) }
  }
}

extension DialOutcome {
  /// The outcome as discovery names it.
  init(_ failure: DialFailure) {
    switch failure {
    case .timedOut: self = .noAnswer
    case .refused: self = .refused
    case .unreachable: self = .noRoute
    case .handshakeTimedOut: self = .handshakeTimeout
    case .handshakeClosed: self = .handshakeClosed
    case .notOfHousehold: self = .notOfHousehold
    case .otherDevice(let device): self = .otherDevice(device)
    case .thisDevice: self = .thisDevice
    case .revoked(let device): self = .revoked(device)
    case .clone: self = .clone
    }
  }
}
