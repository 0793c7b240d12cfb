import Determinism
import MeshModel
import PeerDiscovery
import Testing

@Suite("What becomes of hints")
struct HintTests {
  private func avahi(_ address: NetworkAddress, _ instance: UInt64, tag: UInt64 = 1) -> DiscoveryInput {
    .hint(
      DiscoveryHint(service: ServiceRecord(householdTag: tag, instance: InstanceTag(instance)), at: address))
  }

  @Test(
    "Addresses that lead nowhere else are refused: no port, this network, groups, loopback, no scope, own")
  func refused() {
    let linkLocal = NetworkAddress.Host.v6(high: 0xFE80 << 48, low: 9, scope: 0)
    let bad: [(NetworkAddress, DiscoveryHint.Source)] = [
      (v4(1, port: 0), .persisted), (NetworkAddress(.v4(0x0000_0001), port: 1), .gossip),
      (NetworkAddress(.v4(0xE000_00FB), port: 1), .avahi), (NetworkAddress(.v4(.max), port: 1), .beacon),
      (NetworkAddress(.v4(0x7F00_0001), port: 1), .gossip),
      (NetworkAddress(.v4(0x7F00_0001), port: 1), .avahi),
      (NetworkAddress(.v6(high: 0, low: 1, scope: 0), port: 1), .beacon),
      (NetworkAddress(.v6(high: 0, low: 0, scope: 0), port: 1), .staticPeer),
      (NetworkAddress(.v6(high: 0xFF02 << 48, low: 1, scope: 0), port: 1), .persisted),
      (NetworkAddress(linkLocal, port: 1), .gossip), (v4(254), .gossip),
    ]
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    for (address, source) in bad {
      bench.send(.hint(DiscoveryHint(address: address, source: source)))
    }
    #expect(bench.dials.isEmpty)
    #expect(bench.plan.refusedHints == bad.count)
    // The same host on another port is another daemon; loopback that somebody lists or that worked is meant.
    bench.run(until: .seconds(1))
    bench.send(.hint(DiscoveryHint(address: v4(254, port: 4001), source: .gossip)))
    bench.run(until: .seconds(2))
    bench.send(
      .hint(DiscoveryHint(address: NetworkAddress(.v4(0x7F00_0001), port: 9), source: .persisted)))
    #expect(bench.dials.count == 2)
  }

  @Test("Announcements of another household or of this daemon itself are not dialled")
  func foreign() throws {
    var bench = PlanBench()
    bench.send(avahi(v4(1), 9, tag: 2))
    #expect(bench.dials.isEmpty)
    let own = try #require(bench.publications.last.flatMap(\.self)?.record.instance)
    bench.send(avahi(v4(2), own.value))
    #expect(bench.dials.isEmpty)
  }

  @Test("Six addresses are kept for a device: one that worked stays, the least promising gives way")
  func sixAddresses() {
    var bench = PlanBench()
    bench.answer = { _ in (.zero, .noAnswer) }
    bench.send(.roster([device(1)]))
    bench.send(.connected(device(1), dialled: v4(1), listening: v4(1)))
    bench.send(.disconnected(device(1), said: nil))
    for number in UInt8(2)...20 {
      bench.run(until: .seconds(Int(number)))
      bench.send(.hint(DiscoveryHint(address: v4(number), source: .gossip, device: device(1))))
    }
    let kept = bench.plan.attempts(of: device(1)).map(\.address)
    #expect(kept.count == DiscoveryLimits.addressesPerDevice)
    #expect(kept.first == v4(1))
    #expect(kept.contains(v4(20)))
  }

  @Test("A flood of announcements keeps to 64 addresses and drives out no listed or gossiped one")
  func flood() {
    var bench = PlanBench(peers: [StaticPeer(host: "attic", port: 4000)])
    bench.answer = { _ in (.zero, .noAnswer) }
    bench.send(.resolved(StaticPeer(host: "attic", port: 4000), [v4(250)]))
    bench.send(.hint(DiscoveryHint(address: v4(251), source: .gossip, device: device(99))))
    for number in 0..<5_000 {
      bench.now = bench.now.advanced(by: .milliseconds(1))
      let address = NetworkAddress(.v4(0x0A00_0000 + UInt32(number)), port: 1)
      bench.send(avahi(address, UInt64(number)))
    }
    let kept = bench.plan.strangerAttempts
    #expect(kept.count == DiscoveryLimits.strangers)
    #expect(kept.contains { $0.address == v4(250) } && kept.contains { $0.address == v4(251) })
  }

  @Test("A household over the limit is cut, and says how many devices are left out")
  func manyDevices() {
    var bench = PlanBench()
    let many = (0..<300).compactMap { number in
      DeviceID(bytes: [UInt8](repeating: 1, count: 14) + [UInt8(number / 256), UInt8(number % 256)])
    }
    bench.send(.roster(many))
    #expect(bench.plan.omittedDevices == 44)
    bench.send(.roster(Array(many.prefix(3))))
    #expect(bench.plan.omittedDevices == 0)
  }

  @Test("When a stranger turns out to be a device, all that its daemon announced belongs to the device")
  func identified() {
    var bench = PlanBench()
    bench.send(.roster([device(1)]))
    bench.send(avahi(v4(1), 7))
    bench.send(avahi(v4(2), 7))
    bench.send(avahi(v4(3), 8))
    bench.send(.connected(device(1), dialled: v4(1), listening: v4(1)))
    #expect(bench.plan.attempts(of: device(1)).map(\.address) == [v4(1), v4(2)])
    #expect(bench.plan.strangerAttempts.map(\.address) == [v4(3)])
    // A further address of the same daemon goes straight to the device, which is in: no dial.
    let before = bench.dials.count
    bench.send(.dialFailed(v4(3), .noAnswer))
    bench.send(avahi(v4(4), 7))
    #expect(bench.dials.count == before)
    #expect(bench.plan.attempts(of: device(1)).map(\.address).contains(v4(4)))
  }

  @Test("An address that belongs to another device now leads to that one, at once and expecting it")
  func otherDevice() {
    var bench = PlanBench()
    bench.send(.roster([device(1), device(2)]))
    bench.send(persisted(v4(1), device(1)))
    bench.run(until: .milliseconds(100))
    bench.send(.dialFailed(v4(1), .otherDevice(device(2))))
    #expect(bench.plan.why(device(1)) == .otherDevice)
    bench.run(until: .milliseconds(200))
    #expect(bench.dials.last?.device == device(2))
    #expect(bench.dials.last?.address == v4(1))
    #expect(bench.dials.count == 2)
    // Gossip that repeats the old belief does not start a dispute over the address.
    bench.send(.connected(device(2), dialled: v4(1), listening: v4(1)))
    for second in 1...30 {
      bench.run(until: .seconds(second))
      bench.send(.hint(DiscoveryHint(address: v4(1), source: .gossip, device: device(1))))
    }
    #expect(bench.dials.count == 2)
  }

  @Test("A foreign daemon is left alone for a minute, a listed peer is tried again by itself")
  func foreignPause() {
    var bench = PlanBench(peers: [StaticPeer(host: "attic", port: 4000)])
    bench.answer = { _ in (.zero, .notOfHousehold) }
    bench.send(avahi(v4(1), 7))
    for second in 1...59 {
      bench.run(until: .seconds(second))
      bench.send(avahi(v4(1), 7))
    }
    #expect(bench.dials.count == 1)
    bench.run(until: .seconds(61))
    #expect(bench.dials.count == 2)
    bench.send(.resolved(StaticPeer(host: "attic", port: 4000), [v4(2)]))
    bench.run(until: .seconds(200))
    #expect(bench.dials.count { $0.address == v4(2) } == 3)
  }

  @Test("When the household gains a member, those who were foreign are tried again at once")
  func newMember() {
    var bench = PlanBench()
    bench.answer = { _ in (.zero, .notOfHousehold) }
    bench.send(.roster([device(1)]))
    bench.send(avahi(v4(1), 7))
    bench.run(until: .seconds(5))
    bench.send(.roster([device(1), device(2)]))
    #expect(bench.dials.count == 2)
    bench.run(until: .seconds(10))
    bench.send(.roster([device(1), device(2)]))
    #expect(bench.dials.count == 2)
  }

  @Test("A device that is not listed any more is not dialled")
  func removed() {
    var bench = PlanBench()
    bench.answer = { _ in (.zero, .noAnswer) }
    bench.send(.roster([device(1), device(2)]))
    bench.send(persisted(v4(1), device(1)))
    bench.run(until: .milliseconds(500))
    bench.send(.roster([device(2)]))
    bench.run(until: .seconds(60))
    #expect(bench.dials.count == 1)
    #expect(bench.plan.why(device(1)) == .neverHeard)
  }

  @Test("A session with a device that the log does not list yet counts once it is listed")
  func sessionBeforeListing() {
    var bench = PlanBench()
    bench.send(avahi(v4(1), 7))
    bench.send(.connected(device(1), dialled: v4(1), listening: v4(1)))
    bench.send(.roster([device(1)]))
    #expect(bench.plan.why(device(1)) == nil)
    bench.run(until: .seconds(60))
    #expect(bench.dials.count == 1)
    bench.send(.disconnected(device(1), said: nil))
    #expect(bench.dials.count == 2)
  }

  @Test("Addresses on an interface that is gone are forgotten with it")
  func goneInterface() {
    var bench = PlanBench()
    bench.send(.interfaces([ethernet()]))
    bench.send(.roster([device(1)]))
    let scoped = NetworkAddress(.v6(high: 0xFE80 << 48, low: 5, scope: 2), port: 4000)
    bench.send(persisted(scoped, device(1)))
    #expect(bench.plan.attempts(of: device(1)).count == 1)
    bench.send(.interfaces([ethernet("wlan0", index: 3)]))
    #expect(bench.plan.attempts(of: device(1)).isEmpty)
  }

  @Test("An address of no known device is forgotten a quarter of an hour after it was last heard of")
  func forgotten() {
    var bench = PlanBench()
    bench.answer = { _ in (.zero, .noAnswer) }
    bench.send(avahi(v4(1), 7))
    bench.run(until: .seconds(899))
    #expect(bench.plan.strangerAttempts.count == 1)
    bench.run(until: .seconds(960))
    #expect(bench.plan.strangerAttempts.isEmpty)
    #expect(bench.plan.nextDeadline == nil)
  }

  @Test(
    "Listed peers are resolved at the start, every minute and after a change; three addresses each are taken")
  func listedPeers() {
    let peer = StaticPeer(host: "attic", port: 4000)
    var bench = PlanBench(peers: [peer])
    func resolutions(_ bench: PlanBench) -> [MonotonicInstant] {
      bench.log.filter { $0.effect == .resolve(peer) }.map(\.at)
    }
    bench.run(until: .seconds(125))
    #expect(resolutions(bench).map { $0.nanoseconds / 1_000_000_000 } == [0, 60, 120])
    bench.send(.resumed)
    #expect(resolutions(bench).count == 4)
    bench.send(.resolved(peer, (1...9).map { v4($0) }))
    bench.run(until: .seconds(126))
    #expect(bench.dials.map(\.address) == [v4(1), v4(2), v4(3)])
    #expect(bench.plan.staticPeerReport.map(\.addresses) == [3])
    // Nobody asked for this one.
    bench.send(.resolved(StaticPeer(host: "cellar", port: 1), [v4(77)]))
    #expect(!bench.plan.strangerAttempts.contains { $0.address == v4(77) })
  }
}
