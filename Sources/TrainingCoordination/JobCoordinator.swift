import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
import ParallelPlanner

/// One job on one device, from the offer to its end: event and present time in, effects out.
///
/// All that devices tell each other may be lost or repeated: what was not answered is said again, and who speaks of a
/// job that has ended is told how. The devices of the plan, and the owner, are needed to the end; whoever of them is
/// lost fails the job everywhere, with its name.
package struct JobCoordinator: Sendable {
  /// This device.
  package let own: DeviceID
  /// What this device must remember.
  package internal(set) var record: StoredJob
  /// Where this device is.
  package internal(set) var progress = DeviceProgress(.waiting)
  /// Where the other devices said that they are.
  package internal(set) var devices: [DeviceID: DeviceProgress] = [:]
  /// Why devices do not take part.
  package internal(set) var declines: [DeviceID: String] = [:]
  /// Messages that were dropped because they cannot be right.
  package internal(set) var dropped = 0

  let keys: DeviceKeys
  let started: MonotonicInstant
  var membership: JobMembership
  var generator: SeededGenerator
  /// This device's part in the decree of the present plan epoch.
  package internal(set) var decree: EpochDecree
  var heard: [DeviceID: MonotonicInstant] = [:]
  var reports: [DeviceID: [UInt8]] = [:]
  var completions: [DeviceID: RunCompletion] = [:]
  var ownReport: [UInt8]?
  var leadingSince: MonotonicInstant?
  var decidingSince: MonotonicInstant?
  var certifiedSince: MonotonicInstant?
  var hasPlanned = false
  var hasStarted = false
  var isDelivering = false
  var blame: Blame?
  var nextBeat: MonotonicInstant
  var nextResend: MonotonicInstant
  var effects: [JobEffect] = []

  /// A failure whose cause another device may know better.
  struct Blame: Sendable {
    let device: DeviceID?
    let reason: String
    let deadline: MonotonicInstant
  }

  /// A job that this device has just submitted, been offered, or found on its disk; `begin` comes next.
  package init(
    own: DeviceID, record: StoredJob, keys: DeviceKeys, membership: JobMembership,
    generator: SeededGenerator, at now: MonotonicInstant
  ) {
    self.own = own
    self.record = record
    self.keys = keys
    self.membership = membership
    self.generator = generator
    started = now
    nextBeat = now
    nextResend = now
    let specification = record.specification
    decree = EpochDecree(
      own: own, stamp: specification.stamp(epoch: 1),
      roster: DecreeRoster(specification.roster, owner: specification.owner), record: record.decree)
  }

  // MARK: - What others read

  /// The job.
  package var specification: JobSpecification { record.specification }
  /// The plan in force; nil before the first.
  package var certificate: PlanCertificate? { record.certificate }
  /// Whether this device has the data and gets the adapter.
  package var isOwner: Bool { specification.owner == own }
  /// The devices that compute, in the order of their places; none before the first plan.
  package var participants: [DeviceID] { certificate?.proposal.participants ?? [] }
  /// This device's place in the plan; nil when it computes nothing.
  package var place: Int? { certificate?.proposal.place(of: own) }
  /// Bytes of the activations that all devices kept, as far as they have said.
  package var cacheBytes: UInt64 { participants.reduce(0) { $0 &+ (completions[$1]?.cacheBytes ?? 0) } }
  /// Where a device said last that it is.
  package func progress(of device: DeviceID) -> DeviceProgress? {
    device == own ? progress : devices[device]
  }

  /// Where the job is as a whole.
  package var state: JobState {
    switch record.outcome {
    case .finished: return .finished
    case .failed: return .failed
    case .stopped: return .stopped
    case nil: break
    }
    guard certificate != nil else {
      let phases = ([own] + specification.roster).compactMap { progress(of: $0)?.phase }
      if phases.contains(.deciding) { return .deciding }
      return phases.contains(.planning) ? .planning : .preparing
    }
    let phases = participants.map { progress(of: $0)?.phase ?? .waiting }
    if phases.allSatisfy({ $0 == .completed }) { return .saving }
    return phases.allSatisfy { $0 >= .ready } ? .running : .fetching
  }

  /// When `tick` is due; nil when the job has ended.
  package var nextDeadline: MonotonicInstant? {
    guard record.outcome == nil else { return nil }
    var deadline = nextBeat
    if let next = decree.nextDeadline, certificate == nil { deadline = min(deadline, next) }
    if let next = blame?.deadline { deadline = min(deadline, next) }
    return deadline
  }

  // MARK: - The loop

  /// The first call: what a device does when a job becomes known to it, or again after a restart.
  package mutating func begin(isRestart: Bool = false, at now: MonotonicInstant) -> [JobEffect] {
    effects = []
    if record.outcome != nil { return [] }
    if isRestart, isOwner || place != nil {
      end(.failure(of: own, "its daemon was restarted while the job ran"))
    } else {
      effects.append(.persist(record))
      if isOfRoster, certificate == nil {
        progress = DeviceProgress(.preparing)
        effects.append(.prepare)
      }
      advance(at: now)
    }
    return takeEffects()
  }

  /// Takes in what happened and answers with what to do, in this order.
  package mutating func handle(_ event: JobInput, at now: MonotonicInstant) -> [JobEffect] {
    effects = []
    if case .message(let message, let sender) = event {
      receive(message, from: sender, at: now)
    } else if record.outcome == nil {
      take(event, at: now)
    } else if case .membership(let membership) = event {
      self.membership = membership
    }
    if record.outcome == nil { advance(at: now) }
    return takeEffects()
  }

  private mutating func takeEffects() -> [JobEffect] {
    defer { effects = [] }
    return effects
  }

  private mutating func take(_ event: JobInput, at now: MonotonicInstant) {
    switch event {
    case .tick, .message: break
    case .membership(let membership): self.membership = membership
    case .prepared(let report):
      guard certificate == nil, report.count <= JobLimits.reportBytes else { return }
      ownReport = report
      reports[own] = report
      progress.phase = max(progress.phase, .prepared)
      nextResend = now
    case .unprepared(let reason):
      declines[own] = reason
      nextResend = now
    case .planned(let household, let plan): propose(household, plan, at: now)
    case .unplanned(let reason):
      if certificate == nil { end(.failure(of: nil, reason)) }
    case .ready:
      guard certificate != nil, progress.phase < .ready else { return }
      progress.phase = .ready
      nextBeat = now
    case .fetched(let bytes, let total, let budget):
      (progress.fetchedBytes, progress.fetchBytes) = (bytes, total)
      if let budget { progress.budgetBytes = budget }
    case .progressed(let new):
      guard hasStarted, completions[own] == nil else { return }
      if new.phase != progress.phase { nextBeat = now }
      progress = new
    case .completed(let completion):
      guard hasStarted else { return }
      completions[own] = completion
      progress.phase = .completed
      (nextBeat, nextResend) = (now, now)
    case .delivered(let adapter):
      guard isOwner, isDelivering else { return }
      end(.finished(adapter: adapter, results: bestCompletion?.results ?? []))
    case .failed(.own, let reason): end(.failure(of: own, reason))
    case .failed(.device(let device), let reason): suspect(device, reason, at: now)
    case .failed(.elsewhere, let reason): suspect(nil, reason, at: now)
    case .stop: end(.stopped(by: own))
    }
  }

  private mutating func suspect(_ device: DeviceID?, _ reason: String, at now: MonotonicInstant) {
    if blame?.device != nil { return }
    blame = Blame(
      device: device, reason: reason, deadline: blame?.deadline ?? now.advanced(by: JobLimits.blameWait))
  }

  // MARK: - Who is who

  var isOfRoster: Bool { specification.roster.contains(own) }

  /// Whether the others wait for this device.
  var isActive: Bool { certificate == nil ? isOfRoster : isOwner || place != nil }

  /// Members beside this device that can be talked to, in order.
  var others: [DeviceID] { membership.alive.filter { $0 != own }.sorted() }

  /// Whether a device takes part in gossip and has said something about the job lately.
  func isPresent(_ device: DeviceID, at now: MonotonicInstant) -> Bool {
    if device == own { return true }
    guard membership.alive.contains(device) else { return false }
    return (heard[device] ?? started).duration(to: now) < JobLimits.silence
  }

  /// Who plans: the first suggestion while it is there, then gossip's present one, then the owner, then anybody.
  package func leader(at now: MonotonicInstant) -> DeviceID? {
    let wanted = [specification.leader, membership.leader, specification.owner].compactMap { $0 }
    return (wanted + specification.roster).first {
      specification.roster.contains($0) && declines[$0] == nil && isPresent($0, at: now)
    }
  }

  // MARK: - The end

  /// Ends the job here and tells everybody.
  mutating func end(_ outcome: JobOutcome) {
    guard record.outcome == nil else { return }
    adopt(outcome)
    for device in others { say(.ended(outcome), to: device) }
  }

  /// Ends the job here.
  mutating func adopt(_ outcome: JobOutcome) {
    let isFirst = record.outcome == nil
    record.outcome = outcome
    blame = nil
    effects.append(.persist(record))
    if isFirst { effects.append(.end(outcome)) }
  }

  mutating func say(_ body: JobMessage.Body, to device: DeviceID, epoch: UInt64? = nil) {
    let stamp = specification.stamp(epoch: epoch ?? certificate?.stamp.epoch ?? 0)
    effects.append(.send(JobMessage(stamp, body), to: device))
  }
}
