import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

@Suite struct TrustTests {
  private func revocation(_ bench: PeerBench, of device: Int, by admin: Int) throws -> [LogEntry] {
    var household = bench.households[admin]
    var entropy = SeededEntropy(seed: 4)
    return try household.revoke(bench.device(device), reason: .lost, entropy: &entropy)
  }

  @Test func aRevokedDevicesSessionsEndBeforeAnythingElseIsSaid() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    bench.open(2, with: 2, isInitiator: true)
    bench.hear(1)
    bench.hear(2)
    let entries = try revocation(bench, of: 2, by: 0)
    let effects = bench.handle(.trust(entries))
    #expect(effects.closed == ["#2 revoked"])
    #expect(effects.reports.contains(.revoked(bench.device(2))))
    #expect(try bench.status(2).state == .revoked)
    #expect(try bench.status(2).absence == .revoked)
    #expect(bench.open(3, with: 2, isInitiator: false).closed == ["#3 revoked"])
    // Stored first, then told to the others, and the transport learns it before the sessions go.
    guard case .storeLog(let stored)? = effects.first else {
      Issue.record("the log is stored before anything is sent")
      return
    }
    #expect(stored == entries)
    let trust = try #require(effects.firstIndex { if case .updateTrust = $0 { true } else { false } })
    let close = try #require(
      effects.firstIndex { if case .transport(.close) = $0 { true } else { false } })
    #expect(trust < close)
    let passedOn = effects.sent(.trustLog)
    #expect(passedOn.contains { $0.session == SessionID(1) })
  }

  @Test func entriesThatAreNewArePassedOnExceptToWhoSentThem() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    bench.open(2, with: 2, isInitiator: true)
    var admin = bench.households[1]
    var entropy = SeededEntropy(seed: 4)
    let entry = try admin.rotateNetworkKey(entropy: &entropy)
    let effects = bench.hear(1, bench.frame(with: [entry]))
    #expect(effects.sent(.trustLog).map(\.session) == [SessionID(2)])
    #expect(effects.reports.contains(.networkKey(epoch: admin.log.networkKeyEpoch)))
    let again = bench.hear(1, bench.frame(with: [entry]))
    #expect(again.sent(.trustLog).isEmpty, "what is known is not passed on again")
  }

  @Test func whoLacksEntriesGetsThemAndWhoHasMoreIsAsked() throws {
    var bench = try PeerBench()
    var ahead = bench.households[1]
    var entropy = SeededEntropy(seed: 4)
    let entry = try ahead.rotateNetworkKey(entropy: &entropy)
    bench.open(1, with: 1, isInitiator: true)
    // The other side has more: this device says what it has, so that the other side sends the rest.
    let asked = bench.hear(1, bench.summary(of: ahead, wantsReply: true)).sent(.trustLog)
    #expect(asked.count == 1)
    bench.hear(1, bench.frame(with: [entry]))
    // Now the other side has less.
    let given = bench.hear(1, bench.summary(of: bench.households[1])).sent(.trustLog)
    #expect(given.map(\.frame) == [bench.frame(with: [entry])])
    #expect(bench.hear(1, bench.summary(of: ahead, wantsReply: true)).sent(.trustLog).isEmpty)
  }

  @Test func anUpdateOnlySessionCarriesTheLogAndNothingElse() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true, standing: .updateOnly)
    for kind in [FrameKind.gossip, .viewExchange, .bulk] {
      #expect(bench.hear(1, MeshFrame(kind, body: [1])).reports.contains(.dropped(.notPermitted)))
    }
    let datagram = bench.handle(.transport(.datagram(from: bench.device(1), body: [1])))
    #expect(datagram.reports == [.dropped(.notPermitted)])
    #expect(try bench.status(1).absence == .staleKey)
    var ahead = bench.households[1]
    var entropy = SeededEntropy(seed: 4)
    let entry = try ahead.rotateNetworkKey(entropy: &entropy)
    let effects = bench.hear(1, bench.frame(with: [entry]))
    #expect(effects.closed == ["#1 renewed"], "the key has come: a full session follows")
  }

  @Test func whoWasDialledWithANewerKeySaysThatItHasArrived() throws {
    var bench = try PeerBench(own: 1)
    bench.open(1, with: 0, isInitiator: false, standing: .updateOnly)
    var ahead = bench.households[0]
    var entropy = SeededEntropy(seed: 4)
    let entry = try ahead.rotateNetworkKey(entropy: &entropy)
    let effects = bench.hear(1, bench.frame(with: [entry]))
    #expect(effects.closed.isEmpty, "the dialler renews")
    #expect(effects.sent(.trustLog).map(\.frame) == [bench.summary(of: ahead)])
  }

  @Test func aStatusOnlySessionCarriesEchoesOnlyAndSaysWhoIsTooOld() throws {
    for (versions, absence) in [
      (WireVersions(oldest: 7, newest: 8), AbsenceReason.tooNew),
      (WireVersions(oldest: 0, newest: 0), .tooOld),
    ] {
      var bench = try PeerBench()
      let opening = bench.open(1, with: 1, isInitiator: true, standing: .statusOnly, versions: versions)
      #expect(opening.sent(.trustLog).isEmpty)
      #expect(bench.hear(1).sent(.echoReply).count == 1)
      #expect(
        bench.hear(1, bench.summary(of: bench.households[1])).reports.contains(.dropped(.notPermitted)))
      #expect(try bench.status(1).absence == absence)
      #expect(try bench.status(1).wireVersions == versions)
    }
  }

  @Test func aRevokedDeviceStopsAndSaysWhy() throws {
    var bench = try PeerBench(own: 2)
    bench.open(1, with: 0, isInitiator: true)
    bench.hear(1)
    let effects = bench.hear(1, bench.frame(with: try revocation(bench, of: 2, by: 0)))
    #expect(effects.reports.contains(.selfRevoked))
    #expect(effects.closed == ["#1 revoked"])
    #expect(bench.peer.nextDeadline == nil)
    #expect(bench.peer.absence(of: bench.device(2)) == .selfRevoked)
  }

  @Test func onlyTheFirstReachableAdminKeepsTheNetworkKeyInOrder() throws {
    // Device 2 is admitted again and again by nobody: what is due is a key after a revocation without one.
    let bench = try PeerBench()
    var alone = bench.households[1]
    var entropy = SeededEntropy(seed: 4)
    let revoke = try alone.revoke(bench.device(2), reason: .lost, entropy: &entropy)[0]
    func asksForMaintenance(own: Int, connectedTo other: Int?) throws -> Bool {
      var bench = try PeerBench(own: own)
      if let other {
        bench.open(1, with: other, isInitiator: true)
        bench.hear(1)
      }
      let effects = bench.handle(.trust([revoke]))
      return effects.contains { if case .maintainHousehold = $0 { true } else { false } }
    }
    #expect(try asksForMaintenance(own: 0, connectedTo: nil))
    #expect(try asksForMaintenance(own: 0, connectedTo: 1))
    #expect(try !asksForMaintenance(own: 1, connectedTo: 0), "the smaller admin is there")
    #expect(try asksForMaintenance(own: 1, connectedTo: nil))
  }

  @Test func logMessagesAreCutToRecordsAndReadBack() throws {
    let bench = try PeerBench()
    let entries = bench.households[0].log.entries
    let many = Array(repeating: entries, count: 200).flatMap(\.self)
    let messages = LogMessage.messages(of: many)
    // Each but the last is full: by the number of entries, or the next would not have fitted.
    #expect(messages.count == (many.count + MeshLimits.entriesPerFrame - 1) / MeshLimits.entriesPerFrame)
    #expect(LogMessage.messages(of: []).isEmpty)
    var read: [LogEntry] = []
    for message in messages {
      #expect(message.encodedBytes.count <= MeshLimits.frameBody)
      guard case .entries(let part) = try LogMessage(decodingBytes: message.encodedBytes) else {
        Issue.record("entries read back as something else")
        return
      }
      #expect(part.count <= MeshLimits.entriesPerFrame)
      read += part
    }
    #expect(read == many)
  }

  @Test func brokenLogMessagesAreCountedAndChangeNothing() throws {
    var bench = try PeerBench()
    bench.open(1, with: 1, isInitiator: true)
    let before = bench.peer.household.log
    var generator = SeededGenerator(seed: 2)
    let good = LogMessage.entries(before.entries).encodedBytes
    for _ in 0..<300 {
      var bytes = good
      switch generator.uniform(below: 3) {
      case 0: bytes.removeLast(1 + generator.uniform(below: bytes.count - 1))
      case 1: bytes.append(0)
      default: bytes[generator.uniform(below: 3)] ^= 1 << generator.uniform(below: 8)
      }
      let effects = bench.hear(1, MeshFrame(.trustLog, body: bytes))
      #expect(effects.reports.contains(.dropped(.malformedTrust)))
    }
    #expect(bench.peer.household.log == before)
  }
}
