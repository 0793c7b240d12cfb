import Determinism
import GossipMembership
import HouseholdTrust
import MeshModel
import MeshProtocol
import PeerDiscovery

/// Gossip and discovery: their wishes become commands and reports.
extension MeshPeer {
  mutating func gossip(_ input: GossipInput, at now: ClockReading) {
    for effect in membership.handle(input, at: now) { use(effect, at: now) }
  }

  private mutating func use(_ effect: GossipEffect, at now: ClockReading) {
    switch effect {
    case .datagram(let peer, let body): effects.append(.transport(.sendDatagram(to: peer, body: body)))
    case .sessionMessage(let peer, let body): sendOnSession(.gossip, body, to: peer)
    case .viewExchange(let peer, let body): sendOnSession(.viewExchange, body, to: peer)
    case .changed(let record, let previous): noteChange(of: record, from: previous, at: now)
    case .updated(let record): noteAddresses(of: record, at: now)
    case .leaderSuggestion(let leader): report(.leaderSuggested(leader))
    case .away(let time):
      report(.wasAway(time))
      wakeUp(at: now)
    case .dropped(let reason, _): drop(reason == .malformed ? .malformedGossip : .notPermitted)
    }
  }

  /// What gossip believes of a device.
  func member(_ device: DeviceID) -> Membership.Member? { membership.member(device) }

  private mutating func sendOnSession(_ kind: FrameKind, _ body: [UInt8], to peer: DeviceID) {
    let full = table.controls(of: peer).filter { $0.info.standing == .full }
    guard let preferred = table.preferred(of: peer, own: own) else { return }
    // A new preferred session may still prove itself; the one that has carried something last is the safest.
    let proven = full.filter { table.follower(of: $0) == nil }
      .max { ($0.carriedAtInput ?? 0, $0.id.value) < ($1.carriedAtInput ?? 0, $1.id.value) }
    send(MeshFrame(kind, body: body), on: (proven ?? preferred).id)
  }

  private mutating func noteChange(of record: MemberRecord, from previous: MemberState?, at now: ClockReading)
  {
    let device = record.device
    switch record.state {
    case .alive:
      if previous != .suspect { report(.joined(device)) }
    case .suspect:
      report(.suspected(device))
      for entry in table.controls(of: device) {
        sendEcho(on: entry.id, timeout: MeshLimits.echoTimeout, at: now.monotonic)
      }
    case .unreachable: report(.unreachable(device))
    case .left: report(.left(device))
    case .revoked: break
    }
    noteAddresses(of: record, at: now)
  }

  private mutating func noteAddresses(of record: MemberRecord, at now: ClockReading) {
    guard record.device != own, household.view.isMember(record.device) else { return }
    for address in record.addresses {
      discover(.hint(DiscoveryHint(address: address, source: .gossip, device: record.device)), at: now)
    }
  }

  // MARK: - Discovery

  mutating func discover(_ input: DiscoveryInput, at now: ClockReading) {
    for effect in discovery.handle(input, at: now.monotonic) {
      switch effect {
      case .dial(let address, let expecting):
        effects.append(.transport(.dial(address, .control, expecting: expecting)))
      case .sendBeacon(let bytes, let target): effects.append(.sendBeacon(bytes, to: target))
      case .listen(let interfaces): effects.append(.listen(interfaces: interfaces))
      case .publish(let announcement): effects.append(.publish(announcement))
      case .resolve(let peer): effects.append(.resolve(peer))
      case .dropped(let reason): drop(reason == .malformed ? .malformedBeacon : .foreignBeacon)
      }
    }
  }

  /// Keeps where a device was, once its session has answered.
  mutating func remember(_ entry: SessionTable.Entry, at now: MonotonicInstant) {
    let peer = entry.info.peer
    guard entry.info.standing == .full, !entry.info.listening.isLinkLocal else { return }
    let before = known[peer]
    let isKnown = before?.addresses.first == entry.info.listening
    let age = knownSince[peer].map { $0.duration(to: now) }
    guard !isKnown || age.map({ $0 >= MeshLimits.knownPeerRefresh }) ?? true else { return }
    guard before != nil || known.count < MeshLimits.devices else { return }
    let microseconds = entry.shortestRoundTrip.map { UInt32(clamping: $0.wholeNanoseconds / 1_000) }
    let peerNow = KnownPeer(
      device: peer, addresses: [entry.info.listening] + (before?.addresses ?? []),
      lastContact: before?.lastContact, roundTripMicroseconds: microseconds)
    known[peer] = peerNow
    knownSince[peer] = now
    effects.append(.storePeer(peerNow))
  }
}
