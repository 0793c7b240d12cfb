package import Determinism
package import MeshModel
package import TrainingCoordination

/// Somebody who follows a job, or all.
struct JobWatcher: Sendable {
  /// Reports that wait for a slow reader; the newest count.
  static let waiting = 16

  let job: JobID?
  let continuation: AsyncStream<JobReport>.Continuation
  /// How often each job was told of.
  var paces: [JobID: WatchPace] = [:]
}

/// What people see move of a job: all but clocks, rates and counters.
package struct JobSight: Equatable, Sendable {
  /// How far one device is.
  package struct Place: Equatable, Sendable {
    /// The epoch that it computes, 1-based.
    package var epoch: UInt32
    /// What it does.
    package var phase: DevicePhase
    /// Steps of the phase that it has made.
    package var step: UInt64

    /// A place.
    package init(epoch: UInt32, phase: DevicePhase, step: UInt64) {
      (self.epoch, self.phase, self.step) = (epoch, phase, step)
    }
  }

  /// Where the job is.
  package var state: JobState
  /// The plan epoch in force; 0 before the first.
  package var planEpoch: UInt64 = 0
  /// Where the device is that is furthest back.
  package var slowest: Place?
  /// What each device does.
  package var phases: [DeviceID: DevicePhase] = [:]
  /// Bytes of weights that the devices have fetched so far.
  package var fetchedBytes: UInt64 = 0
  /// Epochs that are finished.
  package var epochs = 0
  /// Epochs whose metrics are known.
  package var metrics = 0
  /// Warnings, those of devices that take no part among them.
  package var warnings = 0
  /// The newest note's ordinal.
  package var note: UInt32?

  /// A job of which nothing but its state is known.
  package init(state: JobState) { self.state = state }
}

extension OpenJob {
  /// What people see of the job at the moment.
  var sight: JobSight {
    var sight = JobSight(state: coordinator.state)
    sight.planEpoch = coordinator.certificate?.stamp.epoch ?? 0
    sight.slowest = slowest.map { JobSight.Place(epoch: $0.epoch, phase: $0.phase, step: $0.step) }
    for device in coordinator.devices.keys.sorted() + [coordinator.own] {
      guard let progress = coordinator.progress(of: device) else { continue }
      sight.phases[device] = progress.phase
      sight.fetchedBytes &+= progress.fetchedBytes
    }
    (sight.epochs, sight.metrics) = (epochs.count, metrics.count)
    sight.warnings = warnings.count + coordinator.declines.count
    sight.note = coordinator.notes.last?.ordinal
    return sight
  }
}

/// How often somebody who follows a job is told of it: at once when its state changes, soon when anything moves, and now
/// and then when only numbers do.
///
/// All devices wait for the one whose job is followed. With eight of a fifth of a processor, a report a second took the command
/// that shows it 0.07 of the 4.9 s of processor time that its device had in a first epoch, and the daemon some more.
package struct WatchPace: Equatable, Sendable {
  /// Intervals after which a report is due although nothing has moved.
  private static let stillIntervals = 4

  private var told: MonotonicInstant?
  private var seen: JobSight?

  /// A pace at which nothing was told yet.
  package init() {}

  /// Least time between two reports without a new state, in a household of so many devices.
  package static func interval(devices: Int) -> Duration {
    min(max(.milliseconds(250), .milliseconds(125) * devices), .seconds(1))
  }

  /// Whether a report is due, which then counts as told.
  package mutating func tells(_ sight: JobSight, devices: Int, at now: MonotonicInstant) -> Bool {
    if let told, let seen, seen.state == sight.state {
      let interval = Self.interval(devices: devices)
      let isStill = seen == sight
      guard told.duration(to: now) >= (isStill ? interval * Self.stillIntervals : interval) else {
        return false
      }
    }
    (told, seen) = (now, sight)
    return true
  }
}
