import CryptoPrimitives
import Glibc
import HouseholdTrust
import MeshModel
import MeshProtocol
import NIOCore
import NIOPosix
import SecureChannel
import Synchronization

/// Why an accepted connection is closed before it has a handler.
private struct NotAdmitted: Error {}

/// Dials, accepts and carries datagrams over the kernel's sockets.
final class SocketCarrier: Carrier {
  private struct State {
    var trust: TrustSnapshot
    var listeners: Listeners?
    var connections: [ObjectIdentifier: any Channel] = [:]
    var dials = 0
    var desk: PairingDesk?
    var isClosed = false
  }

  private let hub: SessionHub
  private let door: Door
  private let configuration: TransportConfiguration
  private let controlLoop: MultiThreadedEventLoopGroup
  private let bulkLoop: MultiThreadedEventLoopGroup
  private let state: Mutex<State>

  init(
    hub: SessionHub, door: Door, configuration: TransportConfiguration, trust: TrustSnapshot,
    controlLoop: MultiThreadedEventLoopGroup, bulkLoop: MultiThreadedEventLoopGroup
  ) {
    self.hub = hub
    self.door = door
    self.configuration = configuration
    self.controlLoop = controlLoop
    self.bulkLoop = bulkLoop
    state = Mutex(State(trust: trust))
  }

  func start(_ listeners: Listeners) { state.withLock { $0.listeners = listeners } }

  func update(trust: TrustSnapshot) { state.withLock { $0.trust = trust } }

  // MARK: Dialling

  func dial(_ request: DialRequest) {
    connect(
      hub.withSecondTry(
        request, ring: { [self] in state.withLock { $0.trust.ring } }, dial: { [self] in connect($0) }))
  }

  private func connect(_ request: DialRequest) {
    let isAllowed = state.withLock { state in
      guard !state.isClosed, state.dials < NetworkTransport.dialsInFlight else { return false }
      state.dials += 1
      return true
    }
    guard isAllowed else { return fail(request, .unreachable(code: ENOBUFS)) }
    ClientBootstrap(group: loop(for: request.purpose))
      .connectTimeout(configuration.timing.connect.timeAmount)
      .channelOption(.autoRead, value: false)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 4096))
      .connect(to: SocketAddress(request.address))
      .whenComplete { [self] result in
        state.withLock { $0.dials -= 1 }
        switch result {
        case .success(let channel): carry(channel, request)
        case .failure(let error): fail(request, Self.dialFailure(error))
        }
      }
  }

  /// In the channel's event loop, with the connection standing.
  private func carry(_ channel: any Channel, _ request: DialRequest) {
    guard track(channel) else {
      channel.close(promise: nil)
      return fail(request, .unreachable(code: ECANCELED))
    }
    SocketSettings.apply(to: channel, for: request.purpose, timing: configuration.timing)
    let handler = SessionHandler(
      channel: channel, remote: request.address, timing: configuration.timing, startedAt: .now(), early: nil,
      authenticated: {}
    ) { [self] link in
      SessionCore(
        hub: hub, link: link,
        machine: SessionMachine(own, dial: request, remote: request.address, hub: hub),
        purpose: request.purpose, dial: request, startedAt: .now())
    }
    do {
      try channel.pipeline.syncOperations.addHandler(handler)
    } catch {
      channel.close(promise: nil)
      fail(request, .handshakeClosed)
    }
  }

  private func fail(_ request: DialRequest, _ failure: DialFailure) {
    hub.events.put(.dialFailed(request.address, request.purpose, failure))
  }

  private static func dialFailure(_ error: any Error) -> DialFailure {
    if case .connectTimeout = error as? ChannelError { return .timedOut }
    guard let code = (error as? IOError)?.errnoCode else { return .unreachable(code: ECANCELED) }
    switch code {
    case ECONNREFUSED, ECONNRESET: return .refused
    case ETIMEDOUT: return .timedOut
    default: return .unreachable(code: code)
    }
  }

  // MARK: Accepting

  /// In the event loop of an accepted connection, before its first byte.
  func accept(_ channel: any Channel) throws {
    guard let ticket = door.admit(channel), track(channel) else {
      SocketSettings.resetOnClose(channel)
      throw NotAdmitted()
    }
    let handler = DoorHandler(door: door, ticket: ticket, timing: configuration.timing) {
      [self] channel, purpose, early, startedAt in
      enter(channel, purpose, early, startedAt, ticket)
    }
    try channel.pipeline.syncOperations.addHandler(handler)
  }

  /// The preamble is read, and the connection goes to the event loop of its purpose.
  private func enter(
    _ channel: any Channel, _ purpose: SessionPurpose, _ early: ByteBuffer, _ startedAt: NIODeadline,
    _ ticket: AdmissionControl.Ticket
  ) {
    switch purpose {
    case .control: return serve(channel, purpose, early, startedAt, ticket)
    case .pairing: return pair(channel, early, ticket)
    case .bulk: break
    }
    guard let descriptor = SocketSettings.duplicateDescriptor(of: channel) else {
      return channel.close(promise: nil)
    }
    ClientBootstrap(group: bulkLoop)
      .channelOption(.autoRead, value: false)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 4096))
      .channelInitializer { [self] moved in
        moved.eventLoop.makeCompletedFuture {
          guard door.move(ticket, to: moved), track(moved) else { throw NotAdmitted() }
        }
      }
      .withConnectedSocket(descriptor)
      .whenComplete { [self] result in
        // Only now: the old channel's end would give the place back.
        channel.close(promise: nil)
        if case .success(let moved) = result { serve(moved, purpose, early, startedAt, ticket) }
      }
  }

  private func serve(
    _ channel: any Channel, _ purpose: SessionPurpose, _ early: ByteBuffer, _ startedAt: NIODeadline,
    _ ticket: AdmissionControl.Ticket
  ) {
    guard let remote = channel.remoteAddress?.networkAddress else { return channel.close(promise: nil) }
    SocketSettings.apply(to: channel, for: purpose, timing: configuration.timing)
    let handler = SessionHandler(
      channel: channel, remote: remote, timing: configuration.timing, startedAt: startedAt, early: early,
      authenticated: { [door] in door.release(ticket) }
    ) { [self] link in
      SessionCore(
        hub: hub, link: link,
        machine: SessionMachine(own, dial: nil, remote: remote, hub: hub),
        purpose: purpose, dial: nil, startedAt: startedAt)
    }
    do {
      try channel.pipeline.syncOperations.addHandler(handler)
    } catch {
      channel.close(promise: nil)
    }
  }

  private func pair(_ channel: any Channel, _ early: ByteBuffer, _ ticket: AdmissionControl.Ticket) {
    guard let remote = channel.remoteAddress?.networkAddress,
      let machine = state.withLock({ $0.desk })?.begin()
    else {
      hub.drop(.handshakeRefused)
      SocketSettings.resetOnClose(channel)
      return channel.close(promise: nil)
    }
    SocketSettings.apply(to: channel, for: .pairing, timing: configuration.timing)
    let handler = PairingHandler(machine: machine, channel: channel, remote: remote, early: early) { [door] in
      door.release(ticket)
    }
    do {
      try channel.pipeline.syncOperations.addHandler(handler)
    } catch {
      channel.close(promise: nil)
    }
  }

  /// From now on pairing connections come to this desk; nil turns them away.
  func receivePairing(at desk: PairingDesk?) { state.withLock { $0.desk = desk } }

  // MARK: Both

  /// What this side shows in a handshake now.
  private var own: OwnSide {
    let (trust, port) = state.withLock { ($0.trust, $0.listeners?.port ?? 0) }
    return OwnSide(
      trust: trust, boot: configuration.boot, versions: configuration.versions, listeningPort: port)
  }

  private func loop(for purpose: SessionPurpose) -> MultiThreadedEventLoopGroup {
    purpose == .bulk ? bulkLoop : controlLoop
  }

  /// Remembers a connection until it closes; false when the transport has.
  private func track(_ channel: any Channel) -> Bool {
    let name = ObjectIdentifier(channel)
    let isTaken = state.withLock { state in
      guard !state.isClosed else { return false }
      state.connections[name] = channel
      return true
    }
    if isTaken {
      channel.closeFuture.whenComplete { [self] _ in state.withLock { $0.connections[name] = nil } }
    }
    return isTaken
  }

  /// Waits for the connections that say goodbye; each has a time limit of its own.
  func closeAll() async {
    let connections = state.withLock { state in
      state.isClosed = true
      return Array(state.connections.values)
    }
    for channel in connections {
      // Whoever has not proved himself gets no goodbye.
      channel.eventLoop.execute {
        let handler = try? channel.pipeline.syncOperations.handler(type: SessionHandler.self)
        if handler?.isSayingGoodbye != true { channel.close(promise: nil) }
      }
    }
    for channel in connections { try? await channel.closeFuture.get() }
  }

  func send(datagram: [UInt8], to address: NetworkAddress) {
    guard let channel = state.withLock({ $0.listeners?.datagramChannel(for: address) }) else { return }
    var buffer = channel.allocator.buffer(capacity: datagram.count)
    buffer.writeBytes(datagram)
    channel.writeAndFlush(
      AddressedEnvelope(remoteAddress: SocketAddress(address), data: buffer), promise: nil)
  }
}
