import Determinism
import DistributedTraining
import MeshModel
import MeshProtocol
import MeshTransport
import TrainingCoordination

/// The way to one other device of a plan epoch: the bulk sessions to it, and the messages that have come from it.
///
/// Threads that compute block in `send` and `receive`; the transport's threads deliver. Nothing here calls the transport
/// while it holds the monitor, because memory delivers on the thread that sends.
///
/// - Safety: everything that changes is touched under the monitor only.
final class JobLink: @unchecked Sendable {
  /// What became of a frame.
  enum Outcome {
    case taken
    case dropped(DropReason)
    /// The other side ended, here or as a whole.
    case failed(JobChannelFailure)
    /// The other side's last frame on this session; this side may have an answer to it.
    case finished
  }

  private struct Session {
    let id: SessionID
    let isDialled: Bool
    var otherHasFinished = false
    var hasFinished = false
  }

  /// A thread that waits for a message, with a bell of its own.
  ///
  /// The buckets of a ring wait for messages of one link at once: with one bell for all, their four threads woke 115 to 120
  /// times a second in a first epoch of eight devices, in place of 29 to 36 times.
  private struct Reader {
    let tag: JobTag
    let bell: Monitor.Bell
  }

  private struct Unfinished {
    let tag: JobTag
    let length: Int
    var bytes: [UInt8]
  }

  let place: Int
  let device: DeviceID
  /// Whether the plan epoch goes on without it.
  let isOptional: Bool
  private let own: DeviceID
  private let stamp: JobStamp
  private let transport: any MeshEndpoint
  private let dial: @Sendable (DeviceID) -> Void
  private let monitor = Monitor()
  /// Held while a frame is put into the session's queue, so that room that was seen is room that is there.
  private let sending = Monitor()

  /// The first is the one on which this side sends.
  private var sessions: [Session] = []
  private var waiting: [JobTag: [[UInt8]]] = [:]
  private var unfinished: [UInt32: Unfinished] = [:]
  private var sendCredit = SendCredit()
  private var receiveCredit = ReceiveCredit()
  private var readers: [Reader] = []
  /// Bells of readers that are done, for the next ones.
  private var bells: [Monitor.Bell] = []
  private var nextNumber: UInt32 = 1
  private var writableCount: UInt64 = 0
  private var failure: JobChannelFailure?
  private var isClosing = false
  /// The other side had said all when its last session ended.
  private var isOver = false
  private var nextDial: MonotonicInstant
  /// When the link must stand; nil for a device that nobody waits for.
  private let openDeadline: MonotonicInstant?
  private var sentBytes: UInt64 = 0
  private var receivedBytes: UInt64 = 0

  init(
    to device: DeviceID, at place: Int, isOptional: Bool, own: DeviceID, stamp: JobStamp,
    transport: any MeshEndpoint, dial: @escaping @Sendable (DeviceID) -> Void
  ) {
    self.device = device
    self.place = place
    self.isOptional = isOptional
    self.own = own
    self.stamp = stamp
    self.transport = transport
    self.dial = dial
    let now = DeviceClocks.now().monotonic
    // One side dials at once; the other only when nothing comes of that, for networks where one direction is shut.
    nextDial = own < device ? now : now.advanced(by: JobLinkLimits.patience)
    openDeadline = isOptional ? nil : now.advanced(by: JobLinkLimits.openTime)
  }

  /// Bytes of frames that went to the other device and came from it.
  var traffic: (sent: UInt64, received: UInt64) { monitor.locked { (sentBytes, receivedBytes) } }

  // MARK: - Sessions

  /// Takes a session into use; false when the link has ended.
  func bind(_ session: SessionID, isDialled: Bool) -> Bool {
    // Before anybody who waits for a session can send on it: the other side drops what comes before the hello.
    if isDialled, monitor.locked({ failure == nil && !isClosing }) { say(.hello, on: session) }
    return monitor.locked {
      guard failure == nil, !isClosing else { return false }
      sessions.append(Session(id: session, isDialled: isDialled))
      wakeEveryone()
      return true
    }
  }

  /// Dials if nothing stands and it is time to.
  func dialIfDue() {
    let isDue = monitor.locked {
      let now = DeviceClocks.now().monotonic
      guard sessions.isEmpty, failure == nil, nextDial <= now else { return false }
      nextDial = now.advanced(by: JobLinkLimits.openTime)
      return true
    }
    if isDue { dial(device) }
  }

  /// A dial came to nothing.
  func dialFailed() {
    monitor.locked {
      nextDial = DeviceClocks.now().monotonic.advanced(by: JobLinkLimits.redialTime)
      wakeEveryone()
    }
  }

  /// Blocks until the link stands.
  func waitUntilOpen() throws(JobChannelFailure) {
    while try monitor.locked({ () throws(JobChannelFailure) in try waitForSession() }) == nil { dialIfDue() }
  }

  /// A session has ended; what the link fails with, unless the other side had said all.
  func closed(_ session: SessionID) -> JobChannelFailure? {
    monitor.locked {
      guard let index = sessions.firstIndex(where: { $0.id == session }) else { return nil }
      let ended = sessions.remove(at: index)
      wakeEveryone()
      isOver = isOver || ended.otherHasFinished
      guard failure == nil, !ended.otherHasFinished, !isClosing else { return nil }
      // Before the first message nothing can be lost with a session: the side that dials tries again.
      guard sentBytes == 0, receivedBytes == 0 else { return .lost(place: place) }
      nextDial = DeviceClocks.now().monotonic.advanced(
        by: ended.isDialled ? JobLinkLimits.redialTime : JobLinkLimits.patience)
      return nil
    }
  }

  /// A session's queue has room again.
  func writable() {
    monitor.locked {
      writableCount += 1
      monitor.wakeAll()
    }
  }

  /// The session on which this side sends, once one stands; nil after a while in which it is to be dialled.
  private func waitForSession() throws(JobChannelFailure) -> SessionID? {
    while true {
      if let failure { throw failure }
      if let session = sessions.first { return session.id }
      let now = DeviceClocks.now().monotonic
      if isClosing || isOver || openDeadline.map({ $0 <= now }) ?? false { throw .lost(place: place) }
      if nextDial <= now { return nil }
      monitor.wait(until: openDeadline.map { min(nextDial, $0) } ?? nextDial)
    }
  }

  // MARK: - Sending

  /// Cuts a message into frames and blocks until the other device has room for it and the session's queue has taken them.
  func send(_ message: [UInt8], _ tag: JobTag) throws(JobChannelFailure) {
    try monitor.locked { () throws(JobChannelFailure) in
      while !sendCredit.begin(message.count) {
        if let failure { throw failure }
        // Who has said all gives no more room either.
        let isDeaf = sessions.isEmpty ? isOver : sessions.allSatisfy(\.otherHasFinished)
        if isClosing || isDeaf { throw .lost(place: place) }
        monitor.wait()
      }
    }
    let number = monitor.locked {
      defer { nextNumber &+= 1 }
      return nextNumber
    }
    var range = 0..<min(message.count, JobLinkLimits.part)
    repeat {
      try put(JobRecord.frame(stamp, tag, number: number, part: range, of: message))
      range = range.upperBound..<min(message.count, range.upperBound + JobLinkLimits.part)
    } while !range.isEmpty
  }

  private func put(_ frame: MeshFrame) throws(JobChannelFailure) {
    let need = frame.contentByteCount + MeshFrame.headerByteCount + JobLinkLimits.wordRoom
    try sending.locked { () throws(JobChannelFailure) in
      while true {
        let (found, seen) = try monitor.locked { () throws(JobChannelFailure) in
          (try waitForSession(), writableCount)
        }
        guard let session = found else {
          dialIfDue()
          continue
        }
        if transport.room(in: session) >= need {
          transport.perform([.send(session, frame)])
          return monitor.locked { sentBytes += UInt64(frame.contentByteCount) }
        }
        monitor.locked {
          while writableCount == seen, failure == nil, sessions.first?.id == session { monitor.wait() }
        }
      }
    }
  }

  private func say(_ word: JobRecord.Word, unit: UInt32 = 0, text: String = "", on session: SessionID) {
    transport.perform([.send(session, JobRecord.frame(stamp, word, unit: unit, text: text))])
  }

  // MARK: - Receiving

  /// Blocks until the next message with this tag is there.
  func receive(_ tag: JobTag) throws(JobChannelFailure) -> [UInt8] {
    while true {
      let (message, room) = try monitor.locked { () throws(JobChannelFailure) in try next(tag) }
      grant(room)
      if let message { return message }
      dialIfDue()
    }
  }

  /// The next message with this tag; nil when it is not there yet.
  func poll(_ tag: JobTag) throws(JobChannelFailure) -> [UInt8]? {
    let (message, room) = try monitor.locked { () throws(JobChannelFailure) in
      if let failure { throw failure }
      return (takeWaiting(tag), newRoom(isWaitedFor: false))
    }
    grant(room)
    return message
  }

  /// Room that the other device is to be told of, and the session for it.
  private typealias Room = (mebibytes: UInt32, session: SessionID)

  private func newRoom(isWaitedFor: Bool) -> Room? {
    // Messages to itself have no sender that waits.
    guard device != own, let session = sessions.first?.id,
      let mebibytes = receiveCredit.grant(isWaitedFor: isWaitedFor)
    else { return nil }
    return (mebibytes, session)
  }

  private func grant(_ room: Room?) {
    if let room { say(.credit, unit: room.mebibytes, on: room.session) }
  }

  /// Wakes all who wait, for whatever it is: the link has changed.
  private func wakeEveryone() {
    monitor.wakeAll()
    for reader in readers { reader.bell.ring() }
  }

  /// The message, or nil when the other side is to be told of room or dialled before it is waited for.
  private func next(_ tag: JobTag) throws(JobChannelFailure) -> ([UInt8]?, Room?) {
    let bell = bells.popLast() ?? Monitor.Bell()
    readers.append(Reader(tag: tag, bell: bell))
    defer {
      readers.removeAll { $0.bell === bell }
      bells.append(bell)
    }
    while true {
      if let failure { throw failure }
      if let message = takeWaiting(tag) { return (message, newRoom(isWaitedFor: false)) }
      if let room = newRoom(isWaitedFor: true) { return (nil, room) }
      if device == own {
        monitor.wait(for: bell)
      } else if sessions.isEmpty {
        if try waitForSession() == nil { return (nil, nil) }
      } else if sessions.allSatisfy(\.otherHasFinished) {
        throw .lost(place: place)
      } else if receiveCredit.isExhausted {
        throw .aborted(
          "device \(place) of the plan sent more than \(JobLinkLimits.mostWaitingBytes >> 20) MiB that nobody here "
            + "reads; report this with both logs, and run the same command again")
      } else {
        monitor.wait(for: bell)
      }
    }
  }

  /// A whole message has come.
  private func keep(_ message: [UInt8], _ tag: JobTag) {
    waiting[tag, default: []].append(message)
    for reader in readers where reader.tag == tag { reader.bell.ring() }
  }

  private func takeWaiting(_ tag: JobTag) -> [UInt8]? {
    guard var messages = waiting[tag] else { return nil }
    let message = messages.removeFirst()
    waiting[tag] = messages.isEmpty ? nil : messages
    receiveCredit.consume(message.count)
    return message
  }

  /// Takes a frame of one of the link's sessions.
  func take(_ frame: BulkFrame, on session: SessionID) -> Outcome {
    guard let record = try? JobRecord(frame.body) else { return .dropped(.malformedJob) }
    guard record.stamp == stamp else { return .dropped(.foreignJob) }
    return monitor.locked {
      switch record.kind {
      case .message(let tag):
        receivedBytes += UInt64(frame.body.count)
        return take(record, tag, number: frame.request, on: session)
      case .word(let word, let unit): return take(word, unit: unit, record.data, on: session)
      }
    }
  }

  private func take(_ record: JobRecord, _ tag: JobTag, number: UInt32, on session: SessionID) -> Outcome {
    guard failure == nil else { return .taken }
    if record.offset == 0 {
      guard unfinished[number] == nil, unfinished.count < JobLinkLimits.unfinishedMessages else {
        return .dropped(.malformedJob)
      }
      guard receiveCredit.begin(record.length) else {
        return .failed(
          .aborted(
            "device \(place) of the plan sent more than it was told to; bring all devices to one version of Hearth and run "
              + "the same command again"))
      }
      // A reader that waits is to give more room: what it waits for may not have begun.
      if receiveCredit.isShort { for reader in readers { reader.bell.ring() } }
      var bytes: [UInt8] = []
      bytes.reserveCapacity(record.length)
      unfinished[number] = Unfinished(tag: tag, length: record.length, bytes: bytes)
    }
    guard let place = unfinished.index(forKey: number), unfinished.values[place].tag == tag,
      unfinished.values[place].length == record.length,
      unfinished.values[place].bytes.count == record.offset
    else { return .dropped(.malformedJob) }
    unfinished.values[place].bytes.append(contentsOf: record.data)
    if unfinished.values[place].bytes.count == record.length,
      let done = unfinished.removeValue(forKey: number)
    {
      keep(done.bytes, tag)
    }
    return .taken
  }

  private func take(
    _ word: JobRecord.Word, unit: UInt32, _ text: UnsafeRawBufferPointer, on session: SessionID
  ) -> Outcome {
    switch word {
    case .hello: return .taken
    case .credit:
      sendCredit.extend(to: unit)
      monitor.wakeAll()
      return .taken
    case .aborted: return .failed(.aborted(String(decoding: text, as: UTF8.self)))
    case .lost: return .failed(.lost(place: Int(unit)))
    case .finished:
      if let index = sessions.firstIndex(where: { $0.id == session }) {
        sessions[index].otherHasFinished = true
      }
      wakeEveryone()
      return .finished
    }
  }

  /// Hands over a message of this device to itself.
  func loopBack(_ message: [UInt8], _ tag: JobTag) throws(JobChannelFailure) {
    try monitor.locked { () throws(JobChannelFailure) in
      if let failure { throw failure }
      keep(message, tag)
    }
  }

  // MARK: - The end

  /// Fails all calls from now on, tells the other side why, and ends the sessions.
  func fail(_ failure: JobChannelFailure, tells: Bool) {
    let ended: [SessionID] = monitor.locked {
      guard self.failure == nil else { return [] }
      self.failure = failure
      waiting = [:]
      unfinished = [:]
      wakeEveryone()
      return sessions.map(\.id)
    }
    for session in ended {
      if tells {
        switch failure {
        case .aborted(let reason): say(.aborted, text: reason, on: session)
        case .lost(let place): say(.lost, unit: UInt32(place), on: session)
        }
      }
      transport.perform([.close(session, .finished)])
    }
  }

  /// Says that this side has sent all, and ends each session when the other side has said so too.
  func finish() {
    monitor.locked { isClosing = true }
    settle()
  }

  /// Says or does what an orderly end asks for now.
  ///
  /// Who dialled says first that nothing follows; the other side answers when it has sent all as well, and with that
  /// answer everything has arrived in both directions.
  func settle() {
    let (words, ends): ([SessionID], [SessionID]) = monitor.locked {
      guard failure == nil, isClosing else { return ([], []) }
      var words: [SessionID] = []
      for index in sessions.indices
      where !sessions[index].hasFinished && (sessions[index].isDialled || sessions[index].otherHasFinished) {
        sessions[index].hasFinished = true
        words.append(sessions[index].id)
      }
      return (words, sessions.filter { $0.isDialled && $0.otherHasFinished }.map(\.id))
    }
    for session in words { say(.finished, on: session) }
    for session in ends { transport.perform([.close(session, .finished)]) }
  }
}
