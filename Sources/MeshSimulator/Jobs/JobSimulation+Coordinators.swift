import CryptoPrimitives
import Determinism
import MeshModel
import ParallelPlanner
import TrainingCoordination

/// What a daemon does for a job's coordinator: the inputs it gives, the effects it performs.
extension JobSimulation {
  // MARK: - Inputs

  mutating func give(_ input: JobInput, to device: Int) {
    guard devices[device].isRunning, devices[device].process?.coordinator != nil else { return }
    let time = clock(device)
    let effects = devices[device].process?.coordinator?.handle(input, at: time) ?? []
    perform(effects, device)
    settle(device)
  }

  mutating func wake(_ device: Int, _ life: Int) {
    guard devices[device].life == life, devices[device].isRunning,
      let planned = devices[device].process?.plannedWake, planned <= now
    else { return }
    devices[device].process?.plannedWake = nil
    guard let deadline = devices[device].process?.coordinator?.nextDeadline else { return }
    if deadline <= clock(device) { give(.tick, to: device) } else { planWake(device) }
  }

  func wakeTime(_ device: Int) -> MonotonicInstant? {
    devices[device].process?.coordinator?.nextDeadline.map { devices[device].clock.time(ofMonotonic: $0) }
  }

  mutating func planWake(_ device: Int) {
    guard devices[device].isRunning, let due = wakeTime(device) else { return }
    let time = max(now, due)
    if let planned = devices[device].process?.plannedWake, planned <= time { return }
    devices[device].process?.plannedWake = time
    queue.plan(.wake(device, life: devices[device].life), at: time)
  }

  /// After every input: the checks, and the timer.
  mutating func settle(_ device: Int) {
    inspect(device)
    planWake(device)
  }

  /// A message on a control session.
  mutating func take(_ message: JobMessage, from sender: Int, at device: Int) {
    if devices[device].process?.coordinator == nil { meet(message, from: sender, at: device) }
    guard devices[device].process?.coordinator != nil else { return }
    let line = keepsLines ? "\(sender) > \(device)  \(describe(message))" : ""
    note(1, sender, device, line)
    give(.message(message, from: devices[sender].id), to: device)
  }

  /// A message about a job that is not known here: an offer opens it, anything else is answered.
  private mutating func meet(_ message: JobMessage, from sender: Int, at device: Int) {
    switch message.body {
    case .offer(let specification): open(StoredJob(specification), isRestart: false, at: device)
    case .unknown, .ended: break
    default: post(JobMessage(message.stamp, .unknown), from: device, to: devices[sender].id)
    }
  }

  /// Makes the job known to a device.
  mutating func open(_ record: StoredJob, isRestart: Bool, at device: Int) {
    guard let membership = devices[device].process?.membership else { return }
    var coordinator = JobCoordinator(
      own: devices[device].id, record: record, keys: devices[device].keys, membership: membership,
      generator: SeededGenerator(seed: devices[device].chance.next()), at: clock(device))
    let effects = coordinator.begin(isRestart: isRestart, at: clock(device))
    devices[device].process?.coordinator = coordinator
    note(2, device, isRestart ? 1 : 0, "\(device) opens the job\(isRestart ? " again" : "")")
    perform(effects, device)
    settle(device)
    if let reason = devices[device].pause { give(.leave(reason: reason), to: device) }
  }

  // MARK: - Effects

  private mutating func perform(_ effects: [JobEffect], _ device: Int) {
    let life = devices[device].life
    for effect in effects {
      // A process that was killed in between does nothing more.
      guard devices[device].life == life, devices[device].isRunning else { return }
      switch effect {
      case .persist(let record): persist(record, device)
      case .send(let message, let other):
        strikeSender(message, device)
        guard devices[device].life == life, devices[device].isRunning else { return }
        post(message, from: device, to: other)
      case .prepare: ask(.prepared, device, after: milliseconds(100...900))
      case .plan(let request):
        if strike(.planning, device) { return }
        ask(.planned(request), device, after: milliseconds(20...700))
      case .survey(let request):
        // Now and then nothing comes of it, and nobody says so.
        if chance.uniform(below: 4) > 0 { ask(.surveyed(request), device, after: milliseconds(20...3_000)) }
      case .fetch(let certificate): fetch(certificate, device)
      case .start(let certificate): startRun(certificate, device)
      case .drain:
        note(3, device, 0, "\(device) drains")
        drainRun(device)
      case .interrupt(let reason): interruptRun(device, reason)
      case .deliver(let completion, let holders): deliver(completion, from: holders, device)
      case .end(let outcome): end(outcome, device)
      }
    }
  }

  private mutating func persist(_ record: StoredJob, _ device: Int) {
    let kill = devices[device].killsAtPersist
    devices[device].killsAtPersist = nil
    if kill == false { return strikeDown(device) }
    checkStored(record, device)
    if devices[device].misbehaviour != .neverPersists, !devices[device].disk.store(record) {
      // What follows from a record that is not on the disk must not be said: the daemon ends, and comes back with space.
      note(4, device, 0, "\(device) cannot write its record")
      return endProcess(device, isSilent: false)
    }
    if kill == true { strikeDown(device) }
  }

  /// Kills a device and starts it again a while later.
  private mutating func strikeDown(_ device: Int) {
    endProcess(device, isSilent: false)
    plan(.restart(device), after: milliseconds(500...9_000))
  }

  mutating func post(_ message: JobMessage, from device: Int, to other: DeviceID) {
    guard let receiver = places[other], receiver != device else { return }
    let bytes = checkSent(message, device)
    for time in network.message(bytes: bytes, from: device, to: receiver, at: now) {
      queue.plan(.control(message, from: device, to: receiver), at: time)
    }
  }

  /// Begins work that answers later; an older question of the same process is answered all the same.
  private mutating func ask(_ answer: JobAnswer, _ device: Int, after delay: Duration) {
    devices[device].process?.request += 1
    let request = devices[device].process?.request ?? 0
    plan(.input(device, life: devices[device].life, request: request, answer), after: delay)
  }

  mutating func take(_ answer: JobAnswer, request: Int, at device: Int) {
    switch answer {
    case .prepared:
      if devices[device].pause != nil {
        give(.unprepared("paused"), to: device)
      } else if devices[device].disk.isFull {
        give(.unprepared("no space"), to: device)
      } else {
        give(.prepared(report: [UInt8(device)]), to: device)
      }
    case .planned(let request):
      note(5, device, 0, "\(device) has planned, \(request.cause), \(request.reports.count) reports")
      give(makePlan(request, device), to: device)
    case .surveyed(let request):
      let reached = devices.indices.filter { network.connects(device, $0) && devices[$0].isRunning }
      note(7, device, reached.count, "\(device) has measured \(reached.count) links")
      give(
        reached.isEmpty
          ? .unsurveyed(request: request)
          : .surveyed(
            request: request,
            reached.map {
              DeviceLink(to: devices[$0].id, bytesPerSecond: 1_000_000, roundTrip: .milliseconds(2))
            }), to: device)
    case .stopped(let stamp, let stop): give(.stopped(stamp, stop), to: device)
    case .fetched(let stamp): give(.ready(stamp), to: device)
    case .delivered(let digest, let holder):
      // The holder must still be there when the last byte comes.
      guard holder == device || (devices[holder].isRunning && network.connects(device, holder)),
        devices[holder].disk.result?.digest == digest
      else { return give(.failed(nil, .own, "the result's holder is gone"), to: device) }
      give(.delivered(digest), to: device)
    }
  }

  private mutating func fetch(_ certificate: PlanCertificate, _ device: Int) {
    checkUsed(certificate, device, "fetches for")
    let isNew = !devices[device].disk.hasPackage
    devices[device].disk.hasPackage = true
    ask(
      .fetched(certificate.stamp), device,
      after: isNew ? milliseconds(100...1_500) : milliseconds(1...80))
  }

  private mutating func deliver(_ completion: RunCompletion, from holders: [DeviceID], _ device: Int) {
    guard let digest = completion.digest, devices[device].id == devices[plan.owner].id else {
      return violate(.effectsFit, "device \(device) delivers without being the owner, or without a digest")
    }
    let reachable = holders.compactMap { places[$0] }.first {
      $0 == device || (devices[$0].isRunning && network.connects(device, $0))
    }
    guard let holder = reachable else {
      return ask(.delivered(digest, from: device), device, after: milliseconds(500...2_000))
    }
    ask(.delivered(digest, from: holder), device, after: milliseconds(20...600))
  }

  private mutating func end(_ outcome: JobOutcome, _ device: Int) {
    note(6, device, 0, "\(device) ends the job: \(outcome)")
    checkEnd(outcome, device)
    if devices[device].process?.run != nil { dropRun(device, tells: true) }
  }

  // MARK: - Words for the trace

  func describe(_ message: JobMessage) -> String {
    let head = "t\(message.stamp.term)e\(message.stamp.epoch) "
    switch message.body {
    case .offer: return head + "offer"
    case .report: return head + "report"
    case .decline(let reason): return head + "decline \(reason)"
    case .decree(let step): return head + "decree " + describe(step)
    case .certificate(let certificate): return head + "certificate of \(certificate.stamp.epoch)"
    case .progress(let progress):
      return head
        + "progress \(progress.phase) step \(progress.committedStep)"
        + (progress.isLeaving ? " leaving" : "") + (progress.hasLearned ? " learned" : "")
    case .completed(let completion):
      return head + "completed \(completion.digest.map { "\($0)".prefix(8) } ?? "in part")"
    case .ended(let outcome): return head + "ended \(outcome)"
    case .unknown: return head + "unknown"
    case .reportWanted: return head + "report wanted"
    case .notUsed(_, let reason): return head + "not used: \(reason)"
    case .adopted(let adoption): return head + "adopted as term \(adoption.stamp.term)"
    case .links(let links): return head + "\(links.count) links"
    }
  }

  private func describe(_ step: DecreeMessage) -> String {
    func name(_ ballot: Ballot) -> String { "\(ballot.round).\(places[ballot.proposer] ?? -1)" }
    switch step {
    case .prepare(let ballot): return "prepare \(name(ballot))"
    case .promise(let ballot, let accepted):
      return "promise \(name(ballot))" + (accepted.map { ", accepted \(name($0.ballot))" } ?? "")
    case .refused(let ballot, let promised): return "refused \(name(ballot)) for \(name(promised))"
    case .accept(let ballot, _): return "accept \(name(ballot))"
    case .accepted(let ballot, _): return "accepted \(name(ballot))"
    }
  }
}
