import CryptoPrimitives
package import Determinism
package import HouseholdTrust
package import MeshModel
import ParallelPlanner

/// One job on one device, from the offer to its end, through as many plan epochs as it takes: event and present time
/// in, effects out.
///
/// What a device tells the others is its whole state, again and again, so that a lost or repeated message changes
/// nothing. A device that is lost breaks the run off; those that are there agree on the next plan and go on. No device
/// is needed but a majority of those that decide, and the owner at the end.
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
  /// What happened to the job's devices, oldest first; at most `JobLimits.notes`.
  package internal(set) var notes: [JobNote] = []
  /// Messages and answers that were dropped because they cannot be right.
  package internal(set) var dropped = 0
  /// This device's part in the decision on the next plan.
  package internal(set) var decree: EpochDecree

  let keys: DeviceKeys
  let started: MonotonicInstant
  var membership: JobMembership
  var generator: SeededGenerator
  var heard: [DeviceID: MonotonicInstant] = [:]
  /// Under which plan the devices told `devices`.
  var stamps: [DeviceID: JobStamp] = [:]
  var reports: [DeviceID: [UInt8]] = [:]
  var completions: [DeviceID: RunCompletion] = [:]
  var ownReport: [UInt8]?
  /// This device's run, whose `stopped` or `completed` has not come yet.
  var run: RunSlot?
  /// What this device knows of the present plan epoch alone.
  var situation: PlanSituation
  var leading = LeaderWork()
  var cooldown = RunCooldown()
  var delivery = Delivery()
  var leave: Leave?
  var preparation = Preparation()
  var surveying = LinkSurveying()
  var toldReport: DeviceID?
  var storedLedgerAt: MonotonicInstant
  var noteCount: UInt32 = 0
  /// How long a run may stand still.
  var stallLimit = JobLimits.stall
  /// When all others are told next how this device is.
  var nextBeat: MonotonicInstant
  /// When the device's neighbours are; nil while all are told as often.
  var nextNeighbourBeat: MonotonicInstant?
  var nextResend: MonotonicInstant
  /// The earliest time at which a wait of the last `advance` ends.
  var wake: MonotonicInstant?
  var effects: [JobEffect] = []

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
    storedLedgerAt = now
    situation = PlanSituation(since: now)
    decree = record.nextDecree(own: own)
  }

  // MARK: - The loop

  /// The first call: what a device does when a job becomes known to it, or again after a restart.
  package mutating func begin(isRestart: Bool = false, at now: MonotonicInstant) -> [JobEffect] {
    effects = []
    if record.outcome != nil { return [] }
    if let adoption = specification.adoption, !isSigned(adoption) {
      record.specification.adoption = nil
      decree = record.nextDecree(own: own)
    }
    effects.append(.persist(record))
    if isRestart { comeBack(at: now) }
    if record.completion == nil || isOwner {
      if situation.interruption == nil, record.completion == nil {
        progress.phase = .preparing
      }
      effects.append(.prepare)
    }
    advance(at: now)
    return takeEffects()
  }

  /// A restarted device has lost its run; what it holds is on its disk.
  private mutating func comeBack(at now: MonotonicInstant) {
    progress.committedStep = record.ledger.committedStep
    if let completion = record.completion {
      if completion.result != nil {
        completions[own] = completion
        progress.phase = .completed
        return
      }
      record.completion = nil
    }
    guard hasRole || certificate != nil && current == nil else { return }
    situation.isRestored = true
    interrupt("its daemon was restarted", culprit: own, at: now)
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
    case .membership(let membership): meet(membership, at: now)
    case .prepared(let report): prepared(report, at: now)
    case .unprepared(let reason): decline(reason, at: now)
    case .planned(let request, let household, let plan, let next):
      planned(request, household, plan, next, at: now)
    case .kept(let request, let reason): kept(request, reason, at: now)
    case .unplanned(let request, let reason): unplanned(request, reason, at: now)
    case .fetched(let bytes, let total, let budget):
      (progress.fetchedBytes, progress.fetchBytes) = (bytes, total)
      if let budget { progress.budgetBytes = budget }
    case .surveyed(let request, let links): surveyed(request, links, at: now)
    case .unsurveyed(let request): unsurveyed(request, at: now)
    case .ready(let stamp): ready(stamp, at: now)
    case .progressed(let stamp, let new): progressed(stamp, new, at: now)
    case .learned(let stamp): learned(stamp, at: now)
    case .completed(let stamp, let completion): completed(stamp, completion, at: now)
    case .stopped(let stamp, let stop): stopped(stamp, stop, at: now)
    case .delivered(let adapter): delivered(adapter)
    case .failed(let stamp, let culprit, let reason): failed(stamp, culprit, reason, at: now)
    case .leave(let reason): leave(reason, at: now)
    case .rejoin: rejoin(at: now)
    case .adopt: adopt(at: now)
    case .stop: end(.stopped(by: own))
    }
  }

  /// What follows from the state alone, whatever event led to it.
  private mutating func advance(at now: MonotonicInstant) {
    wake = nil
    prepareAgain(at: now)
    checkLosses(at: now)
    checkDrain(at: now)
    finishLeaving(at: now)
    if record.outcome == nil { lead(at: now) }
    if record.outcome == nil {
      takeUpRole(at: now)
      startWhenAllAreReady(at: now)
      deliverWhenDone(at: now)
    }
    if record.outcome == nil {
      surveyAhead(at: now)
      speak(at: now)
    }
  }

  /// When `tick` is due; nil when the job has ended.
  package var nextDeadline: MonotonicInstant? {
    guard record.outcome == nil else { return nil }
    return [nextBeat, nextNeighbourBeat, wake, decree.nextDeadline].compactMap { $0 }.min()
  }

  /// Wakes this device at a time, if nothing does so before.
  mutating func wake(at time: MonotonicInstant) { wake = wake.map { min($0, time) } ?? time }

  /// Whether this long has passed since then; if not, this device is woken when it has.
  mutating func hasPassed(
    _ wait: Duration, since start: MonotonicInstant, at now: MonotonicInstant
  ) -> Bool {
    let end = start.advanced(by: wait)
    if end <= now { return true }
    wake(at: end)
    return false
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
    effects.append(.persist(record))
    if isFirst { effects.append(.end(outcome)) }
  }

  mutating func say(_ body: JobMessage.Body, to device: DeviceID) {
    effects.append(.send(JobMessage(position, body), to: device))
  }

  mutating func drop() { dropped += 1 }
}
