import ComputeRuntime
import Determinism
import Glibc
import MeshTransport

/// The operating-system thread on which a daemon's actor runs, with one alarm.
///
/// A thread of its own, because a device that computes must still answer probes: the cooperative pool has as many
/// threads as cores and no priority.
///
/// - Safety: everything that changes is touched under the mutex only.
final class MeshLane: SerialExecutor, @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var jobs: [UnownedJob] = []
  private var alarm: MonotonicInstant?
  private var ring: (@Sendable () -> Void)?
  private var isStopped = false

  init() {
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    // Alarms are of the monotonic clock; the default would be the wall clock.
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(condition, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(condition)
    pthread_mutex_destroy(mutex)
    condition.deallocate()
    mutex.deallocate()
  }

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
    pthread_mutex_lock(mutex)
    body()
    pthread_cond_signal(condition)
    pthread_mutex_unlock(mutex)
  }

  private func run() {
    pthread_mutex_lock(mutex)
    while true {
      if !jobs.isEmpty {
        let waiting = jobs
        jobs.removeAll(keepingCapacity: true)
        pthread_mutex_unlock(mutex)
        for job in waiting { job.runSynchronously(on: asUnownedSerialExecutor()) }
        pthread_mutex_lock(mutex)
      } else if isStopped {
        break
      } else if let alarm, alarm <= DeviceClocks.now().monotonic {
        self.alarm = nil
        let ring = ring
        pthread_mutex_unlock(mutex)
        ring?()
        pthread_mutex_lock(mutex)
      } else if let alarm {
        var until = timespec()
        until.tv_sec = Int(alarm.nanoseconds / 1_000_000_000)
        until.tv_nsec = Int(alarm.nanoseconds % 1_000_000_000)
        pthread_cond_timedwait(condition, mutex, &until)
      } else {
        pthread_cond_wait(condition, mutex)
      }
    }
    pthread_mutex_unlock(mutex)
  }
}
