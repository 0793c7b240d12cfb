import Glibc
import Synchronization

/// Runs asynchronous work and waits for it on the calling thread: for commands, whose `run` is synchronous.
///
/// A caller that may itself be on a thread of the shared pool gives an executor with a thread of its own: else all threads
/// of the pool might wait for work that none is left for.
package func waitForTask<Value: Sendable>(
  on executor: (any TaskExecutor)? = nil, _ body: @escaping @Sendable () async throws -> Value
) throws -> Value {
  let box = TaskBox<Value>()
  Task(executorPreference: executor) {
    do { box.finish(.success(try await body())) } catch { box.finish(.failure(error)) }
  }
  return try box.wait().get()
}

/// A result that one thread waits for.
///
/// - Safety: the semaphore is made in `init` and freed in `deinit` only; the result is under its mutex.
private final class TaskBox<Value: Sendable>: @unchecked Sendable {
  private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
  private let result = Mutex<Result<Value, any Error>?>(nil)

  init() { sem_init(semaphore, 0, 0) }

  deinit {
    sem_destroy(semaphore)
    semaphore.deallocate()
  }

  func finish(_ value: Result<Value, any Error>) {
    result.withLock { $0 = value }
    sem_post(semaphore)
  }

  func wait() -> Result<Value, any Error> {
    while sem_wait(semaphore) != 0 {}
    guard let value = result.withLock({ $0 }) else { preconditionFailure("a task ended without a result") }
    return value
  }
}
