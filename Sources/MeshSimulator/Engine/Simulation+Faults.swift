import Determinism
import MeshModel
import MeshPeer
import MeshProtocol

/// What scenarios do to machines and processes.
extension Simulation {
  mutating func apply(_ fault: Fault) {
    trace.add(now, 6, 0, 0, bytes: Array("\(fault)".utf8), line: "* \(fault)")
    switch fault {
    case .start(let device): switchOn(device)
    case .shutDown(let device):
      guard isRunning(device) else { return }
      deliver(.peer(.leave(.shuttingDown)), to: device)
      endProcess(device, machineStaysOn: true)
    case .kill(let device):
      checks.expectAbsence(of: device, at: now)
      endProcess(device, machineStaysOn: true)
    case .losePower(let device):
      checks.expectAbsence(of: device, at: now)
      losePower(device)
    case .losePowerAtNextWrite(let device): devices[device].losesPowerAtNextWrite = true
    case .stop(let device):
      if devices[device].process == .running { devices[device].process = .stopped }
    case .proceed(let device):
      guard devices[device].process == .stopped else { return }
      devices[device].process = .running
      checks.expectReturn(of: device, at: now, .wake)
      goOn(device)
    case .suspend(let device):
      guard devices[device].machine == .on else { return }
      devices[device].machine = .suspended
      devices[device].clock.suspend(at: now)
    case .resume(let device):
      guard devices[device].machine == .suspended else { return }
      devices[device].machine = .on
      devices[device].clock.resume(at: now)
      checks.expectReturn(of: device, at: now, .wake)
      goOn(device)
    case .move(let device, let host): move(device, to: host)
    case .clone(let device, let spare):
      devices[spare].disk = devices[device].disk
      switchOn(spare)
    case .conditions, .link, .clog, .partition, .cut, .uncut, .udpBlocked, .inbound, .multicastBlocked, .mend:
      applyToNetwork(fault)
    case .measureLinks(let device):
      guard isRunning(device) else { return }
      deliver(.peer(.measureLinks), to: device)
    case .revoke(let device, let admin): revoke(device, by: admin)
    case .renewKey(let admin): renewKey(by: admin)
    case .settled: checks.settledAt = now
    }
  }

  private mutating func applyToNetwork(_ fault: Fault) {
    switch fault {
    case .conditions(let conditions):
      for from in devices.indices {
        for to in devices.indices { network.setConditions(conditions, from: from, to: to) }
      }
    case .link(let from, let to, let conditions): network.setConditions(conditions, from: from, to: to)
    case .clog(let from, let to, let wait): network.clog(from: from, to: to, until: now.advanced(by: wait))
    case .partition(let groups): network.partition(groups)
    case .cut(let from, let to): network.cut(from: from, to: to, true)
    case .uncut(let from, let to): network.cut(from: from, to: to, false)
    case .udpBlocked(let device, let isBlocked): network.blockUDP(of: device, isBlocked)
    case .inbound(let device, let rule): network.setInbound(of: device, rule)
    case .multicastBlocked(let isBlocked): network.blockMulticast(isBlocked)
    case .mend: network.mend()
    default: break
    }
  }

  // MARK: - Machines

  private mutating func switchOn(_ device: Int) {
    guard devices[device].process == .down else { return }
    if devices[device].machine == .off {
      devices[device].machine = .on
      devices[device].clock = DeviceClock(
        start: now, base: .milliseconds(devices[device].chance.uniform(below: 60_000)),
        drift: devices[device].clock.drift)
    }
    startProcess(device)
    checks.expectReturn(of: device, at: now, .start)
  }

  /// What was held while the process or the machine stood still happens now, in its order.
  private mutating func goOn(_ device: Int) {
    let held = devices[device].held
    devices[device].held = []
    devices[device].heldDatagrams = 0
    for event in held { queue.plan(event, at: now) }
    devices[device].plannedWake = nil
    planWake(of: device)
  }

  private func forgetProcess(_ device: inout SimulatedDevice) {
    device.peer = nil
    device.process = .down
    device.life += 1
    device.held = []
    device.heldDatagrams = 0
    device.plannedWake = nil
    device.replay = [:]
    device.sealed = [:]
    device.closedDials = [:]
  }

  mutating func endProcess(_ device: Int, machineStaysOn: Bool) {
    guard devices[device].process != .down else { return }
    dropStreams(of: device, machineStaysOn: machineStaysOn)
    forgetProcess(&devices[device])
  }

  /// The machine loses power.
  mutating func losePower(_ device: Int) {
    guard devices[device].machine != .off else { return }
    if devices[device].machine == .suspended { devices[device].clock.resume(at: now) }
    endProcess(device, machineStaysOn: false)
    devices[device].machine = .off
    devices[device].disk.losePower(at: now)
    published[device] = nil
  }

  private mutating func move(_ device: Int, to host: NetworkAddress.Host) {
    devices[device].host = host
    // Its connections end at an address that it does not have any more; the others' ends notice by silence.
    for id in devices[device].streams {
      guard let stream = streams[id] else { continue }
      let side = stream.side(of: device)
      streams[id]?.directions[side] = StreamDirection()
      if stream.ends[side].phase == .open { inform(id, side: side, .disconnected) }
    }
    dropStreams(of: device, machineStaysOn: false)
    guard isRunning(device) else { return }
    deliver(.peer(.interfaces([interface(of: device)])), to: device)
  }
}
