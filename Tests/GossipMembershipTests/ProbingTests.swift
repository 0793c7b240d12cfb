import Determinism
import GossipMembership
import MeshModel
import Testing
import WireCoding

@Suite("Probing (SWIM §3.1 and §4.3, Lifeguard §IV-A)")
struct ProbingTests {
  @Test("every member is probed once in each round, in orders that differ (§4.3)")
  func roundRobin() {
    var bench = Bench.settled(with: 6)
    var orders: Set<[DeviceID]> = []
    // Answers older than an interval give no credit here: six members, one probe a second.
    bench.run(seconds: 1, everybodyAnswers: true)
    bench.clear()
    bench.run(seconds: 60, everybodyAnswers: true)
    let targets = bench.pings.map(\.receiver)
    #expect((58...62).contains(targets.count))
    // Whatever the phase, among 2n − 1 consecutive probes everybody appears.
    for start in 0..<(targets.count - 11) { #expect(Set(targets[start..<(start + 11)]).count == 6) }
    for start in stride(from: 0, to: targets.count - 6, by: 6) {
      orders.insert(Array(targets[start..<(start + 6)]))
    }
    #expect(orders.count > 3)
  }

  @Test("a silent member is asked for through two others and through the session, then suspected")
  func indirectProbes() {
    var bench = Bench.settled(with: 4)
    bench.clear()
    bench.run(seconds: 8, everybodyAnswers: true, silent: [1])
    let ping = bench.pings.firstIndex { $0.receiver == Bench.name(1) }
    #expect(ping != nil)
    let requests = bench.sent.filter {
      if case .pingRequest(_, Bench.name(1), _) = $0.message { true } else { false }
    }
    #expect(requests.count >= 2)
    #expect(Set(requests.prefix(2).map(\.receiver)).count == 2)
    #expect(bench.sent.contains { $0.receiver == Bench.name(1) && $0.path == .session })
    #expect(bench.state(1) == .suspect)
    #expect(bench.news.contains(Bench.accusation(of: 1, by: 0)))
  }

  @Test("an answer through another member is as good as a direct one (§3.1)")
  func relayedAnswer() {
    var bench = Bench.settled(with: 4)
    for _ in 0..<100 {
      bench.clear()
      bench.run(seconds: 0.1, everybodyAnswers: true, silent: [1])
      for sent in bench.sent {
        guard case .pingRequest(let sequence, _, _) = sent.message else { continue }
        let answer = GossipMessage.ack(sequence: sequence, bench.membership.digest(), [])
        bench.give(.message(answer.encoded, from: sent.receiver))
      }
    }
    #expect(bench.state(1) == .alive)
  }

  @Test("a member that only the session reaches stays alive, and its path is marked")
  func blockedDatagrams() {
    var bench = Bench.settled(with: 1)
    for _ in 0..<80 {
      bench.clear()
      bench.run(seconds: 0.1)
      for sent in bench.sent where sent.path == .session {
        guard case .ping(let sequence, _) = sent.message else { continue }
        let answer = GossipMessage.ack(sequence: sequence, bench.membership.digest(), [])
        bench.give(.message(answer.encoded, from: sent.receiver, over: .session))
      }
    }
    #expect(bench.state(1) == .alive)
    #expect(bench.membership.member(Bench.name(1))?.datagramsAreBlocked == true)
    // From then on both ways are tried at once, and one datagram that comes back unmarks the path.
    bench.clear()
    bench.run(seconds: 2)
    #expect(Set(bench.pings.map(\.path)) == [.datagram, .session])
    guard case .ping(let sequence, _) = bench.pings.last?.message else { return }
    bench.give(.ack(sequence: sequence, bench.membership.digest(), []), from: 1)
    #expect(bench.membership.member(Bench.name(1))?.datagramsAreBlocked == false)
  }

  @Test("whoever was heard within the interval needs no probe: other traffic proves life")
  func passiveCredit() {
    var bench = Bench.settled(with: 3)
    bench.clear()
    for _ in 0..<100 {
      for index in 1...3 { bench.give(.heard(Bench.name(index))) }
      bench.run(seconds: 0.1)
    }
    #expect(bench.pings.isEmpty)
    #expect((1...3).allSatisfy { bench.state($0) == .alive })
  }

  @Test("a relay probes for another, and says no when its time is nearly over (Lifeguard's nack)")
  func relaying() {
    var bench = Bench.settled(with: 3)
    bench.run(seconds: 1, everybodyAnswers: true)
    bench.clear()
    bench.give(.pingRequest(sequence: 99, target: Bench.name(2), []), from: 1)
    guard case .ping(let sequence, _) = bench.sent.first?.message else {
      Issue.record("no ping to the target")
      return
    }
    #expect(bench.sent.first?.receiver == Bench.name(2))
    bench.run(seconds: 0.39)
    #expect(!bench.sent.contains { $0.message == .nack(sequence: 99) })
    bench.run(seconds: 0.02)
    #expect(bench.sent.contains { $0.message == .nack(sequence: 99) && $0.receiver == Bench.name(1) })
    // A late answer is still passed on.
    bench.give(.ack(sequence: sequence, bench.membership.digest(), []), from: 2)
    #expect(
      bench.sent.contains { sent in
        if case .ack(99, _, _) = sent.message { sent.receiver == Bench.name(1) } else { false }
      })
  }

  @Test("a relay without a way to the target says no at once")
  func relayWithoutPath() {
    var bench = Bench.settled(with: 3)
    bench.give(.unreachablePath(Bench.name(2)))
    bench.clear()
    bench.give(.pingRequest(sequence: 5, target: Bench.name(2), []), from: 1)
    #expect(bench.sent.contains { $0.message == .nack(sequence: 5) })
  }

  @Test("the number of probes on others' behalf is limited, and what is over is counted")
  func relayLimit() {
    var bench = Bench.settled(with: 3)
    for sequence in 0..<100 {
      bench.give(.pingRequest(sequence: UInt32(sequence), target: Bench.name(2), []), from: 1)
    }
    #expect(bench.membership.dropCount(.overLimit) == 100 - GossipLimits.relays)
  }

  @Test("missed nacks make a device distrust itself, received ones do not (Lifeguard §IV-A)")
  func missedNacks() {
    for isAnswered in [true, false] {
      var bench = Bench.settled(with: 4)
      for _ in 0..<90 {
        bench.clear()
        bench.run(seconds: 0.1, everybodyAnswers: true, silent: [1])
        for sent in bench.sent where isAnswered {
          guard case .pingRequest(let sequence, _, _) = sent.message else { continue }
          bench.give(.message(GossipMessage.nack(sequence: sequence).encoded, from: sent.receiver))
        }
        if bench.state(1) == .suspect { break }
      }
      #expect(bench.state(1) == .suspect)
      #expect((bench.membership.healthScore > 0) == !isAnswered)
    }
  }

  @Test("a device that is unwell probes less often, at most every eight seconds (Lifeguard §IV-A)")
  func healthStretchesTheInterval() {
    var bench = Bench.settled(with: 1)
    for _ in 0..<20 {
      let own = bench.membership.own.incarnation.value & 0xFFFF_FFFF
      bench.give(.news([Bench.accusation(of: 0, own, by: 1)]), from: 1)
    }
    #expect(bench.membership.healthScore == GossipProfile.household.healthMaximum)
    // The probe that was already due, then one after eight seconds.
    bench.run(seconds: 1, everybodyAnswers: true)
    bench.clear()
    bench.run(seconds: 6.5, everybodyAnswers: true)
    #expect(bench.pings.isEmpty)
    bench.run(seconds: 60, everybodyAnswers: true)
    #expect(bench.membership.healthScore == 0)
  }

  @Test("the direct time-out is 0.8 s on an unknown path and 0.5 s on a fast one")
  func timeouts() {
    for isKnown in [false, true] {
      var bench = Bench()
      bench.give(.roster([Bench.name(0), Bench.name(1)]))
      bench.give(.reachable(Bench.name(1)))
      bench.exchange(.records([Bench.record(1)], wanted: []), from: 1)
      if isKnown { bench.give(.measured(Bench.name(1), roundTrip: .milliseconds(20))) }
      bench.clear()
      while bench.pings.isEmpty { bench.run(seconds: 0.01) }
      bench.clear()
      bench.run(seconds: isKnown ? 0.48 : 0.78)
      #expect(!bench.sent.contains { $0.path == .session })
      bench.run(seconds: 0.04)
      #expect(bench.sent.contains { $0.path == .session })
    }
  }

  @Test("a session that breaks makes the member the next to be probed, and nothing else")
  func brokenSession() {
    var bench = Bench.settled(with: 8)
    bench.clear()
    bench.give(.unreachablePath(Bench.name(5)))
    #expect(bench.state(5) == .alive)
    bench.run(seconds: 1.05, everybodyAnswers: true)
    let requests = bench.sent.filter {
      if case .pingRequest(_, Bench.name(5), _) = $0.message { true } else { false }
    }
    #expect(requests.count == 2)
    #expect(!bench.sent.contains { $0.receiver == Bench.name(5) })
  }

  @Test("an answer that nobody asked for is counted and changes nothing")
  func unexpectedAnswers() {
    var bench = Bench.settled(with: 2)
    bench.clear()
    bench.give(.ack(sequence: 12345, bench.membership.digest(), []), from: 1)
    bench.give(.nack(sequence: 12345), from: 1)
    #expect(bench.membership.dropCount(.unexpectedAnswer) == 2)
    #expect(bench.sent.isEmpty)
  }
}
