package import CryptoPrimitives
package import MeshModel
package import ParallelPlanner
package import WireCoding

/// A plan that is put to the vote: for which plan epoch, and which devices its places mean.
package struct PlanProposal: Hashable, Sendable, WireCodable {
  /// The job, its term and the plan epoch.
  package let stamp: JobStamp
  /// The devices by their place in the plans.
  package let household: [DeviceID]
  /// The plan.
  package let plan: Plan
  /// The plan that is prepared for while `plan` runs; nil when nothing is.
  package let next: Plan?
  /// Devices without a place that decide with the others, ascending.
  package let witnesses: [DeviceID]
  /// The devices that compute something, in the order of their places.
  package let participants: [DeviceID]

  /// Voters that a plan has at least, if there are as many devices: of two, the loss of the one whose vote weighs more would
  /// stop the job although the other is there.
  package static let leastVoters = 3

  /// A proposal.
  package init(
    stamp: JobStamp, household: [DeviceID], plan: Plan, next: Plan? = nil, witnesses: [DeviceID] = []
  ) {
    precondition(
      household.count + witnesses.count <= JobLimits.roster && plan.fits(devices: household.count)
        && next?.fits(devices: household.count) ?? true && !witnesses.contains(where: household.contains),
      "plans of places \(plan.places) and \(next?.places ?? []) for \(household.count) devices")
    self.stamp = stamp
    self.household = household
    self.plan = plan
    self.next = next
    self.witnesses = witnesses.sorted()
    participants = plan.places.map { household[$0] }
  }

  /// The participants before and after one in the order of their places, the last beside the first; none for others.
  package func neighbours(of device: DeviceID) -> [DeviceID] {
    guard let place = participants.firstIndex(of: device) else { return [] }
    let (before, after) = (place + participants.count - 1, place + 1)
    return [before, after].map { participants[$0 % participants.count] }.filter { $0 != device }
  }

  /// The devices that compute nothing yet and have a role in the next plan, in the order of their places.
  package var learners: [DeviceID] {
    let present = plan.places
    return (next?.places ?? []).filter { !present.contains($0) }.map { household[$0] }
  }

  /// The devices that only hand over what they hold, in the order of their places.
  package var donors: [DeviceID] {
    let used = plan.places + (next?.places ?? [])
    return household.indices.filter { !used.contains($0) }.map { household[$0] }
  }

  /// The devices that decide on the plan after this one, ascending: its participants and witnesses, and the owner if it is
  /// listed.
  package func voters(owner: DeviceID) -> [DeviceID] {
    let voters = Set(participants + witnesses)
    return (household.contains(owner) ? voters.union([owner]) : voters).sorted()
  }

  /// The place of a device that computes something; nil for others.
  package func place(of device: DeviceID) -> Int? {
    participants.contains(device) ? household.firstIndex(of: device) : nil
  }

  /// Reads a proposal; no device has two places, and the plans have no place without a device.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    stamp = try JobStamp(from: &reader)
    var household: [DeviceID] = []
    for _ in 0..<(try reader.count("devices of a plan", limit: JobLimits.roster)) {
      let device = try DeviceID(from: &reader)
      guard !household.contains(device) else {
        throw .invalid(field: "device of a plan, named twice", value: UInt64(household.count))
      }
      household.append(device)
    }
    let plan = try Plan(from: &reader)
    next = try reader.flag("next plan") ? Plan(from: &reader) : nil
    witnesses = try readDevices(&reader, "witnesses", limit: JobLimits.roster - household.count)
    if let twice = witnesses.firstIndex(where: household.contains) {
      throw .invalid(field: "witness with a place", value: UInt64(twice))
    }
    guard plan.fits(devices: household.count), next?.fits(devices: household.count) ?? true else {
      throw .invalid(field: "place of a plan without a device", value: UInt64(household.count))
    }
    (self.household, self.plan) = (household, plan)
    participants = plan.places.map { household[$0] }
  }

  /// Writes stamp, devices, plan, next plan and witnesses.
  package func encode(to writer: inout ByteWriter) {
    stamp.encode(to: &writer)
    writer.count(household.count)
    for device in household { device.encode(to: &writer) }
    plan.encode(to: &writer)
    writer.flag(next != nil)
    next?.encode(to: &writer)
    writer.count(witnesses.count)
    for device in witnesses { device.encode(to: &writer) }
  }

  /// Names the proposal: equal proposals have equal digests on every machine.
  package var digest: ContentDigest { ContentDigest(of: encoded) }
}

/// A plan with the signed votes of a majority: who has it can show anybody that it is *the* plan of its epoch.
package struct PlanCertificate: Hashable, Sendable, WireCodable {
  /// One device's vote.
  package struct Vote: Hashable, Sendable {
    /// Who voted.
    package let device: DeviceID
    /// Its signature over the proposal, the ballot and the roster.
    package let signature: Signature

    /// A vote.
    package init(device: DeviceID, signature: Signature) {
      self.device = device
      self.signature = signature
    }
  }

  /// Separates these signatures from all others that devices make.
  private static let domain = "hearth plan certificate 1"

  /// The plan that won.
  package let proposal: PlanProposal
  /// Who decided.
  package let roster: DecreeRoster
  /// The ballot under which it won.
  package let ballot: Ballot
  /// The votes, ascending by device.
  package let votes: [Vote]

  /// A certificate; whether it holds is said by `verify`.
  package init(proposal: PlanProposal, roster: DecreeRoster, ballot: Ballot, votes: [Vote]) {
    self.proposal = proposal
    self.roster = roster
    self.ballot = ballot
    self.votes = votes
  }

  /// Which plan epoch it is about.
  package var stamp: JobStamp { proposal.stamp }

  /// What a device signs when it votes.
  package static func message(of vote: AcceptedProposal, roster: DecreeRoster) -> [UInt8] {
    var writer = ByteWriter()
    writer.text(domain)
    vote.proposal.stamp.encode(to: &writer)
    vote.ballot.encode(to: &writer)
    writer.raw(roster.digest.bytes)
    writer.raw(vote.proposal.digest.bytes)
    return writer.bytes
  }

  /// Refuses a certificate that is not of this roster, or whose votes are not those of a majority.
  ///
  /// - Parameter key: the key of a member of the household; nil for any other device.
  package func verify(
    roster expected: DecreeRoster, key: (DeviceID) -> SigningPublicKey?
  ) throws(CertificateFailure) {
    guard roster == expected else { throw .otherRoster(stamp) }
    let signed = Self.message(of: AcceptedProposal(ballot: ballot, proposal: proposal), roster: roster)
    for vote in votes {
      guard roster.weight(of: vote.device) > 0, let key = key(vote.device) else {
        throw .notOfRoster(vote.device)
      }
      guard key.verifies(vote.signature, of: signed) else { throw .badSignature(vote.device) }
    }
    let weight = roster.weight(of: votes.map(\.device))
    guard 2 * weight > roster.totalWeight else { throw .noMajority(weight: weight, of: roster.totalWeight) }
  }

  /// Reads a certificate; nothing is verified yet.
  package init(from reader: inout ByteReader) throws(DecodingFailure) {
    proposal = try PlanProposal(from: &reader)
    let devices = try readDevices(&reader, "roster", limit: JobLimits.roster)
    let anchor = try DeviceID(from: &reader)
    guard devices.contains(anchor) else { throw .invalid(field: "roster without anchor", value: 0) }
    roster = DecreeRoster(devices, anchor: anchor)
    ballot = try Ballot(from: &reader)
    var votes: [Vote] = []
    for _ in 0..<(try reader.count("votes", limit: JobLimits.roster)) {
      let device = try DeviceID(from: &reader)
      if let last = votes.last, last.device >= device { throw .notAscending(field: "votes") }
      votes.append(Vote(device: device, signature: try readSignature(&reader, "vote")))
    }
    self.votes = votes
  }

  /// Writes proposal, roster, ballot and votes.
  package func encode(to writer: inout ByteWriter) {
    proposal.encode(to: &writer)
    writer.count(roster.devices.count)
    for device in roster.devices { device.encode(to: &writer) }
    roster.anchor.encode(to: &writer)
    ballot.encode(to: &writer)
    writer.count(votes.count)
    for vote in votes {
      vote.device.encode(to: &writer)
      writer.raw(vote.signature.bytes)
    }
  }
}

/// Why a certificate does not hold.
package enum CertificateFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Other devices decided than those that may.
  case otherRoster(JobStamp)
  /// A vote of a device that may not vote.
  case notOfRoster(DeviceID)
  /// A vote whose signature is wrong.
  case badSignature(DeviceID)
  /// Too few votes.
  case noMajority(weight: Int, of: Int)

  /// What is wrong, and what to do.
  package var description: String {
    switch self {
    case .otherRoster(let stamp):
      "the certificate of plan \(stamp.epoch) of job \(stamp.job.short) is of other devices than decide on it; it is dropped"
    case .notOfRoster(let device):
      "the certificate has a vote of device \(device.short), which may not vote; it is dropped"
    case .badSignature(let device):
      "the certificate has a vote of device \(device.short) with a wrong signature; it is dropped"
    case .noMajority(let weight, let total):
      "the certificate has votes of weight \(weight) of \(total), which is no majority; it is dropped"
    }
  }
}
