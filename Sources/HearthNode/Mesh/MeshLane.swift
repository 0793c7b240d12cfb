import ComputeRuntime
import Determinism
import MeshTransport

/// The operating-system thread on which a daemon's actor runs, with one alarm.
///
/// A thread of its own, because a device that computes must still answer probes: the cooperative pool has as many
/// threads as cores and no priority.
///
/// - Safety: everything that changes is touched under the monitor's lock only.
final class MeshLane: SerialExecutor, @unchecked Sendable {
  private let monitor = Monitor()
  private var jobs: [UnownedJob] = []
  private var alarm: MonotonicInstant?
  private var ring: (@Sendable () -> Void)?
  private var isStopped = false

  /// Starts the thread, without which no job of the actor ever runs.
  func start(name: String) {
    OperatingSystemThread.detached(name: name) { [self] in run() }
  }

  /// Runs this on the thread when an alarm is due; it must return at once.
  func onAlarm(_ body: @escaping @Sendable () -> Void) { locked { ring = body } }

  /// Ends the thread after the jobs that wait.
  func stop() {
    locked {
      isStopped = true
      ring = nil
    }
  }

  /// The alarm is due at `instant`, in place of the one before; nil for none.
  func setAlarm(_ instant: MonotonicInstant?) { locked { alarm = instant } }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    locked { jobs.append(job) }
  }

  private func locked(_ body: () -> Void) {
    monitor.locked {
      body()
      monitor.wakeAll()
    }
  }

  /// What the thread does next.
  private enum Turn {
    case run([UnownedJob])
    case ring((@Sendable () -> Void)?)
    case end
  }

  private func run() {
    while true {
      switch monitor.locked({ nextTurn() }) {
      case .run(let waiting):
        for job in waiting { job.runSynchronously(on: asUnownedSerialExecutor()) }
      case .ring(let ring): ring?()
      case .end: return
      }
    }
  }

  /// Waits for the next turn, under the lock: jobs come before the end, and both before an alarm.
  private func nextTurn() -> Turn {
    while true {
      if !jobs.isEmpty {
        defer { jobs.removeAll() }
        return .run(jobs)
      }
      if isStopped { return .end }
      guard let alarm else {
        monitor.wait()
        continue
      }
      if alarm <= DeviceClocks.now().monotonic {
        self.alarm = nil
        return .ring(ring)
      }
      monitor.wait(until: alarm)
    }
  }
}
