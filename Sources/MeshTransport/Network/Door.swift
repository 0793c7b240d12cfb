import Determinism
import Glibc
import MeshModel
import MeshProtocol
import NIOCore
import NIOPosix
import SecureChannel
import Synchronization
import WireCoding

/// Lets strangers in: judges their rate and number, reads what their connection is for, and hands it to where it
/// lives from then on.
final class Door: Sendable {
  private struct State {
    var admission: AdmissionControl
    var channels: [AdmissionControl.Ticket: any Channel] = [:]
  }

  private let hub: SessionHub
  private let timing: TransportTiming
  private let state: Mutex<State>

  init(hub: SessionHub, timing: TransportTiming) {
    self.hub = hub
    self.timing = timing
    state = Mutex(State(admission: AdmissionControl(limits: hub.limits, at: monotonicNow())))
  }

  /// Connections that have not proved themselves.
  var waitingCount: Int { state.withLock { $0.admission.openCount } }

  /// Admits an accepted connection, or says that it is to be closed.
  func admit(_ channel: any Channel) -> AdmissionControl.Ticket? {
    hub.countAccepted()
    guard let source = channel.remoteAddress?.networkAddress?.host else { return nil }
    let (verdict, evicted) = state.withLock { state in
      let verdict = state.admission.admit(source: source, at: monotonicNow())
      var evicted: (any Channel)?
      if case .admitted(let ticket, let evicting) = verdict {
        state.channels[ticket] = channel
        if let evicting { evicted = state.channels.removeValue(forKey: evicting) }
      }
      return (verdict, evicted)
    }
    if let evicted {
      hub.drop(.tooManyHandshakes)
      evicted.close(promise: nil)
    }
    switch verdict {
    case .admitted(let ticket, _):
      watch(channel, ticket)
      return ticket
    case .rateLimited:
      hub.drop(.rateLimited)
      return nil
    }
  }

  /// The connection goes on as another channel; false when its place has been taken meanwhile.
  func move(_ ticket: AdmissionControl.Ticket, to channel: any Channel) -> Bool {
    let isOpen = state.withLock { state in
      guard state.channels[ticket] != nil else { return false }
      state.channels[ticket] = channel
      return true
    }
    if isOpen { watch(channel, ticket) }
    return isOpen
  }

  /// Whether the connection still has its place.
  func holds(_ ticket: AdmissionControl.Ticket) -> Bool { state.withLock { $0.channels[ticket] != nil } }

  /// The connection needs no place any more.
  func release(_ ticket: AdmissionControl.Ticket) {
    state.withLock { state in
      state.admission.release(ticket)
      state.channels[ticket] = nil
    }
  }

  /// Counts why a connection was not let in.
  func drop(_ reason: DropReason) { hub.drop(reason) }

  private func watch(_ channel: any Channel, _ ticket: AdmissionControl.Ticket) {
    channel.closeFuture.whenComplete { [self] _ in
      let isCurrent = state.withLock { $0.channels[ticket].map { $0 === channel } ?? false }
      if isCurrent { release(ticket) }
    }
  }
}

/// Reads the preamble of an accepted connection, which says what the connection is for.
final class DoorHandler: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer

  private let door: Door
  private let ticket: AdmissionControl.Ticket
  private let timing: TransportTiming
  private let startedAt = NIODeadline.now()
  private let enter: (any Channel, SessionPurpose, ByteBuffer, NIODeadline) -> Void
  private var received: ByteBuffer?
  private var deadline: Scheduled<Void>?
  private var hasEntered = false
  private var hasTimedOut = false

  /// `enter` takes the channel on, with all that was read of it.
  init(
    door: Door, ticket: AdmissionControl.Ticket, timing: TransportTiming,
    enter: @escaping (any Channel, SessionPurpose, ByteBuffer, NIODeadline) -> Void
  ) {
    self.door = door
    self.ticket = ticket
    self.timing = timing
    self.enter = enter
  }

  func channelActive(context: ChannelHandlerContext) {
    let channel = context.channel
    deadline = context.eventLoop.assumeIsolated().scheduleTask(
      deadline: startedAt + timing.handshake.timeAmount
    ) {
      [weak self] in
      guard let self, !self.hasEntered else { return }
      self.hasTimedOut = true
      self.door.drop(.handshakeTimeout)
      SocketSettings.resetOnClose(channel)
      channel.close(promise: nil)
    }
    context.read()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !hasEntered else { return context.fireChannelRead(data) }
    var part = unwrapInboundIn(data)
    if received == nil {
      received = part
    } else {
      received?.writeBuffer(&part)
    }
    guard let received, let head = received.getBytes(at: received.readerIndex, length: Preamble.byteCount)
    else { return }
    hasEntered = true
    deadline?.cancel()
    guard let preamble = try? Preamble(decoding: head) else {
      door.drop(.malformedPreamble)
      SocketSettings.resetOnClose(context.channel)
      return context.close(promise: nil)
    }
    enter(context.channel, preamble.purpose, received, startedAt)
    context.pipeline.syncOperations.removeHandler(self, promise: nil)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if hasEntered { context.fireChannelReadComplete() } else { context.read() }
  }

  func channelInactive(context: ChannelHandlerContext) {
    deadline?.cancel()
    // Who was timed out or gave way to another is counted as that.
    if !hasEntered, !hasTimedOut, door.holds(ticket) { door.drop(.malformedPreamble) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}

/// The clock that stops while the machine sleeps.
func monotonicNow() -> MonotonicInstant {
  MonotonicInstant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds))
}
