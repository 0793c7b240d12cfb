import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

@Suite struct EncodingTests {
  /// One value of every kind that is sent or stored, with its decoder.
  private struct Sample {
    let name: String
    let bytes: [UInt8]
    let decode: ([UInt8]) throws -> [UInt8]

    init<Value: WireCodable>(_ name: String, _ value: Value) {
      self.name = name
      bytes = value.encoded
      decode = { try Value(decoding: $0).encoded }
    }
  }

  private func samples() throws -> [Sample] {
    var home = try Home(seed: 50, devices: 3, admins: 2)
    var log = home.devices[0].log
    _ = try home.devices[0].promote(home.id(2))
    _ = try home.devices[0].demote(home.id(1))
    _ = try home.devices[0].revoke(home.id(1), reason: .lost, entropy: &home.entropy)
    log = home.devices[0].log
    var samples = log.entries.map { Sample("entry \($0.sequence)", $0) }
    samples.append(Sample("genesis", log.genesis))
    samples.append(Sample("certificate", home.devices[2].certificate))
    samples.append(
      Sample(
        "request", try AdmissionRequest(keys: home.devices[0].keys, name: "Küche", binding: [1, 2, 3])))
    samples.append(Sample("summary", log.summary))
    samples.append(Sample("welcome", Welcome(log)))
    samples.append(Sample("machine", MachineBinding(machineID: [1, 2, 3], entropy: &home.entropy)))
    samples.append(
      Sample(
        "peer",
        KnownPeer(
          device: home.id(0),
          addresses: [
            NetworkAddress(.v4(0xC000_0201), port: 7946),
            NetworkAddress(.v6(high: 1 << 61, low: 9, scope: 0), port: 1),
          ],
          lastContact: 1_700_000_000, roundTripMicroseconds: 412)))
    samples.append(Sample("unknown peer", KnownPeer(device: home.id(1))))
    return samples
  }

  @Test("Every encoding reads back as itself, and no part of it is a whole one")
  func roundTrips() throws {
    for sample in try samples() {
      #expect(try sample.decode(sample.bytes) == sample.bytes, "\(sample.name)")
      // Entries of lists have no end of their own, so a cut must show in every one.
      let step = max(1, sample.bytes.count / 400)
      for count in stride(from: 0, to: sample.bytes.count, by: step) {
        #expect(throws: DecodingFailure.self, "\(sample.name) cut to \(count)") {
          _ = try sample.decode(Array(sample.bytes[..<count]))
        }
      }
      #expect(throws: DecodingFailure.trailingBytes(count: 1), "\(sample.name)") {
        _ = try sample.decode(sample.bytes + [0])
      }
    }
  }

  @Test("What decodes after any change of a bit or a byte is canonical: it encodes to the same bytes")
  func canonicalUnderMutation() throws {
    var generator = SeededGenerator(seed: 51)
    var accepted = 0
    for sample in try samples() {
      for _ in 0..<1500 {
        var bytes = sample.bytes
        for _ in 0...generator.uniform(below: 3) {
          bytes[generator.uniform(below: bytes.count)] ^= UInt8(1 + generator.uniform(below: 255))
        }
        guard let again = try? sample.decode(bytes) else { continue }
        accepted += 1
        #expect(again == bytes, "\(sample.name)")
      }
    }
    // Most changes hit keys, digests and boxes, which may be anything.
    #expect(accepted > 1000)
  }

  @Test("Random bytes are refused by every decoder, or are a value's only encoding")
  func fuzz() throws {
    var generator = SeededGenerator(seed: 52)
    let samples = try samples()
    for _ in 0..<20_000 {
      let bytes = (0..<generator.uniform(below: 400)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      for sample in samples.suffix(9) {
        if let again = try? sample.decode(bytes) { #expect(again == bytes, "\(sample.name)") }
      }
    }
    // Random tails behind a right beginning get further.
    for sample in samples {
      for _ in 0..<500 {
        let head = sample.bytes[..<generator.uniform(below: sample.bytes.count)]
        let tail = (0..<generator.uniform(below: 200)).map { _ in UInt8(truncatingIfNeeded: generator.next())
        }
        if let again = try? sample.decode(head + tail) { #expect(again == head + tail, "\(sample.name)") }
      }
    }
  }

  @Test("An entry with any bit changed never enters a log")
  func flippedBits() throws {
    let bench = TrustBench(seed: 53, devices: 2)
    let start = try bench.add(0, admin: true)
    let log = bench.log([start])
    for entry in [try bench.add(1, by: 0), bench.revoke(1, by: 0)] {
      let good = entry.encoded
      for bit in 0..<(good.count * 8) {
        var bytes = good
        bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        guard let changed = try? LogEntry(decoding: bytes) else { continue }
        var other = log
        #expect(other.merge([changed]).accepted.isEmpty, "bit \(bit)")
      }
    }
  }

  @Test("A genesis that its root did not sign is refused on reading")
  func forgedGenesis() throws {
    let bench = TrustBench(seed: 54, devices: 1)
    let good = bench.genesis.encoded
    #expect(good.count == Genesis.byteCount)
    for index in good.indices {
      var bytes = good
      bytes[index] ^= 1
      #expect(throws: DecodingFailure.self) { _ = try Genesis(decoding: bytes) }
    }
  }

  @Test("Counts over their limits are refused before anything is read for them")
  func limits() throws {
    let home = try Home(seed: 51, devices: 1)
    var writer = ByteWriter()
    writer.raw([UInt8](repeating: 0, count: 20))
    writer.count(514)
    #expect(throws: DecodingFailure.overLimit(field: "issuers", value: 514, limit: 513)) {
      _ = try LogSummary(decoding: writer.bytes)
    }
    writer = ByteWriter()
    home.devices[0].log.genesis.encode(to: &writer)
    writer.count(4353)
    #expect(throws: DecodingFailure.overLimit(field: "log entries", value: 4353, limit: 4352)) {
      _ = try Welcome(decoding: writer.bytes)
    }
    writer = ByteWriter()
    writer.raw([UInt8](repeating: 0, count: 16))
    writer.count(7)
    #expect(throws: DecodingFailure.overLimit(field: "peer addresses", value: 7, limit: 6)) {
      _ = try KnownPeer(decoding: writer.bytes)
    }
  }

  @Test("A known peer keeps six addresses, each once, none of them link-local")
  func peerAddresses() throws {
    let device = try #require(DeviceID(bytes: 0..<16))
    let good = (1...8).map { NetworkAddress(.v4(0xC0A8_0000 + UInt32($0)), port: 7946) }
    let local = NetworkAddress(.v6(high: 0xFE80 << 48, low: 1, scope: 2), port: 7946)
    let peer = KnownPeer(device: device, addresses: [local, good[0], good[0]] + good)
    #expect(peer.addresses == Array(good.prefix(6)))
  }
}
