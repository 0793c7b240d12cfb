import Determinism
import GossipMembership
import MeshModel
import Testing
import WireCoding

@Suite("Gossip messages")
struct MessageTests {
  /// A record that is as large as it can be: a leader, the longest version, three IPv4 and three IPv6 addresses.
  static func largestRecord(_ index: Int) -> MemberRecord {
    var addresses: [NetworkAddress] = []
    for number in 0..<3 {
      addresses.append(NetworkAddress(.v4(0x0A00_0000 | UInt32(number)), port: 65535))
      addresses.append(
        NetworkAddress(.v6(high: 0x2001_0DB8 << 32, low: UInt64(number), scope: 0), port: 65535))
    }
    let traits = DeviceTraits(
      power: .mains, attachment: .wired, cores: .max, memoryMebibytes: .max, isAvailable: true,
      wireVersions: .current, version: String(repeating: "v", count: DeviceTraits.versionLimit))
    return MemberRecord(
      device: Bench.name(index), incarnation: Bench.incarnation(boot: .max, 5), addresses: addresses,
      traits: traits, leader: Bench.name(3))
  }

  static func claims(_ count: Int) -> [MemberClaim] {
    (1...count).map {
      MemberClaim(
        device: Bench.name($0), incarnation: Bench.incarnation(boot: 1), state: .alive, capabilityHash: 9)
    }
  }

  static let digest = ViewDigest(claims: claims(3))

  static let samples: [GossipMessage] = [
    .ping(sequence: 1, []),
    .ping(sequence: .max, [Bench.accusation(of: 1, by: 2), .record(Bench.record(4))]),
    .ack(sequence: 7, digest, [Bench.accusation(of: 1, by: 2, isFinal: true)]),
    .pingRequest(sequence: 9, target: Bench.name(3), [.record(largestRecord(1))]),
    .nack(sequence: 8),
    .news([.record(largestRecord(1)), Bench.accusation(of: 1, by: 2)]),
    .viewDigest(digest),
    .viewPart(ViewPart(above: Bench.name(0), through: Bench.name(100), claims: claims(ViewPart.claimLimit))),
    .records([largestRecord(1), Bench.record(2)], wanted: [Bench.name(5), Bench.name(6)]),
  ]

  @Test("every message decodes to what was encoded and is within 1,172 bytes", arguments: samples)
  func roundTrip(message: GossipMessage) throws {
    let bytes = message.encoded
    #expect(try GossipMessage(decoding: bytes) == message)
    #expect(bytes.count <= GossipLimits.messageBytes)
  }

  @Test("the largest record has 160 bytes after its length")
  func recordSize() {
    // 16 name, 8 incarnation, 1 state, 1 + 16 leader, 37 traits, 1 count, 3 · 7 + 3 · 19 addresses.
    #expect(Self.largestRecord(1).encoded.count == 1 + 16 + 8 + 1 + 17 + 37 + 1 + 78)
    #expect(Self.largestRecord(1).encoded.count <= 1 + GossipLimits.recordBytes)
  }

  @Test("a record keeps the first addresses that fit, and none that is link-local")
  func addressLimits() {
    let long = (0..<6).map { NetworkAddress(.v6(high: 1 << 60, low: UInt64($0), scope: 0), port: 1) }
    let local = NetworkAddress(.v6(high: 0xFE80 << 48, low: 1, scope: 2), port: 1)
    let record = MemberRecord(
      device: Bench.name(1), incarnation: Bench.incarnation(boot: 1), addresses: [local] + long,
      traits: .plain)
    #expect(record.addresses == Array(long.prefix(4)))
  }

  @Test("what later versions add to a record travels on unchanged")
  func laterFields() throws {
    var bytes = Bench.record(1).encoded
    bytes += [1, 2, 3, 4]
    bytes[0] += 4
    let record = try MemberRecord(decoding: bytes)
    #expect(record.addresses == Bench.record(1).addresses)
    #expect(record.encoded == bytes)
    #expect(record.capabilityHash != Bench.record(1).capabilityHash)
  }

  @Test("a trait value of a later version reads as unknown and travels on unchanged")
  func laterTraitValue() throws {
    var bytes = Bench.record(1).encoded
    // Length, name, incarnation, state, leader flag; then the power.
    let place = 1 + 16 + 8 + 1 + 1
    #expect(bytes[place] == DeviceTraits.Power.battery.rawValue)
    bytes[place] = 200
    let record = try MemberRecord(decoding: bytes)
    #expect(record.traits.power == .unknown)
    #expect(record.encoded == bytes)
  }

  @Test("news of an unknown kind are skipped, unless they must be understood")
  func unknownNews() throws {
    var writer = ByteWriter()
    writer.raw([5, 2, 0x11, 3, 0xAA, 0xBB, 0xCC])
    writer.raw([2, 41])
    let accusation = Bench.accusation(of: 1, by: 2)
    guard case .accusation(let content) = accusation else { return }
    writer.raw(content.encoded)
    #expect(try GossipMessage(decoding: writer.bytes) == .news([accusation]))
    var strict = writer.bytes
    strict[2] = 0x91
    #expect(throws: DecodingFailure.mustUnderstand(tag: 0x91)) { try GossipMessage(decoding: strict) }
  }

  @Test("a view whose names are not in ascending order or out of its bounds is refused")
  func viewOrder() {
    let claims = Self.claims(3)
    let wrong: [ViewPart] = [
      ViewPart(above: Bench.name(0), through: Bench.name(9), claims: claims.reversed()),
      ViewPart(above: Bench.name(0), through: Bench.name(9), claims: [claims[0], claims[0]]),
      ViewPart(above: Bench.name(1), through: Bench.name(9), claims: claims),
      ViewPart(above: Bench.name(0), through: Bench.name(2), claims: claims),
    ]
    for part in wrong {
      #expect(throws: DecodingFailure.notAscending(field: "claims of a view")) {
        try GossipMessage(decoding: GossipMessage.viewPart(part).encoded)
      }
    }
  }

  @Test("nobody can be called removed by a message")
  func revokedDoesNotTravel() {
    var claim = Self.claims(1)[0]
    claim.state = .revoked
    #expect(throws: DecodingFailure.invalid(field: "member state", value: 5)) {
      try MemberClaim(decoding: claim.encoded)
    }
  }

  @Test("more than a message may hold is refused before it is read")
  func overLimits() {
    let many = [UInt8](repeating: 0, count: GossipLimits.messageBytes + 1)
    #expect(throws: DecodingFailure.overLimit(field: "message", value: 1173, limit: 1172)) {
      try GossipMessage(decoding: many)
    }
    #expect(throws: DecodingFailure.overLimit(field: "news count", value: 255, limit: 27)) {
      try GossipMessage(decoding: [5, 255])
    }
    #expect(throws: DecodingFailure.overLimit(field: "record length", value: 161, limit: 160)) {
      try GossipMessage(decoding: [8, 1, 161] + [UInt8](repeating: 0, count: 161))
    }
  }

  @Test("FNV-1a gives the published values for 64 and 128 bits")
  func publishedHashes() {
    // draft-eastlake-fnv, and the test tables of the Go standard library's hash/fnv.
    #expect(FowlerNollVo.hash64([]) == 0xCBF2_9CE4_8422_2325)
    #expect(FowlerNollVo.hash64(Array("a".utf8)) == 0xAF63_DC4C_8601_EC8C)
    #expect(FowlerNollVo.hash64(Array("foobar".utf8)) == 0x8594_4171_F739_67E8)
    func wide(_ high: UInt64, _ low: UInt64) -> UInt128 { UInt128(high) << 64 | UInt128(low) }
    #expect(FowlerNollVo.hash128([]) == wide(0x6C62_272E_07BB_0142, 0x62B8_2175_6295_C58D))
    #expect(FowlerNollVo.hash128(Array("a".utf8)) == wide(0xD228_CB69_6F1A_8CAF, 0x7891_2B70_4E4A_8964))
    #expect(FowlerNollVo.hash128(Array("abc".utf8)) == wide(0xA68D_622C_EC8B_5822, 0x836D_BC79_77AF_7F3B))
  }

  @Test("the digest of a view changes with every member, incarnation, state and statement")
  func digestSensitivity() {
    let base = Self.claims(5)
    var digests: Set<ViewDigest> = [ViewDigest(claims: base), ViewDigest(claims: Array(base.dropLast()))]
    for index in base.indices {
      var changed = base
      changed[index].incarnation = changed[index].incarnation.next
      digests.insert(ViewDigest(claims: changed))
      changed = base
      changed[index].state = .suspect
      digests.insert(ViewDigest(claims: changed))
      changed = base
      changed[index].capabilityHash += 1
      digests.insert(ViewDigest(claims: changed))
    }
    #expect(digests.count == 2 + 15)
  }
}

@Suite("Bytes from outside")
struct FuzzTests {
  @Test("random and damaged messages are decoded or counted as dropped, and nothing traps")
  func damagedMessages() {
    var generator = SeededGenerator(seed: 4711)
    var bench = Bench.settled(with: 4)
    var expectedDrops = 0
    for round in 0..<30_000 {
      let bytes = Self.damaged(round, &generator)
      let isExchange = round % 2 == 1
      let sender = Bench.name(1 + round % 4)
      if round % 50 == 0 {
        bench.monotonic += 20_000_000
        bench.give(.tick)
      }
      if Self.isDropped(bytes, isExchange: isExchange) { expectedDrops += 1 }
      bench.give(isExchange ? .viewExchange(bytes, from: sender) : .message(bytes, from: sender))
      if round % 200 == 0 { bench.clear() }
    }
    #expect(bench.membership.dropCount(.malformed) == expectedDrops)
    #expect(expectedDrops > 10_000)
    #expect(bench.membership.members.count == 4)
  }

  @Test("whatever decodes encodes to the same bytes again")
  func canonical() throws {
    var generator = SeededGenerator(seed: 815)
    var decoded = 0
    for round in 0..<30_000 {
      let bytes = Self.damaged(round, &generator)
      guard let message = try? GossipMessage(decoding: bytes) else { continue }
      // Skipped news are not written again; everything else is.
      let again = message.encoded
      #expect(try GossipMessage(decoding: again) == message)
      decoded += 1
    }
    #expect(decoded > 1_000)
  }

  private static func damaged(_ round: Int, _ generator: inout SeededGenerator) -> [UInt8] {
    guard round % 4 != 0 else {
      let count = generator.uniform(below: 200)
      return (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    }
    var bytes = MessageTests.samples[generator.uniform(below: MessageTests.samples.count)].encoded
    for _ in 0...generator.uniform(below: 3) where !bytes.isEmpty {
      switch generator.uniform(below: 4) {
      case 0: bytes[generator.uniform(below: bytes.count)] ^= 1 << UInt8(generator.uniform(below: 8))
      case 1: bytes.removeLast(generator.uniform(below: bytes.count))
      case 2: bytes.append(UInt8(truncatingIfNeeded: generator.next()))
      default: bytes[generator.uniform(below: bytes.count)] = UInt8(truncatingIfNeeded: generator.next())
      }
    }
    return bytes
  }

  private static func isDropped(_ bytes: [UInt8], isExchange: Bool) -> Bool {
    guard let message = try? GossipMessage(decoding: bytes) else { return true }
    switch message {
    case .viewDigest, .viewPart, .records: return !isExchange
    default: return isExchange
    }
  }
}
