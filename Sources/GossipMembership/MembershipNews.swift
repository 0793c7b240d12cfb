import Determinism
import MeshModel
import WireCoding

// Dissemination and suspicion: SWIM §4.1 and §4.2 with Lifeguard §IV-B and §IV-C.
extension Membership {
  /// The message with the news that fit in; the accusation of its receiver comes first.
  mutating func filled(_ message: GossipMessage, for device: DeviceID) -> GossipMessage {
    var news: [News]
    switch message {
    case .ping(_, let given), .ack(_, _, let given), .pingRequest(_, _, let given), .news(let given):
      news = given
    case .nack, .viewDigest, .viewPart, .records: return message
    }
    if let accusation = accusation(of: device) { news.insert(.accusation(accusation), at: 0) }
    // Only members that answer get news: copies for the silent would be taken from the others.
    if let index = index(of: device), members[index].record.state == .alive {
      let used = news.reduce(message.encoded.count) { $0 + $1.wireBytes.count }
      news += queue.take(
        byteCount: GossipLimits.messageBytes - used, count: GossipLimits.newsPerMessage - news.count,
        limit: retransmitLimit, besides: news)
    }
    switch message {
    case .ping(let sequence, _): return .ping(sequence: sequence, news)
    case .ack(let sequence, let digest, _): return .ack(sequence: sequence, digest, news)
    case .pingRequest(let sequence, let target, _):
      return .pingRequest(sequence: sequence, target: target, news)
    default: return .news(news)
    }
  }

  private func accusation(of device: DeviceID) -> Accusation? {
    guard let index = index(of: device), members[index].record.state > .alive else { return nil }
    let record = members[index].record
    switch record.state {
    case .suspect:
      return Accusation(
        device: device, incarnation: record.incarnation, isFinal: false,
        accuser: members[index].suspicion?.accusers.first ?? own.device)
    case .unreachable:
      return Accusation(device: device, incarnation: record.incarnation, isFinal: true, accuser: own.device)
    case .alive, .left, .revoked: return nil
    }
  }

  /// λ · ⌈log10(n + 1)⌉ (SWIM §4.1): ⌈log10(n + 1)⌉ is the number of decimal digits of n.
  var retransmitLimit: Int { profile.retransmitFactor * String(memberCount).utf8.count }

  /// Passes waiting news to some members; silent when there are none.
  mutating func gossip(at now: MonotonicInstant) {
    nextGossip = nil
    guard !queue.isEmpty else { return }
    nextGossip = now.advanced(by: profile.gossipInterval)
    var receivers = members.filter { $0.record.state == .alive && $0.hasPath }
      .map(\.record.device)
    guard !receivers.isEmpty else {
      // Nobody to tell; whoever comes gets everything in an exchange.
      queue = NewsQueue()
      nextGossip = nil
      return
    }
    generator.shuffle(&receivers)
    for device in receivers.prefix(profile.gossipFanOut) where !queue.isEmpty {
      send(.news([]), to: device)
    }
  }

  /// Takes in news from a message.
  mutating func takeNews(_ news: [News], from sender: DeviceID, at now: MonotonicInstant) {
    for piece in news {
      switch piece {
      case .record(let record): take(record, from: sender, isExchange: false, at: now)
      case .accusation(let accusation): take(accusation, from: sender, isExchange: false, at: now)
      }
    }
  }

  // MARK: - Records

  /// Takes in a record: the newer incarnation wins, then the later state (SWIM §4.2).
  mutating func take(
    _ record: MemberRecord, from sender: DeviceID, isExchange: Bool, at now: MonotonicInstant
  ) {
    guard record.device != own.device else { return takeOwn(record, at: now) }
    guard isMember(record.device) else { return drop(.strangerSubject, from: sender) }
    guard let index = index(of: record.device) else { return admit(record, at: now) }
    let known = members[index].record
    guard record.incarnation >= known.incarnation, known.state != .revoked else { return }
    if record.incarnation > known.incarnation {
      replaceStatements(of: index, by: record)
      let isBack = known.state != .alive
      if record.state == .left {
        setState(.left, of: index, at: now)
      } else {
        setState(.alive, of: index, at: now)
      }
      passOn(index)
      if !isBack, record.state.takesPart { effects.append(.updated(members[index].record)) }
    } else if !members[index].hasCurrentStatements || record.capabilityHash > known.capabilityHash {
      replaceStatements(of: index, by: record)
      effects.append(.updated(members[index].record))
    }
    if record.state == .left, members[index].record.state != .left {
      setState(.left, of: index, at: now)
      passOn(index)
    }
    guard record.state == .suspect || record.state == .unreachable else { return }
    let accusation = Accusation(
      device: record.device, incarnation: record.incarnation, isFinal: record.state == .unreachable,
      accuser: sender)
    take(accusation, from: sender, isExchange: isExchange, at: now)
  }

  private mutating func admit(_ record: MemberRecord, at now: MonotonicInstant) {
    var member = Member(record: record, since: now)
    if record.state == .suspect { member.record.state = .alive }
    member.hasPath = hasPath(to: record.device)
    members.insert(member, at: place(of: record.device))
    cachedDigest = nil
    effects.append(.changed(member.record, from: nil))
    if member.record.state.takesPart { insertIntoProbeOrder(record.device) }
    if record.state == .alive || record.state == .left { queue.add(.record(record)) }
  }

  private mutating func replaceStatements(of index: Int, by record: MemberRecord) {
    let state = members[index].record.state
    members[index].record = record
    members[index].record.state = state
    members[index].hasCurrentStatements = true
    cachedDigest = nil
  }

  private mutating func passOn(_ index: Int) {
    let record = members[index].record
    if record.state == .alive || record.state == .left { queue.add(.record(record)) }
  }

  /// A record of this device itself that is not its latest: of an earlier life, or of a copy of its disk.
  private mutating func takeOwn(_ record: MemberRecord, at now: MonotonicInstant) {
    let isOlder = record.incarnation < own.incarnation
    let isSame =
      record.incarnation == own.incarnation && record.state == own.state
      && record.capabilityHash == own.capabilityHash
    guard !isOlder, !isSame, own.state != .revoked else { return }
    supersede(record.incarnation)
  }

  /// Raises the own incarnation above one that is not this device's latest word.
  mutating func supersede(_ incarnation: Incarnation) {
    own.incarnation = max(incarnation, own.incarnation)
    raiseIncarnation()
  }

  // MARK: - Accusations

  /// Takes in an accusation, an own one included.
  mutating func take(
    _ accusation: Accusation, from sender: DeviceID, isExchange: Bool, at now: MonotonicInstant
  ) {
    guard accusation.device != own.device else { return refute(accusation, to: sender) }
    guard isMember(accusation.device) else { return drop(.strangerSubject, from: sender) }
    guard let index = index(of: accusation.device) else {
      exchange(with: sender, at: now)
      return
    }
    let known = members[index].record
    guard accusation.incarnation >= known.incarnation, known.state != .revoked else { return }
    if accusation.incarnation > known.incarnation {
      // Overrides what is known (SWIM §4.2), but the statements of that incarnation have to be fetched.
      members[index].record.incarnation = accusation.incarnation
      members[index].hasCurrentStatements = false
      cachedDigest = nil
      setState(.alive, of: index, at: now)
      exchange(with: sender, at: now)
    }
    guard members[index].record.state.takesPart else { return }
    if !accusation.isFinal {
      suspect(index, by: accusation, at: now)
    } else if isExchange || isFreshlyHeard(members[index], at: now) {
      // Whoever waited may have been cut off; the member gets the shortest time to say so.
      suspect(index, by: nil, at: now)
      members[index].suspicion?.conclude()
    } else {
      giveUp(index, accuser: accusation.accuser, at: now)
    }
  }

  /// Whether any authenticated frame of the member arrived within the probe interval: as good as an answer.
  func isFreshlyHeard(_ member: Member, at now: MonotonicInstant) -> Bool {
    guard let heard = member.lastHeard else { return false }
    return heard.duration(to: now) < profile.probeInterval
  }

  private mutating func suspect(_ index: Int, by accusation: Accusation?, at now: MonotonicInstant) {
    if members[index].record.state == .alive {
      members[index].suspicion = Suspicion(start: now, memberCount: memberCount, profile: profile)
      setState(.suspect, of: index, at: now)
    }
    guard let accusation, members[index].suspicion?.confirm(by: accusation.accuser) == true else { return }
    queue.add(.accusation(accusation))
  }

  private mutating func giveUp(_ index: Int, accuser: DeviceID, at now: MonotonicInstant) {
    let record = members[index].record
    setState(.unreachable, of: index, at: now)
    queue.add(
      .accusation(
        Accusation(device: record.device, incarnation: record.incarnation, isFinal: true, accuser: accuser)))
  }

  /// Members whose time to refute is over become unreachable.
  mutating func concludeSuspicions(_ now: MonotonicInstant) {
    for index in members.indices {
      guard let suspicion = members[index].suspicion, suspicion.deadline(profile) <= now else { continue }
      giveUp(index, accuser: own.device, at: now)
    }
  }

  /// Refutes what is said of this device with a newer incarnation (SWIM §4.2), and takes the accusation as a sign
  /// that it is slow itself (Lifeguard §IV-A).
  private mutating func refute(_ accusation: Accusation, to sender: DeviceID) {
    guard accusation.incarnation >= own.incarnation, own.state.takesPart else { return }
    own.incarnation = accusation.incarnation
    health.worsen()
    raiseIncarnation()
    send(.news([.record(own)]), to: sender)
  }
}
