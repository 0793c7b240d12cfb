import Determinism
import GossipMembership
import MeshModel
import Testing
import WireCoding

@Suite("Exchange of views")
struct ViewExchangeTests {
  /// Two devices with a session between them and nobody else, and a way to let exchanges run to their end.
  struct Pair {
    var left = Bench()
    var right: Bench
    var messages = 0

    init(roster: Int) {
      right = Bench(seed: 2)
      right.membership = Membership(
        own: Bench.record(1), generator: SeededGenerator(seed: 2),
        at: ClockReading(monotonic: .zero, sinceBoot: .zero))
      let names = (0..<roster).map { Bench.name($0) }
      left.give(.roster(names))
      right.give(.roster(names))
    }

    /// Delivers what was sent between the two until both are silent.
    mutating func settle() {
      for _ in 0..<200 {
        let fromLeft = left.sent.filter { $0.receiver == Bench.name(1) && $0.path == .exchange }
        let fromRight = right.sent.filter { $0.receiver == Bench.name(0) && $0.path == .exchange }
        left.clear()
        right.clear()
        if fromLeft.isEmpty, fromRight.isEmpty { return }
        messages += fromLeft.count + fromRight.count
        for sent in fromLeft { right.exchange(sent.message, from: 0) }
        for sent in fromRight { left.exchange(sent.message, from: 1) }
      }
      Issue.record("the exchange does not end")
    }
  }

  @Test(
    "two devices that meet know all that either knew, also with 256 members", arguments: [2, 10, 60, 256])
  func meeting(count: Int) {
    var pair = Pair(roster: count)
    // The left one knows the even ones, the right one the odd ones, and half of the left's are newer.
    for index in 2..<max(count, 2) {
      let known = GossipMessage.records([Bench.record(index)], wanted: [])
      let newer = GossipMessage.records([Bench.record(index, 5)], wanted: [])
      if index % 2 == 0 { pair.left.exchange(index % 4 == 0 ? newer : known, from: 1) }
      if index % 2 == 1 || index % 4 == 0 { pair.right.exchange(known, from: 0) }
    }
    pair.left.clear()
    pair.right.clear()
    pair.left.give(.reachable(Bench.name(1)))
    pair.right.give(.reachable(Bench.name(0)))
    pair.settle()
    #expect(pair.left.membership.members.count == count - 1)
    #expect(pair.left.membership.digest() == pair.right.membership.digest())
    #expect(count < 6 || pair.right.membership.member(Bench.name(4))?.record == Bench.record(4, 5))
    // 34 claims a message, at least 6 records a message.
    #expect(pair.messages <= 4 + 4 * (count / 34 + 1) + 4 * (count / 6 + 1))
  }

  @Test("equal views are compared with seventeen bytes, about every ten seconds, and not answered")
  func equalViews() {
    var bench = Bench.settled(with: 4)
    bench.clear()
    bench.run(seconds: 1000, everybodyAnswers: true)
    let digests = bench.sent.filter { $0.path == .exchange }
    #expect((90...111).contains(digests.count))
    #expect(Set(digests.map(\.receiver)).count == 4)
    #expect(digests.allSatisfy { $0.message.encoded.count == 17 })
    bench.clear()
    bench.exchange(.viewDigest(bench.membership.digest()), from: 2)
    #expect(bench.sent.isEmpty)
  }

  @Test("unreachable members with a session are compared with too")
  func unreachableMembers() {
    var bench = Bench.settled(with: 2)
    bench.run(seconds: 30, everybodyAnswers: true, silent: [1, 2])
    #expect(bench.state(1) == .unreachable && bench.state(2) == .unreachable)
    bench.clear()
    bench.run(seconds: 100, everybodyAnswers: true, silent: [1, 2])
    let receivers = Set(bench.sent.filter { $0.path == .exchange }.map(\.receiver))
    #expect(receivers == [Bench.name(1), Bench.name(2)])
    #expect(bench.pings.isEmpty)
  }

  @Test("a digest on an ack that differs starts an exchange, but not again about the same two views")
  func differingDigest() {
    var bench = Bench.settled(with: 3)
    let other = ViewDigest(claims: MessageTests.claims(2))
    func answer(_ bench: inout Bench, with digest: ViewDigest, seconds: Double) -> Int {
      bench.clear()
      var exchanges = 0
      for _ in 0..<Int(seconds * 10) {
        bench.run(seconds: 0.1)
        for sent in bench.sent {
          if case .viewPart = sent.message { exchanges += 1 }
          guard case .ping(let sequence, _) = sent.message else { continue }
          bench.give(.message(GossipMessage.ack(sequence: sequence, digest, []).encoded, from: sent.receiver))
        }
        exchanges += bench.sent.filter { if case .viewPart = $0.message { true } else { false } }.count
        bench.clear()
      }
      return exchanges
    }
    let mismatch = answer(&bench, with: other, seconds: 20)
    #expect(mismatch > 0)
    #expect(mismatch <= 2 * 3)
  }

  @Test("a view that calls this device unreachable is answered with a newer incarnation")
  func mistakenAboutOwner() {
    var bench = Bench.settled(with: 2)
    let own = bench.membership.own
    let claim = MemberClaim(
      device: own.device, incarnation: own.incarnation, state: .unreachable,
      capabilityHash: own.capabilityHash)
    bench.clear()
    bench.exchange(
      .viewPart(ViewPart(above: Bench.name(0x7FFF), through: Bench.name(0x7FFF), claims: [])), from: 1)
    #expect(bench.sent.isEmpty)
    let lowest = DeviceID(bytes: [UInt8](repeating: 0, count: 16))!
    bench.exchange(.viewPart(ViewPart(above: lowest, through: own.device, claims: [claim])), from: 1)
    #expect(bench.membership.own.incarnation == own.incarnation.next)
    #expect(
      bench.sent.contains { sent in
        if case .records(let records, _) = sent.message {
          records.first == bench.membership.own
        } else {
          false
        }
      })
  }

  @Test("what another view calls unreachable is only suspected here, with the shortest time to refute")
  func unreachableByExchange() {
    var bench = Bench.settled(with: 4)
    bench.run(seconds: 2, everybodyAnswers: true)
    guard let record = bench.membership.member(Bench.name(1))?.record else { return }
    let claim = MemberClaim(
      device: record.device, incarnation: record.incarnation, state: .unreachable,
      capabilityHash: record.capabilityHash)
    let part = ViewPart(above: Bench.name(0), through: record.device, claims: [claim])
    bench.exchange(.viewPart(part), from: 3)
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 5.9, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .suspect)
    bench.run(seconds: 0.2, everybodyAnswers: true, silent: [1])
    #expect(bench.state(1) == .unreachable)
  }

  @Test("an accusation of a newer incarnation leads to the record of that incarnation")
  func missingStatements() {
    var bench = Bench.settled(with: 3)
    bench.run(seconds: 3, everybodyAnswers: true)
    bench.clear()
    var traits = DeviceTraits.plain
    traits.cores = 64
    bench.give(.news([Bench.accusation(of: 1, 9, by: 2)]), from: 2)
    #expect(bench.state(1) == .suspect)
    // The view that is sent says that the statements are not known.
    let claims = bench.sent.flatMap { sent -> [MemberClaim] in
      if case .viewPart(let part) = sent.message { part.claims } else { [] }
    }
    #expect(claims.first { $0.device == Bench.name(1) }?.capabilityHash == 0)
    bench.exchange(.records([Bench.record(1, 9, traits: traits)], wanted: []), from: 2)
    #expect(bench.membership.member(Bench.name(1))?.record.traits.cores == 64)
    // A mere record of the same incarnation does not clear the suspicion (SWIM §4.2).
    #expect(bench.state(1) == .suspect)
  }

  @Test("two records of one incarnation (a copied disk) end in the same one everywhere")
  func conflictingRecords() {
    var one = Bench.settled(with: 3)
    var two = Bench.settled(with: 3)
    var traits = DeviceTraits.plain
    traits.cores = 64
    let first = GossipMessage.records([Bench.record(1, 9)], wanted: [])
    let second = GossipMessage.records([Bench.record(1, 9, traits: traits)], wanted: [])
    one.exchange(first, from: 2)
    one.exchange(second, from: 3)
    two.exchange(second, from: 3)
    two.exchange(first, from: 2)
    #expect(one.membership.member(Bench.name(1))?.record == two.membership.member(Bench.name(1))?.record)
  }

  @Test("one member gets at most 32 messages of an exchange answered in a probe interval")
  func answerLimit() {
    var bench = Bench.settled(with: 3)
    let part = ViewPart(above: Bench.name(0), through: Bench.name(200), claims: [])
    for _ in 0..<50 { bench.exchange(.viewPart(part), from: 1) }
    bench.exchange(.viewPart(part), from: 2)
    #expect(bench.membership.dropCount(.overLimit) == 50 - GossipProfile.household.exchangeAnswersPerInterval)
  }
}
