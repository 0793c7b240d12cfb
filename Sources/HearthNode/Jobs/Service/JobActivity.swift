import ComputeRuntime
import DistributedTraining
import Synchronization

/// What runs for a job on this device beside its coordinator, and how it is ended from another thread.
package final class JobActivity: Sendable {
  /// A piece of work; a new one takes the place of an older one of its kind.
  package enum Work: Hashable, Sendable {
    case preparation, planning, fetching, delivery, survey
  }

  private struct State {
    var tasks: [Work: Task<Void, Never>] = [:]
    var run: RunActivity?
    var reason: String?
  }

  private let state = Mutex(State())

  /// No work yet.
  package init() {}

  /// Pieces of work that are kept, so that they can be ended.
  package var workCount: Int { state.withLock { $0.tasks.count } }

  /// The run of the present plan; nil between two.
  var run: RunActivity? { state.withLock { $0.run } }

  /// The work to cancel when the job ends, in place of earlier work of its kind.
  package func begin(_ work: Work, _ task: Task<Void, Never>) {
    let (earlier, isEnded) = state.withLock { state in
      state.reason == nil ? (state.tasks.updateValue(task, forKey: work), false) : (nil, true)
    }
    earlier?.cancel()
    if isEnded { task.cancel() }
  }

  /// The run that is broken off when the job ends.
  func begin(_ run: RunActivity?) {
    let reason = state.withLock { state in
      state.run = run
      return state.reason
    }
    if let reason { run?.interrupt(reason) }
  }

  /// Ends all that runs; a run that is about to be over is left to itself.
  ///
  /// Nothing is kept: a task that is over holds the memory of its calls, 140 KiB a job, as long as somebody knows it.
  package func end(_ reason: String, interruptsRun: Bool) {
    let (tasks, run) = state.withLock { state in
      state.reason = reason
      defer { state.tasks = [:] }
      return (state.tasks.values.map { $0 }, state.run)
    }
    for task in tasks { task.cancel() }
    if interruptsRun { run?.interrupt(reason) }
  }
}

/// One run on this device, from its start to its answer; any thread may end it.
final class RunActivity: Sendable {
  private struct State {
    var stop: (@Sendable () -> Void)?
    var isStopping = false
    var task: Task<Void, Never>?
    var reason: String?
  }

  /// The plan epoch's channel.
  let channel: MeshJobChannel
  private let flag = CancellationFlag()
  private let state = Mutex(State())

  init(_ channel: MeshJobChannel) { self.channel = channel }

  /// Whether the run has been broken off.
  var isInterrupted: Bool { flag.isCancelled }
  /// Why it was broken off here; nil when it was not.
  var interruption: String? { state.withLock { $0.reason } }

  /// How the run is asked to stop at a boundary, from now on.
  func attach(_ stop: @escaping @Sendable () -> Void) {
    let isStopping = state.withLock { state in
      state.stop = stop
      return state.isStopping
    }
    if isStopping { stop() }
  }

  /// The run is over: nothing of it is kept.
  func detach() { state.withLock { $0.stop = nil } }

  /// Lets the run stop at the next boundary.
  func drain() {
    let stop = state.withLock { state in
      state.isStopping = true
      return state.stop
    }
    stop?()
  }

  /// Breaks the run off.
  func interrupt(_ reason: String) {
    let task = state.withLock { state in
      state.reason = state.reason ?? reason
      return state.task
    }
    flag.cancel()
    task?.cancel()
    channel.abort(reason)
  }

  /// Blocks the run's thread until something is done that is cancelled with the run.
  func await<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) throws -> Value {
    let result = BlockingBox<Value>()
    let task = Task { await result.fill(body) }
    let isEnded = state.withLock { state in
      state.task = task
      return state.reason != nil
    }
    if isEnded { task.cancel() }
    defer { state.withLock { $0.task = nil } }
    return try result.wait()
  }
}

/// A result that a thread waits for.
///
/// - Safety: the result is touched under the monitor only.
private final class BlockingBox<Value: Sendable>: @unchecked Sendable {
  private let monitor = Monitor()
  private var result: Result<Value, any Error>?

  func fill(_ body: () async throws -> Value) async {
    let found: Result<Value, any Error>
    do { found = .success(try await body()) } catch { found = .failure(error) }
    monitor.locked {
      result = found
      monitor.wakeAll()
    }
  }

  func wait() throws -> Value {
    try monitor.locked {
      while true {
        if let result { return try result.get() }
        monitor.wait()
      }
    }
  }
}

/// Runs something that blocks on a thread of its own: never on the cooperative pool, which has a thread a core.
func onOwnThread<Value: Sendable>(
  _ name: String, _ body: @escaping @Sendable () throws -> Value
) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    OperatingSystemThread.detached(name: name) {
      continuation.resume(with: Result { try body() })
    }
  }
}
