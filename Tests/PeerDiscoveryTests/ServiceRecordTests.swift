import Determinism
import PeerDiscovery
import Testing

@Suite("The TXT record in multicast DNS")
struct ServiceRecordTests {
  private func strings(_ texts: String...) -> [[UInt8]] { texts.map { Array($0.utf8) } }

  @Test("The record has v, ht, iid, pm and d, and under 200 bytes with its length bytes")
  func written() {
    let record = ServiceRecord(householdTag: 0xAB, instance: InstanceTag(.max), pairing: 4095)
    #expect(
      record.strings
        == strings("v=1", "ht=00000000000000ab", "iid=ffffffffffffffff", "pm=1", "d=4095"))
    #expect(record.strings.reduce(0) { $0 + 1 + $1.count } < ServiceRecord.byteLimit)
    #expect(
      ServiceRecord(householdTag: 1, instance: InstanceTag(2)).strings
        == strings("v=1", "ht=0000000000000001", "iid=0000000000000002", "pm=0"))
  }

  @Test(
    "Order does not matter, keys ignore case, the first of equals counts, unknown ones are skipped (RFC 6763 §6.4)"
  )
  func lenientReading() throws {
    let record = try ServiceRecord(
      strings: strings(
        "d=12", "zz", "=x", "PM=1", "iid=0000000000000002", "other=ht=5", "HT=0000000000000001",
        "ht=0000000000000009", "V=1", ""))
    #expect(record == ServiceRecord(householdTag: 1, instance: InstanceTag(2), pairing: 12))
  }

  @Test("A missing key, a value that means nothing and another version are each named")
  func refused() {
    let good = ["v=1", "ht=0000000000000001", "iid=0000000000000002"]
    func read(_ texts: [String]) throws -> ServiceRecord {
      try ServiceRecord(strings: texts.map { Array($0.utf8) })
    }
    #expect(throws: ServiceRecord.Failure.missing(key: "v")) { try read([]) }
    #expect(throws: ServiceRecord.Failure.otherVersion) { try read(["v=2"]) }
    #expect(throws: ServiceRecord.Failure.missing(key: "iid")) { try read(Array(good.prefix(2))) }
    for tag in ["", "1", "000000000000000G", "+000000000000001", "00000000000000001", "000000000000000A"] {
      #expect(throws: ServiceRecord.Failure.invalid(key: "ht")) { try read(["v=1", "ht=\(tag)", good[2]]) }
    }
    #expect(throws: ServiceRecord.Failure.invalid(key: "pm")) { try read(good + ["pm=2"]) }
    #expect(throws: ServiceRecord.Failure.missing(key: "d")) { try read(good + ["pm=1"]) }
    for number in ["4096", "-1", "+1", "", "1 ", "00001", "x"] {
      #expect(throws: ServiceRecord.Failure.invalid(key: "d")) { try read(good + ["pm=1", "d=\(number)"]) }
    }
    #expect(throws: ServiceRecord.Failure.invalid(key: "ht")) {
      try ServiceRecord(strings: [Array("v=1".utf8), Array("ht=".utf8) + [0xFF, 0xFE]])
    }
  }

  @Test("A record beyond the limits is not looked at")
  func limits() {
    let many = [[UInt8]](repeating: Array("a=b".utf8), count: ServiceRecord.entryLimit + 1)
    #expect(throws: ServiceRecord.Failure.tooLong(bytes: 132, entries: 33)) {
      try ServiceRecord(strings: many)
    }
    let long = [[UInt8](repeating: 65, count: ServiceRecord.readLimit)]
    #expect(throws: ServiceRecord.Failure.tooLong(bytes: 1301, entries: 1)) {
      try ServiceRecord(strings: long)
    }
  }

  @Test("Every record reads back, and random changes to it are read or refused but never trap")
  func randomChanges() throws {
    var generator = SeededGenerator(seed: 5)
    for round in 0..<5_000 {
      let record = ServiceRecord(
        householdTag: generator.next(), instance: InstanceTag(generator.next()),
        pairing: round % 2 == 0 ? nil : UInt16(generator.uniform(below: 4096)))
      var strings = record.strings
      generator.shuffle(&strings)
      #expect(try ServiceRecord(strings: strings) == record)
      let victim = generator.uniform(below: strings.count)
      let place = generator.uniform(below: strings[victim].count)
      strings[victim][place] = UInt8(truncatingIfNeeded: generator.next())
      _ = try? ServiceRecord(strings: strings)
    }
  }
}
