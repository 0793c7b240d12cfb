import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel

/// What others say about the job.
extension JobCoordinator {
  mutating func receive(_ message: JobMessage, from sender: DeviceID, at now: MonotonicInstant) {
    guard message.stamp.job == specification.id, sender != own, isKnown(sender) else { return drop() }
    if let outcome = record.outcome { return answerLate(message, from: sender, outcome) }
    heard[sender] = now
    switch message.body {
    case .ended(let outcome):
      guard isBelievable(outcome, from: sender) else { return drop() }
      return adopt(outcome)
    case .unknown:
      return forget(sender, at: now)
    case .adopted(let adoption):
      if adoption.stamp.term > specification.term { adopt(adoption, at: now) }
      return
    case .offer(let offered):
      if let adoption = offered.adoption, adoption.stamp.term > specification.term {
        adopt(adoption, at: now)
      }
      // Known already: whoever offers it has not heard so.
      return say(.progress(progress), to: sender)
    default: break
    }
    if message.stamp.term < specification.term { return tellAdoption(to: sender) }
    guard message.stamp.term == specification.term else {
      // The sender sees from this device's term that it has not heard of the adoption.
      say(.progress(progress), to: sender)
      return drop()
    }
    takeIn(message, from: sender, at: now)
  }

  /// What is said under this device's own term.
  private mutating func takeIn(_ message: JobMessage, from sender: DeviceID, at now: MonotonicInstant) {
    switch message.body {
    case .report(let report):
      reports[sender] = report
      declines[sender] = nil
      updateLaggard(sender, epoch: message.stamp.epoch)
    case .decline(let reason):
      declines[sender] = reason
      reports[sender] = nil
    case .decree(let step): receive(step, epoch: message.stamp.epoch, from: sender, at: now)
    case .certificate(let certificate): receive(certificate, at: now)
    case .progress(let told):
      note(told, of: sender, stamp: message.stamp, at: now)
      updateLaggard(sender, epoch: message.stamp.epoch)
    case .completed(let completion):
      guard completion.digest != nil || message.stamp == position else { return }
      completions[sender] = completion
      devices[sender, default: DeviceProgress(.completed)].phase = .completed
    case .reportWanted:
      if let ownReport { say(.report(ownReport), to: sender) }
    case .notUsed(let devices, let reason):
      for device in devices { noteRefusal(of: device, reason, at: now) }
      // Nobody is named: no plan at all was found.
      if devices.isEmpty, situation.interruption != nil { pause(reason, at: now) }
    case .links(let links): receive(links, from: sender, at: now)
    case .ended, .unknown, .adopted, .offer: break
    }
  }

  /// Whether a device may be remembered: what is kept of others is bounded.
  private func isKnown(_ device: DeviceID) -> Bool {
    heard[device] != nil || heard.count < JobLimits.known
  }

  /// Takes in where a device is; what ends its part of a plan is not taken back by older words.
  private mutating func note(
    _ told: DeviceProgress, of device: DeviceID, stamp: JobStamp, at now: MonotonicInstant
  ) {
    if let last = stamps[device], (last.term, last.epoch) > (stamp.term, stamp.epoch) { return }
    if stamp == position, stamps[device] == stamp, let last = devices[device],
      last.phase == .completed && told.phase != .completed && completions[device]?.digest != nil
    {
      return
    }
    if stamp == position {
      switch told.phase {
      case .interrupted, .paused, .handedOver:
        situation.stopped.insert(device)
        // What it had told of a stage's end is void: it has forgotten that itself.
        if completions[device]?.digest == nil { completions[device] = nil }
      default:
        if situation.stopped.contains(device), told.phase != .completed,
          current?.proposal.participants.contains(device) ?? false
        {
          return
        }
      }
      if situation.movedAt != nil, let last = devices[device], told.hasMoved(since: last) {
        situation.movedAt = now
        if stamps[device] == stamp, told.committedStep > last.committedStep { situation.hasStepped = true }
      }
      if told.samplesPerSecond > 0, told.phase >= .filling {
        situation.samplesPerSecond = told.samplesPerSecond
      }
    }
    if told.isPrepared {
      declines[device] = nil
    } else if devices[device]?.isPrepared ?? false {
      // Its daemon was restarted: what it measured before may hold no more.
      reports[device] = nil
      surveying.told.remove(device)
    }
    devices[device] = told
    stamps[device] = stamp
  }

  mutating func noteRefusal(of device: DeviceID, _ reason: String, at now: MonotonicInstant) {
    let isNews = !notes.contains {
      guard case .declined(device, let before) = $0.event else { return false }
      return before == reason && $0.epoch == position.epoch
    }
    if isNews { note(.declined(device, reason: reason), at: now) }
  }

  /// A device that has lost its record is offered the job again; until then it takes no part.
  private mutating func forget(_ device: DeviceID, at now: MonotonicInstant) {
    heard[device] = nil
    stamps[device] = nil
    devices[device] = nil
    reports[device] = nil
    completions[device] = nil
    if current?.proposal.participants.contains(device) ?? false {
      interrupt("it has lost its record of the job", culprit: device, at: now)
    }
  }

  /// Only the owner knows that a job is finished; that it failed, only those who take part.
  private func isBelievable(_ outcome: JobOutcome, from sender: DeviceID) -> Bool {
    switch outcome {
    case .finished: sender == specification.owner
    case .failed:
      specification.roster.contains(sender) || certificate?.proposal.household.contains(sender) ?? false
        || decree.roster.weight(of: sender) > 0
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
}
