import ComputeRuntime
import Testing

@Suite struct WorkClockTests {
  @Test("Under a quota work takes its processor time divided by the quota, however short it was by the wall")
  func quota() {
    // 10 ms of work inside one slice of a quarter of a processor: long work takes four times as long.
    #expect(WorkClock.seconds(wall: 0.010, processor: 0.010, threads: 1, quota: 0.25) == 0.040)
    // Two threads under one and a half processors.
    #expect(WorkClock.seconds(wall: 0.25, processor: 0.375, threads: 2, quota: 1.5) == 0.25)
  }

  @Test("Without a quota, or with one that the threads do not reach, the wall counts")
  func wall() {
    #expect(WorkClock.seconds(wall: 0.5, processor: 0.1, threads: 2, quota: nil) == 0.5)
    #expect(WorkClock.seconds(wall: 0.5, processor: 0.1, threads: 2, quota: 2) == 0.5)
  }

  @Test("Work of many threads takes one processor as long as all of them together, or a smaller quota longer")
  func oneProcessor() {
    #expect(WorkClock.seconds(processor: 0.5, quota: nil) == 0.5)
    #expect(WorkClock.seconds(processor: 0.5, quota: 2) == 0.5)
    #expect(WorkClock.seconds(processor: 0.5, quota: 0.25) == 2)
  }

  @Test("Counts the processor time of this process")
  func own() {
    let clock = WorkClock(quota: 1e-3)
    let start = clock.now
    var value = 1.0
    while clock.seconds(since: start, threads: 1) < 5 {
      value = (value * 1.000_1).truncatingRemainder(dividingBy: 7)
    }
    // Other threads of the process count too, so that the wall says nothing here.
    #expect(value > 0 && WorkClock(quota: nil).seconds(since: start, threads: 1) > 0)
  }
}
