import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import ParallelPlanner

/// What follows from the state alone, whatever event led to it.
extension JobCoordinator {
  mutating func advance(at now: MonotonicInstant) {
    checkLosses(at: now)
    if record.outcome == nil { lead(at: now) }
    if record.outcome == nil { startWhenAllAreReady() }
    if record.outcome == nil { deliverWhenAllAreDone() }
    if record.outcome == nil { speak(at: now) }
  }

  // MARK: - Losses

  private mutating func checkLosses(at now: MonotonicInstant) {
    let needed = certificate == nil ? [specification.owner] : [specification.owner] + participants
    for device in needed where device != own {
      if !membership.alive.contains(device) {
        return end(.failure(of: device, "it cannot be reached any more"))
      }
      let last = max(heard[device] ?? started, certifiedSince ?? started)
      if last.duration(to: now) >= JobLimits.silence {
        return end(
          .failure(of: device, "it has said nothing for \(JobLimits.silence.components.seconds) seconds"))
      }
    }
    if let blame, blame.deadline <= now { return end(.failure(of: blame.device, blame.reason)) }
    if let decidingSince, certificate == nil,
      decidingSince.duration(to: now) >= JobLimits.decisionWait
    {
      end(
        .failure(
          of: nil,
          "too few of the job's devices answer to agree on a plan: weight \(decree.answeredWeight) of "
            + "\(decree.roster.totalWeight), more than half is needed"))
    }
  }

  // MARK: - Leading

  /// Plans once the reports are in, when this device leads.
  private mutating func lead(at now: MonotonicInstant) {
    guard certificate == nil else { return }
    perform(decree.tick(keys: keys, at: now), at: now)
    guard certificate == nil, !hasPlanned, ownReport != nil, leader(at: now) == own else { return }
    let since = leadingSince ?? now
    leadingSince = since
    let missing = specification.roster.contains { device in
      reports[device] == nil && declines[device] == nil && isPresent(device, at: now)
        && (device == own || membership.reachable.contains(device))
    }
    guard !missing || since.duration(to: now) >= JobLimits.reportWait else { return }
    hasPlanned = true
    progress.phase = .planning
    nextBeat = now
    effects.append(
      .plan(
        specification.roster.compactMap { device in
          reports[device].map { JobDeviceReport(device: device, report: $0) }
        }))
  }

  mutating func propose(_ household: [DeviceID], _ plan: Plan, at now: MonotonicInstant) {
    guard certificate == nil, !decree.isProposing else { return }
    progress.phase = .deciding
    decidingSince = now
    nextBeat = now
    let proposal = PlanProposal(stamp: decree.stamp, household: household, plan: plan)
    let seed = generator.next()
    perform(
      decree.propose(proposal, generator: SeededGenerator(seed: seed), keys: keys, at: now), at: now)
  }

  // MARK: - Running and delivering

  private mutating func startWhenAllAreReady() {
    guard let certificate, !hasStarted, progress.phase == .ready else { return }
    guard participants.allSatisfy({ (progress(of: $0)?.phase ?? .waiting) >= .ready }) else { return }
    hasStarted = true
    effects.append(.start(certificate))
  }

  /// The completion that the adapter is written from: this device's own if it holds everything.
  var bestCompletion: RunCompletion? {
    let complete = ([own] + participants).compactMap { completions[$0] }.filter { $0.digest != nil }
    return complete.first
  }

  private mutating func deliverWhenAllAreDone() {
    guard isOwner, certificate != nil, !isDelivering,
      participants.allSatisfy({ completions[$0] != nil })
    else { return }
    let digests = Set(participants.compactMap { completions[$0]?.digest })
    guard digests.count == 1, let best = bestCompletion else {
      return end(
        .failure(
          of: nil,
          digests.isEmpty
            ? "no device holds all trained parameters" : "the devices trained \(digests.count) different adapters"
        ))
    }
    isDelivering = true
    // This device first: it has the result already.
    let holders = participants.filter { completions[$0]?.digest != nil }
    effects.append(.deliver(best, from: holders.filter { $0 == own } + holders.filter { $0 != own }))
  }

  // MARK: - Speaking

  private mutating func speak(at now: MonotonicInstant) {
    if nextBeat <= now {
      if isActive {
        nextBeat = now.advanced(by: JobLimits.beat)
        for device in others { say(.progress(progress), to: device) }
      } else {
        nextBeat = now.advanced(by: JobLimits.watcherBeat)
        if membership.alive.contains(specification.owner) { say(.progress(progress), to: specification.owner) }
      }
    }
    guard nextResend <= now else { return }
    nextResend = now.advanced(by: JobLimits.resend)
    if isOwner {
      for device in others where heard[device] == nil { say(.offer(specification), to: device) }
    }
    if certificate == nil { speakOfPreparation(at: now) }
    if let completion = completions[own] {
      for device in others where device == specification.owner || participants.contains(device) {
        say(.completed(completion), to: device)
      }
    }
  }

  private mutating func speakOfPreparation(at now: MonotonicInstant) {
    if let reason = declines[own] {
      for device in others where specification.roster.contains(device) { say(.decline(reason), to: device) }
    } else if let report = ownReport, let leader = leader(at: now), leader != own {
      say(.report(report), to: leader)
    }
  }
}
