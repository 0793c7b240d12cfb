import Determinism
import Glibc

/// A lock with one condition, for threads that block until others have brought something.
///
/// - Safety: the C objects are made in `init`, freed in `deinit`, and used only through their own calls.
final class Monitor: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  init() {
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    // Deadlines are of the monotonic clock; the default would be the wall clock.
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

  /// Runs `body` while nobody else has the lock.
  func locked<Value, Failure: Error>(_ body: () throws(Failure) -> Value) throws(Failure) -> Value {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }

  /// Gives the lock up until `wakeAll`, or a moment earlier; the caller has the lock and looks again.
  func wait() { pthread_cond_wait(condition, mutex) }

  /// The same, until this instant at the latest.
  func wait(until instant: MonotonicInstant) {
    var until = timespec()
    until.tv_sec = Int(instant.nanoseconds / 1_000_000_000)
    until.tv_nsec = Int(instant.nanoseconds % 1_000_000_000)
    pthread_cond_timedwait(condition, mutex, &until)
  }

  /// Wakes all who wait without a bell of their own; the caller has the lock.
  func wakeAll() { pthread_cond_broadcast(condition) }

  // MARK: - Bells

  /// Wakes one of several threads that wait at a monitor for different things.
  ///
  /// - Safety: the C object is made in `init`, freed in `deinit`, and used only through its own calls.
  final class Bell: @unchecked Sendable {
    fileprivate let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() { pthread_cond_init(condition, nil) }

    deinit {
      pthread_cond_destroy(condition)
      condition.deallocate()
    }

    /// Wakes who waits for it; the caller has the monitor's lock.
    func ring() { pthread_cond_broadcast(condition) }
  }

  /// Gives the lock up until the bell rings, or a moment earlier; the caller has the lock and looks again.
  func wait(for bell: Bell) { pthread_cond_wait(bell.condition, mutex) }
}
