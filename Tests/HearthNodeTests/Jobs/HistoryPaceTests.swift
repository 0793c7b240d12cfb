import Determinism
import HearthNode
import Testing

/// When what devices told of a job goes to the disk.
@Suite struct HistoryPaceTests {
  private func at(_ milliseconds: Int) -> MonotonicInstant { .zero.advanced(by: .milliseconds(milliseconds)) }

  /// The times at which a job's news of so many milliseconds are written, each write taking some.
  private func writes(
    of pace: inout HistoryPace, from first: Int = 0, to last: Int, each step: Int, writing: Int = 40,
    phase: (Int) -> (JobReport.State, Bool) = { _ in (.training, true) }
  ) -> [Int] {
    var writes: [Int] = []
    var end: Int?
    for now in stride(from: first, to: last, by: step) {
      if let over = end, over <= now {
        pace.ended()
        end = nil
      }
      let (state, isCached) = phase(now)
      pace.note(isNews: true, state: state, isCached: isCached)
      if pace.begin(at: at(now)) {
        writes.append(now)
        end = now + writing
      }
    }
    return writes
  }

  @Test("A quiet job of 30 s that ends an epoch each 50 ms is written four times")
  func quiet() {
    var pace = HistoryPace()
    let times = writes(of: &pace, to: 30_000, each: 50) { now in (.training, now >= 4_000) }
    // The live epoch at once, the first cached one, and then each ten seconds.
    #expect(times == [0, 4_000, 14_000, 24_000])
  }

  @Test("A change of state is written at once, and only when something was told")
  func changes() {
    var pace = HistoryPace()
    _ = writes(of: &pace, to: 1_000, each: 50)
    pace.note(isNews: false, state: .saving)
    let saving = pace.begin(at: at(1_010))
    pace.ended()
    pace.note(isNews: false, state: .finished)
    let finished = pace.begin(at: at(60_000))
    #expect(saving && !finished && !pace.isDirty)
  }

  @Test("A write that takes longer than ten seconds is not overtaken by another")
  func slowDisk() {
    var pace = HistoryPace()
    let times = writes(of: &pace, to: 60_000, each: 100, writing: 15_000)
    #expect(times == [0, 15_000, 30_000, 45_000])
  }

  @Test("What a full disk did not take is written ten seconds later, though nothing new was told")
  func fullDisk() {
    var pace = HistoryPace()
    pace.note(isNews: true, state: .training, isCached: false)
    var written = [pace.begin(at: at(0))]
    pace.ended(isStored: false)
    written += [pace.begin(at: at(9_999)), pace.begin(at: at(10_000))]
    pace.ended()
    written.append(pace.begin(at: at(60_000)))
    #expect(written == [true, false, true, false])
  }

  @Test("A daemon that stops writes what is not on the disk, once")
  func stop() {
    var pace = HistoryPace()
    _ = writes(of: &pace, to: 1_000, each: 50)
    var written = [pace.beginLast(), pace.beginLast()]
    pace.ended()
    written.append(pace.beginLast())
    #expect(written == [true, false, false])
  }
}
