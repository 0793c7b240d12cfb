import CryptoPrimitives
import Determinism
import GossipMembership
import HouseholdTrust
import MeshModel
import MeshProtocol
import PeerDiscovery
import WireCoding

/// The membership log and the network keys: kept equal with every device that a session leads to.
///
/// Both sides send a summary when a session opens; who lacks entries gets them and passes on what was new to it.
/// Every ten seconds one session more, in turn, has its summaries compared, should anything ever have been lost.
extension MeshPeer {
  // MARK: - Saying

  mutating func sendSummary(on session: SessionID, wantsReply: Bool) {
    send(LogMessage.summary(household.log.summary, wantsReply: wantsReply), on: session)
  }

  private mutating func send(_ message: LogMessage, on session: SessionID) {
    send(MeshFrame(.trustLog, body: message.encoded), on: session)
  }

  /// Compares logs with the next device in turn.
  mutating func syncNext() {
    let peers = table.peers
    guard let next = peers.first(where: { peer in lastSynced.map { $0 < peer } ?? true }) ?? peers.first
    else {
      return
    }
    lastSynced = next
    if let session = table.preferred(of: next, own: own), session.info.standing != .statusOnly {
      sendSummary(on: session.id, wantsReply: true)
    }
  }

  // MARK: - Hearing

  mutating func receivedLog(_ body: [UInt8], on session: SessionID, from peer: DeviceID, at now: ClockReading)
  {
    guard let message = try? LogMessage(decoding: body) else { return drop(.malformedTrust) }
    switch message {
    case .summary(let theirs, let wantsReply):
      guard theirs.digest != household.log.summary.digest else { return renewSessions(at: now) }
      // What came on a session that is about to end is answered on its follower.
      let answering = table[session].flatMap { table.follower(of: $0)?.id } ?? session
      for message in LogMessage.messages(of: household.log.entries(missingFrom: theirs)) {
        send(message, on: answering)
      }
      if wantsReply { sendSummary(on: answering, wantsReply: false) }
    case .entries(let entries):
      merge(entries, from: session, at: now)
      // Who dialled with a newer key waits to hear that it has arrived.
      if let entry = table[session], entry.info.standing == .updateOnly {
        sendSummary(on: session, wantsReply: false)
      }
    }
  }

  /// Adds entries, keeps them, acts on them and passes them on.
  mutating func merge(_ entries: [LogEntry], from session: SessionID?, at now: ClockReading) {
    let keys = household.ring.current?.id
    let outcome = household.merge(entries)
    for _ in outcome.refused { drop(.malformedTrust) }
    if outcome.hasChanged {
      effects.append(.storeLog(outcome.accepted))
      report(.logGrew(entries: outcome.accepted.count))
      passOn(outcome.accepted, except: session)
    }
    guard outcome.hasChanged else { return }
    effects.append(.updateTrust)
    for device in outcome.revoked where !isOut { revoke(device, at: now) }
    guard !isOut else { return }
    if let key = household.ring.current?.id, key != keys { report(.networkKey(epoch: key.epoch)) }
    noteTrust(at: now)
  }

  private mutating func passOn(_ entries: [LogEntry], except session: SessionID?) {
    let source = session.flatMap { table[$0]?.info.peer }
    for peer in table.peers where peer != source {
      guard let preferred = table.preferred(of: peer, own: own), preferred.info.standing != .statusOnly
      else { continue }
      for message in LogMessage.messages(of: entries) { send(message, on: preferred.id) }
    }
  }

  // MARK: - Acting

  /// A device is out: its sessions end before anything else is said.
  private mutating func revoke(_ device: DeviceID, at now: ClockReading) {
    guard device != own else {
      report(.selfRevoked)
      gossip(.leave, at: now)
      for entry in table.entries { effects.append(.transport(.close(entry.id, .revoked))) }
      effects.append(.publish(nil))
      table = SessionTable()
      isOut = true
      return
    }
    for entry in table.entries where entry.info.peer == device { close(entry.id, .revoked, at: now) }
    gossip(.revoked(device), at: now)
    known[device] = nil
    report(.revoked(device))
  }

  /// Gossip and discovery learn whom trust knows and with which keys.
  mutating func noteTrust(at now: ClockReading) {
    endSessionsOfFormerMembers(at: now)
    let roster = household.log.members.map(\.device)
    gossip(.roster(roster), at: now)
    discover(.roster(roster), at: now)
    discover(.keys(household.ring.keys.map { BeaconKey.of($0) }), at: now)
    for peer in table.peers { noteUsability(of: peer, at: now) }
    renewSessions(at: now)
    maintainIfDue()
  }

  /// A session that this device opened with an old key, and that has brought the current one, gives way to a full
  /// one.
  private mutating func renewSessions(at now: ClockReading) {
    guard let current = household.ring.current, current.id == household.log.view.networkKeys.first?.id else {
      return
    }
    for entry in table.entries where entry.info.standing == .updateOnly && entry.info.isInitiator {
      close(entry.id, .renewed, at: now)
    }
  }

  /// Of the admins that are in, the one with the smallest name keeps the network key in order.
  mutating func maintainIfDue() {
    let view = household.view
    guard view.isAdmin(own), view.needsNewNetworkKey || !view.membersWithoutNetworkKey.isEmpty else { return }
    let isFirst = view.admins.allSatisfy { $0 >= own || !usable.contains($0) }
    if isFirst { effects.append(.maintainHousehold) }
  }
}

extension BeaconKey {
  /// The beacon key of an epoch.
  fileprivate static func of(_ key: NetworkKey) -> BeaconKey {
    key.beaconKey().withUnsafeBytes { BeaconKey(householdTag: key.householdTag, key: $0) }
  }
}

extension Household {
  /// What the log says.
  var view: MembershipView { log.view }
}
