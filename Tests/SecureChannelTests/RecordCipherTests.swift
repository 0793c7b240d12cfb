import CryptoPrimitives
import Determinism
import SecureChannel
import Testing

private func key(_ byte: UInt8) -> SecretBytes { SecretBytes(copying: [UInt8](repeating: byte, count: 32)) }

/// Frames without their lengths.
private func records(_ frames: [[UInt8]]) -> [[UInt8]] { frames.map { Array($0.dropFirst(2)) } }

@Suite("Records of a stream")
struct RecordCipherTests {
  @Test("records open in their order; the frame's length is little-endian and counts the tag")
  func inOrder() throws {
    var sealer = RecordSealer(key: key(1))
    var opener = RecordOpener(key: key(1))
    for count in [1, 8, 1_000, RecordLimits.messageByteCount] {
      let message = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
      let frame = sealer.framed(message)
      #expect(Int(frame[0]) | Int(frame[1]) << 8 == count + 16)
      #expect(frame.count == count + 18)
      #expect(try opener.opened(frame.dropFirst(2)) == message)
    }
  }

  @Test("in place, the message comes back to the same bytes")
  func inPlace() throws {
    var sealer = RecordSealer(key: key(1))
    var opener = RecordOpener(key: key(1))
    var buffer = (0..<65_535).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    let message = Array(buffer.dropLast(16))
    buffer.withUnsafeMutableBytes { sealer.seal($0) }
    #expect(Array(buffer.dropLast(16)) != message)
    let result = buffer.withUnsafeMutableBytes { bytes in Result { try opener.open(bytes) } }
    #expect(try result.get() == message.count)
    #expect(Array(buffer.dropLast(16)) == message)
  }

  @Test(
    "a record that is repeated, left out, swapped, changed or under another key breaks the stream for good",
    arguments: 0..<6)
  func refusals(_ kind: Int) throws {
    var sealer = RecordSealer(key: key(1))
    var opener = RecordOpener(key: kind == 5 ? key(2) : key(1))
    let sent = records((0..<4).map { sealer.framed([UInt8](repeating: UInt8($0), count: 20)) })
    var received = sent
    switch kind {
    case 0: received[1] = sent[0]
    case 1: received.remove(at: 1)
    case 2: received.swapAt(1, 2)
    case 3: received[1][19] ^= 4
    case 4: received[1].removeLast()
    default: break
    }
    var opened: [[UInt8]] = []
    var failures: [RecordFailure] = []
    for record in received {
      do { opened.append(try opener.opened(record)) } catch { failures.append(error) }
    }
    let goodCount = kind == 5 ? 0 : 1
    #expect(opened.count == goodCount)
    #expect(failures.first == .notAuthentic(record: UInt64(goodCount)))
    #expect(failures.dropFirst().allSatisfy { $0 == .alreadyBroken })
    #expect(failures.count == received.count - goodCount)
  }

  @Test("any flipped bit of a record is refused")
  func flippedBits() {
    var sealer = RecordSealer(key: key(1))
    let record = records([sealer.framed([1, 2, 3])])[0]
    for position in record.indices {
      for bit in 0..<8 {
        var changed = record
        changed[position] ^= 1 << bit
        var opener = RecordOpener(key: key(1))
        #expect(throws: RecordFailure.notAuthentic(record: 0)) { try opener.opened(changed) }
      }
    }
  }

  @Test("a record shorter than a tag or longer than the limit is refused before anything is opened")
  func lengths() {
    for count in [0, 15, 65_536] {
      var opener = RecordOpener(key: key(1))
      #expect(throws: RecordFailure.badLength(count)) {
        try opener.opened([UInt8](repeating: 0, count: count))
      }
    }
  }

  @Test("both sides replace the key after the same record, and the old key opens nothing any more")
  func rekeysByCount() throws {
    var sealer = RecordSealer(key: key(1), recordsPerKey: 3)
    var opener = RecordOpener(key: key(1), recordsPerKey: 3)
    let sent = records((0..<10).map { sealer.framed([UInt8($0)]) })
    for (index, record) in sent.enumerated() { #expect(try opener.opened(record) == [UInt8(index)]) }
    var stale = RecordOpener(key: key(1), recordsPerKey: 1_000)
    for record in sent.prefix(3) { _ = try stale.opened(record) }
    #expect(throws: RecordFailure.notAuthentic(record: 3)) { try stale.opened(sent[3]) }
  }

  @Test("the key of a session is replaced after 2^20 records unless a test says otherwise")
  func defaultCount() {
    #expect(RecordLimits.recordsPerKey == 1_048_576)
  }

  @Test("a rekey frame replaces the key at once on both sides; the counter goes on (Noise §4.2)")
  func rekeysWhenTold() throws {
    var sealer = RecordSealer(key: key(1))
    var opener = RecordOpener(key: key(1))
    #expect(try opener.opened(sealer.framed([1]).dropFirst(2)) == [1])
    let frame = sealer.rekeyFrame()
    #expect(frame.count == 18)
    #expect(try opener.opened(frame.dropFirst(2)) == [])
    let next = sealer.framed([2]).dropFirst(2)
    #expect(try opener.opened(next) == [2])
    #expect(sealer.sealedCount == 3)
    #expect(opener.openedCount == 3)
    // The same record under the key of Noise's REKEY and counter 2, made by hand.
    var cipher = ChaChaPoly(key: key(1))
    cipher.rekey()
    #expect(cipher.sealed([2], counter: 2) == Array(next))
  }
}

@Suite("Datagrams")
struct DatagramCipherTests {
  @Test("a datagram is 28 bytes longer than its body and opens in any order, once")
  func anyOrderOnce() throws {
    var sealer = DatagramSealer(key: key(1), receiverIndex: 0xABCDEF)
    var opener = DatagramOpener(key: key(1))
    var sent = (0..<50).map { sealer.sealed([UInt8](repeating: UInt8($0), count: $0)) }
    #expect(sent.enumerated().allSatisfy { $1.count == $0 + 28 })
    #expect(DatagramHeader(of: sent[7])?.receiverIndex == 0xABCDEF)
    #expect(DatagramHeader(of: sent[7])?.counter == 7)
    var generator = SeededGenerator(seed: 5)
    generator.shuffle(&sent)
    for datagram in sent {
      let counter = try #require(DatagramHeader(of: datagram)).counter
      #expect(try opener.opened(datagram) == [UInt8](repeating: UInt8(counter), count: Int(counter)))
      #expect(throws: DatagramFailure.replayed(counter: counter)) { try opener.opened(datagram) }
    }
  }

  @Test("any flipped bit is refused and does not move the window; the good one still opens")
  func flippedBits() throws {
    var sealer = DatagramSealer(key: key(1), receiverIndex: 3)
    var opener = DatagramOpener(key: key(1))
    let datagram = sealer.sealed([1, 2, 3])
    for position in datagram.indices {
      for bit in 0..<8 {
        var changed = datagram
        changed[position] ^= 1 << bit
        #expect(throws: DatagramFailure.self) { try opener.opened(changed) }
      }
    }
    #expect(try opener.opened(datagram) == [1, 2, 3])
  }

  @Test("a datagram older than the window is refused though it was never seen")
  func tooOld() throws {
    var sealer = DatagramSealer(key: key(1), receiverIndex: 3)
    var opener = DatagramOpener(key: key(1))
    let sent = (0..<2_050).map { _ in sealer.sealed([]) }
    _ = try opener.opened(sent[2_049])
    #expect(throws: DatagramFailure.replayed(counter: 1)) { try opener.opened(sent[1]) }
    #expect(try opener.opened(sent[2]) == [])
  }

  @Test("lengths, types and another session's datagrams are refused")
  func malformed() {
    var sealer = DatagramSealer(key: key(1), receiverIndex: 3)
    var opener = DatagramOpener(key: key(2))
    let datagram = sealer.sealed([1])
    #expect(throws: DatagramFailure.notAuthentic(counter: 0)) { try opener.opened(datagram) }
    #expect(throws: DatagramFailure.malformed(byteCount: 0)) { try opener.opened([]) }
    #expect(throws: DatagramFailure.malformed(byteCount: 27)) {
      try opener.opened(Array(datagram.prefix(27)))
    }
    #expect(throws: DatagramFailure.malformed(byteCount: 1_201)) {
      try opener.opened([0x11] + [UInt8](repeating: 0, count: 1_200))
    }
    #expect(throws: DatagramFailure.malformed(byteCount: 29)) {
      try opener.opened([0x12] + datagram.dropFirst())
    }
  }
}

@Suite("Replay window")
struct ReplayWindowTests {
  /// What the window stands for, without the ring: the set of all counters that were accepted.
  private struct Model {
    var accepted: Set<UInt64> = []
    var newest: UInt64?

    mutating func insert(_ counter: UInt64) -> Bool {
      guard counter < .max, !accepted.contains(counter) else { return false }
      if let newest, newest >= counter, newest - counter >= 2_048 { return false }
      accepted.insert(counter)
      newest = max(newest ?? 0, counter)
      return true
    }
  }

  @Test("accepts what a set of all counters with the window's edge accepts", arguments: 0..<40)
  func equalsTheModel(_ seed: Int) {
    var generator = SeededGenerator(seed: UInt64(seed))
    var window = ReplayWindow()
    var model = Model()
    var newest: UInt64 = seed % 4 == 3 ? .max - 5_000 : 0
    for step in 0..<3_000 {
      let counter: UInt64
      switch generator.uniform(below: 10) {
      case 0: counter = newest &+ UInt64(generator.uniform(below: 5_000))
      case 1: counter = newest &+ 2_046 &+ UInt64(generator.uniform(below: 5))
      case 2, 3: counter = newest &- UInt64(2_044 + generator.uniform(below: 8))
      case 4, 5, 6: counter = newest &- UInt64(generator.uniform(below: 2_300))
      default: counter = newest &+ UInt64(generator.uniform(below: 3))
      }
      let isFresh = window.isFresh(counter)
      let isAccepted = window.insert(counter)
      #expect(isFresh == isAccepted)
      let isExpected = model.insert(counter)
      #expect(isAccepted == isExpected, "step \(step), counter \(counter)")
      newest = model.newest ?? newest
    }
  }

  @Test("the last 2,048 counters are remembered, and the largest counter is never accepted")
  func edges() {
    var window = ReplayWindow()
    #expect(window.insert(5_000) == true)
    #expect(window.insert(5_000 - 2_047) == true)
    #expect(window.insert(5_000 - 2_048) == false)
    #expect(window.insert(.max) == false)
    #expect(window.insert(.max - 1) == true)
    #expect(window.insert(.max - 1) == false)
    #expect(window.insert(0) == false)
  }
}
