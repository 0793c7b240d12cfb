package import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
package import WireCoding

/// The number of an attempt to get a plan agreed on; no two proposers ever use the same.
package struct Ballot: Hashable, Comparable, Sendable, WireCodable {
  /// Raised with every attempt.
  package var round: UInt32
  /// Who tries.
  package var proposer: DeviceID

  /// A ballot.
  package init(round: UInt32, proposer: DeviceID) {
    self.round = round
    self.proposer = proposer
  }

  /// Whether `left` is the earlier attempt.
  package static func < (left: Ballot, right: Ballot) -> Bool {
    (left.round, left.proposer) < (right.round, right.proposer)
  }

  /// Reads 20 bytes.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    round = try reader.integer("round")
    proposer = try DeviceID(from: &reader)
  }

  /// Writes round and proposer.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(round)
    proposer.encode(to: &writer)
  }
}

/// The devices that decide on the next plan, and what their votes weigh: 2 each, and 1 more for the anchor.
///
/// Any two majorities have a device in common, so that a plan epoch never has two plans; the anchor's extra vote
/// lets a job of two go on where the anchor is, and gives an even split to the anchor's side.
package struct DecreeRoster: Hashable, Sendable {
  /// The devices, ascending.
  package let devices: [DeviceID]
  /// The device whose vote weighs more.
  package let anchor: DeviceID

  /// A roster; the devices are put in order, and the anchor is one of them.
  package init(_ devices: [DeviceID], anchor: DeviceID) {
    self.devices = Set(devices).sorted()
    self.anchor = anchor
  }

  /// A roster whose anchor is the job's owner if it votes, and else the smallest device.
  package init(_ devices: [DeviceID], owner: DeviceID) {
    precondition(!devices.isEmpty, "nobody decides")
    self.init(devices, anchor: devices.contains(owner) ? owner : devices.min() ?? owner)
  }

  /// What one device's vote weighs; 0 for a device that is not of the roster.
  package func weight(of device: DeviceID) -> Int {
    guard devices.contains(device) else { return 0 }
    return device == anchor ? 3 : 2
  }

  /// What these devices' votes weigh together; each is named once.
  package func weight(of some: some Sequence<DeviceID>) -> Int { some.reduce(0) { $0 + weight(of: $1) } }

  /// What all votes weigh.
  package var totalWeight: Int { weight(of: devices) }

  /// Whether these devices, each named once, are more than half by weight.
  package func isMajority(_ some: some Sequence<DeviceID>) -> Bool { 2 * weight(of: some) > totalWeight }

  /// Enters every signature, so that a vote counts under this roster only.
  var digest: ContentDigest {
    var hasher = ContentHasher()
    hasher.update("hearth roster")
    hasher.update(devices.count)
    for device in devices { hasher.update(bytes: device.bytes) }
    hasher.update(bytes: anchor.bytes)
    return hasher.finalize()
  }
}

/// A proposal with the ballot under which a device accepted it.
package struct AcceptedProposal: Hashable, Sendable, WireCodable {
  /// The ballot.
  package var ballot: Ballot
  /// The proposal.
  package var proposal: PlanProposal

  /// An accepted proposal.
  package init(ballot: Ballot, proposal: PlanProposal) {
    self.ballot = ballot
    self.proposal = proposal
  }

  /// Reads ballot and proposal.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    ballot = try Ballot(from: &reader)
    proposal = try PlanProposal(from: &reader)
  }

  /// Writes ballot and proposal.
  package func encode(to writer: inout ByteWriter) {
    ballot.encode(to: &writer)
    proposal.encode(to: &writer)
  }
}

/// What devices say to each other to agree on one plan (Lamport 2001, "Paxos made simple", §2.2).
package enum DecreeMessage: Hashable, Sendable {
  /// Phase 1a: asks for a promise to take part in nothing older.
  case prepare(Ballot)
  /// Phase 1b: the promise, with what was accepted before.
  case promise(Ballot, accepted: AcceptedProposal?)
  /// A newer promise stands against this ballot.
  case refused(Ballot, promised: Ballot)
  /// Phase 2a: asks to accept a proposal.
  case accept(Ballot, PlanProposal)
  /// Phase 2b: the signed vote.
  case accepted(Ballot, Signature)
}

/// What a device must never forget of one decision; on disk before anything that follows from it is sent.
package struct DecreeRecord: Hashable, Sendable, WireCodable {
  /// The last round in which this device proposed; 0 when it never did.
  package var round: UInt32
  /// The newest ballot that this device promised to.
  package var promised: Ballot?
  /// What it accepted last.
  package var accepted: AcceptedProposal?

  /// A record of nothing.
  package init() { round = 0 }

  /// Reads a record.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    round = try reader.integer("round")
    if try reader.flag("promised") { promised = try Ballot(from: &reader) }
    if try reader.flag("accepted") { accepted = try AcceptedProposal(from: &reader) }
  }

  /// Writes the record.
  package func encode(to writer: inout ByteWriter) {
    writer.integer(round)
    writer.flag(promised != nil)
    promised?.encode(to: &writer)
    writer.flag(accepted != nil)
    accepted?.encode(to: &writer)
  }
}

/// What a part of the decree wants done, in this order.
package enum DecreeEffect: Hashable, Sendable {
  /// Write this to disk and sync it before the effects after this one.
  case persist(DecreeRecord)
  /// Send this to a device of the roster; may be lost, repeated or late.
  case send(DecreeMessage, to: DeviceID)
}

/// How the roster agrees on the plan of one plan epoch, as one device takes part in it: always as an acceptor, and
/// as a proposer when it leads.
///
/// Single-decree Paxos with weighted votes. A vote is signed, so that the votes of a majority are a certificate that
/// anybody can verify later.
package struct EpochDecree: Sendable {
  /// This device.
  package let own: DeviceID
  /// The plan epoch that is decided on.
  package let stamp: JobStamp
  /// Who decides.
  package let roster: DecreeRoster
  private var acceptor: DecreeAcceptor
  /// The part that proposes; nil before `propose`.
  package private(set) var proposer: DecreeProposer?

  /// A device's part, with what it remembers of it.
  package init(own: DeviceID, stamp: JobStamp, roster: DecreeRoster, record: DecreeRecord = DecreeRecord()) {
    self.own = own
    self.stamp = stamp
    self.roster = roster
    acceptor = DecreeAcceptor(own: own, stamp: stamp, roster: roster, record: record)
  }

  /// What this device must remember.
  package var record: DecreeRecord { acceptor.record }
  /// The certificate, once this device's own attempt has won.
  package var certificate: PlanCertificate? { proposer?.certificate }
  /// Whether this device tries to get a plan agreed on.
  package var isProposing: Bool { proposer != nil && certificate == nil }
  /// When `tick` is due.
  package var nextDeadline: MonotonicInstant? { proposer?.nextDeadline }
  /// The weight of the devices that have answered this device's present attempt.
  package var answeredWeight: Int { proposer.map { roster.weight(of: $0.answered) } ?? 0 }

  /// Tries to get this proposal, or one that may have been chosen already, agreed on.
  package mutating func propose(
    _ proposal: PlanProposal, generator: SeededGenerator, keys: DeviceKeys, at now: MonotonicInstant
  ) -> [DecreeEffect] {
    precondition(proposal.stamp == stamp, "a proposal for another plan epoch")
    var proposer = DecreeProposer(
      own: own, roster: roster, proposal: proposal, lastRound: record.round, generator: generator)
    let steps = proposer.begin(after: record.promised, at: now)
    self.proposer = proposer
    return settle(steps, keys: keys, at: now)
  }

  /// Takes in what a device said; `voter` is the key that verifies that device's votes, nil when it is no member.
  package mutating func handle(
    _ message: DecreeMessage, from sender: DeviceID, voter: SigningPublicKey?, keys: DeviceKeys,
    at now: MonotonicInstant
  ) -> [DecreeEffect] {
    guard roster.weight(of: sender) > 0 else { return [] }
    switch message {
    case .prepare, .accept:
      return acceptor.handle(message, from: sender, keys: keys)
    case .promise, .refused, .accepted:
      guard var proposer else { return [] }
      let steps = proposer.handle(message, from: sender, voter: voter, at: now)
      self.proposer = proposer
      return settle(steps, keys: keys, at: now)
    }
  }

  /// Sends again what was not answered, and tries again after a refusal.
  package mutating func tick(keys: DeviceKeys, at now: MonotonicInstant) -> [DecreeEffect] {
    guard var proposer else { return [] }
    let steps = proposer.tick(after: record.promised, at: now)
    self.proposer = proposer
    return settle(steps, keys: keys, at: now)
  }

  /// Does the proposer's steps: its round goes to the disk first, and its own acceptor is asked like any other.
  private mutating func settle(
    _ steps: [DecreeProposer.Step], keys: DeviceKeys, at now: MonotonicInstant
  ) -> [DecreeEffect] {
    var effects: [DecreeEffect] = []
    for step in steps {
      switch step {
      case .round(let round):
        acceptor.remember(round: round)
        effects.append(.persist(record))
      case .ask(let message, let device) where device == own:
        for effect in acceptor.handle(message, from: own, keys: keys) {
          guard case .send(let reply, _) = effect else {
            effects.append(effect)
            continue
          }
          guard var proposer else { continue }
          let next = proposer.handle(reply, from: own, voter: keys.signing.publicKey, at: now)
          self.proposer = proposer
          effects += settle(next, keys: keys, at: now)
        }
      case .ask(let message, let device): effects.append(.send(message, to: device))
      }
    }
    return effects
  }
}

/// The part that promises and votes.
struct DecreeAcceptor: Hashable, Sendable {
  let own: DeviceID
  let stamp: JobStamp
  let roster: DecreeRoster
  private(set) var record: DecreeRecord

  init(own: DeviceID, stamp: JobStamp, roster: DecreeRoster, record: DecreeRecord) {
    self.own = own
    self.stamp = stamp
    self.roster = roster
    self.record = record
  }

  mutating func remember(round: UInt32) { record.round = round }

  /// Answers a proposer; every answer comes after the effect that persists what it promises.
  mutating func handle(
    _ message: DecreeMessage, from sender: DeviceID, keys: DeviceKeys
  ) -> [DecreeEffect] {
    switch message {
    case .prepare(let ballot):
      guard ballot.proposer == sender else { return [] }
      if let promised = record.promised, promised > ballot {
        return [.send(.refused(ballot, promised: promised), to: sender)]
      }
      let answer = DecreeEffect.send(.promise(ballot, accepted: record.accepted), to: sender)
      if record.promised == ballot { return [answer] }
      record.promised = ballot
      return [.persist(record), answer]
    case .accept(let ballot, let proposal):
      guard ballot.proposer == sender, proposal.stamp == stamp else { return [] }
      if let promised = record.promised, promised > ballot {
        return [.send(.refused(ballot, promised: promised), to: sender)]
      }
      let vote = AcceptedProposal(ballot: ballot, proposal: proposal)
      // One ballot has one proposal: a second one can only come from a broken proposer.
      if let before = record.accepted, before.ballot == ballot, before.proposal != proposal { return [] }
      let signature = keys.signing.sign(PlanCertificate.message(of: vote, roster: roster))
      let answer = DecreeEffect.send(.accepted(ballot, signature), to: sender)
      if record.accepted == vote, record.promised == ballot { return [answer] }
      record.promised = ballot
      record.accepted = vote
      return [.persist(record), answer]
    case .promise, .refused, .accepted: return []
    }
  }
}
