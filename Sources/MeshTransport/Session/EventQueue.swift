package import MeshProtocol
import Synchronization

/// Events on their way to the owner of a transport: bounded, in order, for one reader.
///
/// What bounds it: frames by pausing the session's connection at its high mark; datagrams and reports of drops by
/// a limit beyond which they are only counted; `opened` and `closed` by the limit on sessions, whose places are given
/// back when `closed` has been read. So those two are never lost, however slow the reader is.
package final class EventQueue: Sendable {
  /// The frames of one session that wait in the queue.
  package final class Backlog: Sendable {
    fileprivate let marks: QueueMarks
    /// Called when the session may be read on; from any thread, without locks held.
    let resume: @Sendable () -> Void
    fileprivate let state = Mutex(BacklogState())

    /// The backlog of a session that can be paused.
    package init(marks: QueueMarks, resume: @escaping @Sendable () -> Void) {
      self.marks = marks
      self.resume = resume
    }
  }

  fileprivate struct BacklogState {
    var bytes = 0
    var isPaused = false
    var hasWritableWaiting = false
  }

  private struct Entry {
    let event: TransportEvent
    let backlog: Backlog?
    let bytes: Int
    /// What is done once the event has been read.
    let afterRead: (@Sendable () -> Void)?
  }

  private struct State {
    var entries: [Entry?] = []
    var head = 0
    var waitingDatagrams = 0
    var waitingDrops = 0
    var isFinished = false
    var waiters: [CheckedContinuation<TransportEvent?, Never>] = []
    /// Whom the first event that waits is told, where nobody reads the stream.
    var arrived: (@Sendable () -> Void)?
    var isEmpty: Bool { head == entries.count }

    mutating func append(_ entry: Entry) {
      // The read part in front goes when it is the larger half.
      if head > 64, head > entries.count / 2 {
        entries.removeFirst(head)
        head = 0
      }
      entries.append(entry)
    }

    mutating func popFirst() -> Entry? {
      guard head < entries.count else { return nil }
      defer {
        entries[head] = nil
        head += 1
        if head == entries.count {
          entries.removeAll(keepingCapacity: entries.capacity <= 4096)
          head = 0
        }
      }
      return entries[head]
    }
  }

  private let limits: TransportLimits
  private let state = Mutex(State())

  /// An empty queue.
  package init(limits: TransportLimits) {
    self.limits = limits
  }

  /// The stream that reads this queue.
  package func makeStream() -> AsyncStream<TransportEvent> {
    AsyncStream(unfolding: { [self] in await next() })
  }

  /// Reads by `takeNext` from now on: `arrived` is called, on any thread, whenever the queue is no longer empty.
  package func tellOfEvents(_ arrived: @escaping @Sendable () -> Void) {
    let isEmpty = state.withLock { state in
      state.arrived = arrived
      return state.isEmpty
    }
    if !isEmpty { arrived() }
  }

  /// The oldest event, at once; nil when none waits.
  package func takeNext() -> TransportEvent? {
    guard let entry = state.withLock({ $0.popFirst() }) else { return nil }
    wasRead(entry)
    return entry.event
  }

  /// Adds an event that may not be lost; `afterRead` runs when its reader has it.
  package func put(_ event: TransportEvent, afterRead: (@Sendable () -> Void)? = nil) {
    deliver(Entry(event: event, backlog: nil, bytes: 0, afterRead: afterRead))
  }

  /// Adds a frame; false means that the session is to be paused until its backlog calls `resume`.
  package func put(frame: MeshFrame, of session: SessionID, backlog: Backlog) -> Bool {
    let bytes = frame.body.count + MeshFrame.headerByteCount
    let goesOn = backlog.state.withLock { state in
      state.bytes += bytes
      if state.bytes >= backlog.marks.high { state.isPaused = true }
      return !state.isPaused
    }
    deliver(Entry(event: .frame(session, frame), backlog: backlog, bytes: bytes, afterRead: nil))
    return goesOn
  }

  /// Tells that a session may send again, at most once until that has been read.
  package func putWritable(_ session: SessionID, backlog: Backlog) {
    let isNew = backlog.state.withLock { state in
      defer { state.hasWritableWaiting = true }
      return !state.hasWritableWaiting
    }
    guard isNew else { return }
    deliver(
      Entry(
        event: .writable(session), backlog: nil, bytes: 0,
        afterRead: { backlog.state.withLock { $0.hasWritableWaiting = false } }))
  }

  /// Adds a datagram; false when too many wait and it is dropped.
  package func put(datagram event: TransportEvent) -> Bool {
    let fits = state.withLock { state in
      guard state.waitingDatagrams < limits.waitingDatagrams else { return false }
      state.waitingDatagrams += 1
      return true
    }
    guard fits else { return false }
    deliver(
      Entry(
        event: event, backlog: nil, bytes: 0,
        afterRead: { [self] in state.withLock { $0.waitingDatagrams -= 1 } }))
    return true
  }

  /// Reports a drop, unless too many reports wait.
  package func put(drop reason: DropReason) {
    let fits = state.withLock { state in
      guard state.waitingDrops < limits.waitingDropReports else { return false }
      state.waitingDrops += 1
      return true
    }
    guard fits else { return }
    deliver(
      Entry(
        event: .dropped(reason), backlog: nil, bytes: 0,
        afterRead: { [self] in state.withLock { $0.waitingDrops -= 1 } }))
  }

  /// Ends the stream after what is in the queue.
  package func finish() {
    let waiters = state.withLock { state in
      state.isFinished = true
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in waiters { waiter.resume(returning: nil) }
  }

  private func deliver(_ entry: Entry) {
    let (waiter, arrived): (CheckedContinuation<TransportEvent?, Never>?, (@Sendable () -> Void)?) =
      state.withLock { state in
        guard !state.isFinished else { return (nil, nil) }
        if !state.waiters.isEmpty { return (state.waiters.removeFirst(), nil) }
        let isFirst = state.isEmpty
        state.append(entry)
        return (nil, isFirst ? state.arrived : nil)
      }
    arrived?()
    guard let waiter else { return }
    wasRead(entry)
    waiter.resume(returning: entry.event)
  }

  private func next() async -> TransportEvent? {
    if let event = takeNext() { return event }
    return await waitForNext()
  }

  private func waitForNext() async -> TransportEvent? {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let (entry, isOver): (Entry?, Bool) = state.withLock { state in
          if let entry = state.popFirst() { return (entry, false) }
          if state.isFinished || Task.isCancelled { return (nil, true) }
          state.waiters.append(continuation)
          return (nil, false)
        }
        if let entry {
          wasRead(entry)
          continuation.resume(returning: entry.event)
        } else if isOver {
          continuation.resume(returning: nil)
        }
      }
    } onCancel: {
      let waiters = state.withLock { state in
        defer { state.waiters = [] }
        return state.waiters
      }
      for waiter in waiters { waiter.resume(returning: nil) }
    }
  }

  private func wasRead(_ entry: Entry) {
    if let backlog = entry.backlog {
      let resumes = backlog.state.withLock { state in
        state.bytes -= entry.bytes
        guard state.isPaused, state.bytes < backlog.marks.low else { return false }
        state.isPaused = false
        return true
      }
      if resumes { backlog.resume() }
    }
    entry.afterRead?()
  }
}
