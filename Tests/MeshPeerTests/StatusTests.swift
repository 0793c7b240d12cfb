import Determinism
import HouseholdTrust
import MeshModel
import MeshPeer
import MeshProtocol
import Testing

@Suite struct StatusTests {
  @Test func everyDeviceOfTheHouseholdIsShownAndEveryAbsentOneHasAReason() throws {
    let bench = try PeerBench()
    let status = bench.peer.status(at: ClockReading(monotonic: bench.now, sinceBoot: bench.now))
    #expect(status.devices.map(\.device) == (0..<3).map(bench.device))
    #expect(status.devices.map(\.name) == ["first", "device 1", "device 2"])
    #expect(status.devices.map(\.isAdmin) == [true, true, false])
    #expect(status.devices.map(\.isSelf) == [true, false, false])
    #expect(status.devices.map(\.absence) == [nil, .neverHeard, .neverHeard])
    #expect(status.devices.map(\.path) == [.none, .none, .none])
    #expect(status.household == bench.households[0].id)
    #expect(status.networkKeyEpoch == 1)
  }

  @Test func whyADialFailedIsShown() throws {
    let other = try PeerBench()
    let known = KnownPeer(device: other.device(1), addresses: [other.address(1)])
    for (failure, absence) in [
      (DialFailure.timedOut, AbsenceReason.noAnswer), (.refused, .refused),
      (.handshakeTimedOut, .handshakeTimeout), (.handshakeClosed, .handshakeFailed),
    ] {
      var bench = try PeerBench(known: [known])
      _ = bench.handle(.transport(.dialFailed(bench.address(1), .control, failure)))
      #expect(try bench.status(1).absence == absence)
      #expect(try bench.status(1).address == bench.address(1))
    }
  }

  @Test func ourOwnCloneIsReportedAndShown() throws {
    var bench = try PeerBench()
    let effects = bench.handle(.transport(.dialFailed(bench.address(1), .control, .clone)))
    #expect(effects.reports.contains(.clone(bench.device(0))))
    #expect(try bench.status(0).absence == .clone)
  }

  @Test func dropsAreCountedByTheirReason() throws {
    var bench = try PeerBench()
    for reason in [DropReason.queueFull, .brokenRecord, .queueFull] {
      _ = bench.handle(.transport(.dropped(reason)))
    }
    let status = bench.peer.status(at: ClockReading(monotonic: bench.now, sinceBoot: bench.now))
    #expect(status.drops.map(\.reason) == [.brokenRecord, .queueFull])
    #expect(status.drops.map(\.count) == [1, 2])
  }

  /// What a transport should never say, a stranger's frames and any bytes: nothing traps, all stays bounded.
  @Test(arguments: 0..<8)
  func anyEventsInAnyOrderKeepTheTablesWithinTheirLimits(_ seed: Int) throws {
    var generator = SeededGenerator(seed: UInt64(seed))
    var bench = try PeerBench()
    for _ in 0..<3_000 {
      bench.wait(.milliseconds(generator.uniform(below: 400)))
      let session = UInt64(1 + generator.uniform(below: 12))
      let body = (0..<generator.uniform(below: 60)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      switch generator.uniform(below: 9) {
      case 0, 1:
        bench.open(
          session, with: generator.uniform(below: 3), isInitiator: generator.uniform(below: 2) == 0,
          standing: SessionStanding(rawValue: UInt8(1 + generator.uniform(below: 3))) ?? .full,
          boot: BootID(counter: UInt32(generator.uniform(below: 3)), nonce: 1))
      case 2: _ = bench.handle(.transport(.closed(SessionID(session), .disconnected)))
      case 3, 4:
        let kind = FrameKind.allCases[generator.uniform(below: FrameKind.allCases.count)]
        bench.hear(session, MeshFrame(kind, request: UInt32(generator.uniform(below: 20)), body: body))
      case 5: _ = bench.handle(.transport(.datagram(from: bench.device(1), body: body)))
      case 6: _ = bench.handle(.beacon(body, from: bench.address(2)))
      case 7: _ = bench.handle(.transport(.dialFailed(bench.address(1), .control, .clone)))
      default: _ = bench.handle(.tick)
      }
      for load in bench.peer.loads { #expect(load.count <= load.limit, "\(load.name)") }
    }
  }
}
