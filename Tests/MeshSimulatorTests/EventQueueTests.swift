import Determinism
import MeshSimulator
import Testing

@Suite struct EventQueueTests {
  @Test func eventsComeByTimeAndThenInTheOrderInWhichTheyWerePlanned() {
    var generator = SeededGenerator(seed: 3)
    var queue = EventQueue<Int>()
    var planned: [(time: Int64, number: Int)] = []
    var taken: [(time: Int64, number: Int)] = []
    for number in 0..<2_000 {
      let time = Int64(generator.uniform(below: 200))
      planned.append((time, number))
      queue.plan(number, at: MonotonicInstant(nanoseconds: time))
    }
    while let (time, number) = queue.next() { taken.append((time.nanoseconds, number)) }
    // A stable sort by time is what the queue promises.
    let expected = planned.enumerated().sorted { ($0.element.time, $0.offset) < ($1.element.time, $1.offset) }
    #expect(taken.map(\.number) == expected.map(\.element.number))
    #expect(queue.count == 0)
  }

  @Test func anEventMayBePlannedWhileOthersAreTaken() {
    var queue = EventQueue<String>()
    queue.plan("late", at: MonotonicInstant(nanoseconds: 10))
    queue.plan("first", at: MonotonicInstant(nanoseconds: 1))
    #expect(queue.next()?.event == "first")
    queue.plan("between", at: MonotonicInstant(nanoseconds: 5))
    #expect(queue.nextTime == MonotonicInstant(nanoseconds: 5))
    #expect(queue.next()?.event == "between")
    #expect(queue.next()?.event == "late")
    #expect(queue.next() == nil)
  }
}
