import Determinism
import MeshModel
import PeerDiscovery
import Testing

@Suite("Random lives of a plan")
struct PlanSoakTests {
  /// A plan under random inputs, with what must always hold checked after each.
  private struct Soak {
    var plan: DiscoveryPlan
    var generator: SeededGenerator
    var now = MonotonicInstant.zero
    var open: [NetworkAddress: MonotonicInstant] = [:]
    var connected: Set<DeviceID> = []
    var listed: Set<DeviceID> = []
    var lastDial: MonotonicInstant?
    var lastAnswer: MonotonicInstant?
    var dialCount = 0

    mutating func send(_ input: DiscoveryInput) {
      for effect in plan.handle(input, at: now) {
        switch effect {
        case .dial(let address, let expected):
          dialCount += 1
          if let lastDial { #expect(lastDial.duration(to: now) >= DiscoveryLimits.dialStagger) }
          lastDial = now
          #expect(open[address] == nil, "\(address) is dialled twice at a time")
          open[address] = now
          if let expected {
            #expect(!connected.contains(expected), "\(expected) is in")
            #expect(listed.contains(expected))
          }
          #expect(address.port != 0)
        case .sendBeacon(let bytes, let target):
          #expect(bytes.count <= 120)
          if target.interface == 0 {
            if let lastAnswer { #expect(lastAnswer.duration(to: now) >= DiscoveryLimits.beaconAnswer) }
            lastAnswer = now
          }
        case .listen, .publish, .resolve, .dropped: break
        }
      }
      // The plan gives up on dials that nobody reports on.
      open = open.filter { $0.value.advanced(by: DiscoveryLimits.dialReport) > now }
      #expect(open.count <= DiscoveryLimits.dialsInFlight)
      for id in listed { #expect((plan.why(id) == nil) == connected.contains(id)) }
      #expect(plan.strangerAttempts.count <= DiscoveryLimits.strangers)
      for id in listed {
        #expect(plan.attempts(of: id).count <= DiscoveryLimits.addressesPerDevice)
      }
    }

    mutating func address() -> NetworkAddress {
      let host = UInt32(generator.uniform(below: 40))
      return NetworkAddress(.v4(0xC000_0200 | host), port: UInt16(1 + generator.uniform(below: 3)))
    }

    mutating func id() -> DeviceID { device(UInt8(1 + generator.uniform(below: 12))) }

    mutating func outcome() -> DialOutcome {
      let all: [DialOutcome] = [
        .noAnswer, .refused, .noRoute, .handshakeTimeout, .handshakeClosed, .notOfHousehold, .thisDevice,
        .clone, .otherDevice(id()), .revoked(id()),
      ]
      return all[generator.uniform(below: all.count)]
    }

    mutating func step() {
      switch generator.uniform(below: 12) {
      case 0:
        listed = Set((0..<generator.uniform(below: 12)).map { _ in id() })
        connected = connected.filter { _ in true }
        send(.roster(listed.sorted()))
      case 1, 2:
        let source = DiscoveryHint.Source.allCases[generator.uniform(below: 5)]
        let hint = DiscoveryHint(
          address: address(), source: source, device: generator.uniform(below: 2) == 0 ? id() : nil,
          instance: InstanceTag(UInt64(generator.uniform(below: 200))))
        send(.hint(hint))
      case 3:
        let bytes = Beacon(
          kind: generator.uniform(below: 2) == 0 ? .member : .answer, householdTag: 1,
          instance: InstanceTag(UInt64(generator.uniform(below: 200))), port: 1,
          counter: UInt64(generator.uniform(below: 9))
        ).encoded(key: testKey(1))
        send(.beacon(bytes, from: address()))
      case 4: send(.interfaces(generator.uniform(below: 2) == 0 ? [] : [ethernet()]))
      case 5:
        let dialled = open.keys.sorted().first
        let peer = id()
        connected.insert(peer)
        if let dialled { open[dialled] = nil }
        send(.connected(peer, dialled: dialled, listening: dialled ?? address()))
      case 6:
        guard let peer = connected.sorted().first else { return }
        connected.remove(peer)
        send(.disconnected(peer, said: generator.uniform(below: 3) == 0 ? .left : nil))
      case 7, 8:
        guard let dialled = open.keys.sorted().first else { return }
        open[dialled] = nil
        send(.dialFailed(dialled, outcome()))
      case 9 where generator.uniform(below: 20) == 0: send(.resumed)
      default:
        // The next deadline, or a moment.
        let moment = now.advanced(by: .milliseconds(generator.uniform(below: 700)))
        if let deadline = plan.nextDeadline { now = max(now, min(deadline, moment)) } else { now = moment }
        open = open.filter { $0.value.advanced(by: DiscoveryLimits.dialReport) > now }
        send(.tick)
        if let deadline = plan.nextDeadline {
          #expect(deadline > now, "a deadline that a tick does not clear")
        }
      }
    }
  }

  @Test(
    "Never two dials within 50 ms, over eight open, to one address twice, or to who is in", arguments: 0..<20)
  func invariants(seed: Int) {
    var soak = Soak(
      plan: DiscoveryPlan(
        own: device(0), settings: .init(port: 9), generator: SeededGenerator(seed: UInt64(seed)), at: .zero),
      generator: SeededGenerator(seed: UInt64(seed), 1))
    soak.send(.keys([testKey(1)]))
    for _ in 0..<2_000 { soak.step() }
    #expect(soak.dialCount > 50)
  }
}
