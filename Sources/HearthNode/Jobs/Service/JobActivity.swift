import ComputeRuntime
import Synchronization

/// What runs for a job on this device, and how it is ended from another thread.
final class JobActivity: Sendable {
  private struct State {
    var channel: MeshJobChannel?
    var task: Task<Void, Never>?
    var reason: String?
  }

  private let flag = CancellationFlag()
  private let state = Mutex(State())

  /// Whether the job has been ended.
  var isEnded: Bool { flag.isCancelled }

  /// The channel of the run; nil before it has begun.
  var channel: MeshJobChannel? { state.withLock { $0.channel } }

  /// The work to cancel when the job ends; what came before has ended by itself.
  func begin(_ task: Task<Void, Never>) {
    let isEnded = state.withLock { state in
      state.task = task
      return state.reason != nil
    }
    if isEnded { task.cancel() }
  }

  /// The channel that is aborted when the job ends.
  func open(_ channel: MeshJobChannel) {
    let reason = state.withLock { state in
      state.channel = channel
      return state.reason
    }
    if let reason { channel.abort(reason) }
  }

  /// Ends all that runs; the channel too, unless everybody has finished and it is closed in order.
  func end(_ reason: String, abortsChannel: Bool) {
    flag.cancel()
    let (channel, task) = state.withLock { state in
      state.reason = reason
      return (state.channel, state.task)
    }
    task?.cancel()
    if abortsChannel { channel?.abort(reason) }
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
