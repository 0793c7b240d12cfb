import Determinism
import MeshModel
import TrainingCoordination

/// What happens to machines, processes, wires and minds.
extension JobSimulation {
  mutating func apply(_ fault: JobFault) {
    note(20, 0, 0, "FAULT \(fault)")
    checks.lastFault = now
    switch fault {
    case .start(let device): start(device)
    case .kill(let device): endProcess(device, isSilent: false)
    case .losePower(let device): losePower(device)
    case .killAtPersist(let device, let isWritten):
      if devices[device].process != nil { devices[device].killsAtPersist = isWritten }
    case .killLeader(let moment, let milliseconds): armed = (moment, milliseconds)
    case .stop(let device): devices[device].isStopped = devices[device].process != nil
    case .proceed(let device): proceed(device)
    case .suspend(let device):
      guard devices[device].machine == .on else { return }
      devices[device].machine = .asleep
      devices[device].clock.suspend(at: now)
    case .resume(let device): wakeUp(device)
    case .slow(let device, let times): slow(device, times: times)
    case .cut(let from, let to): network.cut(from: from, to: to, true)
    case .uncut(let from, let to):
      network.cut(from: from, to: to, false)
      flushStreams()
    case .partition(let groups):
      network.partition(groups)
      flushStreams()
    case .mend:
      network.mend()
      flushStreams()
    case .conditions(let conditions): network.set(conditions)
    case .reset(let one, let other): reset(one, other)
    case .tear(let moment): tearing = moment
    case .suspect(let device, let other, let milliseconds):
      devices[device].process?.doubts[other] = now.advanced(by: .milliseconds(milliseconds))
    case .leave(let device):
      guard canBeAsked(device) else { return }
      devices[device].pause = "needed for something else"
      give(.leave(reason: "needed for something else"), to: device)
    case .rejoin(let device):
      guard devices[device].pause != nil, canBeAsked(device) else { return }
      devices[device].pause = nil
      give(.rejoin, to: device)
    case .shutDown(let device): shutDown(device)
    case .fillDisk(let device): devices[device].disk.isFull = true
    case .freeDisk(let device):
      guard devices[device].disk.isFull else { return }
      devices[device].disk.isFull = false
      if devices[device].machine == .on, devices[device].process == nil { start(device) }
    case .failRun(let device):
      guard devices[device].isRunning, devices[device].process?.coordinator?.canDoWithout ?? false else {
        return
      }
      stopRun(device, .own, "something does not work here")
    case .adopt(let device):
      guard devices[device].process?.coordinator?.state == .paused else { return }
      note(21, device, 0, "\(device) adopts the job")
      give(.adopt, to: device)
    case .settled: settleAll()
    }
  }

  /// Whether a person can give a device a word: one that sleeps or stands still hears none, one without a process
  /// reads it when it starts.
  private func canBeAsked(_ device: Int) -> Bool {
    devices[device].process == nil || devices[device].isRunning
  }

  // MARK: - Processes

  mutating func start(_ device: Int) {
    if devices[device].machine == .off {
      devices[device].machine = .on
      // It may have lost its power asleep; what is switched on is awake.
      devices[device].clock.resume(at: now)
    }
    guard devices[device].process == nil, devices[device].machine == .on else { return }
    devices[device].life += 1
    devices[device].isStopped = false
    devices[device].held = []
    devices[device].killsAtPersist = nil
    let count = plan.deviceCount
    devices[device].process = JobProcess(
      heard: Array(repeating: now, count: count), doubts: Array(repeating: .zero, count: count),
      membership: membership(of: device, heard: nil), lastCheckpoint: now)
    note(22, device, devices[device].life, "\(device) starts")
    if let record = devices[device].disk.record {
      open(record, isRestart: true, at: device)
    } else if device == plan.owner, !checks.wasSubmitted {
      checks.wasSubmitted = true
      open(StoredJob(specification), isRestart: false, at: device)
    }
  }

  /// The process ends as by `kill -9`; unless it is silent, the kernel closes its sockets.
  mutating func endProcess(_ device: Int, isSilent: Bool) {
    guard devices[device].process != nil else { return }
    note(23, device, 0, "\(device) ends")
    if !isSilent { breakStreams(of: device) }
    devices[device].process = nil
    devices[device].life += 1
    devices[device].isStopped = false
    devices[device].held = []
    devices[device].killsAtPersist = nil
    var chance = devices[device].chance
    devices[device].disk.crash(&chance)
    devices[device].chance = chance
  }

  private mutating func losePower(_ device: Int) {
    endProcess(device, isSilent: true)
    devices[device].machine = .off
    var chance = devices[device].chance
    devices[device].disk.losePower(&chance)
    devices[device].chance = chance
  }

  private mutating func shutDown(_ device: Int) {
    guard devices[device].isRunning else { return }
    give(.leave(reason: "its daemon stops"), to: device)
    plan(
      .farewell(device, life: devices[device].life, until: now.advanced(by: .seconds(5))),
      after: .milliseconds(50))
  }

  /// A daemon that stops waits until nothing of it is needed any more, for a while.
  mutating func sayFarewell(_ device: Int, until: MonotonicInstant) {
    guard devices[device].isRunning else { return }
    if now >= until || devices[device].process?.coordinator?.hasLeft ?? true {
      return endProcess(device, isSilent: false)
    }
    plan(.farewell(device, life: devices[device].life, until: until), after: .milliseconds(50))
  }

  private mutating func proceed(_ device: Int) {
    guard devices[device].isStopped else { return }
    devices[device].isStopped = false
    takeHeld(device)
  }

  private mutating func wakeUp(_ device: Int) {
    guard devices[device].machine == .asleep else { return }
    devices[device].machine = .on
    devices[device].clock.resume(at: now)
    flushStreams()
    takeHeld(device)
  }

  /// What came meanwhile reaches the process now; the failure detector sees that it was away itself.
  private mutating func takeHeld(_ device: Int) {
    guard devices[device].isRunning else { return }
    let waiting = devices[device].held
    devices[device].held = []
    for event in waiting { queue.plan(event, at: now) }
    devices[device].process?.heard = Array(repeating: now, count: plan.deviceCount)
    devices[device].process?.plannedWake = nil
    planWake(device)
  }

  mutating func reset(_ one: Int, _ other: Int) {
    for (device, peer) in [(one, other), (other, one)] {
      guard let channel = devices[device].process?.channel, let place = channel.devices.firstIndex(of: peer)
      else { continue }
      let delay = Duration.milliseconds(chance.uniform(below: 50))
      plan(.lost(device, channel: channel.number, place: place), after: delay)
    }
  }

  private mutating func settleAll() {
    armed = nil
    tearing = nil
    network.mend()
    network.set(JobNetworkConditions())
    for device in devices.indices {
      devices[device].killsAtPersist = nil
      slow(device, times: 1)
      devices[device].disk.isFull = false
      wakeUp(device)
      proceed(device)
      if devices[device].pause != nil { apply(.rejoin(device)) }
      start(device)
      for other in devices.indices { devices[device].process?.doubts[other] = .zero }
    }
    flushStreams()
    checks.settled = (time: now, advances: checks.advances)
    plan(.judge, after: JobChecks.patience)
  }

  // MARK: - The leader

  /// Kills a device that leads at the moment that was waited for.
  mutating func strike(_ moment: LeaderMoment, _ device: Int) -> Bool {
    guard let armed, armed.moment == moment, let coordinator = devices[device].process?.coordinator,
      coordinator.leader(at: clock(device)) == devices[device].id
    else { return false }
    self.armed = nil
    note(24, device, 0, "\(device) leads and is killed: \(moment)")
    endProcess(device, isSilent: chance.uniform(below: 2) == 0)
    plan(.restart(device), after: .milliseconds(armed.milliseconds))
    return true
  }

  /// The same at a moment that its messages show.
  mutating func strikeSender(_ message: JobMessage, _ device: Int) {
    switch message.body {
    case .decree(.prepare): _ = strike(.preparing, device)
    case .decree(.accept): _ = strike(.voting, device)
    case .certificate: _ = strike(.certified, device)
    default: break
    }
  }

  // MARK: - The household

  /// Every half second each device hears, or not, of each other; what it believes follows.
  mutating func beat() {
    plan(.beat, after: .milliseconds(500))
    for device in devices.indices where devices[device].isRunning {
      for other in devices.indices
      where other != device && devices[other].isRunning && network.carries(from: other, to: device) {
        devices[device].process?.heard[other] = now
      }
      guard let process = devices[device].process else { continue }
      let seen = membership(of: device, heard: process)
      guard seen != process.membership else { continue }
      devices[device].process?.membership = seen
      let line = keepsLines ? describe(seen, device) : ""
      note(25, device, 0, line)
      give(.membership(seen), to: device)
    }
  }

  private func describe(_ seen: JobMembership, _ device: Int) -> String {
    let alive = seen.alive.compactMap { places[$0] }.sorted()
    return "\(device) sees \(alive), reaches \(seen.reachable.compactMap { places[$0] }.sorted())"
  }

  private func membership(of device: Int, heard process: JobProcess?) -> JobMembership {
    var alive: Set<DeviceID> = [devices[device].id]
    var reachable: Set<DeviceID> = []
    var leader: DeviceID? = devices[device].pause == nil ? devices[device].id : nil
    var rank = devices[device].pause == nil ? device : .max
    for other in devices.indices where other != device {
      guard let process, process.doubts[other] <= now else { continue }
      let silence = process.heard[other].duration(to: now)
      guard silence < plan.suspicion, devices[other].life > 0 else { continue }
      alive.insert(devices[other].id)
      let isGone = devices[other].process == nil && devices[other].machine == .on
      if silence < .milliseconds(2_500), !isGone, network.connects(device, other) {
        reachable.insert(devices[other].id)
      }
      // Who is away by its own wish is not suggested.
      if devices[other].pause == nil, other < rank { (leader, rank) = (devices[other].id, other) }
    }
    return JobMembership(
      alive: alive, reachable: reachable, leader: leader, keys: keyring,
      admins: Set(devices.prefix(2).map(\.id)))
  }
}
