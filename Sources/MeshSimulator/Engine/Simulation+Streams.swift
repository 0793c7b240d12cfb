import Determinism
import MeshModel
import MeshProtocol

/// Connections between processes: what a kernel and a transport do, without the bytes of TCP.
extension Simulation {
  /// How long a dialler waits for the other kernel, and how long a handshake may take.
  static let connectTimeout: Duration = .seconds(2)
  /// How long a handshake may take once the connection stands.
  static let handshakeTimeout: Duration = .seconds(2)

  // MARK: - Dialling

  mutating func dial(
    _ address: NetworkAddress, _ purpose: SessionPurpose, expecting: DeviceID?, by device: Int,
    isSecondAttempt: Bool = false
  ) {
    let life = devices[device].life
    func fail(_ failure: DialFailure, after wait: Duration) {
      queue.plan(
        .process(device, life: life, .transport(.dialFailed(address, purpose, failure))),
        at: now.advanced(by: wait))
    }
    guard let other = owner(of: address) else { return fail(.timedOut, after: Self.connectTimeout) }
    guard other != device else { return fail(.thisDevice, after: .milliseconds(1)) }
    let id = nextStream
    nextStream += 1
    streams[id] = SimulatedStream(
      purpose: purpose,
      ends: [
        SimulatedStream.End(device: device, life: life, phase: .connecting),
        SimulatedStream.End(device: other, life: -1, phase: .absent),
      ], address: address, expecting: expecting, isSecondAttempt: isSecondAttempt, began: now)
    devices[device].streams.append(id)
    devices[other].streams.append(id)
    send(.open, on: id, from: 0)
    queue.plan(.streamDeadline(id, side: 0, .connecting), at: now.advanced(by: Self.connectTimeout))
  }

  /// A connection or handshake took too long.
  mutating func expire(_ id: Int, side: Int, _ phase: SimulatedStream.Phase) {
    guard let stream = streams[id], stream.ends[side].phase == phase else { return }
    let end = stream.ends[side]
    guard isRunning(end.device) else {
      // A stopped process looks at its timers when it goes on.
      queue.plan(.streamDeadline(id, side: side, phase), at: now.advanced(by: .milliseconds(100)))
      return
    }
    leave(id, side: side)
    if phase == .handshaking { send(.reset, on: id, from: side) }
    if side == 0 {
      let failure: DialFailure = phase == .connecting ? .timedOut : .handshakeTimedOut
      deliver(.transport(.dialFailed(stream.address, stream.purpose, failure)), to: end.device)
    } else {
      deliver(.transport(.dropped(.handshakeTimeout)), to: end.device)
    }
  }

  // MARK: - Sending

  /// Puts a segment into a direction's queue; false when the queue is full.
  @discardableResult
  mutating func send(_ segment: StreamSegment, on id: Int, from side: Int) -> Bool {
    guard streams[id]?.directions[side].append(segment) == true else { return false }
    pump(id, side)
    return true
  }

  /// Sends what waits, until something is lost.
  mutating func pump(_ id: Int, _ side: Int) {
    while let stream = streams[id], !stream.directions[side].isRetryPlanned,
      let segment = stream.directions[side].first
    {
      let from = stream.ends[side].device
      let to = stream.ends[1 - side].device
      guard devices[from].machine == .on else { return retry(id, side, isSenderAwake: false) }
      guard devices[to].machine == .on, admits(segment, from: from, to: to) else {
        network.countLost(byteCount: segment.byteCount, from: from)
        return retry(id, side, isSenderAwake: true)
      }
      let outcome = network.sendSegment(byteCount: segment.byteCount, from: from, to: to, at: now)
      guard case .arrives(let times) = outcome, let time = times.first else {
        return retry(id, side, isSenderAwake: true)
      }
      let arrival = max(time, stream.directions[side].lastArrival)
      streams[id]?.directions[side].lastArrival = arrival
      streams[id]?.directions[side].removeFirst()
      streams[id]?.directions[side].retryDelay = StreamDirection.firstRetry
      queue.plan(.segment(id, side, segment), at: arrival)
      confirm(id, side, from: from, to: to)
    }
  }

  /// A firewall that drops connections swallows the request for one.
  private func admits(_ segment: StreamSegment, from: Int, to: Int) -> Bool {
    if case .open = segment { return network.inboundRule(of: to) != .dropped }
    return true
  }

  /// The other kernel confirms what arrived, if its packets get through.
  private mutating func confirm(_ id: Int, _ side: Int, from: Int, to: Int) {
    guard network.carries(from: to, to: from) else {
      if streams[id]?.directions[side].unconfirmedSince == nil {
        streams[id]?.directions[side].unconfirmedSince = now
        queue.plan(.streamCheck(id, side), at: now.advanced(by: StreamDirection.userTimeout))
      }
      return
    }
    streams[id]?.directions[side].unconfirmedSince = nil
    network.countAcknowledgement(byteCount: WireOverhead.segment, from: to)
  }

  private mutating func retry(_ id: Int, _ side: Int, isSenderAwake: Bool) {
    guard let direction = streams[id]?.directions[side] else { return }
    // TCP's timers stand still while the machine sleeps.
    let since = isSenderAwake ? (direction.unconfirmedSince ?? now) : now
    streams[id]?.directions[side].unconfirmedSince = since
    if since.duration(to: now) >= StreamDirection.userTimeout { return breakOff(id, side) }
    let wait = direction.retryDelay
    streams[id]?.directions[side].retryDelay = min(wait * 2, StreamDirection.longestRetry)
    streams[id]?.directions[side].isRetryPlanned = true
    queue.plan(.streamRetry(id, side), at: now.advanced(by: wait))
  }

  /// Something that arrived has not been confirmed for the whole time-out.
  mutating func checkConfirmation(_ id: Int, _ side: Int) {
    guard let stream = streams[id], let since = stream.directions[side].unconfirmedSince,
      !stream.directions[side].isRetryPlanned
    else { return }
    if network.carries(from: stream.ends[1 - side].device, to: stream.ends[side].device) {
      streams[id]?.directions[side].unconfirmedSince = nil
    } else if since.duration(to: now) >= StreamDirection.userTimeout {
      breakOff(id, side)
    }
  }

  /// The kernel gives the connection up; the other side learns it when it next sends something.
  private mutating func breakOff(_ id: Int, _ side: Int) {
    guard let stream = streams[id] else { return }
    let end = stream.ends[side]
    streams[id]?.directions[side] = StreamDirection()
    guard end.phase == .open || end.phase == .handshaking else { return discardIfDone(id) }
    inform(id, side: side, .disconnected)
  }

  // MARK: - Arriving

  mutating func arrive(_ segment: StreamSegment, on id: Int, from side: Int) {
    guard let stream = streams[id] else { return }
    let end = stream.ends[1 - side]
    let device = end.device
    switch devices[device].machine {
    case .off: return
    case .suspended: return devices[device].hold(.segment(id, side, segment))
    case .on: break
    }
    if case .open = segment { return acceptConnection(id) }
    guard end.phase != .absent, end.life == devices[device].life else {
      if end.life == devices[device].life { checkLateSegment(segment, end) }
      if case .reset = segment { return discardIfDone(id) }
      if case .end = segment { return discardIfDone(id) }
      send(.reset, on: id, from: 1 - side)
      return
    }
    guard devices[device].process == .running else {
      return devices[device].hold(.segment(id, side, segment))
    }
    switch segment {
    case .open: break
    case .accepted: beginHandshake(id)
    case .hello(let message): continueHandshake(id, side: 1 - side, message)
    case .frame(let frame):
      if let session = end.session { deliver(.transport(.frame(session, frame)), to: device) }
    case .end(let reason): inform(id, side: 1 - side, reason)
    case .reset:
      if end.phase == .connecting {
        leave(id, side: 1 - side)
        deliver(.transport(.dialFailed(stream.address, stream.purpose, .refused)), to: device)
      } else {
        inform(id, side: 1 - side, .disconnected)
      }
    }
  }

  /// A kernel answers a request for a connection.
  private mutating func acceptConnection(_ id: Int) {
    guard let stream = streams[id], stream.ends[1].phase == .absent else { return }
    let device = stream.ends[1].device
    guard devices[device].process != .down, network.inboundRule(of: device) == .open else {
      send(.reset, on: id, from: 1)
      return
    }
    streams[id]?.ends[1].life = devices[device].life
    streams[id]?.ends[1].phase = .handshaking
    queue.plan(.streamDeadline(id, side: 1, .handshaking), at: now.advanced(by: Self.handshakeTimeout))
    send(.accepted, on: id, from: 1)
  }

  /// One end learns that its connection is over.
  mutating func inform(_ id: Int, side: Int, _ reason: CloseReason) {
    guard let stream = streams[id] else { return }
    let end = stream.ends[side]
    leave(id, side: side)
    guard end.life == devices[end.device].life, devices[end.device].process != .down else { return }
    if let session = end.session, end.phase == .open {
      devices[end.device].streamOfSession[session] = nil
      notify(.transport(.closed(session, reason)), end.device)
    } else if side == 0 {
      noteClosedHandshake(stream)
    }
  }

  /// Tells a process something now, or when it goes on.
  mutating func notify(_ input: SimulatedInput, _ device: Int) {
    if isRunning(device) {
      deliver(input, to: device)
    } else {
      devices[device].hold(.process(device, life: devices[device].life, input))
    }
  }

  // MARK: - Ending

  /// A process closes its session in order.
  mutating func close(_ session: SessionID, _ reason: CloseReason, by device: Int) {
    guard let id = devices[device].streamOfSession[session], let stream = streams[id] else { return }
    let side = stream.side(of: device)
    devices[device].streamOfSession[session] = nil
    send(.end(reason), on: id, from: side)
    streams[id]?.ends[side].closing = reason
    if reason == .renewed, stream.ends[side].standing == .full { record.renewals += 1 }
    leave(id, side: side)
    queue.plan(
      .process(device, life: devices[device].life, .transport(.closed(session, reason))), at: now)
  }

  /// Forgets one end's part of a connection.
  mutating func leave(_ id: Int, side: Int) {
    guard let end = streams[id]?.ends[side] else { return }
    if let session = end.session { devices[end.device].streamOfSession[session] = nil }
    streams[id]?.ends[side].phase = .absent
    streams[id]?.ends[side].handshake = nil
    discardIfDone(id)
  }

  /// A connection without ends and without anything to send is gone.
  private mutating func discardIfDone(_ id: Int) {
    guard let stream = streams[id], stream.ends.allSatisfy({ $0.phase == .absent }),
      stream.directions.allSatisfy({ $0.first == nil })
    else { return }
    streams[id] = nil
    for end in stream.ends { devices[end.device].streams.removeAll { $0 == id } }
  }

  /// A process ends: its kernel resets its connections if the machine goes on, else nobody is told.
  mutating func dropStreams(of device: Int, machineStaysOn: Bool) {
    for id in devices[device].streams {
      guard let stream = streams[id] else { continue }
      let side = stream.side(of: device)
      if !machineStaysOn { streams[id]?.directions[side] = StreamDirection() }
      let wasThere = stream.ends[side].phase != .absent
      leave(id, side: side)
      if machineStaysOn, wasThere { send(.reset, on: id, from: side) }
    }
    devices[device].streamOfSession = [:]
  }
}
