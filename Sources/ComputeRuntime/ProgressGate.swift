import Glibc

/// Lets a thread wait until another one has come so far.
///
/// - Safety: the numbers are read and written under the mutex, which lives at a fixed address until `deinit`; nobody may be
///   inside a call then.
package final class ProgressGate: @unchecked Sendable {
  private var reached = 0
  private var isEnded = false
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  /// A gate of which nothing is reached yet.
  package init() {
    check(pthread_mutex_init(mutex, nil), "pthread_mutex_init")
    check(pthread_cond_init(changed, nil), "pthread_cond_init")
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
  }

  /// One more is done.
  package func advance() { locked { reached += 1 } }

  /// Waits until `count` are done; false when the gate has ended before.
  package func wait(for count: Int) -> Bool {
    locked {
      while !isEnded, reached < count { pthread_cond_wait(changed, mutex) }
      return reached >= count
    }
  }

  /// Wakes all who wait: no more will be done.
  package func end() { locked { isEnded = true } }

  private func locked<Value>(_ body: () -> Value) -> Value {
    pthread_mutex_lock(mutex)
    defer {
      pthread_cond_broadcast(changed)
      pthread_mutex_unlock(mutex)
    }
    return body()
  }
}
