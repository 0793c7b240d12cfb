import Determinism
import MeshModel
import MeshProtocol
import Testing
import WireCoding

@Suite struct MeshProtocolTests {
  @Test("A frame is kind, flags 0, channel and request in little-endian, then its body")
  func layout() {
    let frame = MeshFrame(.bulk, channel: 0x0102, request: 0x0304_0506, body: [7, 8])
    #expect(frame.encoded == [9, 0, 2, 1, 6, 5, 4, 3, 7, 8])
    #expect(MeshFrame(.goodbye, body: []).encoded.count == MeshFrame.headerByteCount)
  }

  @Test("Frames of every kind read back", arguments: FrameKind.allCases)
  func roundTrip(_ kind: FrameKind) throws {
    var generator = SeededGenerator(seed: UInt64(kind.rawValue))
    for count in [0, 1, 100, 65_000] {
      let body = (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      let frame = MeshFrame(
        kind, channel: UInt16(truncatingIfNeeded: generator.next()),
        request: UInt32(truncatingIfNeeded: generator.next()), body: body)
      #expect(try MeshFrame(decoding: frame.encoded) == frame)
    }
  }

  @Test("Unknown kinds and flags are refused by their values, short headers by what is missing")
  func refusals() {
    let known = Set(FrameKind.allCases.map(\.rawValue))
    for kind in UInt8.min...UInt8.max where !known.contains(kind) {
      #expect(throws: DecodingFailure.invalid(field: "frame kind", value: UInt64(kind))) {
        _ = try MeshFrame(decoding: [kind, 0, 0, 0, 0, 0, 0, 0])
      }
    }
    for flags in 1...UInt8.max {
      #expect(throws: DecodingFailure.invalid(field: "frame flags", value: UInt64(flags))) {
        _ = try MeshFrame(decoding: [1, flags, 0, 0, 0, 0, 0, 0])
      }
    }
    for count in 0..<MeshFrame.headerByteCount {
      #expect(throws: DecodingFailure.self) {
        _ = try MeshFrame(decoding: [1, 0, 0, 0, 0, 0, 0, 0].prefix(count))
      }
    }
  }

  @Test("Random bytes are a frame that encodes to them, or refused")
  func fuzz() {
    var generator = SeededGenerator(seed: 4)
    var frames = 0
    for _ in 0..<50_000 {
      var bytes = (0..<generator.uniform(below: 30)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      // Random first bytes are seldom a frame; half of the tries get a likely header.
      if bytes.count > 1, generator.next() & 1 == 0 {
        bytes[0] = UInt8(generator.uniform(below: 14))
        bytes[1] = UInt8(generator.uniform(below: 2))
      }
      guard let frame = try? MeshFrame(decoding: bytes) else { continue }
      frames += 1
      #expect(frame.encoded == bytes)
    }
    #expect(frames > 5_000)
  }

  @Test("Numbers that travel are fixed: changing one breaks every older version")
  func wireValues() {
    #expect(
      FrameKind.allCases.map { "\($0)=\($0.rawValue)" } == [
        "goodbye=1", "gossip=2", "viewExchange=3", "trustLog=4", "echoRequest=7", "echoReply=8", "bulk=9",
        "burst=10", "burstReport=11", "job=12",
      ])
    #expect(SessionPurpose.allCases.map { "\($0)=\($0.rawValue)" } == ["control=1", "bulk=2", "pairing=3"])
    #expect([SessionStanding.full, .updateOnly, .statusOnly].map(\.rawValue) == [1, 2, 3])
    #expect(
      CloseReason.allCases.map { "\($0)=\($0.rawValue)" } == [
        "disconnected=0", "shuttingDown=1", "duplicate=2", "revoked=3", "silent=4", "brokenRecord=5",
        "overLimit=6", "left=7", "asleep=8", "renewed=9", "finished=10",
      ])
  }

  @Test("Counters of drops have names of their own in plain lower case")
  func dropNames() {
    let names = DropReason.allCases.map(\.rawValue)
    #expect(Set(names).count == names.count)
    for name in names {
      #expect(name.allSatisfy { $0.isASCII && ($0.isLowercase || $0 == "-") }, "\(name)")
    }
  }

  @Test("Sessions order by age and show their number")
  func sessions() {
    #expect(SessionID(2) < SessionID(10))
    #expect(SessionID(7).description == "#7")
  }
}
