import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

@Suite struct SessionTests {
  @Test func nothingHappensBeforeTheStart() throws {
    var bench = try PeerBench(start: false)
    #expect(bench.peer.nextDeadline == nil)
    #expect(bench.open(1, with: 1, isInitiator: true).isEmpty)
    #expect(bench.handle(.tick).isEmpty)
  }

  @Test func aRememberedAddressIsDialledAtOnce() throws {
    let other = try PeerBench()
    let known = KnownPeer(device: other.device(1), addresses: [other.address(1)])
    var bench = try PeerBench(known: [known], start: false)
    #expect(bench.handle(.start).dialled == [bench.address(1)])
  }

  @Test func aSessionCountsOnceItHasCarriedAFrame() throws {
    var bench = try PeerBench()
    let opening = bench.open(1, with: 1, isInitiator: true)
    #expect(opening.sent(.trustLog).count == 1, "both sides say at once what they have")
    #expect(opening.sent(.echoRequest).count == 1)
    #expect(opening.reports.isEmpty)
    #expect(try bench.status(1).path == .none)
    #expect(bench.hear(1).reports.contains(.connected(bench.device(1), bench.address(1))))
    #expect(try bench.status(1).absence == nil)
    #expect(try bench.status(1).path == .datagrams)
  }

  @Test func aSessionThatIsClosedBeforeAnyFrameIsAFailedDialAndNotRedialledAtOnce() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    let effects = bench.handle(.transport(.closed(SessionID(1), .duplicate)))
    #expect(effects.dialled.isEmpty)
    #expect(!effects.reports.contains { if case .disconnected = $0 { true } else { false } })
  }

  @Test(arguments: [0, 1])
  func ofTwoSessionsTheOneThatTheSmallerNameDialledIsKeptOnceItHasCarriedAFrame(_ own: Int) throws {
    // Both devices of the pair decide alike: 1 is what the smaller name dialled, 2 what the larger did.
    var bench = try PeerBench(own: own)
    let other = 1 - own
    bench.open(1, with: other, isInitiator: own == 0)
    bench.hear(1)
    let second = bench.open(2, with: other, isInitiator: own == 1)
    #expect(second.closed.isEmpty, "the winner may be dead without anybody knowing")
    #expect(second.sent(.echoRequest).map(\.session) == [SessionID(2), SessionID(1)])
    #expect(bench.hear(2).closed.isEmpty, "the loser's frames say nothing about the winner")
    #expect(bench.hear(1).closed == ["#2 duplicate"])
  }

  @Test func ofTwoSessionsThatOneSideDialledOnlyThatSideChooses() throws {
    var dialler = try PeerBench(own: 0)
    dialler.open(1, with: 1, isInitiator: true)
    dialler.hear(1)
    let second = dialler.open(2, with: 1, isInitiator: true)
    #expect(dialler.hear(2).closed.isEmpty, "the other side may not have heard anything on the second yet")
    #expect(dialler.answerEchoes(second).closed == ["#1 duplicate"])

    var dialled = try PeerBench(own: 1)
    dialled.open(1, with: 0, isInitiator: false)
    dialled.hear(1)
    dialled.open(2, with: 0, isInitiator: false)
    #expect(dialled.hear(2).closed.isEmpty)
  }

  @Test func aSessionOfANewerStartReplacesOneOfAnOlderThatNoLongerAnswers() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    bench.hear(1)
    bench.open(2, with: 1, isInitiator: false, boot: BootID(counter: 2, nonce: 5))
    #expect(bench.hear(2).closed.isEmpty, "the older start may still be alive: that would be a clone")
    bench.wait(MeshLimits.echoTimeout)
    #expect(bench.handle(.tick).closed.contains("#1 silent"))
  }

  @Test func anOlderStartThatStillAnswersIsAClone() throws {
    var bench = try PeerBench()
    let first = bench.open(1, with: 1, isInitiator: true)
    let early = try #require(first.sent(.echoRequest).first)
    let second = bench.open(2, with: 1, isInitiator: false, boot: BootID(counter: 2, nonce: 5))
    bench.hear(2)
    let asked = try #require(second.sent(.echoRequest).first { $0.session == SessionID(1) })
    // What was asked before the newer start appeared proves nothing: the answer may have been on its way.
    let late = bench.hear(1, MeshFrame(.echoReply, request: early.frame.request, body: []))
    #expect(!late.reports.contains(.clone(bench.device(1))))
    let answer = bench.hear(1, MeshFrame(.echoReply, request: asked.frame.request, body: []))
    #expect(answer.reports.contains(.clone(bench.device(1))))
    #expect(answer.closed.sorted() == ["#1 duplicate", "#2 duplicate"])
    #expect(try bench.status(1).absence == .clone)
    #expect(bench.open(3, with: 1, isInitiator: false).closed == ["#3 duplicate"])
    bench.wait(MeshLimits.cloneQuarantine)
    _ = bench.handle(.tick)
    #expect(bench.open(4, with: 1, isInitiator: false).closed.isEmpty)
  }

  @Test func anEchoMeasuresTheRoundTripAndASilentSessionIsClosed() throws {
    var bench = try PeerBench()
    let echo = try #require(bench.open(1, with: 1, isInitiator: true).sent(.echoRequest).first)
    bench.wait(.milliseconds(7))
    let effects = bench.hear(1, MeshFrame(.echoReply, request: echo.frame.request, body: []))
    #expect(try bench.status(1).roundTrip == .milliseconds(7))
    #expect(effects.stored.map(\.addresses) == [[bench.address(1)]])
    #expect(effects.stored.first?.roundTripMicroseconds == 7_000)
    bench.wait(MeshLimits.echoInterval)
    #expect(bench.handle(.tick).sent(.echoRequest).count == 1)
    bench.wait(MeshLimits.echoTimeout)
    #expect(bench.handle(.tick).closed == ["#1 silent"])
  }

  @Test func anEchoIsAnsweredWithItsBodyAndALongOneIsNot() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    let reply = bench.hear(1, MeshFrame(.echoRequest, request: 5, body: [1, 2])).sent(.echoReply)
    #expect(reply.map(\.frame) == [MeshFrame(.echoReply, request: 5, body: [1, 2])])
    let long = MeshFrame(.echoRequest, request: 6, body: [UInt8](repeating: 0, count: 65))
    #expect(bench.hear(1, long).reports.contains(.dropped(.notPermitted)))
  }

  @Test func noMoreThanFourControlSessionsToADeviceAreKept() throws {
    var bench = try PeerBench()
    for session in 1...UInt64(MeshLimits.controlSessionsPerDevice) {
      #expect(bench.open(session, with: 1, isInitiator: false).closed.isEmpty)
    }
    #expect(bench.open(9, with: 1, isInitiator: false).closed == ["#1 duplicate"])
    #expect(bench.peer.loads.allSatisfy { $0.count <= $0.limit })
  }

  @Test func noMoreSessionsStandThanTheTransportHoldsWhateverTheyAreFor() throws {
    var bench = try PeerBench()
    func open(_ session: UInt64) -> [String] {
      let info = SessionInfo(
        peer: bench.device(1), boot: BootID(counter: 1, nonce: 1), purpose: .bulk, standing: .full,
        wireVersion: 1, offeredVersions: .current, isInitiator: true, remote: bench.address(1),
        listening: bench.address(1), handshakeTime: .milliseconds(3))
      return bench.handle(.transport(.opened(SessionID(session), info))).closed
    }
    for session in 1...UInt64(SessionLimits.sessions) { #expect(open(session).isEmpty) }
    #expect(open(9_999) == ["#9999 overLimit"])
    _ = bench.handle(.transport(.closed(SessionID(1), .disconnected)))
    #expect(open(10_000).isEmpty)
  }

  @Test func leavingSaysGoodbyeOnceAndThenNothing() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    bench.hear(1)
    let effects = bench.handle(.leave(.shuttingDown))
    #expect(effects.closed == ["#1 shuttingDown"])
    #expect(bench.peer.nextDeadline == nil)
    #expect(bench.open(2, with: 1, isInitiator: true).isEmpty)
  }

  @Test func whatADeviceSaidWhenItWentIsShown() throws {
    for (reason, absence) in [(CloseReason.asleep, AbsenceReason.asleep), (.shuttingDown, .left)] {
      var bench = try PeerBench()
      bench.open(1, with: 1, isInitiator: true)
      bench.hear(1)
      _ = bench.handle(.transport(.closed(SessionID(1), reason)))
      #expect(try bench.status(1).absence == absence)
    }
  }
}
