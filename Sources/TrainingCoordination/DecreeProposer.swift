import CryptoPrimitives
import Determinism
import MeshModel

/// The part of a decree that tries to get a plan agreed on.
package struct DecreeProposer: Sendable {
  /// What the proposer does next.
  enum Step: Sendable {
    /// Remember on disk that this round was used.
    case round(UInt32)
    /// Ask a device of the roster.
    case ask(DecreeMessage, DeviceID)
  }

  /// How far an attempt is.
  package enum Phase: Hashable, Sendable {
    case promising
    case voting
    case waiting
    case done
  }

  /// One attempt under one ballot.
  package struct Attempt: Hashable, Sendable {
    let ballot: Ballot
    var proposal: PlanProposal
    var phase = Phase.promising
    /// Devices that have answered the present phase, ascending.
    var answered: [DeviceID] = []
    /// The newest proposal that one of them had accepted before.
    var newest: AcceptedProposal?
    var votes: [PlanCertificate.Vote] = []
  }

  /// Longest wait after a refusal; it doubles from a 32nd of this.
  private static let longestPause: Duration = .seconds(8)

  let own: DeviceID
  let roster: DecreeRoster
  private(set) var certificate: PlanCertificate?
  private(set) var nextDeadline: MonotonicInstant?
  /// The present attempt; nil before the first.
  package private(set) var attempt: Attempt?

  private let proposal: PlanProposal
  private var highest: UInt32
  private var refusals = 0
  private var generator: SeededGenerator

  init(
    own: DeviceID, roster: DecreeRoster, proposal: PlanProposal, lastRound: UInt32, generator: SeededGenerator
  ) {
    self.own = own
    self.roster = roster
    self.proposal = proposal
    self.generator = generator
    highest = lastRound
  }

  /// Devices that have answered the present phase.
  var answered: [DeviceID] { attempt?.answered ?? [] }

  /// Begins a new attempt, newer than all that this device knows of.
  mutating func begin(after promised: Ballot?, at now: MonotonicInstant) -> [Step] {
    highest = max(highest, promised?.round ?? 0)
    guard highest < .max else {
      nextDeadline = nil
      return []
    }
    highest += 1
    let ballot = Ballot(round: highest, proposer: own)
    attempt = Attempt(ballot: ballot, proposal: proposal)
    nextDeadline = now.advanced(by: JobLimits.decreeResend)
    return [.round(ballot.round)] + roster.devices.map { .ask(.prepare(ballot), $0) }
  }

  mutating func handle(
    _ message: DecreeMessage, from sender: DeviceID, voter: SigningPublicKey?, at now: MonotonicInstant
  ) -> [Step] {
    guard var attempt else { return [] }
    let hasAnswered = attempt.answered.contains(sender)
    switch (message, attempt.phase) {
    case (.promise(attempt.ballot, let accepted), .promising) where !hasAnswered:
      attempt.answered = (attempt.answered + [sender]).sorted()
      if let accepted, attempt.newest.map({ $0.ballot < accepted.ballot }) ?? true {
        attempt.newest = accepted
      }
      defer { self.attempt = attempt }
      guard roster.isMajority(attempt.answered) else { return [] }
      // What may have been chosen already is the only thing that may be proposed.
      if let newest = attempt.newest { attempt.proposal = newest.proposal }
      attempt.phase = .voting
      attempt.answered = []
      nextDeadline = now.advanced(by: JobLimits.decreeResend)
      return roster.devices.map { .ask(.accept(attempt.ballot, attempt.proposal), $0) }
    case (.accepted(attempt.ballot, let signature), .voting) where !hasAnswered:
      let vote = AcceptedProposal(ballot: attempt.ballot, proposal: attempt.proposal)
      guard let voter, voter.verifies(signature, of: PlanCertificate.message(of: vote, roster: roster)) else {
        return []
      }
      attempt.answered = (attempt.answered + [sender]).sorted()
      attempt.votes.append(PlanCertificate.Vote(device: sender, signature: signature))
      if roster.isMajority(attempt.answered) { finish(&attempt) }
      self.attempt = attempt
      return []
    case (.refused(attempt.ballot, let promised), .promising),
      (.refused(attempt.ballot, let promised), .voting):
      attempt.phase = .waiting
      self.attempt = attempt
      pause(after: promised, at: now)
      return []
    default: return []
    }
  }

  private mutating func finish(_ attempt: inout Attempt) {
    certificate = PlanCertificate(
      proposal: attempt.proposal, roster: roster, ballot: attempt.ballot,
      votes: attempt.votes.sorted { $0.device < $1.device })
    attempt.phase = .done
    nextDeadline = nil
  }

  /// Two that try in turn must not refuse each other for ever: each waits for a time that only it knows.
  private mutating func pause(after promised: Ballot, at now: MonotonicInstant) {
    highest = max(highest, promised.round)
    refusals += 1
    let longest = Self.longestPause / (1 << max(0, 5 - refusals))
    let share = Double(1 + generator.uniform(below: 1000)) / 1000
    nextDeadline = now.advanced(by: longest * share)
  }

  /// Asks again those who have not answered; after a refusal, begins anew.
  mutating func tick(after promised: Ballot?, at now: MonotonicInstant) -> [Step] {
    guard let due = nextDeadline, due <= now, let attempt else { return [] }
    if attempt.phase == .waiting { return begin(after: promised, at: now) }
    nextDeadline = now.advanced(by: JobLimits.decreeResend)
    let missing = roster.devices.filter { !attempt.answered.contains($0) }
    return missing.map { device in
      .ask(
        attempt.phase == .promising
          ? .prepare(attempt.ballot) : .accept(attempt.ballot, attempt.proposal), device)
    }
  }
}
