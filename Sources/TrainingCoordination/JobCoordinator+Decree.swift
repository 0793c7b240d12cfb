import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import ParallelPlanner

/// How a device comes from one plan to the next.
extension JobCoordinator {
  mutating func receive(
    _ step: DecreeMessage, epoch: UInt64, from sender: DeviceID, at now: MonotonicInstant
  ) {
    if epoch < decree.stamp.epoch {
      // Whoever still asks for votes has not heard the result.
      switch step {
      case .prepare, .accept: updateLaggard(sender, epoch: epoch - min(epoch, 1))
      case .promise, .refused, .accepted: break
      }
      return
    }
    guard epoch == decree.stamp.epoch else {
      // This device is behind: the answer to its position is the newest certificate.
      say(.progress(progress), to: sender)
      return drop()
    }
    perform(
      decree.handle(step, from: sender, voter: membership.keys[sender], keys: keys, at: now), at: now)
  }

  /// Gives the newest certificate to a device that has not seen it.
  mutating func updateLaggard(_ device: DeviceID, epoch: UInt64) {
    guard let current, epoch < current.stamp.epoch else { return }
    say(.certificate(current), to: device)
  }

  mutating func receive(_ certificate: PlanCertificate, at now: MonotonicInstant) {
    let (new, own) = (certificate.stamp, position)
    guard new.job == own.job, new.term == own.term, new.epoch > 0 else { return drop() }
    if new.epoch <= own.epoch {
      if new.epoch == own.epoch, let current, current.proposal != certificate.proposal,
        isValid(certificate, roster: current.roster)
      {
        // Cannot be as long as majorities overlap; going on would train two different models.
        end(.failure(of: nil, "two plans were agreed on for plan epoch \(new.epoch)"))
      }
      return
    }
    // A device votes only under a roster that it has from a certificate itself. Whoever missed some epochs therefore
    // takes the word of a majority of the roster that the certificate names; the next epoch's roster is known here.
    let roster = new.epoch == own.epoch + 1 ? decree.roster : certificate.roster
    guard isValid(certificate, roster: roster) else { return drop() }
    adopt(certificate, at: now)
  }

  private func isValid(_ certificate: PlanCertificate, roster: DecreeRoster) -> Bool {
    do throws(CertificateFailure) {
      try certificate.verify(roster: roster) { membership.keys[$0] }
      return true
    } catch {
      return false
    }
  }

  /// Puts a plan to the vote.
  mutating func propose(_ proposal: PlanProposal, at now: MonotonicInstant) {
    guard !decree.isProposing else { return }
    leading.proposedSince = now
    if current == nil, certificate == nil { progress.phase = .deciding }
    nextBeat = now
    let seed = generator.next()
    perform(
      decree.propose(proposal, generator: SeededGenerator(seed: seed), keys: keys, at: now), at: now)
  }

  /// Does what the decree wants; a certificate that it has led to is adopted and told.
  mutating func perform(_ steps: [DecreeEffect], at now: MonotonicInstant) {
    let stamp = decree.stamp
    for step in steps {
      switch step {
      case .persist(let decree):
        record.decree = decree
        effects.append(.persist(record))
      case .send(let message, let device):
        effects.append(.send(JobMessage(stamp, .decree(message)), to: device))
      }
    }
    guard let won = decree.certificate, won.stamp == stamp else { return }
    adopt(won, at: now)
    for device in others { say(.certificate(won), to: device) }
  }

  /// A plan is decided: a plan epoch begins.
  private mutating func adopt(_ certificate: PlanCertificate, at now: MonotonicInstant) {
    let before = (certificate: record.certificate, situation: situation)
    noteChange(to: certificate, at: now)
    record.certificate = certificate
    record.decree = DecreeRecord()
    forgetPart()
    beginSituation(at: now)
    effects.append(.persist(record))
    for device in before.certificate?.proposal.participants ?? []
    where before.situation.interruption != nil
      && (!certificate.proposal.household.contains(device) || declines[device] != nil)
      && !(devices[device]?.isLeaving ?? false)
    {
      cooldown.note(device, at: now)
    }
    if hasResult { return }
    (progress.culprit, progress.hasLearned) = (nil, false)
    if isLeaving, !hasRole {
      progress.phase = .paused
    } else {
      progress.reason = leave?.reason
      progress.phase = progress.isPrepared || hasRole ? .prepared : .preparing
    }
    (progress.fetchedBytes, progress.fetchBytes) = (0, 0)
    situation.needsFetch = hasRole
    guard run != nil else { return }
    if before.situation.interruption == nil, hasRole {
      ask(.drain)
    } else {
      ask(.breakOff, reason: "the others have gone on under another plan")
    }
  }

  /// A new plan epoch or term: the decree after it begins, and what was known of the old one is over.
  private mutating func beginSituation(at now: MonotonicInstant) {
    decree = record.nextDecree(own: own)
    let interruption = situation.recovering ?? situation.interruption
    completions = completions.filter { $0.value.digest != nil }
    situation = PlanSituation(since: now)
    situation.recovering = interruption
    leading.request = nil
    leading.proposedSince = nil
    leading.majoritySince = nil
    leading.unplanned = nil
    nextBeat = now
    nextResend = now
  }

  /// Says what the new plan changes, for people.
  private mutating func noteChange(to certificate: PlanCertificate, at now: MonotonicInstant) {
    guard let old = record.certificate else { return }
    let (before, after) = (old.proposal.participants, certificate.proposal.participants)
    var cause = PlanCause.straggler
    let joined = after.filter { !before.contains($0) }
    if !joined.isEmpty || !certificate.proposal.learners.isEmpty { cause = .joined }
    let isBroken = situation.interruption != nil || !situation.stopped.isDisjoint(with: before)
    for device in before where !after.contains(device) {
      let told = progress(of: device)
      if told?.isLeaving ?? false {
        cause = .left
        note(.left(device, reason: told?.reason ?? ""), at: now)
      } else if isBroken, !certificate.proposal.household.contains(device) || declines[device] != nil {
        note(.lost(device, reason: lossReason(of: device, at: now)), at: now)
      }
    }
    if isBroken, cause != .left { cause = .lost }
    if cause == .straggler, leading.rebalancing.map({ $0.until <= now }) ?? true {
      // Whoever leads next leaves these shares alone for a while, too.
      leading.rebalancing = LeaderWork.refusal(after: leading.rebalancing, at: now)
    }
    for device in joined { note(.joined(device), at: now) }
    note(
      .replanned(
        from: old.stamp.epoch, to: certificate.stamp.epoch, cause: cause,
        samplesPerSecond: situation.samplesPerSecond), at: now)
  }

  /// What is known of a device's loss, at first hand or from another device.
  private func lossReason(of device: DeviceID, at now: MonotonicInstant) -> String {
    if let reason = declines[device] { return reason }
    if let interruption = situation.interruption, interruption.culprit == device {
      return interruption.reason
    }
    let told = devices.keys.sorted().lazy.compactMap { self.devices[$0] }.first { $0.culprit == device }
    return told?.reason ?? absence(of: device, at: now) ?? "its run was broken off"
  }

  // MARK: - Adoption

  /// Lets the job go on with the devices that are there, by an admin's word.
  mutating func adopt(at now: MonotonicInstant) {
    guard membership.admins.contains(own), !hasResult else { return drop() }
    let there = others.filter {
      isThere($0, at: now) && declines[$0] == nil && devices[$0]?.isPrepared ?? false
    }
    var stamp = position
    stamp.term = JobAdoption.term(after: stamp.term, by: own)
    let roster = ([own] + there).prefix(JobLimits.roster)
    adopt(JobAdoption(stamp, roster: Array(roster), keys: keys), at: now)
    for device in others { tellAdoption(to: device) }
  }

  /// A new term fences everything older.
  mutating func adopt(_ adoption: JobAdoption, at now: MonotonicInstant) {
    guard adoption.stamp.job == specification.id, adoption.stamp.term > specification.term,
      isSigned(adoption)
    else { return drop() }
    if certificate != nil {
      interrupt("an admin lets the job go on without its majority", culprit: nil, at: now)
    }
    let interruption = situation.interruption
    record.specification.adoption = adoption
    record.decree = DecreeRecord()
    beginSituation(at: now)
    situation.interruption = interruption
    situation.recovering = nil
    effects.append(.persist(record))
    note(.adopted(by: adoption.admin), at: now)
  }

  func isSigned(_ adoption: JobAdoption) -> Bool {
    adoption.isSigned(admins: membership.admins) { membership.keys[$0] }
  }

  mutating func tellAdoption(to device: DeviceID) {
    guard let adoption = specification.adoption else { return }
    say(.adopted(adoption), to: device)
  }
}
