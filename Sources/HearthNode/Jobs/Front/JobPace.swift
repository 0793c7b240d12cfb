/// How fast a job was before its devices changed and is after, measured from where its reports say that it is.
///
/// A value that is told the time. Steps within one epoch are counted, so that neither evaluations nor the time that a change
/// takes is part of a rate; only where epochs are too short for that, steps over several of them are.
package struct JobPace: Sendable, Equatable {
  /// Where a job is in a phase that can be measured.
  package struct Position: Sendable, Equatable {
    /// The phase.
    package var phase: RunPhase
    /// The epoch, from 1.
    package var epoch: Int
    /// Finished steps of the phase.
    package var step: Int
    /// Steps of the phase.
    package var steps: Int

    /// A position.
    package init(phase: RunPhase, epoch: Int, step: Int, steps: Int) {
      self.phase = phase
      self.epoch = epoch
      self.step = step
      self.steps = steps
    }
  }

  /// A rate before a change, and one after it.
  package struct Change: Sendable, Equatable {
    /// The pace until the change; nil when too little was measured in the phase of `after`.
    package var before: JobReport.Note.Pace?
    /// The pace from then on.
    package var after: JobReport.Note.Pace
  }

  /// Seconds that a rate looks back.
  package static let window = 10.0
  /// Least seconds of training behind a rate.
  package static let leastSeconds = 1.0
  /// Changes that are remembered.
  package static let changeLimit = JobReport.noteLimit
  /// Positions that are remembered; more come closer together than is needed.
  private static let pointLimit = 128

  private struct Point: Sendable, Equatable {
    var position: Position
    var seconds: Double
  }

  private struct Mark: Sendable, Equatable {
    var number: Int
    /// Steps a second until then.
    var rates: [RunPhase: Double]
    /// What the plan until then predicted of an epoch from the cache.
    var cachedEpochSeconds: Double?
    var change: Change?
    var isMeasured = false
  }

  private let samplesPerStep: Int
  private let epochs: Int
  /// Points since the last change.
  private var points: [Point] = []
  private var last: Position?
  private var cachedEpochSeconds: Double?
  private var marks: [Mark] = []

  /// A job of so many epochs whose steps have so many samples.
  package init(samplesPerStep: Int = 1, epochs: Int = 1) {
    self.samplesPerStep = max(1, samplesPerStep)
    self.epochs = epochs
  }

  /// What was measured around a change; nil before enough is known.
  package func change(_ number: Int) -> Change? { marks.last { $0.number == number }?.change }

  /// A plan came into force; `cachedEpochSeconds` is what it predicts for an epoch from the cache, nil without a cache.
  ///
  /// What is measured from here on is compared with what was measured until here, under `number`; the first plan has none.
  package mutating func begin(change number: Int?, cachedEpochSeconds: Double?) {
    defer { self.cachedEpochSeconds = cachedEpochSeconds }
    guard let number else { return }
    var mark = Mark(number: number, rates: [:], cachedEpochSeconds: self.cachedEpochSeconds)
    for phase in Self.measuredPhases { mark.rates[phase] = rate(phase) }
    // A change before the one before it was measured: the pace until then is the older one.
    if mark.rates.isEmpty, let previous = marks.last, !previous.isMeasured {
      (mark.rates, mark.cachedEpochSeconds) = (previous.rates, previous.cachedEpochSeconds)
    }
    marks.append(mark)
    if marks.count > Self.changeLimit { marks.removeFirst() }
    points = []
  }

  /// The job was seen here.
  package mutating func note(_ position: Position, at seconds: Double) {
    // Reports repeat themselves; what was said before a change is no step after it.
    guard position != last, Self.measuredPhases.contains(position.phase) else { return }
    last = position
    points.append(Point(position: position, seconds: seconds))
    while points.count > Self.pointLimit || (points.first.map { seconds - $0.seconds > Self.window } ?? false)
    {
      points.removeFirst()
    }
    measure(position)
  }

  private mutating func measure(_ position: Position) {
    guard let index = marks.indices.last, !marks[index].isMeasured else { return }
    guard let now = rate(position.phase) else { return }
    let before = marks[index].rates[position.phase]
    marks[index].change = Change(
      before: before.map {
        pace($0, at: position, cachedEpochSeconds: marks[index].cachedEpochSeconds)
      },
      after: pace(now, at: position, cachedEpochSeconds: cachedEpochSeconds))
    // A reader gets one figure, not one that creeps.
    marks[index].isMeasured = true
  }

  private func pace(
    _ stepsPerSecond: Double, at position: Position, cachedEpochSeconds: Double?
  ) -> JobReport.Note.Pace {
    JobReport.Note.Pace(
      samplesPerSecond: stepsPerSecond * Double(samplesPerStep),
      etaSeconds: eta(stepsPerSecond, at: position, cachedEpochSeconds: cachedEpochSeconds))
  }

  /// Seconds to the end of the last epoch.
  private func eta(_ stepsPerSecond: Double, at position: Position, cachedEpochSeconds: Double?) -> Double {
    let rest = Double(max(0, position.steps - position.step)) / stepsPerSecond
    let epochsLeft = Double(max(0, epochs - position.epoch))
    // Without a cache all epochs are like this one; with one, a plan says how long those take that were not seen yet.
    guard position.phase != .cachedEpoch, let cachedEpochSeconds else {
      return rest + epochsLeft * Double(position.steps) / stepsPerSecond
    }
    return rest + epochsLeft * cachedEpochSeconds
  }

  /// Steps a second of the points that are remembered; nil when they are too few.
  private func rate(_ phase: RunPhase) -> Double? {
    rate(phase, acrossEpochs: false) ?? rate(phase, acrossEpochs: true)
  }

  private func rate(_ phase: RunPhase, acrossEpochs: Bool) -> Double? {
    var (steps, seconds) = (0, 0.0)
    for (earlier, later) in zip(points, points.dropFirst()) {
      let (from, to) = (earlier.position, later.position)
      guard from.phase == phase, to.phase == phase, acrossEpochs || from.epoch == to.epoch else { continue }
      let done = (to.epoch - from.epoch) * to.steps + to.step - from.step
      guard done > 0 else { continue }
      steps += done
      seconds += later.seconds - earlier.seconds
    }
    return seconds >= Self.leastSeconds ? Double(steps) / seconds : nil
  }

  private static let measuredPhases: [RunPhase] = [.fill, .liveEpoch, .cachedEpoch]
}
