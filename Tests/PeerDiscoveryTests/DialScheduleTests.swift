import Determinism
import MeshModel
import PeerDiscovery
import Testing

@Suite("Whom to dial and when")
struct DialScheduleTests {
  @Test("At the start all known addresses are dialled 50 ms apart, eight in flight, each device's best first")
  func start() {
    var bench = PlanBench()
    bench.send(.roster((1...5).map { device($0) }))
    for number in UInt8(1)...5 {
      bench.send(persisted(v4(number), device(number)))
      bench.send(persisted(v4(100 + number), device(number)))
    }
    bench.run(until: .seconds(5))
    // Nobody answers, so after eight dials the slots are full.
    #expect(bench.dialTimes == (0..<8).map { .milliseconds(50 * $0) })
    #expect(bench.dials.prefix(5).map(\.device) == (1...5).map { device($0) })
    #expect(Set(bench.dials.map(\.address)).count == 8)
  }

  @Test(
    "A failed address is dialled again after 1, 2, 4, 8, 16, 20, 20 s, each shortened by at most a quarter")
  func redial() {
    for seed in UInt64(0)..<20 {
      var bench = PlanBench(seed: seed)
      bench.answer = { _ in (.zero, .refused) }
      bench.send(.roster([device(1)]))
      bench.send(persisted(v4(1), device(1)))
      bench.run(until: .seconds(150))
      let gaps = zip(bench.dialTimes.dropFirst(), bench.dialTimes).map { $0 - $1 }
      for (gap, full) in zip(gaps, [1, 2, 4, 8, 16, 20, 20].map { Duration.seconds($0) }) {
        #expect(gap <= full && gap >= full * 3 / 4, "seed \(seed): \(gap) for \(full)")
      }
      #expect(gaps.count >= 7)
    }
  }

  @Test("Waits differ between devices that start together")
  func jitter() {
    let firstGaps = Set(
      (UInt64(0)..<10).map { seed in
        var bench = PlanBench(seed: seed)
        bench.answer = { _ in (.zero, .refused) }
        bench.send(.roster([device(1)]))
        bench.send(persisted(v4(1), device(1)))
        bench.run(until: .seconds(2))
        return bench.dialTimes[1]
      })
    #expect(firstGaps.count > 5)
  }

  @Test("While a control session stands its device is not dialled; when it ends it is dialled at once")
  func session() {
    var bench = PlanBench()
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    bench.send(persisted(v4(2), device(1)))
    #expect(bench.dials.count == 1)
    bench.send(.connected(device(1), dialled: v4(1), listening: v4(1)))
    #expect(bench.plan.why(device(1)) == nil)
    bench.run(until: .seconds(100))
    #expect(bench.dials.count == 1)
    bench.send(.disconnected(device(1), said: nil))
    #expect(bench.dials.last == PlanBench.Dial(at: bench.now, address: v4(1), device: device(1)))
    #expect(bench.plan.why(device(1)) == .unreachable)
  }

  @Test("A device that said that it leaves is dialled slowly, and the reason is what it said")
  func farewell() {
    for said in [AbsenceReason.left, .asleep] {
      var bench = PlanBench()
      bench.answer = { _ in (.seconds(2), .noAnswer) }
      bench.send(.roster([device(1)]))
      bench.send(.connected(device(1), dialled: v4(1), listening: v4(1)))
      bench.send(.disconnected(device(1), said: said))
      bench.run(until: .seconds(100))
      #expect(bench.plan.why(device(1)) == said)
      #expect((4...6).contains(bench.dials.count))
      #expect(bench.dialTimes[0] >= DiscoveryLimits.longestRedial * 3 / 4)
    }
  }

  @Test("A change of the network and waking up dial everybody at once, and outdated failures do not count")
  func renewal() {
    for trigger in [DiscoveryInput.resumed, .interfaces([ethernet()])] {
      var bench = PlanBench()
      var answers: (Duration, DialOutcome)? = (.zero, .noAnswer)
      bench.answer = { _ in answers }
      bench.send(.roster([device(1)]))
      bench.send(persisted(v4(1), device(1)))
      bench.run(until: .seconds(40))
      answers = nil
      bench.answer = { _ in nil }
      let before = bench.dials.count
      bench.send(trigger)
      #expect(bench.dials.count == before + 1)
      // The network changes while that dial is open; its failure says nothing about the new network.
      bench.now = bench.now.advanced(by: .milliseconds(500))
      bench.send(.resumed)
      bench.send(.dialFailed(v4(1), .noAnswer))
      #expect(bench.dials.count == before + 2)
    }
  }

  @Test("The same interfaces again are no change")
  func sameInterfaces() {
    var bench = PlanBench()
    bench.answer = { _ in (.zero, .noAnswer) }
    bench.send(.interfaces([ethernet()]))
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    bench.run(until: .seconds(20))
    let before = bench.log.count
    bench.send(.interfaces([ethernet()]))
    bench.send(.interfaces([ethernet(), ethernet("docker0", index: 9)]))
    #expect(bench.log.count == before)
  }

  @Test("An announced address is dialled at once, but at most once a second however often it is announced")
  func announced() {
    var bench = PlanBench()
    bench.answer = { _ in (.milliseconds(1), .refused) }
    let hint = DiscoveryHint(address: v4(1), source: .avahi, instance: InstanceTag(5), householdTag: 1)
    for step in 0..<500 {
      bench.now = .zero.advanced(by: .milliseconds(20 * step))
      bench.run(until: .milliseconds(20 * step))
      bench.send(.hint(hint))
    }
    let gaps = zip(bench.dialTimes.dropFirst(), bench.dialTimes).map { $0 - $1 }
    #expect(bench.dialTimes.first == .zero)
    #expect(bench.dials.count >= 9 && bench.dials.count <= 15)
    #expect(gaps.allSatisfy { $0 >= .milliseconds(750) })
    #expect(bench.dials.allSatisfy { $0.device == nil })
  }

  @Test("A newly announced address overtakes redials that are due")
  func overtaking() {
    var bench = PlanBench()
    bench.answer = { address in address == v4(200) ? nil : (.zero, .noAnswer) }
    bench.send(.roster((1...60).map { device($0) }))
    for number in UInt8(1)...60 { bench.send(persisted(v4(number), device(number))) }
    bench.run(until: .milliseconds(1600))
    bench.send(.hint(DiscoveryHint(address: v4(200), source: .beacon, householdTag: 1)))
    bench.run(until: .milliseconds(1700))
    #expect(bench.dials.contains { $0.address == v4(200) })
  }

  @Test("A dial that nobody reports on counts as without answer after ten seconds")
  func silentTransport() {
    var bench = PlanBench()
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    bench.run(until: .milliseconds(9_999))
    #expect(bench.plan.why(device(1)) == .notTried)
    bench.run(until: .seconds(12))
    #expect(bench.plan.why(device(1)) == .noAnswer)
    #expect(bench.dials.count == 2)
  }

  @Test("Outside a household nothing is dialled")
  func noKey() {
    var bench = PlanBench(keys: [])
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    bench.run(until: .seconds(60))
    #expect(bench.dials.isEmpty)
    bench.send(.keys([testKey(1)]))
    #expect(bench.dials.count == 1)
  }

  @Test("The same inputs give the same effects, and another seed other waits")
  func repeatable() {
    func run(_ seed: UInt64) -> [PlanBench.Timed] {
      var bench = PlanBench(seed: seed)
      bench.answer = { _ in (.milliseconds(3), .noAnswer) }
      bench.send(.interfaces([ethernet()]))
      bench.send(.roster((1...9).map { device($0) }))
      for number in UInt8(1)...9 { bench.send(persisted(v4(number), device(number))) }
      bench.run(until: .seconds(300))
      return bench.log
    }
    #expect(run(3) == run(3))
    #expect(run(3) != run(4))
  }
}
