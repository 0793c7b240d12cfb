import Determinism
import GossipMembership
import MeshModel
import Testing
import WireCoding

@Suite("News (SWIM §4.1)")
struct NewsTests {
  @Test("news are sent λ · ⌈log10(n + 1)⌉ times, then nothing more is sent", arguments: [2, 5, 9, 10, 40])
  func retransmissions(members: Int) {
    var bench = Bench.settled(with: members - 1)
    bench.clear()
    let news = News.record(Bench.record(1, 50))
    bench.give(.news([news]), from: 1)
    bench.run(seconds: 60, everybodyAnswers: true)
    // ⌈log10(n + 1)⌉ of 2, 5 and 9 is 1, of 10 and 40 it is 2; λ is 4.
    #expect(bench.news.filter { $0 == news }.count == (members < 10 ? 4 : 8))
  }

  @Test("news go to two random members every 250 ms")
  func fanOut() {
    var bench = Bench.settled(with: 8)
    bench.clear()
    bench.give(.ownAddresses([HouseholdLab.address(77)]))
    let first = bench.sent.filter { $0.path == .datagram }
    #expect(first.count == 2)
    #expect(Set(first.map(\.receiver)).count == 2)
    bench.clear()
    bench.run(seconds: 0.249, everybodyAnswers: true)
    let piggybacked = bench.pings.count
    #expect(bench.sent.count == piggybacked)
    bench.run(seconds: 0.002, everybodyAnswers: true)
    #expect(bench.sent.count >= piggybacked + 1)
  }

  @Test("an unchanged household is silent but for probes and digests")
  func silence() {
    var bench = Bench.settled(with: 5)
    bench.give(.ownTraits(.plain))
    bench.give(.ownAddresses([HouseholdLab.address(0)]))
    bench.clear()
    bench.run(seconds: 120, everybodyAnswers: true)
    #expect(bench.news.isEmpty)
    for sent in bench.sent {
      switch sent.message {
      case .ping, .viewDigest: break
      default: Issue.record("\(sent.message)")
      }
    }
  }

  @Test("a change of traits or addresses is news with a newer incarnation, and others learn it")
  func ownChanges() {
    var bench = Bench.settled(with: 2)
    let before = bench.membership.own.incarnation
    var traits = DeviceTraits.plain
    traits.power = .mains
    bench.give(.ownTraits(traits))
    #expect(bench.membership.own.incarnation == before.next)
    #expect(bench.news.contains(.record(bench.membership.own)))
    bench.clear()
    bench.give(.news([.record(Bench.record(1, 9, traits: traits))]), from: 1)
    #expect(bench.effects.contains(.updated(Bench.record(1, 9, traits: traits))))
    #expect(bench.membership.member(Bench.name(1))?.record.traits.power == .mains)
  }

  @Test("messages that are full of news stay within 1,172 bytes")
  func fullMessages() {
    var bench = Bench.settled(with: 200)
    for index in 1...200 { bench.give(.heard(Bench.name(index))) }
    for index in 1...200 {
      bench.give(.news([.record(MessageTests.largestRecord(index))]), from: index)
    }
    // Bench traps on a longer message.
    bench.run(seconds: 30, everybodyAnswers: true)
    #expect(bench.news.count >= 200)
  }
}

@Suite("Roster, leaving and removal")
struct RosterTests {
  @Test("who is not a member by trust is neither believed nor believed in, and counted")
  func strangers() {
    var bench = Bench.settled(with: 2)
    bench.give(.ping(sequence: 1, []), from: 9)
    bench.exchange(.records([Bench.record(9)], wanted: []), from: 9)
    bench.give(.reachable(Bench.name(9)))
    #expect(bench.membership.dropCount(.strangerSender) == 3)
    bench.give(.news([.record(Bench.record(9))]), from: 1)
    bench.give(.news([Bench.accusation(of: 9, by: 1)]), from: 1)
    bench.exchange(.records([Bench.record(9)], wanted: []), from: 1)
    #expect(bench.membership.dropCount(.strangerSubject) == 3)
    #expect(bench.state(9) == nil)
    #expect(!bench.sent.contains { $0.receiver == Bench.name(9) })
  }

  @Test("a roster of more than 256 devices is cut, and what is over is counted")
  func rosterLimit() {
    var bench = Bench()
    bench.give(.roster((0..<300).map { Bench.name($0) }))
    #expect(bench.membership.dropCount(.overLimit) == 300 - GossipLimits.members)
    for index in 1..<300 { bench.give(.reachable(Bench.name(index))) }
    for index in 1..<300 { bench.exchange(.records([Bench.record(index)], wanted: []), from: index) }
    #expect(bench.membership.members.count == GossipLimits.members - 1)
  }

  @Test("a removed device is revoked for ever, whatever the roster or gossip says later")
  func revocation() {
    var bench = Bench.settled(with: 3)
    bench.give(.revoked(Bench.name(2)))
    #expect(bench.state(2) == .revoked)
    bench.clear()
    bench.give(.roster((0...3).map { Bench.name($0) }))
    bench.give(.reachable(Bench.name(2)))
    bench.give(.ping(sequence: 3, []), from: 2)
    bench.give(.news([.record(Bench.record(2, boot: 99))]), from: 1)
    bench.run(seconds: 30, everybodyAnswers: true)
    #expect(bench.state(2) == .revoked)
    #expect(!bench.sent.contains { $0.receiver == Bench.name(2) })
    #expect(
      bench.effects.allSatisfy {
        if case .changed(let record, _) = $0 { record.device != Bench.name(2) } else { true }
      })
  }

  @Test("a device that is removed itself falls silent")
  func selfRevocation() {
    var bench = Bench.settled(with: 3)
    bench.give(.revoked(Bench.own))
    bench.clear()
    bench.give(.ping(sequence: 3, []), from: 2)
    bench.run(seconds: 4000)
    #expect(bench.sent.isEmpty)
    #expect(bench.membership.own.state == .revoked)
  }

  @Test("a device that leaves tells everybody over both ways and then falls silent")
  func leaving() {
    var bench = Bench.settled(with: 3)
    bench.clear()
    bench.give(.leave)
    #expect(bench.membership.own.state == .left)
    for index in 1...3 {
      let told = bench.sent.filter { $0.receiver == Bench.name(index) }
      #expect(told.map(\.path) == [.datagram, .exchange])
    }
    bench.clear()
    bench.give(.ping(sequence: 3, []), from: 2)
    bench.give(.leave)
    bench.run(seconds: 4000)
    #expect(bench.sent.isEmpty)
  }

  @Test("a member that has left is not accused any more, and a restart brings it back")
  func leftMember() {
    var bench = Bench.settled(with: 3)
    var record = Bench.record(1, 3)
    var bytes = record.encoded
    bytes[1 + 16 + 8] = MemberState.left.rawValue
    guard let left = try? MemberRecord(decoding: bytes) else { return }
    bench.give(.news([.record(left)]), from: 1)
    #expect(bench.state(1) == .left)
    bench.give(.news([Bench.accusation(of: 1, 3, by: 2)]), from: 2)
    bench.clear()
    bench.run(seconds: 30, everybodyAnswers: true)
    #expect(bench.state(1) == .left)
    #expect(!bench.pings.contains { $0.receiver == Bench.name(1) })
    record = Bench.record(1, boot: 8)
    bench.give(.viewExchange(GossipMessage.records([record], wanted: []).encoded, from: Bench.name(1)))
    #expect(bench.state(1) == .alive)
  }

  @Test("who falls out of the roster without being revoked may come back")
  func rosterGap() {
    var bench = Bench.settled(with: 3)
    bench.give(.roster([Bench.name(0), Bench.name(1), Bench.name(3)]))
    #expect(bench.state(2) == .revoked)
    bench.give(.roster((0...3).map { Bench.name($0) }))
    bench.give(.reachable(Bench.name(2)))
    bench.exchange(.records([Bench.record(2)], wanted: []), from: 2)
    #expect(bench.state(2) == .alive)
  }

  @Test("an unreachable member is worth showing for thirty days and stays in the view after that")
  func retention() {
    var bench = Bench.settled(with: 2)
    bench.run(seconds: 2, everybodyAnswers: true, silent: [1])
    bench.give(.news([Bench.accusation(of: 1, by: 2, isFinal: true)]), from: 2)
    guard let member = bench.membership.member(Bench.name(1)) else { return }
    #expect(member.record.state == .unreachable)
    let month = Duration.seconds(30 * 24 * 3600)
    #expect(!bench.membership.isLongGone(member, at: member.since.advanced(by: month - .seconds(1))))
    #expect(bench.membership.isLongGone(member, at: member.since.advanced(by: month)))
  }
}
