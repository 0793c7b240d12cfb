import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Synchronization

/// What dials and carries datagrams for a hub: sockets, or memory.
protocol Carrier: AnyObject, Sendable {
  /// Connects; ends in an opened session or a failed dial.
  func dial(_ request: DialRequest)
  /// Sends one datagram; it may be lost.
  func send(datagram: [UInt8], to address: NetworkAddress)
}

/// The sessions of one endpoint, whatever carries them: their names, limits, events and counters.
final class SessionHub: Sendable {
  /// ECANCELED, as the number that a dial reports after the end.
  private static let shutDown: Int32 = 125

  let limits: TransportLimits
  let events: EventQueue

  private struct Table {
    var sessions: [SessionID: SessionHandle] = [:]
    /// Open sessions, and closed ones whose `closed` has not been read.
    var places = 0
    var placesOfDevice: [DeviceID: Int] = [:]
    /// Sessions with datagram keys, by the index that this side gave.
    var byIndex: [UInt32: SessionHandle] = [:]
    /// Indices that handshakes under way have been given.
    var reservedIndices: Set<UInt32> = []
    var nextSession: UInt64 = 1
    var nextIndex: UInt32
    var isClosed = false
    /// The household's latest word; a handshake may have begun under an older one.
    var isRevoked: @Sendable (DeviceID) -> Bool = { _ in false }
    /// Who waits for the last session to close.
    var emptied: [CheckedContinuation<Void, Never>] = []
  }

  private let table: Mutex<Table>
  private let bulkReceiver = Mutex<(any BulkReceiver)?>(nil)
  private let olderKeys = Mutex(OlderKeys())
  private let counts = Mutex(TransportCounters())
  private let sentBytes = Atomic<UInt64>(0)
  private let receivedBytes = Atomic<UInt64>(0)

  /// A hub; `firstIndex` is where its datagram indices start, drawn at random so that a restart shares none.
  init(limits: TransportLimits, firstIndex: UInt32) {
    self.limits = limits
    events = EventQueue(limits: limits)
    table = Mutex(Table(nextIndex: firstIndex & DatagramLimits.largestIndex))
  }

  // MARK: Commands

  /// Does what the owner asks, in order.
  func perform(_ commands: [TransportCommand], over carrier: any Carrier) {
    for command in commands {
      switch command {
      case .dial(let address, let purpose, let expecting):
        let request = DialRequest(address: address, purpose: purpose, expecting: expecting)
        if table.withLock({ $0.isClosed }) {
          events.put(.dialFailed(address, purpose, .unreachable(code: Self.shutDown)))
        } else {
          carrier.dial(request)
        }
      case .send(let session, let frame): send(frame, on: session)
      case .sendDatagram(let device, let body): send(datagram: body, to: device, over: carrier)
      case .close(let session, let reason): handle(of: session)?.close(reason)
      }
    }
  }

  /// Bytes that a session takes before it is full.
  func room(in session: SessionID) -> Int { handle(of: session)?.queue.room ?? 0 }

  private func send(_ frame: MeshFrame, on session: SessionID) {
    precondition(frame.body.count <= MeshFrame.bodyByteCount, "a frame of \(frame.body.count) bytes")
    guard let handle = handle(of: session) else { return }
    guard handle.info.permits(frame.kind), frame.kind != .goodbye else { return drop(.notPermitted) }
    switch handle.queue.offer(frame) {
    case .taken(let wakes): if wakes { handle.wake() }
    case .full: drop(.queueFull)
    case .closed: break
    }
  }

  private func send(datagram body: [UInt8], to device: DeviceID, over carrier: any Carrier) {
    precondition(body.count <= DatagramLimits.bodyByteCount, "a datagram of \(body.count) bytes")
    let newest = table.withLock { table in
      // The newest, so that a renewed session takes over; the smallest in number would be the same on no two sides.
      table.byIndex.values.filter { $0.info.peer == device }.max { $0.id < $1.id }
    }
    guard let keys = newest?.datagrams else { return drop(.unknownDatagram) }
    let (datagram, address) = keys.seal(body)
    counts.withLock { $0.sentDatagrams += 1 }
    carrier.send(datagram: datagram, to: address)
  }

  /// The request with a second try under an older key, should the other side close on the current one.
  func withSecondTry(
    _ request: DialRequest, ring: @escaping @Sendable () -> NetworkKeyRing,
    dial: @escaping @Sendable (DialRequest) -> Void
  ) -> DialRequest {
    guard ring().keys.count > 1 else { return request }
    var first = request
    first.again = { [self] in
      var second = request
      second.offering = olderKeys.withLock { $0.next(for: request.address, of: ring()) }
      dial(second)
    }
    return first
  }

  /// The address has given a session under the key that was offered.
  func dialSucceeded(_ request: DialRequest) { olderKeys.withLock { $0.forget(request.address) } }

  // MARK: Sessions

  /// What became of a session that has proved itself.
  enum Entry {
    case entered(SessionHandle)
    /// There are too many, or the device has been revoked meanwhile.
    case refused(CloseReason)
  }

  /// Enters a session that has proved itself and reports it.
  func open(
    _ info: SessionInfo, _ peer: ProvedPeer, wake: @escaping @Sendable () -> Void,
    resume: @escaping @Sendable () -> Void
  ) -> Entry {
    let marks = info.purpose == .bulk ? limits.bulkQueue : limits.controlQueue
    let entry: Entry = table.withLock { table in
      if table.isRevoked(info.peer) { return .refused(.revoked) }
      let ofDevice = table.placesOfDevice[info.peer, default: 0]
      guard !table.isClosed, table.places < limits.sessions, ofDevice < limits.sessionsPerDevice else {
        return .refused(.overLimit)
      }
      table.places += 1
      table.placesOfDevice[info.peer] = ofDevice + 1
      let handle = SessionHandle(
        id: SessionID(table.nextSession), info: info, marks: marks, datagrams: peer.datagrams,
        bulkReceiver: bulkReceiver(for: info), wake: wake, resume: resume)
      table.nextSession += 1
      table.sessions[handle.id] = handle
      if let datagrams = peer.datagrams { table.byIndex[datagrams.index] = handle }
      // Under the lock, so that no frame and no `closed` comes before it. The receiver first: the owner may give it the
      // session as soon as it reads the event.
      handle.bulkReceiver?.opened(handle.id, info)
      events.put(.opened(handle.id, info))
      return .entered(handle)
    }
    switch entry {
    case .entered:
      counts.withLock { $0.opened += 1 }
    case .refused(.revoked): drop(.handshakeRefused)
    case .refused: drop(.queueFull)
    }
    return entry
  }

  /// Takes a session out and reports it; its place is free when the owner has read that.
  func close(_ handle: SessionHandle, _ reason: CloseReason) {
    let waiting: [CheckedContinuation<Void, Never>]? = table.withLock { table in
      guard table.sessions.removeValue(forKey: handle.id) != nil else { return nil }
      if let index = handle.datagrams?.index { table.byIndex[index] = nil }
      guard table.sessions.isEmpty else { return [] }
      defer { table.emptied = [] }
      return table.emptied
    }
    guard let waiting else { return }
    handle.bulkReceiver?.closed(handle.id, reason)
    let device = handle.info.peer
    events.put(.closed(handle.id, reason)) { [self] in
      table.withLock { table in
        table.places -= 1
        let left = table.placesOfDevice[device, default: 1] - 1
        table.placesOfDevice[device] = left > 0 ? left : nil
      }
    }
    for waiter in waiting { waiter.resume() }
  }

  /// Closes the sessions of devices for which `isRevoked` holds, without sending them what waits.
  func closeRevoked(_ isRevoked: @escaping @Sendable (DeviceID) -> Bool) {
    let handles = table.withLock { table in
      table.isRevoked = isRevoked
      return table.sessions.values.sorted { $0.id < $1.id }
    }
    for handle in handles where isRevoked(handle.info.peer) {
      handle.queue.discard()
      handle.close(.revoked)
    }
  }

  /// Says goodbye on all sessions and takes no more; returns when the last has closed.
  func closeAll(_ reason: CloseReason) async {
    let handles = table.withLock { table in
      table.isClosed = true
      return table.sessions.values.sorted { $0.id < $1.id }
    }
    for handle in handles { handle.close(reason) }
    await withCheckedContinuation { continuation in
      let isEmpty = table.withLock { table in
        if !table.sessions.isEmpty { table.emptied.append(continuation) }
        return table.sessions.isEmpty
      }
      if isEmpty { continuation.resume() }
    }
  }

  // MARK: Bulk

  /// From now on the bulk frames of new sessions go to this receiver.
  func receiveBulk(at receiver: any BulkReceiver) { bulkReceiver.withLock { $0 = receiver } }

  /// Reads a session on.
  func resume(_ session: SessionID) { handle(of: session)?.backlog.resume() }

  private func bulkReceiver(for info: SessionInfo) -> (any BulkReceiver)? {
    info.purpose == .bulk && info.standing == .full ? bulkReceiver.withLock { $0 } : nil
  }

  /// Hands a frame to whom it is for; false when the session is not to be read on.
  func deliver(_ frame: MeshFrame, of handle: SessionHandle) -> Bool {
    if frame.kind == .bulk, let receiver = handle.bulkReceiver {
      return receiver.received(frame, on: handle.id)
    }
    return events.put(frame: frame, of: handle.id, backlog: handle.backlog)
  }

  /// The send queue of a session has fallen below its low mark.
  func becameWritable(_ handle: SessionHandle) {
    if let receiver = handle.bulkReceiver {
      receiver.writable(handle.id)
    } else {
      events.putWritable(handle.id, backlog: handle.backlog)
    }
  }

  private func handle(of session: SessionID) -> SessionHandle? {
    table.withLock { $0.sessions[session] }
  }

  // MARK: Datagrams

  /// An index for a handshake, used by no other; give it back with `release` when none came of it.
  func reserveIndex() -> UInt32 {
    table.withLock { table in
      // Fewer indices are in use than there are, by the limits on sessions and handshakes.
      while table.byIndex[table.nextIndex] != nil || table.reservedIndices.contains(table.nextIndex) {
        table.nextIndex = (table.nextIndex + 1) & DatagramLimits.largestIndex
      }
      defer { table.nextIndex = (table.nextIndex + 1) & DatagramLimits.largestIndex }
      table.reservedIndices.insert(table.nextIndex)
      return table.nextIndex
    }
  }

  /// Gives back an index whose handshake is over.
  func release(index: UInt32) {
    table.withLock { _ = $0.reservedIndices.remove(index) }
  }

  /// Takes a datagram from the network.
  func receive(datagram: [UInt8], from source: NetworkAddress) {
    guard let index = DatagramHeader(of: datagram)?.receiverIndex,
      let handle = table.withLock({ $0.byIndex[index] }),
      let keys = handle.datagrams
    else { return drop(.unknownDatagram) }
    switch keys.open(datagram, from: source) {
    case .success(let body):
      counts.withLock { $0.receivedDatagrams += 1 }
      if !events.put(datagram: .datagram(from: handle.info.peer, body: body)) { drop(.queueFull) }
    case .failure(let failure):
      if case .replayed = failure { drop(.replayedDatagram) } else { drop(.brokenDatagram) }
    }
  }

  // MARK: Counters

  /// Counts a drop and reports it.
  func drop(_ reason: DropReason) {
    counts.withLock { $0.drops[reason, default: 0] += 1 }
    events.put(drop: reason)
  }

  func countAccepted() { counts.withLock { $0.accepted += 1 } }

  func count(sentBytes count: Int) { sentBytes.wrappingAdd(UInt64(count), ordering: .relaxed) }

  func count(receivedBytes count: Int) { receivedBytes.wrappingAdd(UInt64(count), ordering: .relaxed) }

  var counters: TransportCounters {
    var counters = counts.withLock { $0 }
    counters.sentBytes = sentBytes.load(ordering: .relaxed)
    counters.receivedBytes = receivedBytes.load(ordering: .relaxed)
    return counters
  }
}
