import Determinism
import GossipMembership
import MeshModel
import Testing
import WireCoding

@Suite("Leader suggestion")
struct LeaderTests {
  static func traits(
    power: DeviceTraits.Power = .battery, attachment: DeviceTraits.Attachment = .wireless,
    memory: UInt32 = 8192,
    isAvailable: Bool = true
  ) -> DeviceTraits {
    DeviceTraits(
      power: power, attachment: attachment, cores: 4, memoryMebibytes: memory, isAvailable: isAvailable,
      wireVersions: .current, version: "1")
  }

  @Test("rank is anchor, mains power, wire, class of memory, smaller name, in this order")
  func rank() {
    let worst = Bench.record(9, traits: Self.traits(memory: 4096))
    let lowerName = Bench.record(1, traits: Self.traits(memory: 4096))
    let sameClass = Bench.record(1, traits: Self.traits(memory: 4097))
    let memory = Bench.record(9, traits: Self.traits(memory: 8192))
    let wired = Bench.record(9, traits: Self.traits(attachment: .wired, memory: 1))
    let mains = Bench.record(8, traits: Self.traits(power: .mains, memory: 1))
    let ascending = [worst, lowerName, memory, wired, mains].map { LeaderRank($0) }
    #expect(ascending == ascending.sorted())
    #expect(Set(ascending).count == 5)
    #expect(LeaderRank(sameClass) == LeaderRank(lowerName))
    #expect(LeaderRank(worst, anchor: worst.device) > LeaderRank(mains, anchor: worst.device))
  }

  static func leaders(_ lab: HouseholdLab) -> [Int?] {
    lab.machines.map { machine in
      machine.membership.suggestedLeader.flatMap { HouseholdLab.index(of: $0, below: lab.machines.count) }
    }
  }

  @Test("all devices suggest the best one, soon")
  func agreement() {
    var lab = HouseholdLab(6, seed: 1) { Self.traits(power: $0 == 4 ? .mains : .battery) }
    lab.run(seconds: 5)
    #expect(Self.leaders(lab) == [4, 4, 4, 4, 4, 4])
  }

  @Test("a better device that joins later changes nothing; the leader's crash does")
  func stickiness() {
    var lab = HouseholdLab(5, seed: 2) {
      Self.traits(power: $0 >= 3 ? .mains : .battery, attachment: $0 == 4 ? .wired : .wireless)
    }
    lab.powerOff(4)
    lab.run(seconds: 40)
    #expect(Self.leaders(lab)[0..<4] == [3, 3, 3, 3])
    lab.start(4, traits: Self.traits(power: .mains, attachment: .wired))
    lab.run(seconds: 40)
    #expect(Self.leaders(lab) == [3, 3, 3, 3, 3])
    lab.powerOff(3)
    lab.run(seconds: 20)
    #expect(Self.leaders(lab)[0...2] == [4, 4, 4])
    #expect(Self.leaders(lab)[4] == 4)
    // The old one comes back and follows.
    lab.start(3, traits: Self.traits(power: .mains))
    lab.run(seconds: 20)
    #expect(Self.leaders(lab) == [4, 4, 4, 4, 4])
  }

  @Test("a short doubt about the leader changes nothing")
  func doubt() {
    var lab = HouseholdLab(5, seed: 3)
    lab.run(seconds: 10)
    let leader = Self.leaders(lab)[0]
    let changes = lab.leaders.count
    lab.freeze(leader ?? 0)
    lab.run(seconds: 4)
    lab.goOn(leader ?? 0)
    lab.run(seconds: 30)
    #expect(lab.changes.contains { $0.to == .suspect })
    #expect(lab.leaders.count == changes)
  }

  @Test("a leader whose person takes it back is followed no more")
  func unavailable() {
    var lab = HouseholdLab(4, seed: 4)
    lab.run(seconds: 10)
    let leader = Self.leaders(lab)[0] ?? 0
    lab.deliver(.ownTraits(Self.traits(isAvailable: false)), to: leader)
    lab.run(seconds: 10)
    let next = Set(Self.leaders(lab))
    #expect(next.count == 1)
    #expect(next != [leader])
  }

  @Test("two halves with their own leaders agree after they meet, on the one that more follow")
  func healing() {
    var lab = HouseholdLab(7, seed: 5)
    lab.run(seconds: 10)
    let leader = Self.leaders(lab)[0] ?? 0
    // The leader is in the smaller half.
    let small = [leader, (leader + 1) % 7]
    let large = (0..<7).filter { !small.contains($0) }
    lab.partition(small, from: large)
    lab.run(seconds: 120)
    let other = Self.leaders(lab)[large[0]]
    #expect(other != leader)
    #expect(small.allSatisfy { Self.leaders(lab)[$0] == leader })
    lab.heal()
    lab.run(seconds: 40)
    #expect(Self.leaders(lab) == [Int?](repeating: other, count: 7))
  }

  @Test("no device is suggested when none is available, and a lone device suggests itself")
  func loneDevice() {
    var lab = HouseholdLab(1, seed: 6)
    lab.run(seconds: 10)
    #expect(Self.leaders(lab) == [0])
    lab.deliver(.ownTraits(Self.traits(isAvailable: false)), to: 0)
    lab.run(seconds: 10)
    #expect(Self.leaders(lab) == [nil])
  }
}
