import Determinism
import HearthNode
import MeshModel
import Testing
import TrainingCoordination

/// How often somebody who follows a job is told of it.
@Suite struct WatchPaceTests {
  private func at(_ milliseconds: Int) -> MonotonicInstant { .zero.advanced(by: .milliseconds(milliseconds)) }

  private func training(step: Int) -> JobSight {
    var sight = JobSight()
    sight.position = JobPace.Position(phase: .liveEpoch, epoch: 1, step: step, steps: 1000)
    return sight
  }

  /// The milliseconds at which a job is told of that is looked at every 50.
  private func told(
    devices: Int, until last: Int, state: (Int) -> JobState = { _ in .running }, _ sight: (Int) -> JobSight
  ) -> [Int] {
    var pace = WatchPace()
    return stride(from: 0, through: last, by: 50).filter {
      pace.tells(state($0), sight($0), devices: devices, at: at($0))
    }
  }

  @Test("A job that moves is told of four times a second by two devices, and once a second by eight")
  func moving() {
    let steps = { (now: Int) in self.training(step: now / 50) }
    #expect(told(devices: 2, until: 1000, steps) == [0, 250, 500, 750, 1000])
    #expect(told(devices: 8, until: 3000, steps) == [0, 1000, 2000, 3000])
  }

  @Test("While only numbers move, four times as long passes between two reports")
  func still() {
    #expect(told(devices: 2, until: 3000) { _ in training(step: 1) } == [0, 1000, 2000, 3000])
    #expect(told(devices: 8, until: 9000) { _ in training(step: 1) } == [0, 4000, 8000])
  }

  @Test("A step that ends after a while is told of at once, the next one after the interval")
  func step() {
    let steps = { (now: Int) in self.training(step: now < 2100 ? 1 : now < 2600 ? 2 : 3) }
    #expect(told(devices: 8, until: 4000, steps) == [0, 2100, 3100])
  }

  @Test("A new state is told of at once, whatever was told before")
  func state() {
    let states = { (now: Int) -> JobState in now < 100 ? .running : now < 150 ? .saving : .finished }
    #expect(told(devices: 8, until: 500, state: states) { _ in training(step: 1) } == [0, 100, 150])
  }

  @Test("Nobody looks at a job before the interval is over")
  func unseen() {
    var (pace, looks) = (WatchPace(), 0)
    func look() -> JobSight {
      looks += 1
      return training(step: looks)
    }
    for now in stride(from: 0, to: 1000, by: 50) {
      _ = pace.tells(.running, look(), devices: 8, at: at(now))
    }
    #expect(looks == 1)
  }

  @Test(
    "All that people see move counts: a plan, a device's phase, fetched weights, an epoch, metrics, a warning, a note",
    arguments: 0..<7)
  func movement(_ kind: Int) throws {
    let device = try #require(DeviceID(bytes: Array(repeating: 7, count: DeviceID.byteCount)))
    let sights = { (now: Int) in
      var sight = self.training(step: 1)
      guard now >= 1500 else { return sight }
      switch kind {
      case 0: sight.planEpoch = 2
      case 1: sight.phases[device] = .fetching
      case 2: sight.fetchedBytes = 1
      case 3: sight.epochs = 1
      case 4: sight.metrics = 1
      case 5: sight.warnings = 1
      default: sight.note = 0
      }
      return sight
    }
    #expect(told(devices: 8, until: 3000, sights) == [0, 1500])
  }
}
