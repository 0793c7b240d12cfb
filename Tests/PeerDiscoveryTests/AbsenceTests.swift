import Determinism
import MeshModel
import PeerDiscovery
import Testing

@Suite("Why a device is not in")
struct AbsenceTests {
  private func why(after outcomes: [DialOutcome], wasIn: Bool = false) -> AbsenceReason? {
    var bench = PlanBench()
    var left = outcomes
    bench.send(.roster([device(1)]))
    if wasIn {
      bench.send(.connected(device(1), dialled: nil, listening: v4(1)))
      bench.send(.disconnected(device(1), said: nil))
    }
    for number in outcomes.indices {
      bench.send(persisted(v4(UInt8(number + 1)), device(1)))
    }
    bench.run(until: .milliseconds(600))
    for dial in bench.dials where !left.isEmpty {
      bench.send(.dialFailed(dial.address, left.removeFirst()))
    }
    return bench.plan.why(device(1))
  }

  @Test("Nobody has named it, or it was named and not tried yet")
  func unknown() {
    #expect(why(after: []) == .neverHeard)
    #expect(PlanBench().plan.why(device(9)) == .neverHeard)
    var bench = PlanBench()
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    #expect(bench.plan.why(device(1)) == .notTried)
  }

  @Test(
    "One address: the reason is how its dial ended",
    arguments: [
      (DialOutcome.noAnswer, AbsenceReason.noAnswer), (.noRoute, .noAnswer), (.refused, .refused),
      (.handshakeTimeout, .handshakeTimeout), (.handshakeClosed, .handshakeFailed),
      (.notOfHousehold, .handshakeFailed), (.otherDevice(device(7)), .otherDevice),
      (.thisDevice, .otherDevice), (.revoked(device(1)), .revoked), (.clone, .clone),
    ])
  func single(outcome: DialOutcome, reason: AbsenceReason) {
    #expect(why(after: [outcome]) == reason)
  }

  @Test("Several addresses: the dial that came nearest to a session explains")
  func nearest() {
    #expect(why(after: [.noAnswer, .refused]) == .refused)
    #expect(why(after: [.refused, .noAnswer, .noRoute]) == .refused)
    #expect(why(after: [.otherDevice(device(7)), .noAnswer]) == .noAnswer)
    #expect(why(after: [.handshakeTimeout, .refused]) == .handshakeTimeout)
    #expect(why(after: [.handshakeClosed, .handshakeTimeout, .noAnswer]) == .handshakeFailed)
    #expect(why(after: [.notOfHousehold, .clone]) == .clone)
  }

  @Test("A device that was in and does not answer is unreachable; one that answers otherwise says more")
  func wasIn() {
    #expect(why(after: [], wasIn: true) == .unreachable)
    #expect(why(after: [.noAnswer], wasIn: true) == .unreachable)
    #expect(why(after: [.refused], wasIn: true) == .refused)
    #expect(why(after: [.notOfHousehold], wasIn: true) == .handshakeFailed)
  }

  @Test("What was tried can be shown: address, source, outcome and when it will be tried again")
  func attempts() throws {
    var bench = PlanBench()
    bench.send(.roster([device(1)]))
    bench.send(persisted(v4(1), device(1)))
    bench.send(.dialFailed(v4(1), .refused))
    let attempt = try #require(bench.plan.attempts(of: device(1)).first)
    #expect(attempt.address == v4(1))
    #expect(attempt.source == .persisted)
    #expect(attempt.outcome == .refused)
    #expect(attempt.lastDialled == .zero)
    let due = try #require(attempt.due)
    #expect(due > .zero && due <= .zero.advanced(by: .seconds(1)))
  }
}
