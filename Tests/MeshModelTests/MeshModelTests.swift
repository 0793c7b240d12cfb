import Determinism
import MeshModel
import Testing
import WireCoding

private func randomBytes(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
  (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
}

@Suite struct IdentifierTests {
  @Test("Names of devices and households are 16 bytes, no more and no less")
  func byteCounts() throws {
    var generator = SeededGenerator(seed: 1)
    for count in [0, 1, 15, 17, 32] {
      #expect(DeviceID(bytes: randomBytes(count, &generator)) == nil)
      #expect(HouseholdID(bytes: randomBytes(count, &generator)) == nil)
    }
    for _ in 0..<200 {
      let bytes = randomBytes(16, &generator)
      let device = try #require(DeviceID(bytes: bytes))
      let household = try #require(HouseholdID(bytes: bytes))
      #expect(device.bytes == bytes && household.bytes == bytes)
      #expect(device.encoded == bytes && household.encoded == bytes)
      #expect(try DeviceID(decoding: bytes) == device)
      #expect(try HouseholdID(decoding: bytes) == household)
      #expect(throws: DecodingFailure.self) { _ = try DeviceID(decoding: bytes.dropLast()) }
    }
  }

  @Test("A name is shown as 32 hexadecimal digits, leading zeros included, and shortly as eight")
  func descriptions() throws {
    let device = try #require(DeviceID(bytes: [0, 1, 2, 0xAB, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0F]))
    #expect(device.description == "000102ab00000000000000000000000f")
    #expect(device.short == "000102ab")
  }

  @Test("Names order like their bytes")
  func order() throws {
    var generator = SeededGenerator(seed: 2)
    for _ in 0..<2_000 {
      // Few different bytes, so that long common beginnings occur.
      let one = (0..<16).map { _ in UInt8(generator.uniform(below: 2) * 255) }
      let other = (0..<16).map { _ in UInt8(generator.uniform(below: 2) * 255) }
      let devices = [try #require(DeviceID(bytes: one)), try #require(DeviceID(bytes: other))]
      #expect((devices[0] < devices[1]) == one.lexicographicallyPrecedes(other))
      let homes = [try #require(HouseholdID(bytes: one)), try #require(HouseholdID(bytes: other))]
      #expect((homes[0] < homes[1]) == one.lexicographicallyPrecedes(other))
    }
  }

  @Test("Starts order by their counter, then by their nonce, and read back")
  func boots() throws {
    let boots = [
      BootID(counter: 1, nonce: 9), BootID(counter: 2, nonce: 0), BootID(counter: 2, nonce: .max),
      BootID(counter: .max, nonce: 0),
    ]
    #expect(boots.shuffledBack == boots)
    for boot in boots {
      #expect(boot.encoded.count == 8)
      #expect(try BootID(decoding: boot.encoded) == boot)
    }
    #expect(BootID(counter: 3, nonce: 0xAB).description == "3.ab")
  }

  @Test("A restarted device's first incarnation beats every one of its earlier lives")
  func incarnations() throws {
    let first = Incarnation(boot: BootID(counter: 4, nonce: 77))
    var refuted = first
    for _ in 0..<1000 { refuted = refuted.next }
    #expect(first < refuted)
    #expect(refuted < Incarnation(boot: BootID(counter: 5, nonce: 0)))
    #expect(refuted.description == "4.1000")
    let last = Incarnation(value: .max)
    #expect(last.next == last)
    #expect(try Incarnation(decoding: refuted.encoded) == refuted)
  }
}

extension [BootID] {
  /// The same starts, mixed up and sorted again.
  fileprivate var shuffledBack: [BootID] {
    var generator = SeededGenerator(seed: 5)
    var copy = self
    generator.shuffle(&copy)
    return copy.sorted()
  }
}

@Suite struct NetworkAddressTests {
  private func v6(_ high: UInt64, _ low: UInt64, scope: UInt32 = 0, port: UInt16 = 7946) -> NetworkAddress {
    NetworkAddress(.v6(high: high, low: low, scope: scope), port: port)
  }

  @Test(
    "IPv6 is shown as RFC 5952 says",
    arguments: [
      // §1's example, §4.1, §4.2.1, §4.2.2 (one zero group stays), §4.2.3 (longest run; the first of equals), §4.3.
      (0x2001_0db8_0000_0000, 0x0000_0000_0002_0001, "2001:db8::2:1"),
      (0x2001_0db8_0000_0000, 0x0000_0000_0000_0001, "2001:db8::1"),
      (0x2001_0db8_0000_0001, 0x0001_0001_0001_0001, "2001:db8:0:1:1:1:1:1"),
      (0x2001_0000_0000_0001, 0x0000_0000_0000_0001, "2001:0:0:1::1"),
      (0x2001_0db8_0000_0000, 0x0001_0000_0000_0001, "2001:db8::1:0:0:1"),
      (0x2001_0db8_aaaa_bbbb, 0xcccc_dddd_eeee_0001, "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"),
      (0, 0, "::"), (0, 1, "::1"), (0x0001_0000_0000_0000, 0, "1::"),
      (0xfe80_0000_0000_0000, 0x0202_b3ff_fe1e_8329, "fe80::202:b3ff:fe1e:8329"),
    ] as [(UInt64, UInt64, String)])
  func textOfIPv6(_ high: UInt64, _ low: UInt64, _ expected: String) {
    #expect(v6(high, low).description == "[\(expected)]:7946")
  }

  @Test("IPv4 is shown in dotted decimals, a scope behind a percent sign")
  func textOfOthers() {
    #expect(NetworkAddress(.v4(0xC000_02FF), port: 80).description == "192.0.2.255:80")
    #expect(v6(0xfe80 << 48, 1, scope: 3).description == "[fe80::1%3]:7946")
  }

  @Test("A scope belongs to link-local addresses only")
  func scopes() {
    #expect(v6(0x2001_0db8 << 32, 1, scope: 3) == v6(0x2001_0db8 << 32, 1))
    #expect(v6(0xfe80 << 48, 1, scope: 3) != v6(0xfe80 << 48, 1, scope: 4))
  }

  @Test("Link-local and loopback are the blocks that RFC 3927, RFC 4291 and RFC 1122 give")
  func blocks() {
    #expect(NetworkAddress(.v4(0xA9FE_0000), port: 1).isLinkLocal)
    #expect(NetworkAddress(.v4(0xA9FE_FFFF), port: 1).isLinkLocal)
    #expect(!NetworkAddress(.v4(0xA9FD_FFFF), port: 1).isLinkLocal)
    #expect(!NetworkAddress(.v4(0xA9FF_0000), port: 1).isLinkLocal)
    #expect(v6(0xfe80 << 48, 0).isLinkLocal && v6(0xfebf_ffff_ffff_ffff, .max).isLinkLocal)
    #expect(!v6(0xfe7f_ffff_ffff_ffff, .max).isLinkLocal && !v6(0xfec0 << 48, 0).isLinkLocal)
    #expect(NetworkAddress(.v4(0x7F00_0001), port: 1).isLoopback)
    #expect(NetworkAddress(.v4(0x7FFF_FFFF), port: 1).isLoopback)
    #expect(!NetworkAddress(.v4(0x8000_0000), port: 1).isLoopback)
    #expect(v6(0, 1).isLoopback && !v6(0, 2).isLoopback && !v6(0, 0).isLoopback)
  }

  @Test("Any two different addresses have an order: IPv4 first, then by address, scope and port")
  func order() {
    let addresses = [
      NetworkAddress(.v4(0), port: 0), NetworkAddress(.v4(1), port: 0), NetworkAddress(.v4(1), port: 1),
      NetworkAddress(.v4(.max), port: .max), v6(0, 0, port: 0), v6(0, 1), v6(0x2001 << 48, 5),
      v6(0x2001 << 48, .max), v6(0xA001 << 48, 5), v6(0xfe80 << 48, 1, scope: 1, port: 9),
      v6(0xfe80 << 48, 1, scope: 2, port: 8), v6(.max, .max, port: 1),
    ]
    for (index, one) in addresses.enumerated() {
      for (place, other) in addresses.enumerated() {
        #expect((one < other) == (index < place), "\(one) and \(other)")
        #expect((one == other) == (index == place))
      }
    }
  }

  @Test("Addresses read back, but for the scope, which means nothing to others")
  func roundTrips() throws {
    var generator = SeededGenerator(seed: 6)
    for _ in 0..<500 {
      let port = UInt16(truncatingIfNeeded: generator.next())
      let four = NetworkAddress(.v4(UInt32(truncatingIfNeeded: generator.next())), port: port)
      #expect(four.encoded.count == 7)
      #expect(try NetworkAddress(decoding: four.encoded) == four)
      let (high, low) = (generator.next(), generator.next())
      let six = v6(high, low, port: port)
      #expect(six.encoded.count == 19)
      #expect(try NetworkAddress(decoding: six.encoded) == six)
    }
    let local = v6(0xfe80 << 48, 1, scope: 7)
    #expect(try NetworkAddress(decoding: local.encoded) == v6(0xfe80 << 48, 1))
    #expect(throws: DecodingFailure.invalid(field: "address family", value: 5)) {
      _ = try NetworkAddress(decoding: [5, 0, 0, 0, 0, 0, 0])
    }
  }
}

@Suite struct DeviceTraitsTests {
  private func traits(version: String = "0.4.0", power: DeviceTraits.Power = .battery) -> DeviceTraits {
    DeviceTraits(
      power: power, attachment: .wireless, cores: 8, memoryMebibytes: 16_000, isAvailable: true,
      wireVersions: WireVersions(oldest: 1, newest: 2), version: version)
  }

  @Test("Traits read back in every combination")
  func roundTrips() throws {
    for power in DeviceTraits.Power.allCases {
      for attachment in DeviceTraits.Attachment.allCases {
        for (isAvailable, isPaused) in [(false, false), (true, false), (true, true)] {
          let traits = DeviceTraits(
            power: power, attachment: attachment, cores: .max, memoryMebibytes: .max,
            isAvailable: isAvailable, isPaused: isPaused,
            wireVersions: .current, version: String(repeating: "9", count: DeviceTraits.versionLimit))
          #expect(try DeviceTraits(decoding: traits.encoded) == traits)
          #expect(traits.isAvailable == (isAvailable && !isPaused))
        }
      }
    }
  }

  @Test("Sharing is 0, 1 or 2, and a paused device is not available")
  func sharing() throws {
    var bytes = traits().encoded
    #expect(bytes[8] == 1)
    bytes[8] = 2
    let paused = try DeviceTraits(decoding: bytes)
    #expect(paused.isPaused && !paused.isAvailable)
    bytes[8] = 3
    #expect(throws: DecodingFailure.invalid(field: "sharing", value: 3)) {
      _ = try DeviceTraits(decoding: bytes)
    }
  }

  @Test("Kinds of power and attachment of later versions count as unknown")
  func laterValues() throws {
    var bytes = traits().encoded
    bytes[0] = 200
    bytes[1] = 201
    let read = try DeviceTraits(decoding: bytes)
    #expect(read.power == .unknown && read.attachment == .unknown && read.cores == 8)
  }

  @Test("A version that is too long, or that would move a terminal's cursor, is refused")
  func versions() {
    let good = traits(version: "0.4.0").encoded
    let prefix = good.dropLast(7)
    for text in ["\u{1B}[2J", "a\nb", "0.4ü", String(repeating: "1", count: 25)] {
      var writer = ByteWriter()
      writer.raw(prefix)
      writer.text(text)
      #expect(throws: DecodingFailure.self, "\(text)") { _ = try DeviceTraits(decoding: writer.bytes) }
    }
  }

  @Test("Random bytes are a value that reads back, or refused")
  func fuzz() throws {
    var generator = SeededGenerator(seed: 7)
    var traits = 0
    for _ in 0..<20_000 {
      var bytes = randomBytes(generator.uniform(below: 60), &generator)
      // Half of the tries get as far as the version's length.
      if bytes.count > 12, generator.next() & 1 == 0 {
        bytes.replaceSubrange(8..<13, with: [1, 0, 255, UInt8(bytes.count - 13), 0])
        for index in 13..<bytes.count { bytes[index] &= 0x7F }
      }
      if let value = try? DeviceTraits(decoding: bytes) {
        traits += 1
        #expect(try DeviceTraits(decoding: value.encoded) == value)
      }
      if let value = try? NetworkAddress(decoding: bytes) { #expect(value.encoded == bytes) }
      if let value = try? WireVersions(decoding: bytes) { #expect(value.encoded == bytes) }
      if let value = try? BootID(decoding: bytes) { #expect(value.encoded == bytes) }
    }
    #expect(traits > 20)
  }
}

@Suite struct WireVersionTests {
  @Test("The common version is the newest that both speak, whichever side asks")
  func common() {
    for oldest in 1...4 as ClosedRange<UInt8> {
      for newest in oldest...5 {
        for otherOldest in 1...4 as ClosedRange<UInt8> {
          for otherNewest in otherOldest...5 {
            let one = WireVersions(oldest: oldest, newest: newest)
            let other = WireVersions(oldest: otherOldest, newest: otherNewest)
            let expected = Set(oldest...newest).intersection(otherOldest...otherNewest).max()
            #expect(one.common(with: other) == expected)
            #expect(other.common(with: one) == expected)
          }
        }
      }
    }
  }

  @Test("Versions read back; an upper end below the lower one is refused")
  func coding() throws {
    let versions = WireVersions(oldest: 2, newest: 9)
    #expect(versions.encoded == [2, 9])
    #expect(try WireVersions(decoding: [2, 9]) == versions)
    #expect(throws: DecodingFailure.invalid(field: "newest wire version", value: 1)) {
      _ = try WireVersions(decoding: [2, 1])
    }
    #expect(versions.description == "2-9" && WireVersions(oldest: 3, newest: 3).description == "3")
  }
}

@Suite struct AbsenceReasonTests {
  @Test("Reason codes are stable")
  func codes() {
    #expect(
      AbsenceReason.allCases.map(\.rawValue) == [
        "never-heard", "not-tried", "no-answer", "refused", "handshake-timeout", "handshake-failed",
        "other-device", "revoked", "self-revoked", "stale-key", "too-old", "too-new", "clone", "unreachable",
        "asleep", "left",
      ])
  }

  @Test("Every reason says the next step in one line", arguments: AbsenceReason.allCases)
  func nextSteps(_ reason: AbsenceReason) {
    #expect(!reason.nextStep.isEmpty && !reason.nextStep.contains("\n") && reason.nextStep.count <= 110)
  }
}
