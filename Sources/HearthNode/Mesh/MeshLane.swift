import ComputeRuntime
package import Determinism
import Glibc
import MeshTransport

/// The operating-system thread on which a daemon's actor runs, with one alarm and one letter box.
///
/// A thread of its own, because a device that computes must still answer probes: the cooperative pool has as many
/// threads as cores and no priority. What comes often, as alarms and mail, is taken in on the thread itself with
/// `assumeIsolated`: a task for it would wake a thread of the pool first, which on a small share of a processor costs more
/// than most messages do.
///
/// - Safety: everything that changes is touched under the monitor's lock only.
package final class MeshLane: SerialExecutor, @unchecked Sendable {
  private let monitor = Monitor()
  private var jobs: [UnownedJob] = []
  private var alarm: MonotonicInstant?
  private var ring: (@Sendable () -> Void)?
  private var open: (@Sendable () -> Void)?
  private var hasMail = false
  private var isStopped = false
  private var thread: pthread_t?

  /// A lane whose thread is not yet started.
  package init() {}

  /// Starts the thread, without which no job of the actor ever runs.
  package func start(name: String) {
    OperatingSystemThread.detached(name: name) { [self] in run() }
  }

  /// Runs this on the thread when an alarm is due.
  package func onAlarm(_ body: @escaping @Sendable () -> Void) { locked { ring = body } }

  /// Runs this on the thread when mail has come; at once when it already has.
  package func onMail(_ body: @escaping @Sendable () -> Void) { locked { open = body } }

  /// Ends the thread after the jobs that wait.
  package func stop() {
    locked {
      isStopped = true
      ring = nil
      open = nil
    }
  }

  /// The alarm is due at `instant`, in place of the one before; nil for none.
  package func setAlarm(_ instant: MonotonicInstant?) { locked { alarm = instant } }

  /// Says, from any thread, that mail has come.
  ///
  /// The thread looks once after however many times this is called before it has looked.
  package func ringBell() { locked { hasMail = true } }

  /// Takes a job of the actor.
  package func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    locked { jobs.append(job) }
  }

  /// Stops the program unless this is the thread: so `assumeIsolated` holds in alarms and mail.
  package func checkIsolated() {
    precondition(
      monitor.locked { thread.map { pthread_equal($0, pthread_self()) != 0 } ?? false },
      "not on the thread of its lane")
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
    case call(@Sendable () -> Void)
    case end
  }

  private func run() {
    monitor.locked { thread = pthread_self() }
    while true {
      switch monitor.locked({ nextTurn() }) {
      case .run(let waiting):
        for job in waiting { job.runSynchronously(on: asUnownedSerialExecutor()) }
      case .call(let body): body()
      case .end: return
      }
    }
  }

  /// Waits for the next turn, under the lock: jobs come before the end, and both before an alarm and mail.
  ///
  /// An alarm that is due comes before mail, of which there may always be more.
  private func nextTurn() -> Turn {
    while true {
      if !jobs.isEmpty {
        defer { jobs.removeAll() }
        return .run(jobs)
      }
      if isStopped { return .end }
      if let alarm, let ring, alarm <= DeviceClocks.now().monotonic {
        self.alarm = nil
        return .call(ring)
      }
      if hasMail, let open {
        hasMail = false
        return .call(open)
      }
      if let alarm, ring != nil { monitor.wait(until: alarm) } else { monitor.wait() }
    }
  }
}
