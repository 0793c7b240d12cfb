import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

/// A link that is played by hand: what goes over it comes back after its round trip and the time of its bytes.
private struct PlayedLink {
  var rate: Double
  var roundTrip: Duration
  /// Bursts that were answered, by their bytes.
  var bursts: [Int] = []
  var echoes = 0

  init(rate: Double, roundTrip: Duration) {
    self.rate = rate
    self.roundTrip = roundTrip
  }

  /// Answers one thing after the other until the survey is done, and returns what it measured.
  mutating func play(_ asked: [MeshEffect], _ bench: inout PeerBench) throws -> [LinkMeasurement] {
    var effects = asked
    for _ in 0..<200 {
      if let links = effects.measuredLinks { return links }
      if let (session, echo) = effects.sent(.echoRequest).first {
        echoes += 1
        bench.wait(roundTrip)
        effects = bench.hear(session.value, MeshFrame(.echoReply, request: echo.request, body: []))
      } else if !effects.dialled.isEmpty {
        effects = bench.openBulk(100, with: 1)
      } else {
        let parts = effects.sent(.burst)
        let last = try #require(parts.last, "nothing is asked for and nothing is done")
        let byteCount = parts.reduce(0) { $0 + $1.frame.body.count }
        bursts.append(byteCount)
        bench.wait(roundTrip + .nanoseconds(Int64(Double(byteCount) / rate * 1e9)))
        effects = bench.hear(100, .report(0, byteCount, answering: last.frame))
      }
    }
    Issue.record("the survey did not end")
    return []
  }
}

extension [MeshEffect] {
  /// What a survey found, if it ended here.
  fileprivate var measuredLinks: [LinkMeasurement]? {
    for case .linksMeasured(let links) in self { return links }
    return nil
  }

  /// The purposes of what is dialled.
  fileprivate var purposes: [SessionPurpose] {
    compactMap { if case .transport(.dial(_, let purpose, _)) = $0 { purpose } else { nil } }
  }
}

extension MeshFrame {
  /// A report as the protocol's document has it: verdict u8, bytes u32.
  fileprivate static func report(_ verdict: UInt8, _ byteCount: Int, answering burst: MeshFrame) -> MeshFrame
  {
    let bytes = (0..<4).map { UInt8(truncatingIfNeeded: byteCount >> (8 * $0)) }
    return MeshFrame(.burstReport, request: burst.request, body: [verdict] + bytes)
  }

  /// A frame of a burst.
  fileprivate static func burst(_ number: UInt32, _ count: Int, isLast: Bool) -> MeshFrame {
    MeshFrame(.burst, channel: isLast ? 1 : 0, request: number, body: [UInt8](repeating: 0, count: count))
  }
}

extension PeerBench {
  /// Opens a bulk session with another device.
  mutating func openBulk(
    _ session: UInt64, with other: Int, isInitiator: Bool = true, standing: SessionStanding = .full
  ) -> [MeshEffect] {
    let info = SessionInfo(
      peer: device(other), boot: BootID(counter: 1, nonce: 1), purpose: .bulk, standing: standing,
      wireVersion: 1, offeredVersions: .current, isInitiator: isInitiator, remote: address(other),
      listening: address(other), handshakeTime: .milliseconds(3))
    return handle(.transport(.opened(SessionID(session), info)))
  }

  /// A device with a proved control session (1) to the second device, and none to the third.
  static func connected(standing: SessionStanding = .full) throws -> PeerBench {
    var bench = try PeerBench()
    bench.answerEchoes(bench.open(1, with: 1, isInitiator: true, standing: standing))
    return bench
  }

  /// Answers the echoes of a survey and opens what it dials; what came of that.
  fileprivate mutating func toBursts() -> [MeshEffect] {
    let dialled = answerEchoes(handle(.measureLinks))
    #expect(dialled.purposes == [.bulk])
    return openBulk(100, with: 1)
  }
}

@Suite struct LinkSurveyTests {
  // A modem, a poor and a good wireless link, Ethernet, and two processes on one machine.
  @Test(
    "The rate of a link is its bytes by its time without the round trip, whatever the rate",
    arguments: [
      (25_000.0, 80), (250_000.0, 20), (5_000_000.0, 5), (117_500_000.0, 1), (2_000_000_000.0, 0),
    ])
  func rate(rate: Double, milliseconds: Int) throws {
    var bench = try PeerBench.connected()
    var link = PlayedLink(rate: rate, roundTrip: .milliseconds(milliseconds))
    let links = try link.play(bench.handle(.measureLinks), &bench)
    let measured = try #require(links.first { $0.device == bench.device(1) })
    #expect(measured.gap == nil)
    #expect(measured.roundTrip == .milliseconds(milliseconds))
    #expect(measured.echoes == LinkLimits.echoes && link.echoes == LinkLimits.echoes)
    let found = try #require(measured.bytesPerSecond)
    #expect(abs(found / rate - 1) < 0.01, "\(found) for \(rate)")
    #expect(measured.burstBytes == link.bursts.reduce(0, +))
    #expect(measured.burstBytes <= LinkLimits.sessionBytes)
    // A link that takes the first burst in its time is never filled for longer than the target.
    for burst in link.bursts.dropFirst() where burst > LinkLimits.firstBurst {
      #expect(Double(burst) / rate <= LinkLimits.burstTarget.inSeconds * 1.001)
    }
    #expect(link.bursts.suffix(LinkLimits.equalBursts).allSatisfy { $0 == link.bursts.last })
  }

  @Test("A burst that is slow by chance does not keep the others small")
  func slowByChance() throws {
    var bench = try PeerBench.connected()
    var effects = bench.toBursts()
    let first = try #require(effects.sent(.burst).last)
    bench.wait(.milliseconds(300))
    effects = bench.hear(100, .report(0, LinkLimits.firstBurst, answering: first.frame))
    var link = PlayedLink(rate: 10_000_000, roundTrip: .zero)
    let links = try link.play(effects, &bench)
    #expect(abs((links.first { $0.gap == nil }?.bytesPerSecond ?? 0) / 10_000_000 - 1) < 0.01)
    #expect((link.bursts.last ?? 0) > 400_000)
  }

  @Test("A device without a session is named with the reason, and every member is in the answer")
  func noSession() throws {
    var bench = try PeerBench()
    let links = try #require(bench.handle(.measureLinks).measuredLinks)
    #expect(links.map(\.device) == [bench.device(1), bench.device(2)])
    #expect(links.allSatisfy { $0.gap == .noSession && $0.roundTrip == nil && $0.bytesPerSecond == nil })
  }

  @Test("A session that is not full gives a round trip and no bursts", arguments: [2, 3])
  func limitedSession(standing: UInt8) throws {
    var bench = try PeerBench.connected(standing: try #require(SessionStanding(rawValue: standing)))
    var link = PlayedLink(rate: 1, roundTrip: .milliseconds(4))
    let measured = try #require(try link.play(bench.handle(.measureLinks), &bench).first)
    #expect(measured.gap == .limitedSession)
    #expect(measured.roundTrip == .milliseconds(4) && measured.bytesPerSecond == nil)
    #expect(link.bursts.isEmpty)
  }

  @Test("A device that does not know bursts is told apart after the session's time, which closes it")
  func older() throws {
    var bench = try PeerBench.connected()
    #expect(bench.toBursts().sent(.burst).count == 1)
    bench.wait(LinkLimits.sessionTime)
    let effects = bench.handle(.tick)
    #expect(effects.closed.contains("#100 finished"))
    let measured = try #require(effects.measuredLinks?.first)
    #expect(measured.gap == .unanswered && measured.roundTrip != nil && measured.bytesPerSecond == nil)
  }

  @Test("Whose echoes do not come back gets no bursts")
  func silent() throws {
    var bench = try PeerBench.connected()
    #expect(bench.handle(.measureLinks).sent(.echoRequest).count == 1)
    #expect(bench.peer.nextDeadline.map { $0 <= bench.now.advanced(by: LinkLimits.echoTime) } == true)
    bench.wait(LinkLimits.echoTime)
    let effects = bench.handle(.tick)
    #expect(effects.measuredLinks?.first?.gap == .noEcho)
    #expect(effects.dialled.isEmpty)
  }

  @Test(
    "A refusal is the reason that the measurement has",
    arguments: [(UInt8(1), LinkGap.busy), (2, .tooOften)])
  func refused(verdict: UInt8, gap: LinkGap) throws {
    var bench = try PeerBench.connected()
    let burst = try #require(bench.toBursts().sent(.burst).last)
    let effects = bench.hear(100, .report(verdict, 0, answering: burst.frame))
    #expect(effects.measuredLinks?.first?.gap == gap)
    #expect(effects.closed == ["#100 finished"])
  }

  @Test("A connection that fails or ends on the way is a gap, and the next link is measured")
  func interrupted() throws {
    var failed = try PeerBench.connected()
    _ = failed.answerEchoes(failed.handle(.measureLinks))
    let failure = TransportEvent.dialFailed(failed.address(1), .bulk, .refused)
    #expect(failed.handle(.transport(failure)).measuredLinks?.map(\.gap) == [.noConnection, .noSession])

    var ended = try PeerBench.connected()
    _ = ended.toBursts()
    let effects = ended.handle(.transport(.closed(SessionID(100), .disconnected)))
    #expect(effects.measuredLinks?.map(\.gap) == [.interrupted, .noSession])
  }

  @Test("A second request during a survey starts none, and one soon after gets the same answer")
  func spacing() throws {
    var bench = try PeerBench.connected()
    let asked = bench.handle(.measureLinks)
    #expect(bench.handle(.measureLinks).isEmpty)
    var link = PlayedLink(rate: 1_000_000, roundTrip: .milliseconds(2))
    let links = try link.play(asked, &bench)
    #expect(bench.handle(.measureLinks).measuredLinks == links)
    bench.wait(LinkLimits.surveySpacing)
    let again = bench.handle(.measureLinks)
    #expect(again.measuredLinks == nil && again.sent(.echoRequest).contains { $0.session == SessionID(1) })
  }

  @Test("A device that comes during a survey, or soon after one, is measured; the other links are not again")
  func newcomer() throws {
    var during = try PeerBench.connected()
    _ = during.handle(.measureLinks)
    during.answerEchoes(during.open(2, with: 2, isInitiator: true))
    #expect(during.handle(.measureLinks).isEmpty)
    let ended = during.handle(.transport(.closed(SessionID(1), .disconnected)))
    #expect(ended.sent(.echoRequest).contains { $0.session == SessionID(2) })
    #expect(ended.measuredLinks == nil)

    var after = try PeerBench.connected()
    var other = PlayedLink(rate: 1_000_000, roundTrip: .milliseconds(2))
    let first = try other.play(after.handle(.measureLinks), &after)
    after.answerEchoes(after.open(2, with: 2, isInitiator: true))
    let echoes = after.handle(.measureLinks).sent(.echoRequest)
    #expect(!echoes.isEmpty && echoes.allSatisfy { $0.session == SessionID(2) })
    after.wait(LinkLimits.echoTime)
    let second = try #require(after.handle(.tick).measuredLinks)
    #expect(second.first == first.first && second.last?.device == after.device(2))
    #expect(second.last?.gap == .noEcho)
  }

  @Test("A device whose session ends before its turn is not waited for")
  func lostBeforeItsTurn() throws {
    var bench = try PeerBench.connected()
    bench.answerEchoes(bench.open(2, with: 2, isInitiator: true))
    _ = bench.handle(.measureLinks)
    #expect(bench.handle(.transport(.closed(SessionID(2), .disconnected))).measuredLinks == nil)
    let ended = bench.handle(.transport(.closed(SessionID(1), .disconnected)))
    #expect(ended.measuredLinks?.map(\.gap) == [.interrupted, .noSession])
  }

  // MARK: - The side that answers

  @Test("A burst is answered after its last frame, with the bytes of all its frames")
  func answer() throws {
    var bench = try PeerBench.connected()
    _ = bench.openBulk(7, with: 1, isInitiator: false)
    #expect(bench.hear(7, .burst(1, 1_000, isLast: false)).sent(.burstReport).isEmpty)
    let last = MeshFrame.burst(1, 500, isLast: true)
    #expect(bench.hear(7, last).sent(.burstReport).map(\.frame) == [.report(0, 1_500, answering: last)])
    let next = MeshFrame.burst(2, 9, isLast: true)
    #expect(bench.hear(7, next).sent(.burstReport).map(\.frame) == [.report(0, 9, answering: next)])
  }

  @Test("Bursts of a second session are refused as busy, and of one device soon again as too often")
  func answersOneAtATime() throws {
    var bench = try PeerBench.connected()
    bench.answerEchoes(bench.open(2, with: 2, isInitiator: true))
    _ = bench.openBulk(7, with: 1, isInitiator: false)
    _ = bench.hear(7, .burst(1, 10, isLast: true))
    let burst = MeshFrame.burst(1, 10, isLast: true)
    _ = bench.openBulk(8, with: 2, isInitiator: false)
    let busy = bench.hear(8, burst)
    #expect(busy.sent(.burstReport).map(\.frame) == [.report(1, 0, answering: burst)])
    #expect(busy.closed == ["#8 finished"])
    _ = bench.handle(.transport(.closed(SessionID(7), .finished)))
    _ = bench.openBulk(9, with: 1, isInitiator: false)
    #expect(bench.hear(9, burst).sent(.burstReport).map(\.frame) == [.report(2, 0, answering: burst)])
    _ = bench.openBulk(10, with: 2, isInitiator: false)
    #expect(bench.hear(10, burst).sent(.burstReport).map(\.frame) == [.report(0, 10, answering: burst)])
    _ = bench.handle(.transport(.closed(SessionID(10), .finished)))
    bench.wait(LinkLimits.surveySpacing)
    _ = bench.openBulk(11, with: 1, isInitiator: false)
    #expect(bench.hear(11, burst).sent(.burstReport).map(\.frame) == [.report(0, 10, answering: burst)])
    #expect(bench.peer.loads.allSatisfy { $0.count <= $0.limit })
  }

  @Test("More bytes than a session may have, a frame that is too long, or too long a time close it")
  func answersWithinLimits() throws {
    var greedy = try PeerBench.connected()
    _ = greedy.openBulk(7, with: 1, isInitiator: false)
    let full = MeshFrame.burst(1, LinkLimits.burstPiece, isLast: false)
    for _ in 0..<(LinkLimits.sessionBytes / LinkLimits.burstPiece) {
      #expect(greedy.hear(7, full).closed.isEmpty)
    }
    #expect(greedy.hear(7, .burst(1, 1, isLast: true)).closed == ["#7 overLimit"])

    var long = try PeerBench.connected()
    _ = long.openBulk(7, with: 1, isInitiator: false)
    #expect(long.hear(7, .burst(1, LinkLimits.burstPiece + 1, isLast: true)).closed == ["#7 overLimit"])

    var slow = try PeerBench.connected()
    _ = slow.openBulk(7, with: 1, isInitiator: false)
    _ = slow.hear(7, .burst(1, 1, isLast: true))
    slow.wait(LinkLimits.sessionTime)
    #expect(slow.handle(.tick).closed.contains("#7 overLimit"))
  }

  @Test("Bursts on a session that is not full, or on a control session, are dropped")
  func answersMembersOnly() throws {
    var bench = try PeerBench.connected()
    _ = bench.openBulk(7, with: 1, isInitiator: false, standing: .updateOnly)
    let burst = MeshFrame.burst(1, 10, isLast: true)
    for session in [7, 1] as [UInt64] {
      let effects = bench.hear(session, burst)
      #expect(effects.reports.contains(.dropped(.notPermitted)))
      #expect(effects.sent(.burstReport).isEmpty)
    }
  }
}
