import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel

/// What others say about the job.
extension JobCoordinator {
  mutating func receive(_ message: JobMessage, from sender: DeviceID, at now: MonotonicInstant) {
    guard message.stamp.job == specification.id, message.stamp.term == specification.term, sender != own
    else {
      return drop()
    }
    if let outcome = record.outcome { return answerLate(message, from: sender, outcome) }
    heard[sender] = now
    switch message.body {
    case .offer:
      // Known already: the owner has not heard so.
      say(.progress(progress), to: sender)
    case .report(let report):
      guard specification.roster.contains(sender) else { return drop() }
      reports[sender] = report
      updateLaggard(sender, epoch: message.stamp.epoch)
    case .decline(let reason):
      guard specification.roster.contains(sender) else { return drop() }
      declines[sender] = reason
    case .decree(let step): receive(step, epoch: message.stamp.epoch, from: sender, at: now)
    case .certificate(let certificate): receive(certificate, at: now)
    case .progress(let progress):
      devices[sender] = progress
      updateLaggard(sender, epoch: message.stamp.epoch)
    case .completed(let completion):
      guard participants.contains(sender), message.stamp.epoch == certificate?.stamp.epoch else {
        return drop()
      }
      completions[sender] = completion
      devices[sender, default: DeviceProgress(.completed)].phase = .completed
    case .ended(let outcome):
      guard isBelievable(outcome, from: sender) else { return drop() }
      adopt(outcome)
    case .unknown:
      heard[sender] = nil
      guard sender == specification.owner || participants.contains(sender) else { return }
      end(.failure(of: sender, "it has lost its record of the job"))
    }
  }

  mutating func drop() { dropped += 1 }

  /// Only the owner knows that a job is finished; that it failed, only those who take part.
  private func isBelievable(_ outcome: JobOutcome, from sender: DeviceID) -> Bool {
    switch outcome {
    case .finished: sender == specification.owner
    case .failed: specification.roster.contains(sender) || participants.contains(sender)
    case .stopped: true
    }
  }

  /// The job has ended here: who does not know is told; of two ends the owner's counts.
  private mutating func answerLate(_ message: JobMessage, from sender: DeviceID, _ outcome: JobOutcome) {
    switch message.body {
    case .ended(let other):
      if sender == specification.owner, other != outcome, isBelievable(other, from: sender) { adopt(other) }
    case .unknown: break
    default: say(.ended(outcome), to: sender)
    }
  }

  /// Gives the certificate to a device that has not seen it.
  private mutating func updateLaggard(_ device: DeviceID, epoch: UInt64) {
    guard let certificate, epoch < certificate.stamp.epoch else { return }
    say(.certificate(certificate), to: device)
  }

  private mutating func receive(
    _ step: DecreeMessage, epoch: UInt64, from sender: DeviceID, at now: MonotonicInstant
  ) {
    if let certificate, epoch <= certificate.stamp.epoch {
      // Whoever still asks for votes has not heard the result.
      switch step {
      case .prepare, .accept: say(.certificate(certificate), to: sender)
      case .promise, .refused, .accepted: break
      }
      return
    }
    guard epoch == decree.stamp.epoch, isOfRoster else { return drop() }
    perform(
      decree.handle(step, from: sender, voter: membership.keys[sender], keys: keys, at: now), at: now)
  }

  private mutating func receive(_ certificate: PlanCertificate, at now: MonotonicInstant) {
    if let present = self.certificate {
      if present.stamp == certificate.stamp, present.proposal != certificate.proposal,
        isValid(certificate)
      {
        // Cannot be as long as majorities overlap; going on would train two different models.
        end(.failure(of: nil, "two plans were agreed on for plan epoch \(certificate.stamp.epoch)"))
      }
      return
    }
    guard certificate.stamp == decree.stamp, isValid(certificate) else { return drop() }
    adopt(certificate, at: now)
  }

  private func isValid(_ certificate: PlanCertificate) -> Bool {
    do throws(CertificateFailure) {
      try certificate.verify(roster: decree.roster) { membership.keys[$0] }
      return true
    } catch {
      return false
    }
  }

  // MARK: - The decree

  /// Does what the decree wants; a certificate that it has led to is adopted and told.
  mutating func perform(_ steps: [DecreeEffect], at now: MonotonicInstant) {
    for step in steps {
      switch step {
      case .persist(let decree):
        record.decree = decree
        effects.append(.persist(record))
      case .send(let message, let device): say(.decree(message), to: device, epoch: decree.stamp.epoch)
      }
    }
    guard certificate == nil, let won = decree.certificate else { return }
    adopt(won, at: now)
    for device in others { say(.certificate(won), to: device) }
  }

  /// The plan is decided: from here on its devices, and the owner, are needed.
  private mutating func adopt(_ certificate: PlanCertificate, at now: MonotonicInstant) {
    record.certificate = certificate
    certifiedSince = now
    reports = [:]
    effects.append(.persist(record))
    let budget = progress.budgetBytes
    progress = DeviceProgress(place == nil ? .prepared : .fetching)
    progress.budgetBytes = budget
    nextBeat = now
    if place != nil { effects.append(.fetch(certificate)) }
  }
}
