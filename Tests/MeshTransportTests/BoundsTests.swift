import Determinism
import MeshModel
import MeshProtocol
import MeshTransport
import Synchronization
import Testing

@Suite("Admission of strangers")
struct AdmissionControlTests {
  private func source(_ number: UInt32) -> NetworkAddress.Host { .v4(0x0A00_0000 + number) }

  private func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  @Test("lets a source open 5 at once and 20 a second")
  func rate() {
    var control = AdmissionControl(limits: TransportLimits(), at: at(0))
    var admitted: [Int64] = []
    // A connection every millisecond for two seconds, each released at once.
    for time in 0..<2000 {
      if case .admitted(let ticket, nil) = control.admit(source: source(1), at: at(Int64(time))) {
        control.release(ticket)
        admitted.append(Int64(time))
      }
    }
    // The burst of 5, one back after 50 ms as the five were in the first 5 ms, and 20 a second from then on.
    #expect(admitted.count == 5 + 39)
    #expect(admitted.prefix(7) == [0, 1, 2, 3, 4, 50, 100])
    #expect(control.admit(source: source(2), at: at(2000)) != .rateLimited)
    #expect(control.openCount == 1)
  }

  @Test("gives every source the same when the clock stands or goes back")
  func clock() {
    var control = AdmissionControl(limits: TransportLimits(), at: at(1000))
    for _ in 0..<5 { #expect(control.admit(source: source(1), at: at(1000)) != .rateLimited) }
    #expect(control.admit(source: source(1), at: at(0)) == .rateLimited)
    #expect(control.admit(source: source(1), at: MonotonicInstant(nanoseconds: .max)) != .rateLimited)
  }

  @Test("takes the oldest place from the source that holds most when all 64 are taken")
  func eviction() {
    var control = AdmissionControl(limits: TransportLimits(), at: at(0))
    var first: AdmissionControl.Ticket?
    // 15 sources hold 4 each, one holds 4 of the rest.
    for number in 0..<16 {
      for index in 0..<4 {
        guard case .admitted(let ticket, nil) = control.admit(source: source(UInt32(number)), at: at(0))
        else {
          Issue.record("refused with room")
          return
        }
        if number == 3 && index == 0 { first = ticket }
      }
    }
    #expect(control.openCount == 64)
    // Source 3 becomes the greediest, and its own newcomer costs the first of the equals.
    guard case .admitted(_, let evicted?) = control.admit(source: source(3), at: at(0)) else {
      Issue.record("nobody gave way")
      return
    }
    #expect(evicted != first, "all held four, so the very first of all went")
    guard case .admitted(_, let next?) = control.admit(source: source(99), at: at(0)) else {
      Issue.record("a newcomer was kept out")
      return
    }
    #expect(next == first, "source 3 held five")
    #expect(control.openCount == 64)
  }

  @Test("remembers a bounded number of sources, whatever comes")
  func memory() {
    var control = AdmissionControl(limits: TransportLimits(), at: at(0))
    var refused = 0
    for number in 0..<5000 {
      switch control.admit(source: source(UInt32(number)), at: at(0)) {
      case .admitted(let ticket, _): control.release(ticket)
      case .rateLimited: refused += 1
      }
      #expect(control.rememberedCount <= 1024)
    }
    // 1,024 have buckets of their own, the others share one.
    #expect(refused == 5000 - 1024 - 5)
    #expect(control.admit(source: source(9000), at: at(300)) != .rateLimited)
  }
}

@Suite("Messages of a stream")
struct RecordReaderTests {
  private func messages(_ bytes: [UInt8], cut sizes: (Int) -> Int, limit: Int = 65_535) -> [[UInt8]]? {
    let reader = RecordReader()
    var found: [[UInt8]] = []
    var position = 0
    while position < bytes.count {
      var part = Array(bytes[position..<min(bytes.count, position + max(1, sizes(position)))])
      position += part.count
      let isGood = part.withUnsafeMutableBytes { buffer in
        var input = buffer
        while true {
          switch reader.next(&input, limit: limit) {
          case .message(let message): found.append(Array(message))
          case .more: return input.isEmpty
          case .overLimit: return false
          }
        }
      }
      guard isGood else { return nil }
    }
    return found
  }

  @Test("are the same however the stream is cut")
  func cuts() {
    var random = SeededGenerator(seed: 7)
    let lengths = [0, 1, 2, 3, 100, 4096, 4097, 65_535, 0, 17]
    let expected = lengths.map { count in (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) } }
    let stream = expected.flatMap { [UInt8($0.count & 255), UInt8($0.count >> 8)] + $0 }
    for size in [1, 2, 3, 7, 1000, 65_536, 65_537, 1 << 20] {
      #expect(messages(stream, cut: { _ in size }) == expected, "in parts of \(size)")
    }
    for _ in 0..<20 {
      #expect(messages(stream, cut: { _ in Int.random(in: 1...100_000, using: &random) }) == expected)
    }
  }

  @Test("over the limit are refused at their length, before any of them is kept")
  func limit() {
    #expect(messages([0x00, 0x10], cut: { _ in 2 }, limit: 4096) == [])
    #expect(messages([0x01, 0x10], cut: { _ in 2 }, limit: 4096) == nil)
    #expect(messages([0x01, 0x10], cut: { _ in 1 }, limit: 4096) == nil)
    #expect(messages([0xFF, 0xFF, 1], cut: { _ in 3 }, limit: 4096) == nil)
  }

  @Test("that are short take little memory")
  func memory() {
    let reader = RecordReader()
    var part: [UInt8] = [200, 0, 1, 2]
    part.withUnsafeMutableBytes { buffer in
      var input = buffer
      guard case .more = reader.next(&input, limit: 4096) else {
        Issue.record("a message of four bytes")
        return
      }
    }
    #expect(reader.memoryByteCount <= 4098)
  }
}

@Suite("The event queue", .timeLimit(.minutes(1)))
struct EventQueueTests {
  private let info = SessionInfo(
    peer: DeviceID(bytes: [UInt8](repeating: 1, count: 16))!, boot: BootID(counter: 1, nonce: 1),
    purpose: .control, standing: .full, wireVersion: 1, offeredVersions: .current, isInitiator: true,
    remote: NetworkAddress(.v4(1), port: 1), listening: NetworkAddress(.v4(1), port: 1), handshakeTime: .zero)

  @Test("keeps opened and closed when everything else overflows")
  func keepsLifecycle() async {
    var limits = TransportLimits()
    limits.waitingDatagrams = 10
    limits.waitingDropReports = 5
    let queue = EventQueue(limits: limits)
    var refused = 0
    for number in 0..<200 {
      queue.put(.opened(SessionID(UInt64(number)), info))
      if !queue.put(datagram: .datagram(from: info.peer, body: [])) { refused += 1 }
      queue.put(drop: .brokenRecord)
      queue.put(.closed(SessionID(UInt64(number)), .left))
    }
    queue.finish()
    var opened: [UInt64] = []
    var closed: [UInt64] = []
    var others = 0
    for await event in queue.makeStream() {
      switch event {
      case .opened(let session, _): opened.append(session.value)
      case .closed(let session, _): closed.append(session.value)
      default: others += 1
      }
    }
    #expect(opened == Array(0..<200) && closed == Array(0..<200))
    #expect(refused == 190 && others == 15)
  }

  @Test("pauses a session at its high mark and resumes it below its low mark")
  func pauses() async throws {
    let queue = EventQueue(limits: TransportLimits())
    let resumed = Mutex(0)
    let backlog = EventQueue.Backlog(marks: QueueMarks(low: 100, high: 300)) { resumed.withLock { $0 += 1 } }
    // 100 bytes each, with the header.
    let frame = MeshFrame(.gossip, body: [UInt8](repeating: 0, count: 92))
    #expect(queue.put(frame: frame, of: SessionID(1), backlog: backlog))
    #expect(queue.put(frame: frame, of: SessionID(1), backlog: backlog))
    #expect(!queue.put(frame: frame, of: SessionID(1), backlog: backlog))
    #expect(!queue.put(frame: frame, of: SessionID(1), backlog: backlog), "it is still paused")
    var events = queue.makeStream().makeAsyncIterator()
    for read in 1...4 {
      _ = await events.next()
      #expect(resumed.withLock { $0 } == (read == 4 ? 1 : 0))
    }
    #expect(queue.put(frame: frame, of: SessionID(1), backlog: backlog))
  }

  @Test("tells that a session is writable once until that is read")
  func writable() async {
    let queue = EventQueue(limits: TransportLimits())
    let backlog = EventQueue.Backlog(marks: QueueMarks(low: 1, high: 2)) {}
    for _ in 0..<5 { queue.putWritable(SessionID(3), backlog: backlog) }
    var events = queue.makeStream().makeAsyncIterator()
    #expect(await events.next() == .writable(SessionID(3)))
    queue.putWritable(SessionID(3), backlog: backlog)
    #expect(await events.next() == .writable(SessionID(3)))
    queue.finish()
    #expect(await events.next() == nil)
  }

  @Test("tells an owner that reads by itself when it is no longer empty, and gives events in order")
  func told() {
    let queue = EventQueue(limits: TransportLimits())
    let told = Mutex(0)
    queue.put(drop: .rateLimited)
    queue.tellOfEvents { told.withLock { $0 += 1 } }
    #expect(told.withLock { $0 } == 1, "what was there before is told of as well")
    queue.put(drop: .brokenRecord)
    #expect(told.withLock { $0 } == 1, "it has not looked yet")
    #expect(queue.takeNext() == .dropped(.rateLimited))
    #expect(queue.takeNext() == .dropped(.brokenRecord))
    #expect(queue.takeNext() == nil)
    queue.put(drop: .rateLimited)
    #expect(told.withLock { $0 } == 2)

    // What is read frees its place, as with a stream.
    let resumed = Mutex(0)
    let backlog = EventQueue.Backlog(marks: QueueMarks(low: 100, high: 200)) { resumed.withLock { $0 += 1 } }
    let frame = MeshFrame(.gossip, body: [UInt8](repeating: 0, count: 242))
    #expect(!queue.put(frame: frame, of: SessionID(1), backlog: backlog))
    _ = queue.takeNext()
    #expect(resumed.withLock { $0 } == 0)
    _ = queue.takeNext()
    #expect(resumed.withLock { $0 } == 1)
  }

  @Test("wakes a reader that waits, and ends when its task is cancelled")
  func waiting() async {
    let queue = EventQueue(limits: TransportLimits())
    let reader = Task {
      var seen: [TransportEvent] = []
      for await event in queue.makeStream() { seen.append(event) }
      return seen
    }
    queue.put(drop: .rateLimited)
    queue.put(drop: .brokenRecord)
    queue.finish()
    #expect(await reader.value == [.dropped(.rateLimited), .dropped(.brokenRecord)])
    let idle = EventQueue(limits: TransportLimits())
    let cancelled = Task { for await _ in idle.makeStream() {} }
    cancelled.cancel()
    await cancelled.value
  }
}
