package import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import PeerDiscovery

/// A home of simulated devices: one thread, virtual time, and everything decided by a seed.
///
/// The loop takes the earliest event, lets it happen, and hands what the devices want done back to the network, the
/// disks and the clocks:
///
///     while let (time, event) = queue.next(), time <= end { now = time; happen(event) }
package struct Simulation: Sendable {
  /// What is simulated.
  package let plan: SimulationPlan
  /// The simulation's time.
  package internal(set) var now = MonotonicInstant.zero
  /// The wires.
  package internal(set) var network: SimulatedNetwork
  /// The machines.
  package internal(set) var devices: [SimulatedDevice] = []
  /// What has been found and measured.
  package internal(set) var record = RunRecord()
  /// Everything that happened.
  package internal(set) var trace: SimulationTrace

  var queue = EventQueue<SimulationEvent>()
  var streams: [Int: SimulatedStream] = [:]
  var nextStream = 1
  var published: [Int: ServiceAnnouncement] = [:]
  var chance: SeededGenerator
  let family: SimulatedFamily
  var checks: RunChecks

  /// A home that is about to be switched on.
  package init(_ plan: SimulationPlan, keepingLines: Bool = false) {
    self.plan = plan
    let count = plan.deviceCount + plan.spareCount
    network = SimulatedNetwork(deviceCount: count, conditions: plan.conditions, seed: plan.seed)
    trace = SimulationTrace(keepingLines: keepingLines)
    chance = SeededGenerator(seed: plan.seed, 0x6368_616E_6365)
    family = SimulatedFamily.of(plan.deviceCount)
    checks = RunChecks(deviceCount: count)
    for index in 0..<count {
      devices.append(makeDevice(index))
    }
    for (index, step) in plan.steps.enumerated() { queue.plan(.step(index), at: step.time) }
    queue.plan(.inspect, at: .zero.advanced(by: RunChecks.interval))
  }

  private func makeDevice(_ index: Int) -> SimulatedDevice {
    var chance = SeededGenerator(seed: plan.seed, 0x6465_7669_6365, UInt64(index))
    let drift = Int64(chance.uniform(below: Int(2 * DeviceClock.driftLimit + 1))) - DeviceClock.driftLimit
    let base = Duration.milliseconds(chance.uniform(below: 86_400_000))
    let identity = index < plan.deviceCount ? index : plan.cloneOf
    let clock = DeviceClock(start: .zero, base: base, drift: drift)
    var device = SimulatedDevice(
      index: index, identity: identity, id: family.keys[identity].device,
      host: .v4(0x0A00_0001 + UInt32(index)), clock: clock, chance: chance)
    device.misbehaviour = plan.misbehaviours.first { $0.device == index }?.kind
    return device
  }

  /// Runs to the end of the plan, or to the first violation when the plan asks for that.
  package mutating func run() {
    let end = MonotonicInstant.zero.advanced(by: plan.duration)
    while let next = queue.nextTime, next <= end, let (time, event) = queue.next() {
      now = time
      happen(event)
      if plan.stopsAtViolation, !record.violations.isEmpty { break }
    }
    now = min(end, max(now, end))
    finishChecks()
  }

  // MARK: - Events

  private mutating func happen(_ event: SimulationEvent) {
    record.eventCount += 1
    switch event {
    case .wake(let device, let life): wake(device, life)
    case .process(let device, let life, let input):
      guard devices[device].life == life, devices[device].process != .down else { return }
      guard isRunning(device) else { return devices[device].hold(event) }
      deliver(input, to: device)
    case .datagram(let device, let stream, let counter, let body):
      guard devices[device].machine == .on, devices[device].process != .down else { return }
      let input = SimulatedInput.datagram(stream: stream, counter: counter, body)
      guard isRunning(device) else {
        return devices[device].hold(.process(device, life: devices[device].life, input))
      }
      deliver(input, to: device)
    case .beacon(let device, let bytes, let address):
      guard isRunning(device) else { return }
      deliver(.peer(.beacon(bytes, from: address)), to: device)
    case .service(let device, let other, let announcement):
      guard isRunning(device), network.carries(from: other, to: device) else { return }
      let address = NetworkAddress(devices[other].host, port: announcement.port)
      deliver(.peer(.hint(.init(service: announcement.record, at: address))), to: device)
    case .segment(let id, let side, let segment): arrive(segment, on: id, from: side)
    case .streamRetry(let id, let side):
      streams[id]?.directions[side].isRetryPlanned = false
      pump(id, side)
    case .streamCheck(let id, let side): checkConfirmation(id, side)
    case .streamDeadline(let id, let side, let phase): expire(id, side: side, phase)
    case .step(let index): apply(plan.steps[index].fault)
    case .inspect:
      inspect()
      queue.plan(.inspect, at: now.advanced(by: RunChecks.interval))
    }
  }

  private mutating func wake(_ device: Int, _ life: Int) {
    guard devices[device].life == life, let planned = devices[device].plannedWake, planned <= now else {
      return
    }
    devices[device].plannedWake = nil
    guard isRunning(device), let deadline = devices[device].peer?.nextDeadline else { return }
    if deadline <= devices[device].clock.reading(at: now).monotonic {
      deliver(.peer(.tick), to: device)
    } else {
      planWake(of: device)
    }
  }

  /// Plans the timer of a process, unless it is planned early enough.
  mutating func planWake(of device: Int) {
    guard isRunning(device), let deadline = devices[device].peer?.nextDeadline else { return }
    let time = max(now, devices[device].clock.time(ofMonotonic: deadline))
    if let planned = devices[device].plannedWake, planned <= time { return }
    devices[device].plannedWake = time
    queue.plan(.wake(device, life: devices[device].life), at: time)
  }

  /// Whether a device's process can do something now.
  package func isRunning(_ device: Int) -> Bool {
    devices[device].machine == .on && devices[device].process == .running
  }

  /// Whose machine answers at an address now.
  func owner(of address: NetworkAddress) -> Int? {
    devices.first { $0.host == address.host && $0.machine != .off }?.index
  }
}
