import Glibc
import Synchronization
import TensorKernels

/// A fixed team of operating-system threads that works through the pieces of a loop.
///
/// Numerical work blocks for milliseconds, so it never runs on Swift's cooperative pool, which has one thread
/// a core. The calling thread is worker 0; the others sleep between loops. Pieces go to whoever is free
/// (an atomic counter), so a piece must not depend on its worker except for scratch memory: with that, the
/// number of threads changes no bit (docs/ARCHITECTURE.md). Denormals are flushed to zero on every worker.
package final class ComputeTeam: ParallelLoop {
  /// Most threads of a team.
  package static let maximumWidth = 256

  /// Number of workers, the caller included.
  package let width: Int
  private let exchange: LoopExchange
  private let threads: [OperatingSystemThread]

  /// Starts a team of `width` workers (the caller and `width − 1` new threads).
  ///
  /// Selects the right BLAS core before anything can call BLAS.
  package init(width: Int) {
    precondition(
      width > 0 && width <= Self.maximumWidth,
      "a team has 1 to \(Self.maximumWidth) workers, not \(width)")
    _ = BLASCore.select()
    self.width = width
    // Spinning pays only while every worker has a core of its own.
    let exchange = LoopExchange(
      helpers: width - 1, spins: width <= usableCoreCount() ? LoopExchange.patience : 0)
    self.exchange = exchange
    threads = (1..<width).map { worker in
      OperatingSystemThread(name: "compute-\(worker)") {
        enableFlushToZero()
        exchange.serve(worker: worker)
      }
    }
  }

  deinit {
    exchange.stop()
    for thread in threads { thread.join() }
  }

  /// Calls `body(piece, worker)` once for each piece and returns when all are done.
  ///
  /// A team runs one loop at a time: a loop inside a piece, or on two threads at once, is a defect and traps.
  package func forEach(_ count: Int, _ body: @escaping @Sendable (_ piece: Int, _ worker: Int) -> Void) {
    withSubnormalsFlushed { exchange.run(count, body) }
  }

  /// Runs blocking `work` on a thread of its own, so that async code can wait for it without holding a thread
  /// of the cooperative pool; `work` may call `forEach`.
  package func run<Value: Sendable>(
    _ work: @escaping @Sendable (ComputeTeam) throws -> Value
  ) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      OperatingSystemThread.detached(name: "compute-0") {
        continuation.resume(with: Result { try work(self) })
      }
    }
  }
}

/// Where the workers of a team meet: the loop at hand, who is still busy, who sleeps.
///
/// - Safety: `job` and `count` are written by the caller before `round` is advanced (sequentially consistent) and read by
///   helpers after they saw it advance; the caller writes them again only after every helper has left the
///   round. The mutex and the conditions live at fixed addresses until `deinit`.
private final class LoopExchange: @unchecked Sendable {
  /// Looks at an atomic before a thread goes to sleep: some microseconds, less than a sleep and a wake cost.
  static let patience = 4_000

  typealias Job = @Sendable (Int, Int) -> Void

  private let helpers: Int
  private let spins: Int
  private var job: Job?
  private var count = 0
  private let inUse = Atomic<Bool>(false)
  private let stopping = Atomic<Bool>(false)
  private let round = Atomic<Int>(0)
  private let nextPiece = Atomic<Int>(0)
  private let busyHelpers = Atomic<Int>(0)
  private let sleepingHelpers = Atomic<Int>(0)
  private let callerSleeps = Atomic<Bool>(false)
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let loopBegins = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private let loopEnds = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  init(helpers: Int, spins: Int) {
    self.helpers = helpers
    self.spins = spins
    check(pthread_mutex_init(mutex, nil), "pthread_mutex_init")
    check(pthread_cond_init(loopBegins, nil), "pthread_cond_init")
    check(pthread_cond_init(loopEnds, nil), "pthread_cond_init")
  }

  deinit {
    pthread_cond_destroy(loopEnds)
    pthread_cond_destroy(loopBegins)
    pthread_mutex_destroy(mutex)
    loopEnds.deallocate()
    loopBegins.deallocate()
    mutex.deallocate()
  }

  /// The caller's side of a loop.
  func run(_ pieces: Int, _ body: @escaping Job) {
    precondition(pieces >= 0, "a loop of \(pieces) pieces cannot be")
    precondition(
      !inUse.exchange(true, ordering: .acquiring),
      "a compute team runs one loop at a time: a loop of \(pieces) pieces began inside another")
    defer { inUse.store(false, ordering: .releasing) }
    if helpers == 0 || pieces <= 1 {
      for piece in 0..<pieces { body(piece, 0) }
      return
    }
    job = body
    count = pieces
    nextPiece.store(0, ordering: .relaxed)
    busyHelpers.store(helpers, ordering: .relaxed)
    round.add(1, ordering: .sequentiallyConsistent)
    if sleepingHelpers.load(ordering: .sequentiallyConsistent) > 0 {
      locked { pthread_cond_broadcast(loopBegins) }
    }
    takePieces(body, worker: 0)
    awaitHelpers()
    job = nil
  }

  /// A helper's life: wait for a round, work, report, until the team ends.
  func serve(worker: Int) {
    var seen = 0
    while true {
      seen = awaitRound(after: seen)
      if stopping.load(ordering: .acquiring) { return }
      if let job { takePieces(job, worker: worker) }
      if busyHelpers.subtract(1, ordering: .sequentiallyConsistent).newValue == 0,
        callerSleeps.load(ordering: .sequentiallyConsistent)
      {
        locked { pthread_cond_signal(loopEnds) }
      }
    }
  }

  /// Wakes all helpers for good.
  func stop() {
    stopping.store(true, ordering: .releasing)
    round.add(1, ordering: .sequentiallyConsistent)
    locked { pthread_cond_broadcast(loopBegins) }
  }

  private func takePieces(_ job: Job, worker: Int) {
    while true {
      let piece = nextPiece.add(1, ordering: .relaxed).oldValue
      if piece >= count { return }
      job(piece, worker)
    }
  }

  private func awaitRound(after seen: Int) -> Int {
    for _ in 0..<spins {
      let now = round.load(ordering: .acquiring)
      if now != seen { return now }
    }
    // Announce the sleep before the last look: the caller advances the round before it counts sleepers, so
    // one of the two sees the other.
    pthread_mutex_lock(mutex)
    sleepingHelpers.add(1, ordering: .sequentiallyConsistent)
    while round.load(ordering: .sequentiallyConsistent) == seen { pthread_cond_wait(loopBegins, mutex) }
    sleepingHelpers.subtract(1, ordering: .sequentiallyConsistent)
    pthread_mutex_unlock(mutex)
    return round.load(ordering: .acquiring)
  }

  private func awaitHelpers() {
    for _ in 0..<spins where busyHelpers.load(ordering: .acquiring) == 0 { return }
    pthread_mutex_lock(mutex)
    callerSleeps.store(true, ordering: .sequentiallyConsistent)
    while busyHelpers.load(ordering: .sequentiallyConsistent) > 0 { pthread_cond_wait(loopEnds, mutex) }
    callerSleeps.store(false, ordering: .sequentiallyConsistent)
    pthread_mutex_unlock(mutex)
  }

  private func locked(_ signal: () -> Int32) {
    pthread_mutex_lock(mutex)
    check(signal(), "pthread_cond_signal")
    pthread_mutex_unlock(mutex)
  }
}
