package import Determinism
package import MeshModel

/// What others read of a job, and who is who in it.
extension JobCoordinator {
  /// The job.
  package var specification: JobSpecification { record.specification }
  /// The last plan that was agreed on; nil before the first.
  package var certificate: PlanCertificate? { record.certificate }
  /// The newest plan epoch and term that this device knows of.
  package var position: JobStamp { record.position }
  /// Whether this device has the data and gets the adapter.
  package var isOwner: Bool { specification.owner == own }
  /// The devices that compute, in the order of their places; none before the first plan.
  package var participants: [DeviceID] { certificate?.proposal.participants ?? [] }
  /// This device's place in the plan; nil when it computes nothing.
  package var place: Int? { certificate?.proposal.place(of: own) }
  /// Whether this device has said that it leaves.
  package var isLeaving: Bool { leave != nil }
  /// Whether this device leaves and the job needs nothing of it any more.
  package var hasLeft: Bool { leave != nil && run == nil && (hasResult || progress.phase == .paused) }
  /// Bytes of the activations that all devices kept, as far as they have said.
  package var cacheBytes: UInt64 {
    completions.keys.sorted().reduce(0) { $0 &+ (completions[$1]?.cacheBytes ?? 0) }
  }
  /// Optimizer steps that the furthest device has committed.
  package var committedStep: UInt64 {
    ([own] + participants).reduce(0) { max($0, progress(of: $1)?.committedStep ?? 0) }
  }
  /// Where a device said last that it is.
  package func progress(of device: DeviceID) -> DeviceProgress? {
    device == own ? progress : devices[device]
  }

  /// What the voters weigh that are there, as this device sees it.
  package func quorum(at now: MonotonicInstant) -> JobQuorum {
    let roster = decree.roster
    let present = roster.devices.filter { isThere($0, at: now) }
    return JobQuorum(
      present: roster.weight(of: present), needed: roster.totalWeight / 2 + 1, total: roster.totalWeight)
  }

  /// Why the job stands still until something changes; nil when it does not.
  package var pausedReason: String? {
    guard record.outcome == nil, !hasResult else { return nil }
    return situation.pausedReason
  }

  /// Where the job is as a whole.
  package var state: JobState {
    switch record.outcome {
    case .finished: return .finished
    case .failed: return .failed
    case .stopped: return .stopped
    case nil: break
    }
    if pausedReason != nil { return .paused }
    if completions.contains(where: { $0.value.digest != nil && membership.alive.contains($0.key) }) {
      return .saving
    }
    guard let certificate = current else {
      if self.certificate != nil { return .recovering }
      let phases = ([own] + specification.roster).compactMap { progress(of: $0)?.phase }
      if phases.contains(.deciding) { return .deciding }
      return phases.contains(.planning) ? .planning : .preparing
    }
    let phases = certificate.proposal.participants.map { device in
      device == own || stamps[device] == position ? progress(of: device)?.phase ?? .waiting : .waiting
    }
    if phases.contains(.interrupted) || phases.contains(.paused) { return .recovering }
    return phases.allSatisfy { $0 >= .ready } ? .running : .fetching
  }

  // MARK: - Who is who

  /// The plan that is in force; nil before the first and after an adoption.
  var current: PlanCertificate? {
    certificate.flatMap { $0.stamp.term == specification.term ? $0 : nil }
  }

  /// Whether this device has a role in the plan in force.
  var hasRole: Bool { current?.proposal.household.contains(own) ?? false }

  /// Whether the job can go on when this device cannot compute any more, now or once a device that is away is back.
  package var canDoWithout: Bool {
    decree.roster.devices != [own] || devices.keys.contains { declines[$0] == nil }
  }

  /// Whether this device holds all trained values; a stage's end without them counts for its plan alone.
  var hasResult: Bool { completions[own]?.digest != nil }

  /// Whether some device that is known holds all trained values.
  var isResultKnown: Bool { completions.values.contains { $0.digest != nil } }

  /// Whether some device that is there holds all trained values; the job needs no more steps then.
  func isResultThere(at now: MonotonicInstant) -> Bool {
    hasResult || completions.contains { $0.value.digest != nil && isThere($0.key, at: now) }
  }

  /// Whether the others wait for this device's words.
  var isActive: Bool {
    hasRole || decree.roster.weight(of: own) > 0
  }

  /// Members beside this device that can be talked to, in order.
  var others: [DeviceID] { membership.alive.filter { $0 != own }.sorted() }

  /// Whether a device has an excuse to say nothing for a while.
  private func isBusy(_ device: DeviceID) -> Bool {
    guard membership.reachable.contains(device) else { return false }
    guard let told = devices[device] else { return current == nil }
    return !told.isPrepared || told.phase == .preparing || told.phase == .fetching || current == nil
  }

  func silenceLimit(of device: DeviceID) -> Duration {
    if isBusy(device) { return JobLimits.busySilence }
    if isWatching(device) { return JobLimits.watcherSilence }
    return situation.interruption == nil && isDistant(device) ? JobLimits.distantSilence : JobLimits.silence
  }

  /// Whether this device's run of the plan in force goes on, as far as it knows.
  var isInStride: Bool {
    situation.interruption == nil && leave == nil && !hasResult && run?.stamp == position
      && place != nil && progress.phase.isRunning
  }

  /// Whether a device's run went on when it spoke last, and it is not this one's neighbour in the plan: it speaks to its
  /// neighbours more often than to this device.
  private func isDistant(_ device: DeviceID) -> Bool {
    guard let current, stamps[device] == position, let told = devices[device], told.phase.isRunning,
      !told.isLeaving
    else { return false }
    return current.proposal.participants.contains(device)
      && !current.proposal.neighbours(of: own).contains(device)
  }

  /// Whether a device has no part in the plan in force and no vote on the next.
  func isWatching(_ device: DeviceID) -> Bool {
    guard let current else { return false }
    return !current.proposal.household.contains(device) && decree.roster.weight(of: device) == 0
  }

  /// Whether a device has not said why it could not compute, as far as this device knows it.
  func mayTakePart(_ device: DeviceID) -> Bool {
    guard let told = devices[device] else { return false }
    return declines[device] == nil && !told.isLeaving
  }

  /// Whether a device takes part in gossip and has said something lately, or has not had the time to.
  func isPresent(_ device: DeviceID, at now: MonotonicInstant) -> Bool {
    if device == own { return true }
    guard membership.alive.contains(device) else { return false }
    if let last = heard[device] {
      guard let interruption = situation.interruption else {
        return last.duration(to: now) < silenceLimit(of: device)
      }
      let isBlamed =
        interruption.culprit == device || devices.values.contains(where: { $0.culprit == device })
      if isBlamed, last <= interruption.since,
        !membership.reachable.contains(device)
          || interruption.since.duration(to: now) >= JobLimits.culpritWait
      {
        // A run's connection to it has ended, and its session too: who leads in its place need not wait.
        return false
      }
      // Who had no reason to speak to this device often has one only since it knows of the interruption.
      let due = isDistant(device) && !isBlamed ? max(last, interruption.since) : last
      return due.duration(to: now) < silenceLimit(of: device)
    }
    return started.duration(to: now)
      < (certificate == nil ? JobLimits.busySilence : JobLimits.gatherWait)
  }

  /// Whether a device has said something lately.
  func isThere(_ device: DeviceID, at now: MonotonicInstant) -> Bool {
    device == own || heard[device] != nil && isPresent(device, at: now)
  }

  /// Whether a device that is there has measured itself and does not want to leave.
  private func isFit(_ device: DeviceID) -> Bool {
    guard let told = progress(of: device) else { return false }
    return told.isPrepared && !told.isLeaving
  }

  /// Who plans: the first suggestion while it is there, then gossip's present one, then the owner, then anybody of
  /// those who decide; once there is a plan, devices that are ready to plan come first, and those that cannot compute
  /// themselves last.
  package func leader(at now: MonotonicInstant) -> DeviceID? { leader(without: nil, at: now) }

  /// Who would plan if the leader were lost; nil when nobody could.
  package func deputy(at now: MonotonicInstant) -> DeviceID? {
    leader(at: now).flatMap { leader(without: $0, at: now) }
  }

  private func leader(without lost: DeviceID?, at now: MonotonicInstant) -> DeviceID? {
    let wanted = [specification.leader, membership.leader, specification.owner].compactMap { $0 }
    let voters = decree.roster.devices
    var (unwilling, unfit): (DeviceID?, DeviceID?)
    // Asked with every word that comes: whoever comes first is fit nearly always, and nobody else is looked at then.
    for device in wanted + voters
    where device != lost && voters.contains(device) && isPresent(device, at: now) {
      if declines[device] != nil {
        unwilling = unwilling ?? device
      } else if certificate == nil || isFit(device) {
        return device
      } else {
        unfit = unfit ?? device
      }
    }
    return certificate == nil ? nil : unfit ?? unwilling
  }

  // MARK: - Notes

  mutating func note(_ event: JobNote.Event, at now: MonotonicInstant) {
    notes.append(
      JobNote(
        ordinal: noteCount,
        seconds: Double(started.duration(to: now).components.seconds)
          + Double(started.duration(to: now).components.attoseconds) * 1e-18,
        epoch: position.epoch, event: event))
    noteCount &+= 1
    if notes.count > JobLimits.notes { notes.removeFirst(notes.count - JobLimits.notes) }
  }
}
