import CryptoPrimitives
import Determinism
import MeshModel
import PeerDiscovery
import Testing
import WireCoding

@Suite("Beacons")
struct BeaconTests {
  private let beacon = Beacon(
    kind: .member, householdTag: 0x0123_4567_89AB_CDEF, instance: InstanceTag(0xFEDC_BA98_7654_3210),
    port: 51820, counter: 7)

  /// The 32 bytes 0, 1 … 31.
  private var key: BeaconKey {
    Array(UInt8(0)..<32).withUnsafeBytes { BeaconKey(householdTag: 0x0123_4567_89AB_CDEF, key: $0) }
  }

  // Fields packed by Python's struct ("<QQHHQ"), authenticated by hashlib.blake2b(digest_size=16, key=...).
  private let golden =
    "487274420101efcdab89674523011032547698badcfe6cca00000700000000000000"
    + "27ddbf84a83cb8dea7127bebf8bbe93a"

  @Test("A member's beacon is little-endian fields and the keyed BLAKE2b that Python's hashlib computes")
  func goldenBytes() {
    #expect(hexadecimal(beacon.encoded(key: key)) == golden)
  }

  @Test("Every kind reads back as it was written and stays under 120 bytes", arguments: Beacon.Kind.allCases)
  func roundTrip(kind: Beacon.Kind) throws {
    let sent = Beacon(
      kind: kind, householdTag: 5, instance: InstanceTag(.max), port: kind == .pairingQuestion ? 0 : .max,
      discriminator: kind == .pairingOffer ? 0xFFF : 0, counter: .max)
    let bytes = sent.encoded(key: key)
    let (read, authentication) = try Beacon.decode(bytes)
    #expect(read == sent)
    #expect(authentication.count == (kind == .member || kind == .answer ? 16 : 0))
    #expect(bytes.count <= 120)
    #expect(bytes.count <= Beacon.byteLimit)
  }

  @Test("A beacon that is cut short or has bytes left over is refused, at every length")
  func lengths() throws {
    let bytes = beacon.encoded(key: key)
    for length in 0..<bytes.count {
      #expect(throws: DecodingFailure.self) { try Beacon.decode(Array(bytes[..<length])) }
    }
    #expect(throws: DecodingFailure.overLimit(field: "beacon", value: 51, limit: 50)) {
      try Beacon.decode(bytes + [0])
    }
    let offer = Beacon(
      kind: .pairingOffer, householdTag: 1, instance: InstanceTag(1), port: 1, discriminator: 9, counter: 1
    ).encoded(key: nil)
    #expect(throws: DecodingFailure.trailingBytes(count: 1)) { try Beacon.decode(offer + [0]) }
  }

  @Test("Fields that mean nothing are refused by name")
  func invalidFields() {
    func decode(changing index: Int, to value: UInt8) throws -> Beacon {
      var bytes = beacon.encoded(key: key)
      bytes[index] = value
      return try Beacon.decode(bytes).beacon
    }
    #expect(throws: DecodingFailure.invalid(field: "beacon magic", value: 0)) {
      try decode(changing: 0, to: 0)
    }
    #expect(throws: DecodingFailure.invalid(field: "beacon version", value: 9)) {
      try decode(changing: 4, to: 9)
    }
    #expect(throws: DecodingFailure.invalid(field: "beacon kind", value: 0)) {
      try decode(changing: 5, to: 0)
    }
    // A member's beacon has no discriminator: its low byte stands at 24.
    #expect(throws: DecodingFailure.invalid(field: "discriminator", value: 3)) {
      try decode(changing: 24, to: 3)
    }
    // A question carries no port.
    let question = Beacon(
      kind: .pairingQuestion, householdTag: 0, instance: InstanceTag(1), port: 1, counter: 1)
    #expect(throws: DecodingFailure.invalid(field: "port", value: 1)) {
      try Beacon.decode(question.encoded(key: nil))
    }
  }

  @Test("Any single flipped bit of a member's beacon is noticed, and gives no dial")
  func flippedBits() {
    let bytes = Beacon(
      kind: .member, householdTag: 1, instance: InstanceTag(77), port: 4001, counter: 3
    ).encoded(key: testKey(1))
    for bit in 0..<(bytes.count * 8) {
      var flipped = bytes
      flipped[bit / 8] ^= 1 << (bit % 8)
      var bench = PlanBench()
      bench.send(.beacon(flipped, from: v4(7, port: Beacon.port)))
      #expect(bench.dials.isEmpty, "bit \(bit)")
      // A bit of the kind makes it an answer (authenticated too) or a kind without authentication, whose
      // length is then wrong: dropped in every case.
      #expect(bench.drops.count == 1, "bit \(bit)")
    }
    var bench = PlanBench()
    bench.send(.beacon(bytes, from: v4(7, port: Beacon.port)))
    #expect(bench.dials.map(\.address) == [v4(7, port: 4001)])
  }

  @Test("Random bytes, with and without a valid head, are read or refused but never trap")
  func randomBytes() {
    var generator = SeededGenerator(seed: 20)
    var read = 0
    for round in 0..<20_000 {
      var bytes = (0..<generator.uniform(below: 70)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      if round % 2 == 0 {
        bytes = Array("HrtB".utf8) + [1, UInt8(generator.uniform(below: 6))] + bytes
      }
      guard let (beacon, authentication) = try? Beacon.decode(bytes) else { continue }
      read += 1
      // What was read writes the same bytes, up to the authentication.
      let again = beacon.encoded(key: key)
      #expect(again.prefix(Beacon.plainByteCount) == bytes.prefix(Beacon.plainByteCount))
      #expect(authentication == Array(bytes.dropFirst(Beacon.plainByteCount)))
    }
    #expect(read > 0, "the generator never made a beacon, so the test shows little")
  }

  @Test("Neither describing nor reflecting a key shows any of its bytes")
  func keyIsNotShown() {
    let key = [UInt8](repeating: 0xA7, count: 32).withUnsafeBytes {
      BeaconKey(householdTag: 1, key: $0)
    }
    var dumped = ""
    dump(key, to: &dumped)
    for text in [String(describing: key), String(reflecting: key), dumped] {
      #expect(!text.contains("167") && !text.lowercased().contains("a7a7"))
    }
    #expect(Mirror(reflecting: key).children.isEmpty)
  }
}
