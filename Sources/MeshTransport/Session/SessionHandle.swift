import MeshModel
import MeshProtocol

/// An open session as every thread may see it: its facts, and the way to its connection.
final class SessionHandle: Sendable {
  let id: SessionID
  let info: SessionInfo
  let queue: SendQueue
  let backlog: EventQueue.Backlog
  /// Nil for all but control sessions.
  let datagrams: DatagramKeys?
  /// Who takes the session's bulk frames; nil when they are events like all others.
  let bulkReceiver: (any BulkReceiver)?
  /// Has the connection look at the queue; from any thread.
  let wake: @Sendable () -> Void

  init(
    id: SessionID, info: SessionInfo, marks: QueueMarks, datagrams: DatagramKeys?,
    bulkReceiver: (any BulkReceiver)?, wake: @escaping @Sendable () -> Void,
    resume: @escaping @Sendable () -> Void
  ) {
    self.id = id
    self.info = info
    queue = SendQueue(marks: marks)
    backlog = EventQueue.Backlog(marks: marks, resume: resume)
    self.datagrams = datagrams
    self.bulkReceiver = bulkReceiver
    self.wake = wake
  }

  /// Queues the goodbye.
  func close(_ reason: CloseReason) {
    if queue.close(reason) { wake() }
  }
}

extension SessionInfo {
  /// Whether a frame of this kind may pass in either direction.
  func permits(_ kind: FrameKind) -> Bool {
    if kind == .goodbye { return true }
    let isEcho = kind == .echoRequest || kind == .echoReply
    let isBurst = kind == .burst || kind == .burstReport
    // Without echoes a session of little standing could not show that it lives, and would end as silent.
    switch standing {
    case .statusOnly: return purpose == .control && isEcho
    case .updateOnly: return purpose == .control && (isEcho || kind == .trustLog)
    case .full: break
    }
    switch purpose {
    case .control: return kind != .bulk && !isBurst
    case .bulk: return kind == .bulk || isEcho || isBurst
    // Pairing has frames of its own.
    case .pairing: return false
    }
  }
}
