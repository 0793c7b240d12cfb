import Determinism
import MeshModel
import PeerDiscovery
import Testing

@Suite("Announcing and hearing")
struct AnnouncingTests {
  private let sender = v4(7, port: Beacon.port)

  private func member(
    _ instance: UInt64, counter: UInt64 = 1, tag: UInt64 = 1, key: BeaconKey = testKey(1),
    kind: Beacon.Kind = .member
  ) -> [UInt8] {
    Beacon(kind: kind, householdTag: tag, instance: InstanceTag(instance), port: 4000, counter: counter)
      .encoded(key: key)
  }

  @Test("Beacons go out at 0, 0.3, 1, 3 and 10 s and then every 60 s, to the broadcast and to the group")
  func rounds() throws {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet(), ethernet("docker0", index: 9)]))
    bench.run(until: .seconds(200))
    let broadcast = BeaconTarget(
      address: NetworkAddress(.v4(0xC000_02FF), port: Beacon.port), interface: 2)
    let group = BeaconTarget(address: Beacon.group, interface: 2)
    let times: [Duration] = [
      .zero, .milliseconds(300), .seconds(1), .seconds(3), .seconds(10), .seconds(70), .seconds(130),
      .seconds(190),
    ]
    #expect(bench.beacons.filter { $0.target == broadcast }.map(\.at) == times)
    #expect(bench.beacons.filter { $0.target == group }.map(\.at) == times)
    #expect(bench.beacons.count == 2 * times.count)
    let counters = try bench.beacons.map { try Beacon.decode($0.bytes).beacon.counter }
    #expect(counters == times.indices.flatMap { [UInt64($0 + 1), UInt64($0 + 1)] })
  }

  @Test("An hour of beacons costs less than 10 B/s of multicast on an interface with IPv4 and IPv6")
  func steadyTraffic() {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    bench.run(until: .seconds(3600))
    // 42 and 62 bytes of Ethernet, IP and UDP headers.
    let bytes = bench.beacons.reduce(0) {
      $0 + $1.bytes.count + ($1.target.address == Beacon.group ? 62 : 42)
    }
    #expect(bytes > 0)
    #expect(Double(bytes) / 3600 < 10, "\(Double(bytes) / 3600) B/s")
  }

  @Test("The network's changes start the rounds anew, never closer than 0.3 s")
  func restart() {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    bench.run(until: .seconds(100))
    let before = bench.beacons.count
    for flap in 0..<20 {
      bench.run(until: .seconds(100) + .milliseconds(50 * flap))
      bench.send(.interfaces([ethernet(isRunning: flap % 2 == 1)]))
    }
    bench.run(until: .seconds(112))
    let rounds = Set(bench.beacons[before...].map(\.at)).sorted()
    #expect(zip(rounds.dropFirst(), rounds).allSatisfy { $0 - $1 >= .milliseconds(300) })
    #expect(rounds.count >= 5)
    let listens = bench.log.compactMap { timed -> [UInt32]? in
      if case .listen(let interfaces) = timed.effect { interfaces } else { nil }
    }
    #expect(listens.first == [2])
    #expect(listens.count == 21)
  }

  @Test("A member's beacon is dialled at its sender's address and its own port, with the scope kept")
  func dialled() {
    var bench = PlanBench()
    let linkLocal = NetworkAddress.Host.v6(high: 0xFE80 << 48, low: 5, scope: 2)
    bench.send(.beacon(member(9), from: NetworkAddress(linkLocal, port: Beacon.port)))
    #expect(bench.dials.map(\.address) == [NetworkAddress(linkLocal, port: 4000)])
  }

  @Test("An unknown instance is answered at once and once, at most one answer a second")
  func answers() throws {
    var bench = PlanBench()
    bench.send(.beacon(member(1), from: v4(1, port: Beacon.port)))
    bench.send(.beacon(member(1), from: v4(1, port: Beacon.port)))
    bench.send(.beacon(member(2), from: v4(2, port: Beacon.port)))
    #expect(bench.beacons.map(\.target) == [BeaconTarget(address: v4(1, port: Beacon.port), interface: 0)])
    #expect(try Beacon.decode(bench.beacons[0].bytes).beacon.kind == .answer)
    // The second, unanswered so far, gets its answer with its next round.
    bench.now = .zero.advanced(by: .seconds(1))
    bench.send(.beacon(member(2, counter: 2), from: v4(2, port: Beacon.port)))
    #expect(bench.beacons.count == 2)
    // One that was answered is not answered again, however much later.
    bench.now = .zero.advanced(by: .seconds(3))
    bench.send(.beacon(member(1, counter: 3), from: v4(1, port: Beacon.port)))
    #expect(bench.beacons.count == 2)
    // An answer is not answered.
    bench.now = .zero.advanced(by: .seconds(5))
    bench.send(.beacon(member(3, kind: .answer), from: v4(3, port: Beacon.port)))
    #expect(bench.beacons.count == 2)
    bench.run(until: .seconds(6))
    #expect(bench.dials.contains { $0.address == v4(3) })
  }

  @Test("Malformed, foreign, forged and replayed beacons are each counted and give no dial")
  func drops() {
    var bench = PlanBench()
    bench.send(.beacon([1, 2, 3], from: sender))
    bench.send(.beacon(member(1, tag: 2), from: sender))
    bench.send(.beacon(member(1, key: testKey(2)), from: sender))
    #expect(bench.drops == [.malformed, .foreign, .forged])
    #expect(bench.dials.isEmpty && bench.beacons.isEmpty)
    bench.send(.beacon(member(1, counter: 5), from: sender))
    bench.send(.beacon(member(1, counter: 5), from: v4(8, port: Beacon.port)))
    bench.send(.beacon(member(1, counter: 4), from: v4(9, port: Beacon.port)))
    #expect(bench.drops == [.malformed, .foreign, .forged, .replayed])
    bench.run(until: .seconds(1))
    // The same round over two paths gives two addresses; the older one gives none.
    #expect(bench.dials.map(\.address) == [v4(7), v4(8)])
  }

  @Test("This daemon's own beacons, which come back from the group, are not its peers")
  func ownBeacon() {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    for beacon in bench.beacons { bench.send(.beacon(beacon.bytes, from: sender)) }
    #expect(bench.beacons.count == 2)
    #expect(bench.dials.isEmpty && bench.drops.isEmpty)
  }

  @Test("A member that still has a past key is heard; its tag of a past epoch is known")
  func pastEpoch() {
    var bench = PlanBench(keys: [testKey(2), testKey(1)])
    bench.send(.beacon(member(1), from: sender))
    #expect(bench.dials.map(\.address) == [v4(7)])
    #expect(bench.drops.isEmpty)
  }

  @Test("While a device is missing, past keys are announced in turn; two halves with only one in common meet")
  func splitKeys() throws {
    func half(_ number: UInt8) -> PlanBench {
      var bench = PlanBench(seed: UInt64(number), keys: [testKey(number), testKey(2), testKey(1)])
      bench.send(.roster([device(7)]))
      bench.send(.interfaces([ethernet()]))
      return bench
    }
    var first = half(10)
    first.run(until: .seconds(5))
    let sent = try first.beacons.filter { $0.target.address == Beacon.group }
      .map { try Beacon.decode($0.bytes).beacon }
    let (current, past) = (sent.filter { $0.householdTag == 10 }, sent.filter { $0.householdTag != 10 })
    #expect(current.count == 4)
    #expect(past.map(\.householdTag) == [1, 2, 1, 2])
    // One daemon has another instance under past keys, so that nothing joins the epochs.
    #expect(Set(current.map(\.instance)).count == 1)
    #expect(Set(current.map(\.instance)).isDisjoint(with: past.map(\.instance)))

    var second = half(20)
    for beacon in first.beacons where beacon.target.address == Beacon.group {
      second.send(.beacon(beacon.bytes, from: v4(1, port: Beacon.port)))
      first.send(.beacon(beacon.bytes, from: v4(1, port: Beacon.port)))
    }
    #expect(second.dials.map(\.address) == [v4(1)])
    #expect(first.dials.isEmpty, "its own beacons under past keys are its own")
    let answer = try #require(second.beacons.last { $0.target.interface == 0 })
    first.send(.beacon(answer.bytes, from: v4(2, port: Beacon.port)))
    #expect(first.dials.map(\.address) == [v4(2)])

    // When everybody is in, only the current key is announced.
    first.send(.connected(device(7), dialled: nil, listening: v4(2)))
    let before = first.beacons.count
    first.run(until: .seconds(200))
    let later = try first.beacons[before...].map { try Beacon.decode($0.bytes).beacon.householdTag }
    #expect(!later.isEmpty && Set(later) == [10])
  }

  @Test(
    "A new key epoch changes tag and instance together, and old announcements of this daemon are still its own"
  )
  func rotation() throws {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    let old = try #require(bench.publications.last.flatMap(\.self)?.record)
    let oldBeacon = try #require(bench.beacons.first?.bytes)
    bench.send(.keys([testKey(2), testKey(1)]))
    let new = try #require(bench.publications.last.flatMap(\.self)?.record)
    #expect(old.householdTag == 1 && new.householdTag == 2)
    #expect(old.instance != new.instance)
    bench.send(.beacon(oldBeacon, from: sender))
    bench.send(.hint(DiscoveryHint(service: old, at: v4(9))))
    #expect(bench.dials.isEmpty)
    // The same keys again change nothing.
    let count = bench.publications.count
    bench.send(.keys([testKey(2), testKey(1)]))
    #expect(bench.publications.count == count)
    // Leaving the household takes the publication back and ends the beacons.
    bench.send(.keys([]))
    #expect(bench.publications.last == .some(nil))
    let sent = bench.beacons.count
    bench.run(until: .seconds(300))
    #expect(bench.beacons.count == sent)
  }

  @Test(
    "An invitation is published and offered without authentication beside the member's beacon, until it closes"
  )
  func invitation() throws {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    bench.run(until: .seconds(100))
    let before = bench.beacons.count
    bench.send(.pairing(0x123))
    #expect(bench.publications.last.flatMap(\.self)?.record.pairing == 0x123)
    bench.run(until: .seconds(130))
    let kinds = try bench.beacons[before...].map { try Beacon.decode($0.bytes).beacon.kind }
    #expect(kinds.count { $0 == .pairingOffer } == kinds.count { $0 == .member })
    #expect(Set(kinds) == [.member, .pairingOffer])
    let offerTimes = Set(bench.beacons[before...].map(\.at)).sorted()
    #expect(
      zip(offerTimes.dropFirst(), offerTimes).allSatisfy { $0 - $1 <= .seconds(7) })
    bench.send(.pairing(nil))
    #expect(bench.publications.last.flatMap(\.self)?.record.pairing == nil)
    let closed = bench.beacons.count
    bench.run(until: .seconds(400))
    let after = try bench.beacons[closed...].map { try Beacon.decode($0.bytes).beacon.kind }
    #expect(Set(after) == [.member])
    #expect(after.count <= 2 * 6)
  }

  @Test("A device that wants to join asks, hears offers by beacon and multicast DNS, and dials nobody")
  func joining() throws {
    var inviter = PlanBench(seed: 1)
    inviter.send(.interfaces([ethernet()]))
    inviter.run(until: .seconds(20))
    inviter.send(.pairing(0x123))
    inviter.run(until: .seconds(31))
    let before = inviter.beacons.count
    var joiner = PlanBench(seed: 2, keys: [])
    joiner.send(.interfaces([ethernet()]))
    joiner.send(.seeksPairing(true))
    let question = try #require(joiner.beacons.first)
    #expect(question.at == .zero)
    inviter.send(.beacon(question.bytes, from: v4(50, port: Beacon.port)))
    inviter.send(.beacon(question.bytes, from: v4(51, port: Beacon.port)))
    let answers = inviter.beacons[before...]
    #expect(answers.map(\.target.address) == [v4(50, port: Beacon.port)])
    joiner.send(.beacon(answers[before].bytes, from: v4(1, port: Beacon.port)))
    let record = ServiceRecord(householdTag: 1, instance: InstanceTag(3), pairing: 0x124)
    joiner.send(.hint(DiscoveryHint(service: record, at: v4(2))))
    #expect(joiner.plan.pairingOffers.map(\.discriminator) == [0x123, 0x124])
    #expect(joiner.plan.pairingOffers.map(\.address) == [v4(1), v4(2)])
    for number in 0..<100 {
      let record = ServiceRecord(householdTag: 1, instance: InstanceTag(UInt64(number)), pairing: 1)
      joiner.send(.hint(DiscoveryHint(service: record, at: v4(3))))
    }
    #expect(joiner.plan.pairingOffers.count == DiscoveryLimits.pairingOffers)
    joiner.run(until: .seconds(60))
    #expect(joiner.dials.isEmpty)
    #expect(joiner.publications.isEmpty)
    joiner.send(.seeksPairing(false))
    #expect(joiner.plan.pairingOffers.isEmpty)
  }

  @Test("Who asks for offers while no invitation is open gets no answer")
  func closedInvitation() {
    let question = Beacon(
      kind: .pairingQuestion, householdTag: 0, instance: InstanceTag(5), port: 0, counter: 1)
    var bench = PlanBench()
    bench.send(.beacon(question.encoded(key: nil), from: sender))
    #expect(bench.beacons.isEmpty)
  }

  @Test("Two devices of one household on one network dial each other within one beacon")
  func twoDevices() throws {
    var first = PlanBench(seed: 1)
    var second = PlanBench(seed: 2)
    first.send(.interfaces([ethernet()]))
    first.run(until: .seconds(30))
    // The second comes up half a minute later; its first round is answered.
    second.now = first.now
    second.send(.interfaces([ethernet()]))
    let round = try #require(second.beacons.first { $0.target.address == Beacon.group })
    let before = first.beacons.count
    first.send(.beacon(round.bytes, from: v4(2, port: Beacon.port)))
    #expect(first.dials.map(\.address) == [v4(2)])
    let answer = try #require(first.beacons.dropFirst(before).first)
    #expect(answer.target.address == v4(2, port: Beacon.port))
    second.send(.beacon(answer.bytes, from: v4(1, port: Beacon.port)))
    #expect(second.dials.map(\.address) == [v4(1)])
    #expect(second.now == first.now)
  }
}
