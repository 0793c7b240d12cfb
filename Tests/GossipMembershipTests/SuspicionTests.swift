import Determinism
import Foundation
import GossipMembership
import MeshModel
import Testing

/// A statement that meets another, told with an incarnation that differs by −1, 0 or 1.
struct Precedence: Sendable {
  let known: MemberState
  let told: MemberState
  let difference: Int
  let result: MemberState

  /// The order of §4.2, and what is different here.
  ///
  /// "{Alive Ml, inc = i} overrides {Suspect Ml, inc = j} and {Alive Ml, inc = j}, i > j. {Suspect Ml, inc = i}
  /// overrides {Suspect Ml, inc = j}, i > j, and {Alive Ml, inc = j}, i ≥ j. {Confirm Ml} overrides {Alive Ml} and
  /// {Suspect Ml}" (§4.2); here Confirm is "unreachable", carries an incarnation, and a newer Alive overrides it.
  static let all: [Precedence] = [
    Precedence(known: .alive, told: .suspect, difference: -1, result: .alive),
    Precedence(known: .alive, told: .suspect, difference: 0, result: .suspect),
    Precedence(known: .alive, told: .suspect, difference: 1, result: .suspect),
    Precedence(known: .suspect, told: .alive, difference: 0, result: .suspect),
    Precedence(known: .suspect, told: .alive, difference: 1, result: .alive),
    Precedence(known: .suspect, told: .alive, difference: -1, result: .suspect),
    Precedence(known: .alive, told: .unreachable, difference: -1, result: .alive),
    Precedence(known: .alive, told: .unreachable, difference: 0, result: .unreachable),
    Precedence(known: .suspect, told: .unreachable, difference: 0, result: .unreachable),
    Precedence(known: .unreachable, told: .suspect, difference: 0, result: .unreachable),
    Precedence(known: .unreachable, told: .alive, difference: 0, result: .unreachable),
    Precedence(known: .unreachable, told: .alive, difference: 1, result: .alive),
    Precedence(known: .unreachable, told: .suspect, difference: 1, result: .suspect),
  ]
}

@Suite("Suspicion (SWIM §4.2, Lifeguard §IV-B)")
struct SuspicionTests {
  @Test(
    "the time-out is max(Min, Max − (Max − Min) · log(C + 1) / log(K + 1))",
    arguments: [1, 2, 3, 5, 8])
  func formula(wanted: Int) {
    for confirmations in 0...wanted + 1 {
      let timeout = Suspicion.timeout(
        confirmations: confirmations, wanted: wanted, minimum: .seconds(6), maximum: .seconds(20))
      let share = log(Double(confirmations + 1)) / log(Double(wanted + 1))
      #expect(abs(timeout.inSeconds - max(6, 20 - 14 * share)) < 1e-9)
    }
  }

  @Test("with Lifeguard's K = 3, one confirmation halves the way to the minimum")
  func halfWay() {
    // log 2 / log 4 = 1/2.
    let timeout = Suspicion.timeout(confirmations: 1, wanted: 3, minimum: .seconds(6), maximum: .seconds(20))
    #expect(abs(timeout.inSeconds - 13) < 1e-9)
  }

  @Test("with two members nobody can confirm, and the time-out stays at its maximum")
  func twoMembers() {
    var bench = Bench.settled(with: 1)
    bench.give(.news([Bench.accusation(of: 1, by: 1)]), from: 1)
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 19.9)
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 0.2)
    #expect(bench.state(1) == .unreachable)
  }

  @Test("confirmations of two others bring the time-out to its minimum", arguments: [0, 1, 2, 3])
  func confirmations(count: Int) {
    var bench = Bench.settled(with: 6)
    let start = bench.monotonic
    for accuser in 0...count {
      bench.give(.news([Bench.accusation(of: 1, by: 2 + accuser)]), from: 2 + accuser)
    }
    bench.run(seconds: 25, everybodyAnswers: true, silent: [])
    let change = bench.effects.contains { effect in
      if case .changed(let record, from: .suspect) = effect { record.state == .unreachable } else { false }
    }
    #expect(change)
    let since = bench.membership.member(Bench.name(1))?.since.nanoseconds ?? 0
    let expected: [Double] = [20, 20 - 14 * log(2) / log(3), 6, 6]
    // A suspected member that answers this device itself is still suspected until it refutes.
    #expect(abs(Double(since - start) * 1e-9 - expected[count]) < 1e-6)
  }

  @Test("the same accuser twice confirms nothing")
  func sameAccuser() {
    var bench = Bench.settled(with: 5)
    for _ in 0..<5 { bench.give(.news([Bench.accusation(of: 1, by: 2)]), from: 3) }
    bench.run(seconds: 19.9, everybodyAnswers: true)
    #expect(bench.state(1) == .suspect)
  }

  @Test("K shrinks with the household: of three members one confirmation is all there can be")
  func threeMembers() {
    var bench = Bench.settled(with: 2)
    bench.give(.news([Bench.accusation(of: 1, by: 2)]), from: 2)
    bench.give(.tick)
    // The second accuser is this device itself, by its own failed probe.
    bench.run(seconds: 9, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .unreachable)
  }

  @Test("a statement overrides another as SWIM §4.2 orders them", arguments: Precedence.all)
  func precedence(_ sample: Precedence) {
    var bench = Bench.settled(with: 4)
    bench.give(.news([.record(Bench.record(1, 5))]), from: 1)
    if sample.known != .alive {
      let isFinal = sample.known == .unreachable
      bench.give(.news([Bench.accusation(of: 1, 5, by: 2, isFinal: isFinal)]), from: 2)
      // What was heard of the member itself a moment ago makes a final accusation a mere suspicion.
      if isFinal { bench.run(seconds: 21) }
    }
    #expect(bench.state(1) == sample.known)
    let news: News =
      sample.told == .alive
      ? .record(Bench.record(1, UInt64(5 + sample.difference)))
      : Bench.accusation(of: 1, UInt64(5 + sample.difference), by: 3, isFinal: sample.told == .unreachable)
    bench.run(seconds: 1.5)
    bench.give(.news([news]), from: 3)
    #expect(bench.state(1) == sample.result)
  }

  @Test("a suspected member refutes with a newer incarnation, and takes it for a sign of its own slowness")
  func refutation() {
    var bench = Bench.settled(with: 3)
    let before = bench.membership.own.incarnation
    bench.give(.news([Bench.accusation(of: 0, boot: 7, before.value & 0xFFFF_FFFF, by: 2)]), from: 2)
    #expect(bench.membership.own.incarnation == before.next)
    #expect(bench.membership.healthScore == 1)
    // At once to whoever told it, and to others by gossip.
    #expect(bench.sent.first?.receiver == Bench.name(2))
    #expect(bench.news.contains(.record(bench.membership.own)))
    // The same accusation again is older than the refutation.
    bench.give(.news([Bench.accusation(of: 0, boot: 7, before.value & 0xFFFF_FFFF, by: 3)]), from: 3)
    #expect(bench.membership.own.incarnation == before.next)
    #expect(bench.membership.healthScore == 1)
  }

  @Test("a restart beats whatever was said of the earlier life, however often that had refuted")
  func restartBeatsStaleAccusations() {
    var bench = Bench.settled(with: 3)
    bench.give(.news([.record(Bench.record(1, boot: 7, 100_000))]), from: 2)
    bench.run(seconds: 2)
    bench.give(.news([Bench.accusation(of: 1, boot: 7, 100_000, by: 2, isFinal: true)]), from: 2)
    #expect(bench.state(1) == .unreachable)
    bench.give(.news([.record(Bench.record(1, boot: 8))]), from: 2)
    #expect(bench.state(1) == .alive)
    bench.give(.news([Bench.accusation(of: 1, boot: 7, 100_001, by: 3, isFinal: true)]), from: 3)
    #expect(bench.state(1) == .alive)
  }

  @Test("a device whose boot counter was lost climbs above its earlier life")
  func lostBootCounter() {
    var bench = Bench.settled(with: 2)
    bench.exchange(.records([Bench.record(0, boot: 90, 3)], wanted: []), from: 1)
    #expect(bench.membership.own.incarnation == Bench.incarnation(boot: 90, 4))
  }

  @Test("a doubted member is told so with every message to it (Lifeguard §IV-C, Buddy System)")
  func buddySystem() {
    var bench = Bench.settled(with: 3)
    bench.give(.news([Bench.accusation(of: 1, by: 2)]), from: 2)
    bench.run(seconds: 5)
    let pings = bench.pings.filter { $0.receiver == Bench.name(1) }
    #expect(!pings.isEmpty)
    for ping in pings {
      guard case .ping(_, let news) = ping.message else { continue }
      #expect(news.first == Bench.accusation(of: 1, by: 2))
    }
  }

  @Test("an unreachable member that speaks is told what is believed of it, once a second")
  func accusedOnContact() {
    var bench = Bench.settled(with: 3)
    bench.run(seconds: 1.5)
    bench.give(.news([Bench.accusation(of: 1, by: 2, isFinal: true)]), from: 2)
    #expect(bench.state(1) == .unreachable)
    bench.run(seconds: 10, everybodyAnswers: true, silent: [1])
    bench.clear()
    for _ in 0..<30 {
      bench.give(.heard(Bench.name(1)))
      bench.run(seconds: 0.1, everybodyAnswers: true, silent: [1])
    }
    let told = bench.sent.filter { $0.receiver == Bench.name(1) }
    #expect(told.count == 3)
    #expect(told.allSatisfy { $0.message == .news([Bench.accusation(of: 1, by: 0, isFinal: true)]) })
  }
}
