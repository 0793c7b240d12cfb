import CryptoPrimitives
import Foundation
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

/// keys/households/example/household.json: a household written by a Python program after docs/FILE-FORMATS.md.
private struct Example: Decodable {
  struct Expected: Decodable {
    let devices, names, members, admins, revoked, noisePSK, beaconKey, householdTag, epochHint: [String]
  }
  let phrase, genesis: String
  let seeds, entries: [String]
  let expected: Expected

  static func read() throws -> Example {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../keys/households/example/household.json")
    return try JSONDecoder().decode(Example.self, from: Data(contentsOf: file))
  }

  func log() throws -> MembershipLog {
    var log = MembershipLog(genesis: try Genesis(decoding: try #require(decodeHexadecimal(genesis))))
    _ = log.merge(try decodedEntries())
    return log
  }

  func decodedEntries() throws -> [LogEntry] {
    try entries.map { try LogEntry(decoding: try #require(decodeHexadecimal($0))) }
  }

  func keys(_ index: Int) throws -> DeviceKeys {
    var bytes = try #require(decodeHexadecimal(seeds[index]))
    let seed = SecretBytes(wiping: &bytes)
    let keys = DeviceKeys(seed: seed)
    return try #require(keys)
  }
}

@Suite struct ExampleHouseholdTests {
  @Test("The recovery phrase of the example makes the root that signed its genesis")
  func phrase() throws {
    let example = try Example.read()
    let log = try example.log()
    #expect(HouseholdRoot(try RecoveryPhrase(typed: example.phrase)).publicKey == log.genesis.root)
    #expect(hexadecimal(log.genesis.encoded) == example.genesis)
  }

  @Test("All entries of an independent implementation enter the log and encode to the same bytes")
  func entries() throws {
    let example = try Example.read()
    let log = try example.log()
    #expect(log.entries.count == example.entries.count)
    for (entry, text) in zip(try example.decodedEntries(), example.entries) {
      #expect(log.contains(entry.digest))
      #expect(hexadecimal(entry.encoded) == text)
    }
  }

  @Test("The log says of members, admins and revoked devices what the example expects")
  func view() throws {
    let example = try Example.read()
    let view = try example.log().view
    #expect(view.members.map { "\($0.device)" } == example.expected.members)
    #expect(view.admins.map(\.description) == example.expected.admins)
    #expect(view.revoked.map(\.description) == example.expected.revoked)
    #expect(view.networkKeys.map(\.id.epoch) == [2, 1])
    #expect(!view.isContested && !view.needsNewNetworkKey && view.membersWithoutNetworkKey.isEmpty)
    for (device, name) in zip(example.expected.devices, example.expected.names) {
      let bytes = try #require(decodeHexadecimal(device))
      let id = try #require(DeviceID(bytes: bytes))
      #expect(view.status(of: id)?.certificate.name == name)
    }
  }

  @Test("Each device opens its sealed network keys, and the removed one only the old")
  func networkKeys() throws {
    let example = try Example.read()
    let log = try example.log()
    for index in 0..<4 {
      let household = try Household(log: log, keys: try example.keys(index))
      #expect(household.device.description == example.expected.devices[index])
      let isRemoved = index == 3
      #expect(household.isMember == !isRemoved)
      #expect(household.ring.epochs == (isRemoved ? [1] : [2, 1]))
      for key in household.ring.keys {
        let place = Int(key.id.epoch) - 1
        let psk = key.noisePSK()
        let beacon = key.beaconKey()
        #expect(hexadecimal(psk.withUnsafeBytes { Array($0) }) == example.expected.noisePSK[place])
        #expect(hexadecimal(beacon.withUnsafeBytes { Array($0) }) == example.expected.beaconKey[place])
        #expect(hexadecimal(key.epochHint) == example.expected.epochHint[place])
        #expect(UInt64(example.expected.householdTag[place], radix: 16) == key.householdTag)
      }
    }
  }

  @Test("Signing the same statement gives the bytes of the independent implementation")
  func signing() throws {
    let example = try Example.read()
    let entries = try example.decodedEntries()
    let desk = try example.keys(0)
    let request = try AdmissionRequest(keys: try example.keys(1), name: "laptop", binding: [])
    let certificate = DeviceCertificate(
      request, isAdmin: true, household: entries[0].household, issuer: .device(desk.device),
      after: entries[1].point, key: desk.signing)
    #expect(hexadecimal(certificate.encoded) == example.entries[2])
    let promotion = LogEntry(
      entries[8].body, household: entries[0].household, issuer: .device(desk.device), after: entries[7].point,
      key: desk.signing)
    #expect(hexadecimal(promotion.encoded) == example.entries[8])
  }

  @Test("Every secret of the example is marked TEST-ONLY")
  func testOnly() throws {
    for seed in try Example.read().seeds {
      let bytes = try #require(decodeHexadecimal(seed))
      #expect(bytes.starts(with: "TEST-ONLY".utf8))
    }
  }
}
