import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

/// Sessions that grow old, and those that a handshake would refuse by now.
@Suite struct RenewalTests {
  /// A device with a session of a day, whose echoes have been answered; `asked` are those that wait now.
  private func aged(
    _ own: Int = 0, isInitiator: Bool, by age: Duration = MeshLimits.sessionAge
  ) throws -> (bench: PeerBench, effects: [MeshEffect]) {
    var bench = try PeerBench(own: own)
    bench.answerEchoes(bench.open(1, with: 1 - own, isInitiator: isInitiator))
    bench.wait(age)
    return (bench, bench.handle(.tick))
  }

  @Test func afterADayTheSideThatDialledDialsAgainAndTheOtherDoesNot() throws {
    #expect(MeshLimits.sessionAge == .seconds(86_400))
    for own in [0, 1] {
      for isInitiator in [true, false] {
        var (bench, early) = try aged(
          own, isInitiator: isInitiator, by: MeshLimits.sessionAge - .seconds(1))
        #expect(early.dialled.isEmpty)
        bench.answerEchoes(early)
        bench.wait(.seconds(1))
        let due = bench.handle(.tick)
        #expect(due.dialled == (isInitiator ? [bench.address(1 - own)] : []))
        #expect(due.closed.isEmpty, "the old session stays until there is another")
      }
    }
  }

  @Test func aDialThatFailsIsTriedAgainOnceAMinute() throws {
    var (bench, due) = try aged(isInitiator: true)
    #expect(due.dialled.count == 1)
    bench.answerEchoes(due)
    _ = bench.handle(.transport(.dialFailed(bench.address(1), .control, .timedOut)))
    var dials = 0
    for _ in 0..<300 {
      bench.wait(.seconds(1))
      let effects = bench.handle(.tick)
      dials += effects.dialled.count
      bench.answerEchoes(effects)
    }
    #expect(dials == 5)
    #expect(try bench.status(1).path == .datagrams, "the old session carries everything meanwhile")
  }

  @Test func theOldSessionEndsWhenNothingIsOnItsWayOnItAnyMore() throws {
    var (bench, due) = try aged(isInitiator: true)
    bench.answerEchoes(due)
    let opening = bench.open(2, with: 1, isInitiator: true)
    // The other side speaks first; whether it has heard anything on the new session is not known.
    var effects = bench.hear(2)
    #expect(effects.closed.isEmpty && effects.sent(.echoRequest).isEmpty)
    let asked = try #require(opening.sent(.echoRequest).first { $0.session == SessionID(2) })
    let early = try #require(opening.sent(.echoRequest).first { $0.session == SessionID(1) })
    // It has, and sends on the new session from now on: the last echo on the old one.
    effects = bench.hear(2, MeshFrame(.echoReply, request: asked.frame.request, body: []))
    #expect(effects.closed.isEmpty)
    let last = try #require(effects.sent(.echoRequest).first)
    #expect(last.session == SessionID(1))
    // What was asked before proves nothing: frames of the other side may be behind its answer.
    #expect(bench.hear(1, MeshFrame(.echoReply, request: early.frame.request, body: [])).closed.isEmpty)
    effects = bench.hear(1, MeshFrame(.echoReply, request: last.frame.request, body: []))
    #expect(effects.closed == ["#1 renewed"])
    #expect(!effects.reports.contains { if case .disconnected = $0 { true } else { false } })
    #expect(try bench.status(1).path == .datagrams)
    bench.wait(.seconds(1))
    #expect(bench.handle(.tick).dialled.isEmpty)
  }

  @Test func theSideThatWasDialledEndsNothingAndSendsOnTheNewSession() throws {
    var (bench, due) = try aged(1, isInitiator: false)
    bench.answerEchoes(due)
    let opening = bench.open(2, with: 0, isInitiator: false)
    #expect(bench.answerEchoes(opening).closed.isEmpty)
    // A summary that comes late on the old session is answered on the new one.
    var ahead = bench.households[0]
    var entropy = SeededEntropy(seed: 4)
    _ = try ahead.rotateNetworkKey(entropy: &entropy)
    let answers = bench.hear(1, bench.summary(of: ahead, wantsReply: true)).sent(.trustLog)
    #expect(answers.map(\.session) == [SessionID(2)])
    let end = bench.handle(.transport(.closed(SessionID(1), .renewed)))
    #expect(!end.reports.contains { if case .disconnected = $0 { true } else { false } })
  }

  @Test(arguments: [0, 1])
  func afterAnotherHourTheOtherSideDialsTooAndItsSessionIsKept(_ own: Int) throws {
    // The side under test was dialled a day and an hour ago and dials now.
    var (bench, due) = try aged(
      own, isInitiator: false, by: MeshLimits.sessionAge + MeshLimits.renewalGrace)
    #expect(due.dialled == [bench.address(1 - own)])
    bench.answerEchoes(due)
    #expect(bench.answerEchoes(bench.open(2, with: 1 - own, isInitiator: true)).closed == ["#1 renewed"])

    // The same seen from the side that had dialled: it keeps the new one and lets the other side end the old one.
    var (dialled, late) = try aged(
      own, isInitiator: true, by: MeshLimits.sessionAge + MeshLimits.renewalGrace)
    dialled.answerEchoes(late)
    let opening = dialled.open(2, with: 1 - own, isInitiator: false)
    #expect(dialled.answerEchoes(opening).closed.isEmpty)
    #expect(dialled.hear(2).closed.isEmpty)
    #expect(dialled.hear(1).closed.isEmpty)
  }

  @Test func aSessionThatReachesLessFarTakesNoOthersPlace() throws {
    var (bench, due) = try aged(isInitiator: true)
    bench.answerEchoes(due)
    let opening = bench.open(2, with: 1, isInitiator: true, standing: .updateOnly)
    #expect(bench.answerEchoes(opening).closed.isEmpty)
    #expect(bench.hear(1).closed.isEmpty)
    #expect(try bench.status(1).absence == nil, "the full session still carries everything")
  }

  @Test func afterTwoDaysASessionEndsAlthoughNothingHasTakenItsPlace() throws {
    #expect(MeshLimits.sessionAgeLimit == .seconds(2 * 86_400))
    let (bench, effects) = try aged(isInitiator: false, by: MeshLimits.sessionAgeLimit)
    #expect(effects.closed == ["#1 renewed"])
    #expect(effects.reports.contains(.disconnected(bench.device(1), .renewed)))
  }

  @Test func aDayCountsAlsoWhileTheMachineSleeps() throws {
    var bench = try PeerBench()
    bench.answerEchoes(bench.open(1, with: 1, isInitiator: true))
    bench.wait(.seconds(1))
    bench.asleep = MeshLimits.sessionAge
    #expect(bench.handle(.tick).dialled == [bench.address(1)])
  }

  @Test func manySessionsAreRenewedOneASecond() throws {
    var bench = try PeerBench()
    bench.answerEchoes(bench.open(1, with: 1, isInitiator: true))
    bench.answerEchoes(bench.open(2, with: 2, isInitiator: true))
    bench.wait(MeshLimits.sessionAge)
    var dials: [Int] = []
    for _ in 0..<3 {
      let effects = bench.handle(.tick)
      dials.append(effects.dialled.count)
      bench.answerEchoes(effects)
      bench.wait(MeshLimits.renewalSpacing)
    }
    #expect(dials == [1, 1, 0])
  }

  @Test func aDeviceWhoseCertificateFellWithItsIssuerLosesItsSessions() throws {
    var bench = try PeerBench()
    var thief = bench.households[1]
    var entropy = SeededEntropy(seed: 21)
    let keys = DeviceKeys(entropy: &entropy)
    let request = try AdmissionRequest(keys: keys, name: "thief's", binding: [])
    let admission = try thief.admit(request, binding: [], entropy: &entropy)
    // Removed by one who has not seen that admission, so that it does not count.
    var owner = bench.households[0]
    let removal = try owner.revoke(bench.device(1), reason: .lost, entropy: &entropy)

    _ = bench.handle(.trust(admission))
    let info = SessionInfo(
      peer: keys.device, boot: BootID(counter: 1, nonce: 1), purpose: .control, standing: .full,
      wireVersion: 1,
      offeredVersions: .current, isInitiator: false, remote: bench.address(2), listening: bench.address(2),
      handshakeTime: .milliseconds(3))
    bench.answerEchoes(bench.handle(.transport(.opened(SessionID(1), info))))
    bench.answerEchoes(bench.open(2, with: 2, isInitiator: true))
    let effects = bench.handle(.trust(removal))
    #expect(effects.closed == ["#1 revoked"], "and nobody else's")
    #expect(try bench.peer.trust.evaluate(admission.certificate) == .issuerNotAdmin)
  }

  @Test func aDeviceThatSleptOnceDoesNotTakeASilentSessionForAnotherSleep() throws {
    var bench = try PeerBench()
    bench.asleep = .seconds(3_600)
    _ = bench.handle(.tick)
    bench.open(1, with: 1, isInitiator: true)
    bench.hear(1)
    var reports: [MeshReport] = []
    for _ in 0..<15 {
      bench.wait(.seconds(1))
      reports += bench.handle(.tick).reports
    }
    #expect(reports.contains(.disconnected(bench.device(1), .silent)))
    #expect(!reports.contains { if case .wasAway = $0 { true } else { false } })
  }
}

extension [LogEntry] {
  /// The certificate that the first of them brings.
  fileprivate var certificate: DeviceCertificate {
    get throws {
      guard case .addDevice(let certificate)? = first?.body else { throw Missing() }
      return certificate
    }
  }

  private struct Missing: Error {}
}
