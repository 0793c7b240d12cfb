import MeshProtocol
import Synchronization

/// Frames of one session on their way to its connection: filled by the owner, emptied where the connection lives.
///
/// Frames wait here unencrypted and are sealed when the connection takes them, so that little lies in the kernel's
/// way twice and a session that closes has nothing sealed in vain.
final class SendQueue: Sendable {
  enum Offer: Equatable {
    /// Taken; whether the connection must be woken.
    case taken(wakes: Bool)
    /// The high mark is reached.
    case full
    /// The session closes.
    case closed
  }

  enum Next {
    case frame(MeshFrame)
    /// Nothing is left, and this is how the session ends.
    case goodbye(CloseReason)
    case nothing
  }

  private struct State {
    var frames: [MeshFrame?] = []
    var head = 0
    var bytes = 0
    var wasAboveLow = false
    /// The connection has been woken and has not found the queue empty since.
    var isAwake = false
    var goodbye: CloseReason?
    var isGoodbyeTaken = false
  }

  let marks: QueueMarks
  private let state = Mutex(State())

  init(marks: QueueMarks) {
    self.marks = marks
  }

  /// Bytes that can be offered before the queue is full; 0 when the session closes.
  var room: Int {
    state.withLock { $0.goodbye == nil ? max(0, marks.high - $0.bytes) : 0 }
  }

  /// Puts a frame at the end, unless the queue is over its high mark.
  func offer(_ frame: MeshFrame) -> Offer {
    state.withLock { state in
      guard state.goodbye == nil else { return .closed }
      guard state.bytes < marks.high else { return .full }
      if state.head > 64, state.head > state.frames.count / 2 {
        state.frames.removeFirst(state.head)
        state.head = 0
      }
      state.frames.append(frame)
      state.bytes += frame.contentByteCount + MeshFrame.headerByteCount
      if state.bytes >= marks.low { state.wasAboveLow = true }
      return .taken(wakes: wake(&state))
    }
  }

  /// Ends the queue after what is in it; true for the first reason, which counts.
  ///
  /// The connection must be woken even
  /// when it waits for room, so that it does not wait for ever.
  func close(_ reason: CloseReason) -> Bool {
    state.withLock { state in
      guard state.goodbye == nil else { return false }
      state.goodbye = reason
      state.isAwake = true
      return true
    }
  }

  /// How the session is to end, once that is decided.
  var goodbye: CloseReason? { state.withLock { $0.goodbye } }

  /// Whether the end is decided.
  var isClosing: Bool { goodbye != nil }

  /// Drops what waits.
  func discard() {
    state.withLock { state in
      state.frames = []
      state.head = 0
      state.bytes = 0
    }
  }

  /// Takes the first frame; `becameWritable` when the queue fell below its low mark by that.
  func next() -> (next: Next, becameWritable: Bool) {
    state.withLock { state in
      guard state.head < state.frames.count, let frame = state.frames[state.head] else {
        state.isAwake = false
        guard let reason = state.goodbye, !state.isGoodbyeTaken else { return (.nothing, false) }
        state.isGoodbyeTaken = true
        return (.goodbye(reason), false)
      }
      state.frames[state.head] = nil
      state.head += 1
      if state.head == state.frames.count {
        state.frames.removeAll(keepingCapacity: true)
        state.head = 0
      }
      state.bytes -= frame.contentByteCount + MeshFrame.headerByteCount
      let becameWritable = state.wasAboveLow && state.bytes < marks.low
      if becameWritable { state.wasAboveLow = false }
      return (.frame(frame), becameWritable)
    }
  }

  private func wake(_ state: inout State) -> Bool {
    defer { state.isAwake = true }
    return !state.isAwake
  }
}
