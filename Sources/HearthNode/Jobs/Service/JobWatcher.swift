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

/// What people see move of a job beside its state: all but clocks, rates and counters.
package struct JobSight: Equatable, Sendable {
  /// The plan epoch in force; 0 before the first.
  package var planEpoch: UInt64 = 0
  /// Where the device is that is furthest back; nil when it does what has no steps.
  package var position: JobPace.Position?
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

  /// A job of which nothing is known.
  package init() {}
}

extension OpenJob {
  /// What people see of the job at the moment.
  var sight: JobSight {
    var sight = JobSight()
    sight.planEpoch = coordinator.certificate?.stamp.epoch ?? 0
    sight.position = position
    for device in [coordinator.own] + coordinator.devices.keys {
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
/// that shows it 0.06 of the 4.8 s of processor time that its device had in a first epoch.
package struct WatchPace: Equatable, Sendable {
  /// Intervals after which a report is due although nothing has moved.
  private static let stillIntervals = 4

  /// What was told last.
  private struct Told: Equatable, Sendable {
    var at: MonotonicInstant
    var state: JobState
    var sight: JobSight
  }

  private var told: Told?

  /// A pace at which nothing was told yet.
  package init() {}

  /// Least time between two reports without a new state, in a household of so many devices.
  package static func interval(devices: Int) -> Duration {
    min(max(.milliseconds(250), .milliseconds(125) * devices), .seconds(1))
  }

  /// Whether a report is due, which then counts as told.
  ///
  /// - Parameter sight: looked at only when a report may be due.
  package mutating func tells(
    _ state: JobState, _ sight: @autoclosure () -> JobSight, devices: Int, at now: MonotonicInstant
  ) -> Bool {
    let seen: JobSight
    if let told, told.state == state {
      let (interval, waited) = (Self.interval(devices: devices), told.at.duration(to: now))
      guard waited >= interval else { return false }
      seen = sight()
      guard seen != told.sight || waited >= interval * Self.stillIntervals else { return false }
    } else {
      seen = sight()
    }
    told = Told(at: now, state: state, sight: seen)
    return true
  }
}
