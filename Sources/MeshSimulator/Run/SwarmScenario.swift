import Determinism
import MeshModel

extension Scenario {
  /// Everything at once: which faults there are, how many and how bad, the seed decides.
  ///
  /// Random subsets of features find more than all features always (Groce et al., "Swarm testing", ISSTA 2012). A
  /// phase of faults is followed by a phase in which the network is whole and everybody must agree.
  static let swarm = Scenario("swarm", "everything at once, as the seed decides", devices: 0) {
    seed, devices, dice in
    let drawn = 2 + dice.uniform(below: 7)
    let count = devices > 0 ? devices : drawn
    var plan = SimulationPlan(scenario: "swarm", seed: seed, deviceCount: count, duration: .seconds(190))
    plan.conditions = dice.conditions()
    plan.hasMulticastDNS = dice.uniform(below: 2) == 0
    for device in 0..<count {
      plan.steps.append(ScenarioStep(dice.seconds(0...10), .start(device)))
    }
    let end = 80.0
    for kind in SwarmFault.allCases where dice.uniform(below: 2) == 0 {
      for _ in 0...dice.uniform(below: 3) {
        plan.steps += kind.steps(count, until: end - 2, &dice)
      }
    }
    plan.steps += [ScenarioStep(end, .mend)]
    for device in 0..<count {
      plan.steps += [
        ScenarioStep(end, .proceed(device)), ScenarioStep(end, .resume(device)),
        ScenarioStep(end + 0.1, .start(device)), ScenarioStep(end + 0.2, .start(device)),
      ]
    }
    plan.steps.append(ScenarioStep(end + 1, .settled))
    return plan
  }
}

/// The kinds of faults that a swarm run has or has not.
private enum SwarmFault: CaseIterable {
  case absence, partition, oneWay, clog, loss, udp, inbound, multicast, revocation, key, move

  func steps(_ count: Int, until end: Double, _ dice: inout SeededGenerator) -> [ScenarioStep] {
    let from = dice.seconds(5...(end - 10))
    let to = min(from + dice.seconds(0.2...40), end)
    let device = dice.uniform(below: count)
    let other = (device + 1 + dice.uniform(below: count - 1)) % count
    switch self {
    case .absence: return Scenario.visit(device, from: from, to: to, &dice)
    case .partition:
      let groups = (0..<count).map { _ in dice.uniform(below: 2) }
      return [
        ScenarioStep(from, .partition(groups)),
        ScenarioStep(to, .partition(Array(repeating: 0, count: count))),
      ]
    case .oneWay:
      return [
        ScenarioStep(from, .cut(from: device, to: other)), ScenarioStep(to, .uncut(from: device, to: other)),
      ]
    case .clog:
      return [
        ScenarioStep(from, .clog(from: device, to: other, .milliseconds(200 + dice.uniform(below: 8_000))))
      ]
    case .loss: return [ScenarioStep(from, .conditions(dice.conditions()))]
    case .udp:
      return [ScenarioStep(from, .udpBlocked(device, true)), ScenarioStep(to, .udpBlocked(device, false))]
    case .inbound:
      let rule: InboundRule = dice.uniform(below: 2) == 0 ? .dropped : .rejected
      return [ScenarioStep(from, .inbound(device, rule)), ScenarioStep(to, .inbound(device, .open))]
    case .multicast:
      return [ScenarioStep(from, .multicastBlocked(true)), ScenarioStep(to, .multicastBlocked(false))]
    case .revocation:
      guard count > 3 else { return [] }
      return [ScenarioStep(from, .revoke(2 + dice.uniform(below: count - 2), by: dice.uniform(below: 2)))]
    case .key: return [ScenarioStep(from, .renewKey(by: dice.uniform(below: 2)))]
    case .move:
      // Each device has addresses of its own: two with one address could not meet.
      let host = UInt32(0x0A00_0064 + 4 * device + dice.uniform(below: 4))
      return [ScenarioStep(from, .move(device, .v4(host)))]
    }
  }
}

extension SeededGenerator {
  /// Links of some home: from a switch to a bad wireless network.
  mutating func conditions() -> LinkConditions {
    var conditions = LinkConditions()
    conditions.minimumDelay = .microseconds(100 + uniform(below: 3_000))
    conditions.meanExtraDelay = .microseconds(uniform(below: 12_000))
    if uniform(below: 2) == 0 { conditions.lossPerMillion = uniform(below: 80_000) }
    if uniform(below: 3) == 0 { conditions.duplicationPerMillion = uniform(below: 50_000) }
    if uniform(below: 3) == 0 { conditions.reorderPerMillion = uniform(below: 100_000) }
    if uniform(below: 4) == 0 { conditions.bytesPerSecond = 50_000 + uniform(below: 1_000_000) }
    if uniform(below: 6) == 0 { conditions.largestPacket = 1_280 }
    return conditions
  }
}
