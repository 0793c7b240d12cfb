import Determinism
import HearthNode
import MeshTransport
import Synchronization
import Testing

/// An actor that runs on a lane, as a daemon does.
private actor Resident {
  nonisolated let lane: MeshLane
  private(set) var seen: [Int] = []

  nonisolated var unownedExecutor: UnownedSerialExecutor { lane.asUnownedSerialExecutor() }

  init(_ lane: MeshLane) { self.lane = lane }

  func see(_ value: Int) { seen.append(value) }
}

/// Values that one thread leaves and a test waits for.
private final class Left<Value: Sendable>: Sendable {
  private let stream: AsyncStream<Value>
  private let continuation: AsyncStream<Value>.Continuation

  init() { (stream, continuation) = AsyncStream.makeStream() }

  func leave(_ value: Value) { continuation.yield(value) }

  func next() async -> Value? {
    var iterator = stream.makeAsyncIterator()
    return await iterator.next()
  }
}

@Suite("A lane", .timeLimit(.minutes(1)))
struct MeshLaneTests {
  private func started() -> MeshLane {
    let lane = MeshLane()
    lane.start(name: "test-lane")
    return lane
  }

  @Test("runs its actor's jobs one after the other, and those that came before its thread")
  func jobs() async {
    let lane = MeshLane()
    let resident = Resident(lane)
    let early = Task { await resident.see(0) }
    lane.start(name: "test-lane")
    await early.value
    for value in 1..<50 { await resident.see(value) }
    #expect(await resident.seen == Array(0..<50))
    lane.stop()
  }

  @Test("rings on its own thread when an alarm is due, and the newest alarm counts")
  func alarm() async {
    let lane = started()
    let resident = Resident(lane)
    let rung = Left<Int>()
    lane.onAlarm {
      // Stops the program on any other thread.
      resident.assumeIsolated { _ in rung.leave(1) }
    }
    let now = DeviceClocks.now().monotonic
    // An hour away, then none, then due: it would not ring within the minute were the first one kept.
    lane.setAlarm(now.advanced(by: .seconds(3600)))
    lane.setAlarm(nil)
    lane.setAlarm(now)
    #expect(await rung.next() == 1)
    lane.stop()
  }

  @Test("opens mail that came before anybody looked, with everything that waits, oldest first")
  func mail() async {
    let lane = started()
    let resident = Resident(lane)
    let box = Mailbox<Int>(limit: 100, lane: lane)
    for value in 0..<10 { box.put(value) }
    let opened = Left<[Int]>()
    lane.onMail { resident.assumeIsolated { _ in opened.leave(box.takeAll()) } }
    #expect(await opened.next() == Array(0..<10))
    box.put(10)
    #expect(await opened.next() == [10])
    lane.stop()
  }

  @Test("looks after mail that comes while it opens mail")
  func mailMeanwhile() async {
    let lane = started()
    let box = Mailbox<Int>(limit: 100, lane: lane)
    let opened = Left<[Int]>()
    lane.onMail {
      let items = box.takeAll()
      if items == [0] { box.put(1) }
      opened.leave(items)
    }
    box.put(0)
    #expect(await opened.next() == [0])
    #expect(await opened.next() == [1])
    lane.stop()
  }

  @Test("keeps no more mail than its limit, and none after the end")
  func bounded() {
    let box = Mailbox<Int>(limit: 3, lane: MeshLane())
    for value in 0..<5 { box.put(value) }
    #expect(box.takeAll() == [0, 1, 2])
    #expect(box.takeAll().isEmpty)
    box.put(5)
    box.close()
    box.put(6)
    #expect(box.takeAll().isEmpty)
  }

  @Test("takes mail of many threads, each one's in its order, and loses none")
  func manyWriters() async {
    let lane = started()
    let box = Mailbox<Int>(limit: 4000, lane: lane)
    let (writers, each) = (4, 500)
    let all = Mutex<[Int]>([])
    let complete = Left<Bool>()
    lane.onMail {
      let count = all.withLock { all in
        all += box.takeAll()
        return all.count
      }
      if count == writers * each { complete.leave(true) }
    }
    await withTaskGroup(of: Void.self) { group in
      for writer in 0..<writers {
        group.addTask { for value in 0..<each { box.put(writer * each + value) } }
      }
    }
    #expect(await complete.next() == true)
    let seen = all.withLock { $0 }
    for writer in 0..<writers {
      #expect(seen.filter { $0 / each == writer } == Array(writer * each..<(writer + 1) * each))
    }
    lane.stop()
  }
}
