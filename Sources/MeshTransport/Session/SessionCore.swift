import MeshModel
import MeshProtocol
import NIOCore
import SecureChannel

/// One connection from its first byte to its last: handshake, frames, goodbye.
///
/// It decides; its link moves the bytes. It lives where its link lives.
final class SessionCore {
  private enum Phase {
    case handshaking(any HandshakeMachine)
    case open(SessionHandle, SessionKeys)
    /// The goodbye is said; what still comes is not looked at.
    case ended
  }

  private let hub: SessionHub
  private unowned let link: any SessionLink
  private let dial: DialRequest?
  private let purpose: SessionPurpose
  private let startedAt: NIODeadline
  private let reader = RecordReader()
  private var phase: Phase
  private var isPumping = false
  private var isClosingSoon = false

  /// Records that have been sent and received; a connection that tells silence from work reads them.
  private(set) var sentRecords: UInt64 = 0
  private(set) var receivedRecords: UInt64 = 0

  init(
    hub: SessionHub, link: any SessionLink, machine: any HandshakeMachine, purpose: SessionPurpose,
    dial: DialRequest?, startedAt: NIODeadline
  ) {
    self.hub = hub
    self.link = link
    self.dial = dial
    self.purpose = purpose
    self.startedAt = startedAt
    phase = .handshaking(machine)
  }

  var isEnded: Bool {
    if case .ended = phase { true } else { false }
  }

  var isOpen: Bool {
    if case .open = phase { true } else { false }
  }

  /// Says what this side says first.
  func start() {
    guard case .handshaking(let machine) = phase else { return }
    perform(machine.start())
  }

  /// Takes what arrived; it is decrypted where it lies.
  func receive(_ bytes: UnsafeMutableRawBufferPointer) {
    hub.count(receivedBytes: bytes.count)
    switch phase {
    case .handshaking(let machine): perform(machine.receive(UnsafeRawBufferPointer(bytes)))
    case .open: readRecords(bytes)
    case .ended: break
    }
  }

  /// The connection takes more, or the queue has something.
  func pump() {
    guard case .open(let handle, let keys) = phase, !isPumping else { return }
    isPumping = true
    defer { isPumping = false }
    var unflushed = 0
    while link.isWritable, case .open = phase {
      let (next, becameWritable) = handle.queue.next()
      if becameWritable { hub.becameWritable(handle) }
      switch next {
      case .frame(let frame):
        unflushed += write(frame, keys)
        // In parts, so that the other side decrypts while this one goes on sealing.
        if unflushed >= Self.flushByteCount {
          link.flush()
          unflushed = 0
        }
      case .goodbye(let reason):
        sayGoodbye(reason, handle, keys)
        unflushed = 0
      case .nothing:
        if unflushed > 0 { link.flush() }
        return
      }
    }
    if unflushed > 0 { link.flush() }
    if handle.queue.isClosing, !isClosingSoon, case .open = phase {
      isClosingSoon = true
      link.closeSoon()
    }
  }

  /// Changes the sending key, which tells the other side that this one lives.
  func sendKeepAlive() {
    guard case .open(_, let keys) = phase, link.isWritable else { return }
    let frame = keys.rekeyFrame()
    var buffer = link.makeBuffer(frame.count)
    buffer.writeBytes(frame)
    sentRecords += 1
    hub.count(sentBytes: frame.count)
    link.write(buffer)
    link.flush()
  }

  /// The connection is gone, or is to be.
  func end(_ reason: CloseReason, dialFailure: DialFailure = .handshakeClosed) {
    switch phase {
    case .handshaking: failHandshake(dialFailure, nil)
    case .open(let handle, _):
      phase = .ended
      hub.close(handle, handle.queue.goodbye ?? reason)
      link.close(reset: reason == .overLimit)
    case .ended: link.close(reset: false)
    }
  }

  /// The time for the handshake is over; nothing when it is done.
  func handshakeTimedOut() {
    guard case .handshaking = phase else { return }
    failHandshake(.handshakeTimedOut, .handshakeTimeout)
  }

  // MARK: Handshake

  private func perform(_ steps: [HandshakeStep]) {
    for step in steps {
      switch step {
      case .send(let bytes):
        var buffer = link.makeBuffer(bytes.count)
        buffer.writeBytes(bytes)
        hub.count(sentBytes: bytes.count)
        link.write(buffer)
        link.flush()
      case .established(let peer): open(peer)
      case .failed(let failure, let reason): failHandshake(failure, reason)
      }
    }
  }

  private func failHandshake(_ failure: DialFailure, _ reason: DropReason?) {
    guard case .handshaking = phase else { return }
    phase = .ended
    if let again = dial?.again, failure == .handshakeClosed {
      again()
    } else if let dial {
      hub.events.put(.dialFailed(dial.address, dial.purpose, failure))
    } else if let reason {
      hub.drop(reason)
    }
    // The other side learns nothing but that the connection is gone.
    link.close(reset: dial == nil)
  }

  private func open(_ peer: ProvedPeer) {
    let info = SessionInfo(
      peer: peer.device, boot: peer.boot, purpose: purpose, standing: peer.standing,
      wireVersion: peer.wireVersion, offeredVersions: peer.offeredVersions, isInitiator: dial != nil,
      remote: link.remote, listening: NetworkAddress(link.remote.host, port: peer.listeningPort),
      handshakeTime: .nanoseconds((NIODeadline.now() - startedAt).nanoseconds))
    link.wasAuthenticated()
    switch hub.open(info, peer, wake: link.wake, resume: link.resume) {
    case .refused(let reason): return refuse(peer, reason)
    case .entered(let handle):
      phase = .open(handle, peer.keys)
      if let dial { hub.dialSucceeded(dial) }
    }
    if !peer.leftover.isEmpty {
      var rest = peer.leftover
      rest.withUnsafeMutableBytes { readRecords($0) }
    }
    pump()
  }

  /// The other side has opened the session, so it is told; here it never was one.
  private func refuse(_ peer: ProvedPeer, _ reason: CloseReason) {
    phase = .ended
    write(MeshFrame(.goodbye, body: [reason.rawValue]), peer.keys)
    link.flush()
    link.closeGently()
    guard let dial else { return }
    let failure: DialFailure = reason == .revoked ? .revoked(peer.device) : .unreachable(code: Self.tooMany)
    hub.events.put(.dialFailed(dial.address, dial.purpose, failure))
  }

  // MARK: Frames

  /// Bytes after which sealed records are sent while more are sealed.
  private static let flushByteCount = 256 << 10
  /// ENOBUFS, as the number that a dial reports.
  private static let tooMany: Int32 = 105

  private func readRecords(_ bytes: UnsafeMutableRawBufferPointer) {
    var input = bytes
    while case .open(let handle, let keys) = phase {
      switch reader.next(&input, limit: RecordLimits.recordByteCount) {
      case .more: return
      case .overLimit:
        hub.drop(.brokenRecord)
        return end(.brokenRecord)
      case .message(let record):
        do {
          let count = try keys.open(record)
          receivedRecords += 1
          if count > 0 { deliver(UnsafeRawBufferPointer(rebasing: record[..<count]), handle) }
        } catch {
          hub.drop(.brokenRecord)
          return end(.brokenRecord)
        }
      }
    }
  }

  private func deliver(_ message: UnsafeRawBufferPointer, _ handle: SessionHandle) {
    if let bulk = BulkFrame(message: message), handle.info.permits(.bulk),
      let readsOn = handle.bulkReceiver?.take(bulk, on: handle.id)
    {
      if !readsOn { link.setReading(false) }
      return
    }
    guard let frame = MeshFrame(message: message) else { return hub.drop(.malformedFrame) }
    guard handle.info.permits(frame.kind) else { return hub.drop(.notPermitted) }
    if frame.kind == .goodbye {
      phase = .ended
      let reason = frame.body.first.flatMap(CloseReason.init(rawValue:)) ?? .disconnected
      hub.close(handle, reason)
      return link.close(reset: false)
    }
    if !hub.deliver(frame, of: handle) { link.setReading(false) }
  }

  @discardableResult
  private func write(_ frame: MeshFrame, _ keys: SessionKeys) -> Int {
    let count = frame.streamByteCount
    var buffer = link.makeBuffer(count)
    frame.seal(with: keys, into: &buffer)
    sentRecords += 1
    hub.count(sentBytes: count)
    link.write(buffer)
    return count
  }

  private func sayGoodbye(_ reason: CloseReason, _ handle: SessionHandle, _ keys: SessionKeys) {
    phase = .ended
    write(MeshFrame(.goodbye, body: [reason.rawValue]), keys)
    link.flush()
    hub.close(handle, reason)
    link.closeGently()
  }
}
