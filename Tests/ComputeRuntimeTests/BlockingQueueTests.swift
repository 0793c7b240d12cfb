import ComputeRuntime
import Synchronization
import Testing

@Suite("A queue between two threads")
struct BlockingQueueTests {
  @Test("hands everything over in order, and ends empty")
  func order() {
    let queue = BlockingQueue<Int>(limit: 3)
    let producer = OperatingSystemThread(name: "producer") {
      for number in 0..<1000 { _ = queue.push(number) }
      queue.end()
    }
    var taken: [Int] = []
    while let number = queue.pop() { taken.append(number) }
    producer.join()
    #expect(taken == Array(0..<1000))
    #expect(queue.pop() == nil)
    #expect(!queue.push(1))
  }

  @Test("never holds more than its limit, but a heavier element alone, and any number without weight")
  func limit() {
    let queue = BlockingQueue<Int>(limit: 10)
    let held = Atomic(0)
    let most = Atomic(0)
    let producer = OperatingSystemThread(name: "producer") {
      for number in 0..<200 {
        let weight = number % 7
        _ = queue.push(weight, weight: weight)
        let now = held.add(weight, ordering: .sequentiallyConsistent).newValue
        most.max(now, ordering: .sequentiallyConsistent)
      }
      queue.end()
    }
    while let weight = queue.pop() { held.subtract(weight, ordering: .sequentiallyConsistent) }
    producer.join()
    // An element is counted after it was let in, and may have been taken before.
    #expect(most.load(ordering: .sequentiallyConsistent) <= 10 + 6)
    #expect(queue.push(100, weight: 100) == false)

    let heavy = BlockingQueue<Int>(limit: 10)
    #expect(heavy.push(1, weight: 100))
    for number in 0..<50 { #expect(heavy.push(number, weight: 0)) }
  }

  @Test("an end wakes who waits: for an element, and for room")
  func ended() {
    let empty = BlockingQueue<Int>(limit: 1)
    let waiting = OperatingSystemThread(name: "waiting") { #expect(empty.pop() == nil) }
    empty.end()
    waiting.join()

    let full = BlockingQueue<Int>(limit: 1)
    #expect(full.push(1))
    let pushing = OperatingSystemThread(name: "pushing") { #expect(!full.push(2)) }
    full.end(discarding: true)
    pushing.join()
    #expect(full.pop() == nil)
  }
}

@Suite("A gate between two threads")
struct ProgressGateTests {
  @Test("opens when as many are done as somebody waits for, and for those who come later")
  func opens() {
    let gate = ProgressGate()
    let done = Atomic(0)
    let worker = OperatingSystemThread(name: "worker") {
      for _ in 0..<100 {
        done.add(1, ordering: .sequentiallyConsistent)
        gate.advance()
      }
    }
    #expect(gate.wait(for: 60))
    #expect(done.load(ordering: .sequentiallyConsistent) >= 60)
    worker.join()
    #expect(gate.wait(for: 100))
    #expect(gate.wait(for: 0))
  }

  @Test("an end says whether it was reached")
  func ended() {
    let gate = ProgressGate()
    gate.advance()
    let waiting = OperatingSystemThread(name: "waiting") { #expect(!gate.wait(for: 2)) }
    gate.end()
    waiting.join()
    #expect(gate.wait(for: 1))
  }
}
