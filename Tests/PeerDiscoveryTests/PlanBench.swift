import Determinism
import MeshModel
import PeerDiscovery
import Testing

/// A plan in virtual time: inputs at instants, effects with the instants at which they came.
struct PlanBench {
  struct Timed: Equatable {
    let at: MonotonicInstant
    let effect: DiscoveryEffect
  }
  struct Dial: Equatable {
    let at: MonotonicInstant
    let address: NetworkAddress
    let device: DeviceID?
  }

  var plan: DiscoveryPlan
  var now = MonotonicInstant.zero
  var log: [Timed] = []
  /// How every dial ends, and after what time; nil leaves it open.
  var answer: ((NetworkAddress) -> (Duration, DialOutcome)?) = { _ in nil }
  private var pending: [(at: MonotonicInstant, address: NetworkAddress, outcome: DialOutcome)] = []

  init(
    seed: UInt64 = 1, port: UInt16 = 4000, peers: [StaticPeer] = [],
    filter: InterfaceFilter = InterfaceFilter(), keys: [BeaconKey] = [testKey(1)]
  ) {
    plan = DiscoveryPlan(
      own: device(0), settings: .init(port: port, staticPeers: peers, filter: filter),
      generator: SeededGenerator(seed: seed), at: .zero)
    send(.keys(keys))
  }

  mutating func send(_ input: DiscoveryInput) {
    for effect in plan.handle(input, at: now) {
      log.append(Timed(at: now, effect: effect))
      if case .dial(let address, _) = effect, let (wait, outcome) = answer(address) {
        pending.append((now.advanced(by: wait), address, outcome))
      }
    }
  }

  /// Runs until `time` after the start, ticking at every deadline and answering dials.
  mutating func run(until time: Duration) {
    let end = MonotonicInstant.zero.advanced(by: time)
    var steps = 0
    while steps < 100_000 {
      steps += 1
      let deadline = plan.nextDeadline.map { max($0, now) }
      let answered = pending.map(\.at).min()
      guard let next = [deadline, answered].compactMap(\.self).min(), next <= end else { break }
      now = next
      if let index = pending.firstIndex(where: { $0.at <= now }) {
        let ended = pending.remove(at: index)
        send(.dialFailed(ended.address, ended.outcome))
      } else {
        send(.tick)
      }
    }
    #expect(steps < 100_000, "the plan wants to be called for ever at \(now)")
    now = max(now, end)
  }

  var dials: [Dial] {
    log.compactMap {
      guard case .dial(let address, let device) = $0.effect else { return nil }
      return Dial(at: $0.at, address: address, device: device)
    }
  }
  var dialTimes: [Duration] { dials.map { MonotonicInstant.zero.duration(to: $0.at) } }
  var beacons: [(at: Duration, bytes: [UInt8], target: BeaconTarget)] {
    log.compactMap {
      guard case .sendBeacon(let bytes, let target) = $0.effect else { return nil }
      return (MonotonicInstant.zero.duration(to: $0.at), bytes, target)
    }
  }
  var drops: [BeaconDrop] {
    log.compactMap { if case .dropped(let drop) = $0.effect { drop } else { nil } }
  }
  var publications: [ServiceAnnouncement?] {
    log.compactMap { timed -> ServiceAnnouncement?? in
      if case .publish(let announcement) = timed.effect { .some(announcement) } else { nil }
    }
  }
}

func device(_ number: UInt8) -> DeviceID {
  guard let id = DeviceID(bytes: [UInt8](repeating: 0, count: 15) + [number]) else {
    preconditionFailure("a device has 16 bytes")
  }
  return id
}

func testKey(_ number: UInt8) -> BeaconKey {
  let bytes = [UInt8](repeating: number, count: BeaconKey.byteCount)
  return bytes.withUnsafeBytes { BeaconKey(householdTag: UInt64(number), key: $0) }
}

/// An address of the network for examples (RFC 5737), with port 4000 or another.
func v4(_ last: UInt8, port: UInt16 = 4000) -> NetworkAddress {
  NetworkAddress(.v4(0xC000_0200 | UInt32(last)), port: port)
}

func persisted(_ address: NetworkAddress, _ id: DeviceID) -> DiscoveryInput {
  .hint(DiscoveryHint(address: address, source: .persisted, device: id))
}

func ethernet(
  _ name: String = "eth0", index: UInt32 = 2, isRunning: Bool = true, hasMulticast: Bool = true,
  isLoopback: Bool = false,
  addresses: [LocalInterface.Address] = [
    .init(host: .v4(0xC000_02FE), prefixLength: 24),
    .init(host: .v6(high: 0xFE80 << 48, low: 0xFE, scope: 2), prefixLength: 64),
  ]
) -> LocalInterface {
  LocalInterface(
    name: name, index: index, addresses: addresses, isRunning: isRunning, hasMulticast: hasMulticast,
    isLoopback: isLoopback, isWireless: false)
}
