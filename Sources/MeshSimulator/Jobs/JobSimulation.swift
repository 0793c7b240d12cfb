import CryptoPrimitives
package import Determinism
import HouseholdTrust
import MeshModel
import TrainingCoordination

/// A household that trains one job, in virtual time, with everything decided by a seed.
///
/// Each device drives the production coordinator; sums go round by the production ring; entry into a plan epoch is the
/// production handover. The network, the disks, the clocks, the failure detector and the planner are simulated, and the
/// training is a stand-in of which every lost or doubled sample shows.
package struct JobSimulation: Sendable {
  /// What is simulated.
  package let plan: JobPlan
  /// The simulation's time.
  package internal(set) var now = MonotonicInstant.zero
  /// What has been found and measured.
  package internal(set) var record = JobRunRecord()
  /// Everything that happened.
  package internal(set) var trace: SimulationTrace

  let model: StandInModel
  let reference: StandInReference
  let places: [DeviceID: Int]
  let keyring: [DeviceID: SigningPublicKey]
  var devices: [JobDevice] = []
  var network: JobNetwork
  var queue = EventQueue<JobEvent>()
  var chance: SeededGenerator
  var channels = 0
  var checks = JobChecks()
  /// The leader is struck at its next such moment.
  var armed: (moment: LeaderMoment, milliseconds: Int)?
  /// The connection over which the next such message goes breaks.
  var tearing: StreamMoment?
  /// What streams that were closed in order have still to bring, in order.
  var leftovers: [JobBulkFrame] = []
  var isOver = false
  let keepsLines: Bool

  /// A household that is about to be switched on.
  package init(_ plan: JobPlan, keepingLines: Bool = false) {
    self.plan = plan
    keepsLines = keepingLines
    trace = SimulationTrace(keepingLines: keepingLines)
    model = StandInModel(plan.job)
    reference = StandInReference(model)
    network = JobNetwork(devices: plan.deviceCount, conditions: plan.conditions, seed: plan.seed)
    chance = SeededGenerator(seed: plan.seed, 0x6368_616E_6365)
    let family = SimulatedFamily.of(plan.deviceCount)
    var places: [DeviceID: Int] = [:]
    var keyring: [DeviceID: SigningPublicKey] = [:]
    for index in 0..<plan.deviceCount {
      var dice = SeededGenerator(seed: plan.seed, 0x6465_7669_6365, UInt64(index))
      let drift = Int64(dice.uniform(below: Int(2 * DeviceClock.driftLimit + 1))) - DeviceClock.driftLimit
      let base = Duration.milliseconds(dice.uniform(below: 86_400_000))
      let spread = 0.6 + Double(dice.uniform(below: 1_000)) / 1_000
      devices.append(
        JobDevice(
          index: index, keys: family.keys[index],
          clock: DeviceClock(start: .zero, base: base, drift: drift), chance: dice,
          disk: JobDisk(units: plan.job.unitCount), unitSeconds: plan.unitSeconds * spread))
      places[family.keys[index].device] = index
      keyring[family.keys[index].device] = family.keys[index].signing.publicKey
    }
    self.places = places
    self.keyring = keyring
    for broken in plan.misbehaviours { devices[broken.device].misbehaviour = broken.kind }
    for (index, step) in plan.steps.enumerated() { queue.plan(.step(index), at: step.time) }
    queue.plan(.beat, at: .zero)
  }

  /// Runs to the end of the job, or to the end of the plan's patience.
  package mutating func run() {
    let end = MonotonicInstant.zero.advanced(by: plan.duration)
    while !isOver, let next = queue.nextTime, next <= end, let (time, event) = queue.next() {
      now = time
      record.eventCount += 1
      happen(event)
      if record.eventCount >= JobRunRecord.eventLimit {
        violate(
          .boundedMessages,
          "\(record.eventCount) events in \(decimals(MonotonicInstant.zero.duration(to: now).inSeconds)) s: "
            + situation())
        break
      }
      if plan.stopsAtViolation, !record.violations.isEmpty { break }
    }
    finishChecks()
  }

  // MARK: - Events

  private mutating func happen(_ event: JobEvent) {
    switch event {
    case .step(let index): apply(plan.steps[index].fault)
    case .beat: beat()
    case .wake(let device, let life): wake(device, life)
    case .control(let message, let sender, let device):
      guard canTake(event, device) else { return }
      take(message, from: sender, at: device)
    case .input(let device, let life, let request, let answer):
      guard devices[device].life == life, canTake(event, device) else { return }
      take(answer, request: request, at: device)
    case .computed(let device, let life, let task):
      guard devices[device].life == life, canTake(event, device) else { return }
      finishTask(task, device)
    case .bulk(let frame): arrive(frame)
    case .late(let frame, let life):
      guard devices[frame.to].life == life, canTake(event, frame.to) else { return }
      deliver(frame, isLate: true)
    case .dial(let device, let channel): dial(device, channel)
    case .stalled(let device, let channel, let place, let since):
      giveUp(device, channel, place, since: since)
    case .lost(let device, let channel, let place):
      guard canTake(event, device) else { return }
      lose(place, channel: channel, at: device)
    case .written(let device, let life):
      guard devices[device].life == life, devices[device].machine == .on else { return }
      devices[device].disk.finishCheckpoint()
    case .restart(let device): start(device)
    case .farewell(let device, let life, let until):
      guard devices[device].life == life, canTake(event, device) else { return }
      sayFarewell(device, until: until)
    case .judge: judgeProgress()
    }
  }

  /// Whether a device's process takes in an event now; a stopped one gets it later.
  mutating func canTake(_ event: JobEvent, _ device: Int) -> Bool {
    guard devices[device].process != nil, devices[device].machine != .off else { return false }
    if devices[device].isRunning { return true }
    if case .control = event, devices[device].held.count >= JobDevice.heldLimit { return false }
    devices[device].held.append(event)
    return false
  }

  /// What a device's monotonic clock shows.
  func clock(_ device: Int) -> MonotonicInstant { devices[device].clock.reading(at: now).monotonic }

  mutating func plan(_ event: JobEvent, after delay: Duration) {
    queue.plan(event, at: now.advanced(by: delay))
  }

  mutating func milliseconds(_ range: ClosedRange<Int>) -> Duration {
    .milliseconds(range.lowerBound + chance.uniform(below: range.count))
  }

  mutating func note(_ kind: UInt8, _ first: Int, _ second: Int = 0, _ line: @autoclosure () -> String) {
    trace.add(now, kind, first, second, line: line())
  }

  mutating func violate(_ rule: JobRule, _ text: String) {
    note(255, 0, 0, "VIOLATION \(rule.rawValue): \(text)")
    guard record.violations.count < JobRunRecord.violationLimit else { return }
    record.violations.append(Violation(time: now, rule: rule, text: text))
  }
}
