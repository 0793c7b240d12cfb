import Determinism
import GossipMembership
import MeshModel
import Testing

@Suite("The guard against sleep")
struct AbsenceTests {
  /// A device that suspects member 1, fully confirmed, half a second before the time-out.
  static func suspicious() -> Bench {
    var bench = Bench.settled(with: 5)
    for accuser in 2...4 { bench.give(.news([Bench.accusation(of: 1, by: accuser)]), from: accuser) }
    bench.run(seconds: 5.5, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .suspect)
    bench.clear()
    return bench
  }

  static func away(_ bench: Bench) -> [Duration] {
    bench.effects.compactMap { if case .away(let duration) = $0 { duration } else { nil } }
  }

  @Test("without a pause the suspect becomes unreachable in time")
  func control() {
    var bench = Self.suspicious()
    bench.run(seconds: 0.6, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .unreachable)
  }

  @Test(
    "sleep that only the other clock counts is noticed, whatever arrives first", arguments: [true, false])
  func sleepOfTheMachine(byTick: Bool) {
    var bench = Self.suspicious()
    let before = bench.membership.own.incarnation
    // CLOCK_MONOTONIC stood still, CLOCK_BOOTTIME went on.
    bench.asleep = 3_600_000_000_000
    bench.monotonic += 700_000_000
    bench.give(byTick ? .tick : .heard(Bench.name(2)))
    #expect(bench.state(1) == .suspect)
    #expect(Self.away(bench).count == 1)
    #expect((Self.away(bench).first ?? .zero) >= .seconds(3600))
    // Everybody is told at once, with an incarnation that beats what was said meanwhile.
    #expect(bench.membership.own.incarnation == before.next)
    let told = Set(bench.sent.filter { $0.message == .news([.record(bench.membership.own)]) }.map(\.receiver))
    #expect(told.isSuperset(of: [2, 3, 4, 5].map { Bench.name($0) }))
    // The doubt starts anew, without the confirmations of before.
    bench.run(seconds: 5, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 15, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .unreachable)
  }

  @Test("a frozen process sees its own timer late, and accuses nobody for that time")
  func freeze() {
    var bench = Self.suspicious()
    bench.monotonic += 30_000_000_000
    bench.give(.tick)
    #expect(bench.state(1) == .suspect)
    #expect(Self.away(bench).count == 1)
    #expect((Self.away(bench).first ?? .zero) > .seconds(29))
    #expect(bench.membership.healthScore > 0)
  }

  @Test("a timer that is a little late costs health and moves deadlines, but is no absence")
  func lateTimer() {
    var bench = Self.suspicious()
    let score = bench.membership.healthScore
    bench.monotonic = bench.membership.nextDeadline.nanoseconds + 1_000_000_000
    bench.give(.tick)
    #expect(Self.away(bench).isEmpty)
    #expect(bench.membership.healthScore == score + 1)
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 1.1, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .unreachable)
  }

  @Test("an absence is noticed once")
  func once() {
    var bench = Self.suspicious()
    bench.asleep = 60_000_000_000
    bench.give(.tick)
    bench.run(seconds: 20, everybodyAnswers: true)
    #expect(Self.away(bench).count == 1)
  }

  @Test("the skew of reading two clocks one after the other is no sleep")
  func clockSkew() {
    var bench = Bench.settled(with: 3)
    for step in 0..<200 {
      bench.asleep = step % 2 == 0 ? 0 : 50_000_000
      bench.give(.tick)
    }
    #expect(Self.away(bench).isEmpty)
  }
}
