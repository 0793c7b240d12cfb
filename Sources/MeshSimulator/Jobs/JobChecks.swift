import CryptoPrimitives
import Determinism
import TrainingCoordination
import WireCoding

/// What the rules of a job's run remember.
struct JobChecks: Sendable {
  /// How long a job may take to go on after the last fault.
  static let patience: Duration = .seconds(30)
  /// Messages on control sessions that a device may send in a second: everybody is told of every change.
  static let messagesPerSecond = 60
  /// Messages of a run that may wait to be asked for.
  static let waitingMail = 600

  /// The plan of each term and epoch, by its digest.
  var plans: [JobStamp: ContentDigest] = [:]
  var newest: JobStamp?
  var wasSubmitted = false
  /// Steps applied, and units computed because nobody had their activations.
  var advances = 0
  /// The newest step that any device has applied.
  var furthest = 0
  /// How often each device applied each step.
  var applied: [Int: Int] = [:]
  /// When all faults were over, and how far the job had come then.
  var settled: (time: MonotonicInstant, advances: Int)?
  var lastFault = MonotonicInstant.zero
  /// What each disk said last.
  var records: [Int: StoredJob] = [:]
  /// Messages of each device in the second at hand, and in the run.
  var seconds: [Int: (second: Int64, count: Int)] = [:]
  var sent = 0
  /// Certificates that each device has seen verified.
  var certified: [Int: JobStamp] = [:]
}

extension JobSimulation {
  // MARK: - Plans

  /// A device shows a certificate: it must be the plan of its epoch.
  private mutating func checkPlan(_ certificate: PlanCertificate, _ device: Int) {
    let digest = certificate.proposal.digest
    guard let known = checks.plans[certificate.stamp] else {
      checks.plans[certificate.stamp] = digest
      record.planEpochs += 1
      do throws(CertificateFailure) {
        try certificate.verify(roster: certificate.roster) { keyring[$0] }
      } catch {
        violate(.onePlanPerEpoch, "device \(device) has a certificate that does not hold: \(error)")
      }
      return
    }
    if known != digest {
      violate(
        .onePlanPerEpoch,
        "device \(device) has another plan of term \(certificate.stamp.term), epoch \(certificate.stamp.epoch)"
      )
    }
  }

  /// A device is about to fetch for a plan, or to start it.
  mutating func checkUsed(_ certificate: PlanCertificate, _ device: Int, _ what: String) {
    checkPlan(certificate, device)
    let stamp = certificate.stamp
    if !certificate.proposal.household.contains(devices[device].id) {
      violate(.effectsFit, "device \(device) \(what) a plan that does not name it")
    }
    guard devices[device].misbehaviour == nil else { return }
    if devices[device].disk.record?.certificate?.stamp != stamp {
      violate(.effectsFit, "device \(device) \(what) plan \(stamp.epoch), which is not on its disk")
    }
    if devices[device].process?.coordinator?.certificate?.stamp != stamp {
      violate(.effectsFit, "device \(device) \(what) plan \(stamp.epoch), which is not in force there")
    }
  }

  /// After each input of a coordinator.
  mutating func inspect(_ device: Int) {
    guard let coordinator = devices[device].process?.coordinator else { return }
    if let certificate = coordinator.certificate, checks.certified[device] != certificate.stamp {
      checks.certified[device] = certificate.stamp
      note(
        30, device, Int(certificate.stamp.epoch),
        "\(device) has t\(certificate.stamp.term)e\(certificate.stamp.epoch)")
      checkPlan(certificate, device)
    }
    if case .finished = coordinator.record.outcome, device == plan.owner, record.finished == nil {
      record.finished = MonotonicInstant.zero.duration(to: now).inSeconds
    }
    checkOver()
  }

  // MARK: - Disks

  /// A record is about to be written.
  mutating func checkStored(_ new: StoredJob, _ device: Int) {
    defer { checks.records[device] = new }
    guard let old = devices[device].disk.record ?? checks.records[device],
      old.specification.id == new.specification.id
    else { return }
    func fall(_ what: String) { violate(.recordsGrow, "device \(device): its \(what) goes back") }
    let (oldTerm, newTerm) = (old.specification.term, new.specification.term)
    if newTerm < oldTerm { return fall("term") }
    if newTerm == oldTerm {
      // Plan epochs count from the adoption on; a certificate of the term before says nothing in this one.
      let (before, after) = (old.position.epoch, new.position.epoch)
      if after < before { return fall("plan epoch from \(before) to \(after)") }
      if after == before {
        if let promised = old.decree.promised, new.decree.promised.map({ $0 < promised }) ?? true {
          return fall("promise")
        }
        if old.decree.accepted != nil, new.decree.accepted == nil { return fall("vote") }
        if new.decree.round < old.decree.round { return fall("round") }
      }
    }
    if old.outcome != nil, new.outcome == nil { fall("outcome") }
    let bytes = new.encoded.count
    if bytes > JobLimits.recordBytes {
      violate(.boundedMemory, "the record of device \(device) has \(bytes) bytes")
    }
  }

  // MARK: - Messages

  /// A message is about to be sent: bounded in number and size, and readable; its bytes.
  mutating func checkSent(_ message: JobMessage, _ device: Int) -> Int {
    record.controlMessages += 1
    checks.sent += 1
    let second = now.nanoseconds / 1_000_000_000
    var tally = checks.seconds[device] ?? (second, 0)
    if tally.second != second { tally = (second, 0) }
    tally.count += 1
    checks.seconds[device] = tally
    // One for each other device, for a beat, an answer and a question each, and what a decree takes.
    let limit = JobChecks.messagesPerSecond * plan.deviceCount
    if tally.count == limit + 1 {
      violate(.boundedMessages, "device \(device) sends more than \(limit) messages in a second")
    }
    // Encoding costs more than all else; a share of the messages stands for all.
    var isLarge = false
    switch message.body {
    case .certificate, .decree, .offer: isLarge = true
    default: break
    }
    guard checks.sent % 16 == 0 || isLarge && checks.sent % 4 == 0 else { return isLarge ? 1_200 : 300 }
    let bytes = message.encoded
    if bytes.count > JobLimits.messageBytes {
      violate(.messagesFit, "a message of device \(device) has \(bytes.count) bytes: \(describe(message))")
    }
    guard let read = try? JobMessage(decoding: bytes), read == message else {
      violate(.messagesFit, "a message of device \(device) reads back as another: \(describe(message))")
      return bytes.count
    }
    return bytes.count
  }

  // MARK: - Runs

  /// A run begins after this step.
  mutating func checkEntered(_ step: Int, _ device: Int) {
    if step > checks.furthest {
      violate(.sameValues, "device \(device) goes on after step \(step), which nobody has applied")
    }
  }

  /// A device has applied a step: what it holds must be what one device alone would have.
  mutating func checkCommitted(_ step: Int, _ device: Int) {
    guard let state = devices[device].process?.run?.lastCommitted else { return }
    checks.advances += 1
    record.commits += 1
    let key = device << 32 | step
    checks.applied[key, default: 0] += 1
    if checks.applied[key] ?? 0 > 1 { record.repeated += 1 }
    checks.furthest = max(checks.furthest, step)
    if let settled = checks.settled, record.recovery == nil, checks.advances > settled.advances {
      record.recovery = settled.time.duration(to: now).inSeconds
    }
    for layer in state.layers.indices where state.layers[layer] {
      if state.digest(layer) != reference.digests[step][layer] {
        violate(.sameValues, "device \(device) has other values of layer \(layer) after step \(step)")
        return
      }
    }
    if state.lossSum != reference.lossSums[step], state.layers.contains(true) {
      violate(.sameValues, "device \(device) has another sum of losses after step \(step)")
    }
  }

  mutating func checkMemory(_ run: StandInRun, _ device: Int) {
    if run.waitingMail > JobChecks.waitingMail {
      violate(.boundedMemory, "\(run.waitingMail) messages wait in the run of device \(device)")
    }
  }

  /// A device has all trained values at the end.
  mutating func checkResult(_ state: StandInState, _ device: Int) {
    if state.step != plan.job.totalSteps || state.digest != reference.final {
      violate(.sameAdapter, "device \(device) ends after step \(state.step) with other values")
    }
    let cache = devices[device].disk.cache
    for unit in 0..<plan.job.unitCount {
      if let kept = cache.entries[unit], kept != model.activations(of: unit) {
        return violate(.sameValues, "device \(device) keeps other activations of unit \(unit)")
      }
    }
  }

  mutating func checkEnd(_ outcome: JobOutcome, _ device: Int) {
    switch outcome {
    case .finished(let adapter, _):
      if adapter != reference.final {
        violate(.sameAdapter, "device \(device) ends the job with another adapter")
      }
    case .failed(_, let reason): violate(.ends, "device \(device) ends the job as failed: \(reason)")
    case .stopped: violate(.ends, "device \(device) ends the job as stopped, and nobody wanted that")
    }
  }

  // MARK: - Progress

  /// The run is over when every device that is there knows how the job ended.
  private mutating func checkOver() {
    guard checks.settled != nil || plan.steps.allSatisfy({ $0.time < now }) else { return }
    isOver = devices.allSatisfy { device in
      device.isRunning
        && device.process?.coordinator.map { $0.record.outcome != nil } ?? (device.disk.record == nil)
    }
  }

  /// Half a minute after the last fault.
  mutating func judgeProgress() {
    guard let settled = checks.settled else { return }
    let isOwnerDone = devices[plan.owner].process?.coordinator?.record.outcome != nil
    guard checks.advances == settled.advances, !isOwnerDone else { return }
    violate(
      .advances,
      "no device has applied a step since the faults were over: " + situation())
  }

  mutating func finishChecks() {
    guard record.violations.isEmpty || !plan.stopsAtViolation else { return }
    guard case .finished(let adapter, _)? = devices[plan.owner].process?.coordinator?.record.outcome else {
      return violate(.ends, "the owner has no adapter at the end: " + situation())
    }
    if adapter != reference.final { violate(.sameAdapter, "the owner has another adapter") }
    let bound = Int(now.nanoseconds / 1_000_000_000 + 1) * 12 * plan.deviceCount * plan.deviceCount
    if record.controlMessages > bound {
      violate(.boundedMessages, "\(record.controlMessages) messages on control sessions, more than \(bound)")
    }
  }

  /// What each device is busy with, for a violation's text.
  func situation() -> String {
    devices.map { device in
      guard let process = device.process else { return "\(device.index): \(device.machine)" }
      guard let coordinator = process.coordinator else { return "\(device.index): no job" }
      let epoch = coordinator.certificate?.stamp.epoch ?? 0
      return "\(device.index): \(coordinator.state.rawValue) \(coordinator.progress.phase) e\(epoch)"
        + (process.run.map { " run \($0.phase) after step \($0.state.step)" } ?? "")
    }.joined(separator: "; ")
  }
}
