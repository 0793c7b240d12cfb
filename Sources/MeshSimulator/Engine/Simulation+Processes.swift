import Determinism
import MeshModel
import MeshPeer
import MeshProtocol
import PeerDiscovery
import WireCoding

/// What reaches a process, and what it wants done.
extension Simulation {
  /// Hands something to a running process and does what it wants.
  mutating func deliver(_ input: SimulatedInput, to device: Int) {
    guard devices[device].peer != nil else { return }
    switch input {
    case .peer(let input): handle(input, device)
    case .transport(let event):
      guard !isDeafTo(event, device) else { return }
      handle(.transport(event), device)
    case .datagram(let stream, let counter, let body):
      let event = opened(stream: stream, counter: counter, body, by: device)
      guard !isDeafTo(event, device) else { return }
      handle(.transport(event), device)
    }
  }

  private mutating func handle(_ input: MeshInput, _ device: Int) {
    let reading = devices[device].clock.reading(at: now)
    traceInput(input, device)
    guard let effects = devices[device].peer?.handle(input, at: reading) else { return }
    perform(effects, by: device)
    planWake(of: device)
  }

  /// What a transport makes of a sealed datagram.
  private mutating func opened(stream: Int, counter: UInt64, _ body: [UInt8], by device: Int)
    -> TransportEvent
  {
    guard let side = streams[stream]?.side(of: device), let end = streams[stream]?.ends[side],
      end.phase == .open, end.life == devices[device].life,
      let peer = end.peer
    else { return .dropped(.unknownDatagram) }
    guard devices[device].replay[stream, default: CounterWindow()].accept(counter) else {
      return .dropped(.replayedDatagram)
    }
    return .datagram(from: peer, body: body)
  }

  private func isDeafTo(_ event: TransportEvent, _ device: Int) -> Bool {
    guard devices[device].misbehaviour == .deaf else { return false }
    switch event {
    case .datagram: return true
    case .frame(_, let frame): return frame.kind == .gossip || frame.kind == .viewExchange
    default: return false
    }
  }

  private mutating func traceInput(_ input: MeshInput, _ device: Int) {
    switch input {
    case .transport(.datagram(let peer, let body)):
      trace.add(now, 10, device, 0, bytes: body, line: "\(device) hears \(body.count) B of \(peer.short)")
    case .transport(.frame(let session, let frame)):
      trace.add(
        now, 11, device, Int(frame.kind.rawValue), bytes: frame.body,
        line: "\(device) hears \(frame.kind) of \(frame.body.count) B on \(session)")
    case .transport(let event):
      trace.add(now, 12, device, 0, bytes: Array("\(event)".utf8), line: "\(device) hears \(event)")
    case .tick: trace.add(now, 13, device, 0, line: "\(device) ticks")
    default: trace.add(now, 14, device, 0, line: "\(device) takes \(input)")
    }
  }

  // MARK: - Effects

  /// Does what a process wants, in its order, until it is no more.
  mutating func perform(_ effects: [MeshEffect], by device: Int) {
    let life = devices[device].life
    for effect in effects {
      guard devices[device].life == life, devices[device].process != .down else { return }
      switch effect {
      case .transport(let command): perform(command, by: device)
      case .storeLog: storeHousehold(of: device)
      case .maintainHousehold: maintain(by: device)
      case .storePeer(let known): store(known, by: device)
      case .updateTrust: break
      case .sendBeacon(let bytes, let target): sendBeacon(bytes, to: target, by: device)
      case .publish(let announcement): publish(announcement, by: device)
      case .listen, .resolve, .bulkOpened, .bulkFailed, .job: break
      case .linksMeasured(let links): record.links += links.map { MeasuredLink(from: device, $0) }
      case .report(let report): note(report, by: device)
      }
    }
  }

  private mutating func perform(_ command: TransportCommand, by device: Int) {
    switch command {
    case .dial(let address, let purpose, let expecting):
      trace.add(now, 1, device, 0, bytes: address.encoded, line: "\(device) dials \(address)")
      dial(address, purpose, expecting: expecting, by: device)
    case .send(let session, let frame): send(frame, on: session, by: device)
    case .sendDatagram(let peer, let body): sendDatagram(body, to: peer, by: device)
    case .close(let session, let reason):
      if reason == .revoked, devices[device].misbehaviour == .keepsRevoked { return }
      trace.add(now, 2, device, Int(reason.rawValue), line: "\(device) closes \(session): \(reason)")
      close(session, reason, by: device)
    }
  }

  private mutating func send(_ frame: MeshFrame, on session: SessionID, by device: Int) {
    guard let id = devices[device].streamOfSession[session], let stream = streams[id] else { return }
    trace.add(
      now, 3, device, Int(frame.kind.rawValue), bytes: frame.body,
      line: "\(device) sends \(frame.kind) of \(frame.body.count) B on \(session)")
    if !send(.frame(frame), on: id, from: stream.side(of: device)) {
      deliver(.transport(.dropped(.queueFull)), to: device)
    }
  }

  private mutating func sendDatagram(_ body: [UInt8], to peer: DeviceID, by device: Int) {
    var body = body
    if devices[device].misbehaviour == .oversizedDatagrams {
      body += [UInt8](repeating: 0, count: MeshLimits.datagramBody)
    }
    checkDatagram(body.count, by: device)
    guard let id = datagramStream(from: device, to: peer), let stream = streams[id] else { return }
    let counter = devices[device].sealed[id, default: 0] + 1
    devices[device].sealed[id] = counter
    let other = stream.ends[1 - stream.side(of: device)].device
    trace.add(
      now, 4, device, other, bytes: body, line: "\(device) sends a datagram of \(body.count) B to \(other)")
    let size = body.count + WireOverhead.sealedDatagram + WireOverhead.packet
    guard case .arrives(let times) = network.sendDatagram(byteCount: size, from: device, to: other, at: now)
    else { return }
    for time in times { queue.plan(.datagram(to: other, stream: id, counter: counter, body), at: time) }
  }

  /// The newest full control session with a device: its keys seal the datagrams.
  private func datagramStream(from device: Int, to peer: DeviceID) -> Int? {
    devices[device].streams.last { id in
      guard let stream = streams[id], stream.purpose == .control else { return false }
      let end = stream.ends[stream.side(of: device)]
      return end.phase == .open && end.peer == peer && end.standing == .full
    }
  }

  private mutating func sendBeacon(_ bytes: [UInt8], to target: BeaconTarget, by device: Int) {
    trace.add(now, 5, device, 0, bytes: bytes, line: "\(device) sends a beacon to \(target.address)")
    let size = bytes.count + WireOverhead.packet
    let address = NetworkAddress(devices[device].host, port: Beacon.port)
    func plan(_ outcome: LinkOutcome, _ other: Int) {
      guard case .arrives(let times) = outcome else { return }
      for time in times { queue.plan(.beacon(to: other, bytes, from: address), at: time) }
    }
    if let other = owner(of: target.address) {
      guard other != device else { return }
      plan(network.sendDatagram(byteCount: size, from: device, to: other, at: now), other)
    } else {
      network.countMulticast(byteCount: size, from: device)
      for other in devices.indices where other != device && devices[other].machine == .on {
        plan(network.sendMulticast(byteCount: size, from: device, to: other, at: now), other)
      }
    }
  }

  // MARK: - Multicast DNS

  private mutating func publish(_ announcement: ServiceAnnouncement?, by device: Int) {
    guard plan.hasMulticastDNS else { return }
    published[device] = announcement
    guard let announcement else { return }
    for other in devices.indices where other != device { tell(other, of: device, announcement) }
  }

  /// A process that starts hears of the services that the machines around it know.
  mutating func browse(by device: Int) {
    guard plan.hasMulticastDNS else { return }
    for other in published.keys.sorted() where other != device {
      if let announcement = published[other], devices[other].machine == .on {
        tell(device, of: other, announcement)
      }
    }
  }

  private mutating func tell(_ device: Int, of other: Int, _ announcement: ServiceAnnouncement) {
    // From warm caches in 10 ms, else when the publisher's probing is over.
    let wait = Duration.milliseconds(10 + chance.uniform(below: 900))
    queue.plan(.service(to: device, of: other, announcement), at: now.advanced(by: wait))
  }
}
