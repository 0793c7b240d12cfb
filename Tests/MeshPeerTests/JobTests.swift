import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

extension [MeshEffect] {
  /// What came of the bulk sessions that were asked for: the sessions, or `failed`.
  fileprivate func bulk(_ bench: PeerBench) -> [String] {
    compactMap { effect in
      switch effect {
      case .bulkOpened(let session, let device): "\(session) \(device == bench.device(1))"
      case .bulkFailed(let device): "failed \(device == bench.device(1))"
      default: nil
      }
    }
  }

  fileprivate var words: [[UInt8]] {
    compactMap { if case .job(_, let body) = $0 { body } else { nil } }
  }
}

@Suite struct JobTests {
  @Test(
    "A bulk session that is asked for is dialled where the control session leads, and is told when it stands")
  func opens() throws {
    var bench = try PeerBench.connected()
    let asked = bench.handle(.openBulk(bench.device(1)))
    #expect(asked.dialled == [bench.address(1)])
    #expect(bench.openBulk(9, with: 1).bulk(bench) == ["#9 true"])
    // One that the other side dialled is nobody's that was asked for.
    #expect(bench.openBulk(10, with: 1, isInitiator: false).bulk(bench) == [])
  }

  @Test("Each of several dials ends in one session or one failure, in their order")
  func several() throws {
    var bench = try PeerBench.connected()
    for _ in 0..<3 { _ = bench.handle(.openBulk(bench.device(1))) }
    #expect(bench.openBulk(9, with: 1).bulk(bench) == ["#9 true"])
    #expect(
      bench.handle(.transport(.dialFailed(bench.address(1), .bulk, .refused))).bulk(bench) == ["failed true"])
    #expect(bench.openBulk(10, with: 1).bulk(bench) == ["#10 true"])
    #expect(bench.openBulk(11, with: 1).bulk(bench) == [])
    #expect(bench.handle(.transport(.dialFailed(bench.address(1), .bulk, .refused))).bulk(bench) == [])
  }

  @Test("No bulk session is dialled to a device without a full session, to a stranger, or to itself")
  func refuses() throws {
    var bench = try PeerBench.connected(standing: .updateOnly)
    for device in [bench.device(0), bench.device(1), bench.device(2)] {
      let effects = bench.handle(.openBulk(device))
      #expect(effects.dialled.isEmpty && effects.bulk(bench) == ["failed \(device == bench.device(1))"])
    }
    var other = try PeerBench.connected()
    _ = other.handle(.openBulk(other.device(1)))
    #expect(other.openBulk(9, with: 1, standing: .updateOnly).bulk(other) == ["failed true"])
  }

  @Test("At most 64 dials are under way; more fail at once")
  func limit() throws {
    var bench = try PeerBench.connected()
    for _ in 0..<64 { #expect(bench.handle(.openBulk(bench.device(1))).dialled.count == 1) }
    #expect(bench.handle(.openBulk(bench.device(1))).bulk(bench) == ["failed true"])
  }

  @Test("A survey's bulk session and a job's go each to who dialled it")
  func besideASurvey() throws {
    var bench = try PeerBench.connected()
    _ = bench.answerEchoes(bench.handle(.measureLinks))
    _ = bench.handle(.openBulk(bench.device(1)))
    let first = bench.openBulk(9, with: 1)
    #expect(first.bulk(bench) == [] && first.sent(.burst).allSatisfy { $0.session == SessionID(9) })
    #expect(!first.sent(.burst).isEmpty)
    let second = bench.openBulk(10, with: 1)
    #expect(second.bulk(bench) == ["#10 true"] && second.sent(.burst).isEmpty)
  }

  @Test("Leaving fails the dials under way")
  func leaving() throws {
    var bench = try PeerBench.connected()
    _ = bench.handle(.openBulk(bench.device(1)))
    #expect(bench.handle(.leave(.shuttingDown)).bulk(bench) == ["failed true"])
  }

  @Test(
    "Words about a job go over the control session, and come in their order from members with a full one only"
  )
  func words() throws {
    var bench = try PeerBench.connected()
    let sent = bench.handle(.job(to: bench.device(1), body: [1, 2])).sent(.job)
    #expect(sent.map(\.session) == [SessionID(1)] && sent.map(\.frame.body) == [[1, 2]])
    #expect(bench.handle(.job(to: bench.device(2), body: [1])).sent(.job).isEmpty)
    #expect(bench.hear(1, MeshFrame(.job, body: [7])).words == [[7]])
    #expect(bench.hear(1, MeshFrame(.job, body: [8])).words == [[8]])
    _ = bench.openBulk(9, with: 1, isInitiator: false)
    let wrong = bench.hear(9, MeshFrame(.job, body: [9]))
    #expect(wrong.words.isEmpty && wrong.reports.contains(.dropped(.notPermitted)))
    var limited = try PeerBench.connected(standing: .updateOnly)
    #expect(limited.hear(1, MeshFrame(.job, body: [7])).words.isEmpty)
    #expect(limited.handle(.job(to: limited.device(1), body: [1])).sent(.job).isEmpty)
  }
}
