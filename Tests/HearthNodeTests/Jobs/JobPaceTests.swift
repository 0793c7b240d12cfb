import HearthNode
import Testing

/// Expected values are those of steady rates, by hand: so many steps in so many seconds.
@Suite struct JobPaceTests {
  /// A job of 4 epochs of 100 steps of 8 samples that is reported four times a second.
  private struct Run {
    var pace = JobPace(samplesPerStep: 8, epochs: 4)
    var seconds = 0.0

    /// Steps of an epoch from `first` on, at a rate, for a time.
    mutating func train(
      _ phase: RunPhase, epoch: Int, from first: Double, stepsPerSecond: Double, for time: Double
    ) {
      for tick in 0...Int(time * 4) {
        let step = Int(first + Double(tick) / 4 * stepsPerSecond)
        pace.note(
          JobPace.Position(phase: phase, epoch: epoch, step: step, steps: 100),
          at: seconds + Double(tick) / 4)
      }
      seconds += time
    }
  }

  @Test("a device that joins in the cached phase: the rates around the switch, and what is left at each")
  func cached() throws {
    var run = Run()
    run.pace.begin(change: nil, cachedEpochSeconds: 25)
    run.train(.cachedEpoch, epoch: 2, from: 0, stepsPerSecond: 4, for: 5)
    #expect(run.pace.change(7) == nil)
    run.pace.begin(change: 7, cachedEpochSeconds: 12.5)
    run.seconds += 3
    run.train(.cachedEpoch, epoch: 2, from: 20, stepsPerSecond: 8, for: 0.75)
    #expect(run.pace.change(7) == nil, "less than a second of training is no rate")
    run.train(.cachedEpoch, epoch: 2, from: 26, stepsPerSecond: 8, for: 2)
    let change = try #require(run.pace.change(7))
    #expect(change.after.samplesPerSecond == 64)
    #expect(change.before?.samplesPerSecond == 32)
    // From the step at which it was known, 30: 70 of this epoch and 200 of the two after it.
    #expect(change.after.etaSeconds == 270.0 / 8)
    #expect(change.before?.etaSeconds == 270.0 / 4)
  }

  @Test("in the first epoch the cached ones are counted as each plan predicts them")
  func live() throws {
    var run = Run()
    run.pace.begin(change: nil, cachedEpochSeconds: 20)
    run.train(.liveEpoch, epoch: 1, from: 0, stepsPerSecond: 2, for: 10)
    run.pace.begin(change: 1, cachedEpochSeconds: 10)
    run.train(.liveEpoch, epoch: 1, from: 20, stepsPerSecond: 4, for: 1.25)
    let change = try #require(run.pace.change(1))
    // Step 20 was said before. At step 25: 75 live steps, then three epochs.
    #expect(change.after == JobReport.Note.Pace(samplesPerSecond: 32, etaSeconds: 75.0 / 4 + 30))
    #expect(change.before == JobReport.Note.Pace(samplesPerSecond: 16, etaSeconds: 75.0 / 2 + 60))
  }

  @Test("without a cache every epoch left costs what this one does")
  func uncached() throws {
    var run = Run()
    run.pace.begin(change: nil, cachedEpochSeconds: nil)
    run.train(.liveEpoch, epoch: 3, from: 0, stepsPerSecond: 10, for: 2)
    run.pace.begin(change: 1, cachedEpochSeconds: nil)
    run.train(.liveEpoch, epoch: 3, from: 20, stepsPerSecond: 20, for: 1.25)
    let change = try #require(run.pace.change(1))
    // Known at step 45, a second after the first step that was not said before.
    #expect(change.after.etaSeconds == 55.0 / 20 + 100.0 / 20)
    #expect(change.before?.etaSeconds == 55.0 / 10 + 100.0 / 10)
  }

  @Test("evaluations, the switch itself and steps done again are no part of a rate")
  func gaps() throws {
    var run = Run()
    run.pace.begin(change: nil, cachedEpochSeconds: 25)
    run.train(.cachedEpoch, epoch: 2, from: 92, stepsPerSecond: 4, for: 2)
    run.pace.note(JobPace.Position(phase: .evaluation, epoch: 2, step: 1, steps: 2), at: run.seconds + 1)
    run.seconds += 5
    run.train(.cachedEpoch, epoch: 3, from: 0, stepsPerSecond: 4, for: 2)
    run.pace.begin(change: 1, cachedEpochSeconds: 25)
    // The old run's last words come again: no step of the new one.
    run.pace.note(JobPace.Position(phase: .cachedEpoch, epoch: 3, step: 8, steps: 100), at: run.seconds + 9)
    run.seconds += 10
    // One step is computed again.
    run.train(.cachedEpoch, epoch: 3, from: 7, stepsPerSecond: 4, for: 2)
    let change = try #require(run.pace.change(1))
    #expect(change.before?.samplesPerSecond == 32)
    #expect(change.after.samplesPerSecond == 32)
  }

  @Test("epochs shorter than the time between two reports are counted across")
  func shortEpochs() throws {
    var pace = JobPace(samplesPerStep: 2, epochs: 1000)
    func note(_ done: Int, _ seconds: Double) {
      pace.note(
        JobPace.Position(phase: .cachedEpoch, epoch: 2 + done / 5, step: done % 5, steps: 5), at: seconds)
    }
    for tick in 0...8 { note(tick * 7, Double(tick) / 4) }
    pace.begin(change: 1, cachedEpochSeconds: 1)
    for tick in 0...8 { note(56 + tick * 14 + 1, 4 + Double(tick) / 4) }
    let change = try #require(pace.change(1))
    #expect(change.before?.samplesPerSecond == 56 && change.after.samplesPerSecond == 112)
  }

  @Test(
    "a phase in which nothing was measured before has no rate before; two changes at once keep the older one")
  func unknownBefore() throws {
    var run = Run()
    run.pace.begin(change: nil, cachedEpochSeconds: 25)
    run.train(.liveEpoch, epoch: 1, from: 0, stepsPerSecond: 2, for: 5)
    run.pace.begin(change: 1, cachedEpochSeconds: 25)
    run.pace.begin(change: 2, cachedEpochSeconds: 25)
    var same = run
    run.train(.cachedEpoch, epoch: 2, from: 0, stepsPerSecond: 4, for: 3)
    #expect(run.pace.change(2)?.after.samplesPerSecond == 32)
    #expect(run.pace.change(2)?.before == nil)
    same.train(.liveEpoch, epoch: 1, from: 10, stepsPerSecond: 4, for: 3)
    #expect(same.pace.change(2)?.before?.samplesPerSecond == 16)
    #expect(same.pace.change(1) == nil)
  }

  @Test("a pace is measured once and does not creep, and old changes are forgotten")
  func bounded() throws {
    var run = Run()
    run.pace.begin(change: 1, cachedEpochSeconds: nil)
    run.train(.cachedEpoch, epoch: 2, from: 0, stepsPerSecond: 4, for: 2)
    let first = try #require(run.pace.change(1))
    run.train(.cachedEpoch, epoch: 2, from: 8, stepsPerSecond: 16, for: 5)
    #expect(run.pace.change(1) == first)
    for number in 2...(JobPace.changeLimit + 1) { run.pace.begin(change: number, cachedEpochSeconds: nil) }
    #expect(run.pace.change(1) == nil)
  }
}
