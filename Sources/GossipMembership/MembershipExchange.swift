import Determinism
import MeshModel
import WireCoding

// Anti-entropy: views are compared by digest on every ack and in full from time to time, also with members that are
// believed unreachable. This is what heals partitions; SWIM itself has nothing of the kind.
extension Membership {
  /// Starts an exchange when the other's digest differs, not too often, and not again about the same two digests.
  mutating func compare(_ digest: ViewDigest, with device: DeviceID, at now: MonotonicInstant) {
    let mine = self.digest()
    // While news wait, views differ for a good reason.
    guard digest != mine, queue.isEmpty, let index = index(of: device) else { return }
    guard members[index].lastExchangedDigests != [mine, digest] else { return }
    if exchange(with: device, at: now) { members[index].lastExchangedDigests = [mine, digest] }
  }

  /// Sends the whole view to a device; false when that was done a moment ago or cannot be done.
  @discardableResult
  mutating func exchange(with device: DeviceID, at now: MonotonicInstant, evenIfRecent: Bool = false) -> Bool
  {
    guard hasPath(to: device) else { return false }
    if let index = index(of: device) {
      if !evenIfRecent, let last = members[index].lastExchange,
        last.duration(to: now) < profile.exchangeSpacing
      {
        return false
      }
      members[index].lastExchange = now
    } else if !evenIfRecent, !takeAnswer(for: device) {
      return false
    }
    for part in ViewPart.parts(of: claims) {
      effects.append(.viewExchange(to: device, GossipMessage.viewPart(part).encoded))
    }
    return true
  }

  /// The exchange that is due by time, with any member that can be sent to, unreachable ones included.
  ///
  /// It begins with the digest: views that are equal need no more, and almost always they are.
  mutating func exchangeByTime(_ now: MonotonicInstant) {
    let jitter = profile.exchangeJitter * (2 * Double(generator.uniformFloat()) - 1)
    nextExchange = now.advanced(by: profile.exchangeInterval * (1 + jitter))
    guard !paths.isEmpty else { return }
    let device = paths[generator.uniform(below: paths.count)]
    effects.append(.viewExchange(to: device, GossipMessage.viewDigest(digest()).encoded))
  }

  /// Answers a digest that differs with the view here.
  mutating func answerDigest(to sender: DeviceID, at now: MonotonicInstant) {
    guard takeAnswer(for: sender) else { return drop(.overLimit, from: sender) }
    exchange(with: sender, at: now, evenIfRecent: true)
  }

  /// Answers a part of another's view: with what is newer here, and with what is wanted from there.
  mutating func answer(_ part: ViewPart, to sender: DeviceID, at now: MonotonicInstant) {
    guard takeAnswer(for: sender) else { return drop(.overLimit, from: sender) }
    var newer: [MemberRecord] = []
    var wanted: [DeviceID] = []
    var mine = claims[...].filter { $0.device > part.above && $0.device <= part.through }[...]
    for claim in part.claims {
      while let first = mine.first, first.device < claim.device {
        mine.removeFirst()
        if let record = fullRecord(of: first.device) { newer.append(record) }
      }
      let known = mine.first?.device == claim.device ? mine.removeFirst() : nil
      guard claim.device == own.device || isMember(claim.device) else { continue }
      switch comparison(of: claim, with: known) {
      case .theirs: wanted.append(claim.device)
      case .mine: if let record = fullRecord(of: claim.device) { newer.append(record) }
      case .state: takeState(of: claim, from: sender, at: now)
      case .mistaken:
        correct(claim, from: sender, at: now)
        newer.append(own)
      case .equal: break
      }
    }
    newer += mine.compactMap { fullRecord(of: $0.device) }
    sendRecords(newer, wanted: wanted, to: sender)
  }

  private enum Comparison {
    /// Both know the same.
    case equal
    /// The record here is newer.
    case mine
    /// The record there is newer.
    case theirs
    /// The same statements, and a later state.
    case state
    /// About this device itself, and not what it says.
    case mistaken
  }

  /// Whose word about a member is newer; a claim without its statements (hash 0) yields to one with them.
  private func comparison(of claim: MemberClaim, with known: MemberClaim?) -> Comparison {
    guard let known else { return .theirs }
    if claim.device == own.device {
      return claim == known ? .equal : claim.incarnation >= known.incarnation ? .mistaken : .mine
    }
    if claim.incarnation != known.incarnation {
      return claim.incarnation > known.incarnation ? .theirs : .mine
    }
    if claim.capabilityHash != known.capabilityHash {
      return claim.capabilityHash > known.capabilityHash ? .theirs : .mine
    }
    if claim.state != known.state { return claim.state > known.state ? .state : .mine }
    return .equal
  }

  /// Takes in a later state of a member whose statements are known here already.
  private mutating func takeState(of claim: MemberClaim, from sender: DeviceID, at now: MonotonicInstant) {
    guard var record = member(claim.device)?.record else { return }
    record.state = claim.state
    take(record, from: sender, isExchange: true, at: now)
  }

  /// Answers what is wrongly believed of this device with a newer incarnation.
  private mutating func correct(_ claim: MemberClaim, from sender: DeviceID, at now: MonotonicInstant) {
    if claim.state == .suspect || claim.state == .unreachable {
      let accusation = Accusation(
        device: claim.device, incarnation: claim.incarnation, isFinal: claim.state == .unreachable,
        accuser: sender)
      take(accusation, from: sender, isExchange: true, at: now)
    } else if claim.incarnation > own.incarnation || claim.capabilityHash != 0 || claim.state != own.state {
      supersede(claim.incarnation)
    }
  }

  /// Takes in records of an exchange, and sends those that the other side lacks.
  mutating func takeRecords(
    _ records: [MemberRecord], wanted: [DeviceID], from sender: DeviceID, at now: MonotonicInstant
  ) {
    for record in records {
      if record.state == .suspect || record.state == .unreachable, record.device == own.device {
        let accusation = Accusation(
          device: record.device, incarnation: record.incarnation, isFinal: record.state == .unreachable,
          accuser: sender)
        take(accusation, from: sender, isExchange: true, at: now)
      } else {
        take(record, from: sender, isExchange: true, at: now)
      }
    }
    guard !wanted.isEmpty else { return }
    guard takeAnswer(for: sender) else { return drop(.overLimit, from: sender) }
    sendRecords(wanted.compactMap { fullRecord(of: $0) }, wanted: [], to: sender)
  }

  private func fullRecord(of device: DeviceID) -> MemberRecord? {
    if device == own.device { return own }
    guard let member = member(device), member.hasCurrentStatements, member.record.state != .revoked else {
      return nil
    }
    return member.record
  }

  /// Sends records in as many messages as they need; nothing when there is nothing to say.
  private mutating func sendRecords(_ records: [MemberRecord], wanted: [DeviceID], to device: DeviceID) {
    guard hasPath(to: device) else { return }
    var rest = records[...]
    var wanted = wanted
    while !rest.isEmpty || !wanted.isEmpty {
      // Kind and two counts, the names, then what fits.
      var left = GossipLimits.messageBytes - 3 - wanted.count * DeviceID.byteCount
      var batch: [MemberRecord] = []
      while let record = rest.first, batch.count < GossipLimits.recordsPerMessage {
        left -= record.encoded.count
        guard left >= 0 else { break }
        batch.append(rest.removeFirst())
      }
      effects.append(.viewExchange(to: device, GossipMessage.records(batch, wanted: wanted).encoded))
      wanted = []
    }
  }

  /// Counts an answer to the device; false when it has had enough of them in this probe interval.
  private mutating func takeAnswer(for device: DeviceID) -> Bool {
    let place = answers.partition { $0.device >= device }
    if place == answers.count || answers[place].device != device { answers.insert((device, 0), at: place) }
    guard answers[place].count < profile.exchangeAnswersPerInterval else { return false }
    answers[place].count += 1
    return true
  }
}
