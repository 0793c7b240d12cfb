import MeshModel
import MeshProtocol
import NIOCore

/// A TCP connection as the link under a session, and its timers.
final class SessionHandler: ChannelInboundHandler, SessionLink {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  let remote: NetworkAddress
  let wake: @Sendable () -> Void
  let resume: @Sendable () -> Void

  private let channel: any Channel
  private let timing: TransportTiming
  private let startedAt: NIODeadline
  private let authenticated: () -> Void
  private let makeCore: (SessionHandler) -> SessionCore
  private var core: SessionCore?
  private var early: ByteBuffer?
  private var pool = BufferPool()
  private var isReading = true
  private var isClosing = false

  /// Whether the goodbye is said and the other side's end awaited.
  var isSayingGoodbye: Bool { isClosing }

  private var timers: [Scheduled<Void>] = []

  /// The link of a channel; `early` are bytes that have been read of it already.
  init(
    channel: any Channel, remote: NetworkAddress, timing: TransportTiming, startedAt: NIODeadline,
    early: ByteBuffer?, authenticated: @escaping () -> Void,
    makeCore: @escaping (SessionHandler) -> SessionCore
  ) {
    self.channel = channel
    self.remote = remote
    self.timing = timing
    self.startedAt = startedAt
    self.early = early
    self.authenticated = authenticated
    self.makeCore = makeCore
    wake = Self.poke(channel) { $0.core?.pump() }
    resume = Self.poke(channel) { $0.setReading(true) }
  }

  // MARK: Channel

  func handlerAdded(context: ChannelHandlerContext) {
    if context.channel.isActive { begin(context: context) }
  }

  func channelActive(context: ChannelHandlerContext) {
    begin(context: context)
  }

  private func begin(context: ChannelHandlerContext) {
    guard core == nil else { return }
    let core = makeCore(self)
    self.core = core
    let deadline = startedAt + timing.handshake.timeAmount
    schedule(at: deadline) { $0.core?.handshakeTimedOut() }
    core.start()
    if let early {
      self.early = nil
      receive(early)
    }
    if isReading { context.read() }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    receive(unwrapInboundIn(data))
  }

  private func receive(_ buffer: ByteBuffer) {
    buffer.withUnsafeReadableBytes { bytes in
      // Safety: the channel reuses this memory only after this call, and nobody else looks at it, so that records
      // are decrypted where they lie; NIO's own mutable view would copy it, as the channel's pool holds it too.
      core?.receive(UnsafeMutableRawBufferPointer(mutating: bytes))
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if isReading { context.read() }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { core?.pump() }
  }

  func channelInactive(context: ChannelHandlerContext) {
    for timer in timers { timer.cancel() }
    core?.end(.disconnected)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // Bytes may be lost, so that nothing more can be read.
    core?.end(.disconnected)
    context.close(promise: nil)
  }

  // MARK: Link

  var isWritable: Bool { channel.isWritable }

  func makeBuffer(_ byteCount: Int) -> ByteBuffer { pool.take(byteCount, from: channel.allocator) }

  func write(_ buffer: ByteBuffer) {
    pool.keep(buffer)
    channel.write(buffer, promise: nil)
  }

  func flush() { channel.flush() }

  func setReading(_ isReading: Bool) {
    guard isReading != self.isReading else { return }
    self.isReading = isReading
    if isReading { channel.read() }
  }

  func close(reset: Bool) {
    if reset { SocketSettings.resetOnClose(channel) }
    channel.close(promise: nil)
  }

  func closeGently() {
    guard !isClosing else { return }
    isClosing = true
    // Read to the other side's end: a close with unread bytes would reset the connection, and the goodbye with it.
    channel.close(mode: .output, promise: nil)
    setReading(true)
    closeSoon()
  }

  func closeSoon() {
    schedule(at: .now() + timing.goodbye.timeAmount) { $0.core?.end(.disconnected) }
  }

  func wasAuthenticated() {
    for timer in timers { timer.cancel() }
    timers = []
    authenticated()
    SocketSettings.widen(channel)
    startKeepAlive()
  }

  // MARK: Timers

  private func schedule(at deadline: NIODeadline, _ body: @escaping (SessionHandler) -> Void) {
    let task = channel.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { [weak self] in
      if let self { body(self) }
    }
    timers.append(task)
  }

  /// Once in a keep-alive time: send something if nothing was sent, and count how often nothing came.
  private func startKeepAlive() {
    let ticksOfSilence = max(1, Int(timing.silence / timing.keepAlive))
    var sent: UInt64 = 0
    var received: UInt64 = 0
    var silentTicks = 0
    func tick(_ handler: SessionHandler) {
      guard let core = handler.core, core.isOpen else { return }
      if core.sentRecords == sent { core.sendKeepAlive() }
      sent = core.sentRecords
      // A session that this side does not read is not silent.
      silentTicks = core.receivedRecords == received && handler.isReading ? silentTicks + 1 : 0
      received = core.receivedRecords
      if silentTicks >= ticksOfSilence { return core.end(.silent) }
      handler.timers.removeAll()
      handler.schedule(at: .now() + handler.timing.keepAlive.timeAmount, tick)
    }
    schedule(at: .now() + timing.keepAlive.timeAmount, tick)
  }

  /// A closure for any thread that reaches the handler of a channel in its event loop.
  private static func poke(
    _ channel: any Channel, _ body: @escaping @Sendable (SessionHandler) -> Void
  ) -> @Sendable () -> Void {
    { [weak channel] in
      guard let channel else { return }
      channel.eventLoop.execute {
        if let handler = try? channel.pipeline.syncOperations.handler(type: SessionHandler.self) {
          body(handler)
        }
      }
    }
  }
}
