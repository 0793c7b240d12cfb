import Determinism
import MeshModel

/// A kind of run: a name, what it shows, and how a seed becomes a plan.
package struct Scenario: Sendable {
  /// The name on the command line.
  package let name: String
  /// What happens in it, in one line.
  package let summary: String
  /// Devices when nobody says how many; 0 leaves it to the seed.
  package let deviceCount: Int
  private let build:
    @Sendable (_ seed: UInt64, _ devices: Int, _ dice: inout SeededGenerator) -> SimulationPlan

  init(
    _ name: String, _ summary: String, devices: Int,
    _ build: @escaping @Sendable (UInt64, Int, inout SeededGenerator) -> SimulationPlan
  ) {
    self.name = name
    self.summary = summary
    deviceCount = devices
    self.build = build
  }

  /// The run that a seed stands for, with that many devices (at least 2) or the scenario's own number.
  package func plan(seed: UInt64, devices: Int? = nil) -> SimulationPlan {
    var dice = SeededGenerator(seed: seed, 0x7363_656E_6172_696F)
    var plan = build(seed, devices.map { max($0, 2) } ?? deviceCount, &dice)
    plan.steps.sort { $0.time < $1.time }
    return plan
  }

  /// All scenarios, in the order in which they are shown.
  package static let all: [Scenario] = [
    quiet, realHandshake, loss, lossHour, days, crash, churn, partition, sleep, revocation, twoKeys, clone,
    firewall, udpBlocked,
    cachedAddress, powerLoss, versions, swarm,
  ]

  /// Whether a run takes an hour of virtual time or more, so that it is only made when it is named.
  package var isLong: Bool { plan(seed: 1).duration >= .seconds(3_600) }

  /// The scenario with this name.
  package static func named(_ name: String) -> Scenario? { all.first { $0.name == name } }
}

/// A plan in which all devices are switched on within two seconds.
private func started(
  _ scenario: String, _ seed: UInt64, _ devices: Int, seconds: Int, _ dice: inout SeededGenerator
) -> SimulationPlan {
  var plan = SimulationPlan(scenario: scenario, seed: seed, deviceCount: devices, duration: .seconds(seconds))
  for device in 0..<devices { plan.steps.append(ScenarioStep(dice.seconds(0...2), .start(device))) }
  return plan
}

extension Scenario {
  static let quiet = Scenario("quiet", "nothing happens; idle traffic is measured", devices: 5) {
    seed, devices, dice in
    var plan = started("quiet", seed, devices, seconds: 180, &dice)
    plan.idleWindow = 90...180
    plan.isLossOnly = true
    plan.steps.append(ScenarioStep(10, .settled))
    return plan
  }

  static let realHandshake = Scenario(
    "real-handshake", "sessions by the real handshake, a restart and a new key", devices: 4
  ) { seed, devices, dice in
    var plan = started("real-handshake", seed, devices, seconds: 120, &dice)
    plan.usesRealHandshake = true
    plan.steps += [
      ScenarioStep(20, .losePower(devices - 1)), ScenarioStep(30, .renewKey(by: 0)),
      ScenarioStep(50, .start(devices - 1)), ScenarioStep(60, .settled),
    ]
    return plan
  }

  static let loss = Scenario("loss", "5 % of all packets vanish", devices: 6) { seed, devices, dice in
    var plan = started("loss", seed, devices, seconds: 120, &dice)
    plan.conditions = wireless(lossPerMillion: 50_000)
    plan.isLossOnly = true
    plan.steps.append(ScenarioStep(30, .settled))
    return plan
  }

  static let lossHour = Scenario("loss-hour", "an hour of 5 % loss", devices: 5) { seed, devices, dice in
    var plan = started("loss-hour", seed, devices, seconds: 3_600, &dice)
    plan.conditions = wireless(lossPerMillion: 50_000)
    plan.isLossOnly = true
    plan.steps.append(ScenarioStep(30, .settled))
    return plan
  }

  static let days = Scenario("days", "sessions of several days get new keys", devices: 3) {
    seed, devices, dice in
    var plan = started("days", seed, devices, seconds: 302_400, &dice)
    plan.isLossOnly = true
    plan.steps.append(ScenarioStep(30, .settled))
    return plan
  }

  static let crash = Scenario("crash", "one device loses power and comes back", devices: 6) {
    seed, devices, dice in
    var plan = started("crash", seed, devices, seconds: 130, &dice)
    let victim = dice.uniform(below: devices)
    plan.steps += [
      ScenarioStep(dice.seconds(30...40), .losePower(victim)),
      ScenarioStep(dice.seconds(70...80), .start(victim)), ScenarioStep(85, .settled),
    ]
    return plan
  }

  static let churn = Scenario("churn", "devices come and go in every way", devices: 6) {
    seed, devices, dice in
    var plan = started("churn", seed, devices, seconds: 200, &dice)
    for device in 0..<devices {
      var time = dice.seconds(10...30)
      while time < 120 {
        let absence = dice.seconds(1...30)
        plan.steps += visit(device, from: time, to: min(time + absence, 138), &dice)
        time += absence + dice.seconds(5...40)
      }
    }
    plan.steps.append(ScenarioStep(140, .settled))
    return plan
  }

  static let partition = Scenario("partition", "the network splits and heals", devices: 6) {
    seed, devices, dice in
    var plan = started("partition", seed, devices, seconds: 160, &dice)
    let groups = (0..<devices).map { _ in dice.uniform(below: 2 + dice.uniform(below: 2)) }
    let from = dice.seconds(15...25)
    let to = from + dice.seconds(5...75)
    plan.steps += [
      ScenarioStep(from, .partition(groups)), ScenarioStep(to, .mend), ScenarioStep(to, .settled),
    ]
    return plan
  }

  static let sleep = Scenario("sleep", "one device sleeps and wakes; another is stopped", devices: 5) {
    seed, devices, dice in
    var plan = started("sleep", seed, devices, seconds: 190, &dice)
    let sleeper = dice.uniform(below: devices)
    let stopped = (sleeper + 1) % devices
    let from = dice.seconds(20...30)
    let to = from + dice.seconds(40...100)
    plan.steps += [ScenarioStep(from, .suspend(sleeper)), ScenarioStep(to, .resume(sleeper))]
    let frozen = dice.seconds(30...40)
    plan.steps += [
      ScenarioStep(frozen, .stop(stopped)),
      ScenarioStep(frozen + dice.seconds(1...15), .proceed(stopped)), ScenarioStep(max(to, 60), .settled),
    ]
    return plan
  }

  static let revocation = Scenario(
    "revocation", "a device is revoked while the network is split", devices: 6
  ) { seed, devices, dice in
    var plan = started("revocation", seed, devices, seconds: 150, &dice)
    let victim = min(2 + dice.uniform(below: max(devices - 2, 1)), devices - 1)
    let groups = (0..<devices).map { $0 == 0 ? 0 : dice.uniform(below: 2) }
    plan.steps += [
      ScenarioStep(20, .partition(groups)), ScenarioStep(dice.seconds(25...30), .revoke(victim, by: 0)),
      ScenarioStep(dice.seconds(35...80), .mend), ScenarioStep(81, .settled),
    ]
    return plan
  }

  static let twoKeys = Scenario(
    "two-keys", "both halves of a split network make new network keys", devices: 5
  ) { seed, devices, dice in
    var plan = started("two-keys", seed, devices, seconds: 150, &dice)
    let groups = (0..<devices).map { $0 < 2 ? $0 : dice.uniform(below: 2) }
    plan.steps.append(ScenarioStep(20, .partition(groups)))
    for _ in 0...dice.uniform(below: 3) {
      plan.steps += [
        ScenarioStep(dice.seconds(25...60), .renewKey(by: 0)),
        ScenarioStep(dice.seconds(25...60), .renewKey(by: 1)),
      ]
    }
    plan.steps += [ScenarioStep(dice.seconds(61...80), .mend), ScenarioStep(81, .settled)]
    return plan
  }

  static let clone = Scenario("clone", "a copied disk starts on a second machine", devices: 4) {
    seed, devices, dice in
    var plan = started("clone", seed, devices, seconds: 120, &dice)
    plan.spareCount = 1
    plan.cloneOf = 1 + dice.uniform(below: devices - 1)
    plan.steps += [ScenarioStep(dice.seconds(20...40), .clone(of: plan.cloneOf, on: devices))]
    return plan
  }

  static let firewall = Scenario(
    "asymmetric-firewall", "some devices let nothing in unasked", devices: 5
  ) { seed, devices, dice in
    var plan = started("asymmetric-firewall", seed, devices, seconds: 120, &dice)
    // One device at least stays open, or some pair could never meet.
    for device in 1..<devices where device == 1 || dice.uniform(below: 3) == 0 {
      plan.steps.append(
        ScenarioStep(0, .inbound(device, dice.uniform(below: 2) == 0 ? .dropped : .rejected)))
    }
    plan.steps.append(ScenarioStep(60, .settled))
    return plan
  }

  static let udpBlocked = Scenario("udp-blocked", "the datagrams of some devices are blocked", devices: 5) {
    seed, devices, dice in
    var plan = started("udp-blocked", seed, devices, seconds: 150, &dice)
    let count = 1 + dice.uniform(below: devices - 1)
    plan.expectedBlocked = Array(0..<count)
    let time = dice.uniform(below: 2) == 0 ? 0 : dice.seconds(10...30)
    for device in plan.expectedBlocked { plan.steps.append(ScenarioStep(time, .udpBlocked(device, true))) }
    plan.steps.append(ScenarioStep(60, .settled))
    return plan
  }

  static let cachedAddress = Scenario(
    "cached-address", "no multicast at all: devices find each other by what they remember", devices: 5
  ) { seed, devices, dice in
    var plan = started("cached-address", seed, devices, seconds: 180, &dice)
    plan.steps.append(ScenarioStep(20, .multicastBlocked(true)))
    for device in 0..<devices {
      plan.steps += [
        ScenarioStep(30, .shutDown(device)), ScenarioStep(60 + dice.seconds(0...5), .start(device)),
      ]
    }
    plan.steps += [ScenarioStep(120, .settled)]
    plan.hasMulticastDNS = false
    return plan
  }

  static let powerLoss = Scenario(
    "power-loss", "power fails between writing and syncing, at starts and revocations", devices: 5
  ) { seed, devices, dice in
    var plan = started("power-loss", seed, devices, seconds: 150, &dice)
    let victim = devices > 2 ? 2 + dice.uniform(below: devices - 2) : 1
    let witness = devices > 2 ? (victim == devices - 1 ? 1 : victim + 1) : 0
    plan.steps += [
      ScenarioStep(20, .losePowerAtNextWrite(witness)), ScenarioStep(21, .revoke(victim, by: 0)),
      ScenarioStep(40, .losePowerAtNextWrite(witness)), ScenarioStep(41, .start(witness)),
      ScenarioStep(50, .start(witness)), ScenarioStep(60, .settled),
    ]
    return plan
  }

  static let versions = Scenario("versions", "one device speaks only a newer wire version", devices: 3) {
    seed, devices, dice in
    var plan = started("versions", seed, devices, seconds: 60, &dice)
    plan.oddVersions[devices - 1] = WireVersions(oldest: 7, newest: 8)
    plan.steps.append(ScenarioStep(10, .settled))
    return plan
  }

  /// A wireless network on a bad day.
  static func wireless(lossPerMillion: Int) -> LinkConditions {
    var conditions = LinkConditions()
    conditions.minimumDelay = .milliseconds(1)
    conditions.meanExtraDelay = .milliseconds(4)
    conditions.lossPerMillion = lossPerMillion
    conditions.reorderPerMillion = 10_000
    return conditions
  }

  /// One absence of a device, of a kind that the dice choose.
  static func visit(
    _ device: Int, from: Double, to: Double, _ dice: inout SeededGenerator
  ) -> [ScenarioStep] {
    switch dice.uniform(below: 6) {
    case 0: [ScenarioStep(from, .kill(device)), ScenarioStep(to, .start(device))]
    case 1: [ScenarioStep(from, .losePower(device)), ScenarioStep(to, .start(device))]
    case 2: [ScenarioStep(from, .shutDown(device)), ScenarioStep(to, .start(device))]
    case 3: [ScenarioStep(from, .suspend(device)), ScenarioStep(to, .resume(device))]
    case 4: [ScenarioStep(from, .stop(device)), ScenarioStep(to, .proceed(device))]
    default:
      [
        ScenarioStep(from, .losePowerAtNextWrite(device)), ScenarioStep((from + to) / 2, .kill(device)),
        ScenarioStep((from + to) / 2 + 0.1, .start(device)), ScenarioStep(to, .start(device)),
      ]
    }
  }
}

extension SeededGenerator {
  /// A uniform time in seconds, to the millisecond.
  mutating func seconds(_ range: ClosedRange<Double>) -> Double {
    let milliseconds = Int((range.upperBound - range.lowerBound) * 1_000)
    return range.lowerBound + Double(uniform(below: milliseconds + 1)) / 1_000
  }
}
