import Glibc
import NIOCore
import NIOPosix
import Synchronization

/// The daemon's end of the local socket: requests of this user's commands, each a line, and lines for answers.
///
/// A connection carries one request; the daemon closes it after the last line of the answer. The socket has mode
/// 0600 from its first moment, and the kernel tells the user at the other end: only the same user and root are
/// served.
package final class LocalControlServer: Sendable {
  /// The bounds of the server.
  package struct Limits: Sendable, Equatable {
    /// Clients at once, watchers included.
    package var clients = 32
    /// Longest request line.
    package var requestByteCount = 64 << 10
    /// Longest answer line.
    package var answerByteCount = LocalControlClient.answerByteCount
    /// From the connection to the whole request line.
    package var requestTime: Duration = .seconds(5)
    /// For a client to take an answer line.
    package var answerTime: Duration = .seconds(10)

    /// The limits of a daemon.
    package init() {}
  }

  /// Requests, each from a client that waits for the answer; for one reader.
  package let requests: AsyncStream<LocalControlRequest>
  /// Where the server listens.
  package let path: String

  private let group: MultiThreadedEventLoopGroup
  private let channel: any Channel
  private let clients: LocalClients

  private init(
    path: String, group: MultiThreadedEventLoopGroup, channel: any Channel, clients: LocalClients,
    requests: AsyncStream<LocalControlRequest>
  ) {
    self.path = path
    self.group = group
    self.channel = channel
    self.clients = clients
    self.requests = requests
  }

  /// Listens at `path`, whose directory exists; takes the place of a socket that a dead daemon left.
  package static func listen(
    at path: String, limits: Limits = Limits()
  ) async throws(LocalControlFailure) -> LocalControlServer {
    let descriptor = try boundSocket(at: path)
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let (requests, continuation) = AsyncStream<LocalControlRequest>.makeStream(
      bufferingPolicy: .bufferingOldest(limits.clients))
    let clients = LocalClients(limits: limits, path: path, requests: continuation)
    do {
      let channel = try await ServerBootstrap(group: group)
        .childChannelOption(.writeBufferWaterMark, value: .init(low: 64 << 10, high: 256 << 10))
        .childChannelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(LocalClientHandler(clients: clients))
          }
        }
        .withBoundSocket(descriptor)
        .get()
      return LocalControlServer(
        path: path, group: group, channel: channel, clients: clients, requests: requests)
    } catch {
      unlink(path)
      try? await group.shutdownGracefully()
      throw .system(call: "listen", code: (error as? IOError)?.errnoCode ?? EIO, path: path)
    }
  }

  /// Closes the socket and all clients, removes the path and ends `requests`.
  package func shutdown() async {
    unlink(path)
    try? await channel.close()
    for client in clients.all() { try? await client.close() }
    clients.finish()
    try? await group.shutdownGracefully()
  }

  /// A listening socket of mode 0600 at `path`.
  private static func boundSocket(at path: String) throws(LocalControlFailure) -> CInt {
    var status = stat()
    if lstat(path, &status) == 0 {
      guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path: path) }
      let probe = try LocalSocket.make(path: path)
      defer { close(probe) }
      let answer = try LocalSocket.withAddress(path) { connect(probe, $0, $1) }
      guard answer != 0 else { throw .alreadyServed(path: path) }
      guard errno == ECONNREFUSED || errno == ENOENT else {
        throw .system(call: "connect", code: errno, path: path)
      }
      guard unlink(path) == 0 || errno == ENOENT else {
        throw .system(call: "unlink", code: errno, path: path)
      }
    }
    let descriptor = try LocalSocket.make(path: path)
    do throws(LocalControlFailure) {
      // Before bind: on Linux the file takes the socket's mode, so that it is never open to others.
      guard fchmod(descriptor, 0o600) == 0 else { throw .system(call: "fchmod", code: errno, path: path) }
      guard try LocalSocket.withAddress(path, { bind(descriptor, $0, $1) }) == 0 else {
        throw errno == EADDRINUSE
          ? .alreadyServed(path: path) : .system(call: "bind", code: errno, path: path)
      }
      guard lstat(path, &status) == 0, status.st_mode & 0o777 == 0o600 else {
        unlink(path)
        throw .system(call: "fchmod", code: EPERM, path: path)
      }
      guard Glibc.listen(descriptor, 64) == 0 else { throw .system(call: "listen", code: errno, path: path) }
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }
}

/// The clients that are connected.
final class LocalClients: Sendable {
  let limits: LocalControlServer.Limits
  let path: String
  private let requests: AsyncStream<LocalControlRequest>.Continuation
  private let channels = Mutex<[ObjectIdentifier: any Channel]>([:])

  init(
    limits: LocalControlServer.Limits, path: String,
    requests: AsyncStream<LocalControlRequest>.Continuation
  ) {
    self.limits = limits
    self.path = path
    self.requests = requests
  }

  /// Takes a client; false when there are too many.
  func add(_ channel: any Channel) -> Bool {
    channels.withLock { channels in
      guard channels.count < limits.clients else { return false }
      channels[ObjectIdentifier(channel)] = channel
      return true
    }
  }

  func remove(_ channel: any Channel) {
    channels.withLock { $0[ObjectIdentifier(channel)] = nil }
  }

  func all() -> [any Channel] { channels.withLock { Array($0.values) } }

  func finish() { requests.finish() }

  /// Hands a request on; its buffer has a place for every client.
  func deliver(_ request: LocalControlRequest) { requests.yield(request) }
}

/// One request of a command, and the way back.
///
/// When nobody keeps it any more the connection closes.
package final class LocalControlRequest: Sendable {
  /// The request line, without its end.
  package let line: [UInt8]
  /// The process that asks.
  package let process: Int32
  /// The user that it runs as: this one or root.
  package let user: UInt32

  private let channel: any Channel
  private let clients: LocalClients

  init(line: [UInt8], credentials: LocalSocket.PeerCredentials, channel: any Channel, clients: LocalClients) {
    self.line = line
    process = credentials.process
    user = credentials.user
    self.channel = channel
    self.clients = clients
  }

  // After a shutdown there is no loop any more that could close anything.
  deinit { if channel.isActive { channel.close(promise: nil) } }

  /// Sends one line of the answer and waits until the client has room for more.
  package func answer(_ line: [UInt8]) async throws(LocalControlFailure) {
    guard !line.contains(UInt8(ascii: "\n")) else { throw .notALine }
    guard line.count <= clients.limits.answerByteCount else {
      throw .lineTooLong(limit: clients.limits.answerByteCount)
    }
    var buffer = channel.allocator.buffer(capacity: line.count + 1)
    buffer.writeBytes(line)
    buffer.writeInteger(UInt8(ascii: "\n"))
    // A client that takes nothing is closed, and the write fails with it.
    let channel = self.channel
    let deadline = channel.eventLoop.scheduleTask(in: clients.limits.answerTime.timeAmount) {
      channel.close(promise: nil)
    }
    defer { deadline.cancel() }
    do {
      try await channel.writeAndFlush(buffer)
    } catch {
      throw .disconnected(path: clients.path)
    }
  }

  /// Ends the answer.
  package func finish() async {
    if channel.isActive { try? await channel.close() }
  }

  /// Returns when the client has gone, or the answer has ended.
  package func closed() async {
    if channel.isActive { try? await channel.closeFuture.get() }
  }
}

/// Reads the request line of one client.
private final class LocalClientHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let clients: LocalClients
  private var credentials: LocalSocket.PeerCredentials?
  private var line: [UInt8] = []
  private var isAnswering = false
  private var deadline: Scheduled<Void>?

  init(clients: LocalClients) {
    self.clients = clients
  }

  func channelActive(context: ChannelHandlerContext) {
    let channel = context.channel
    let peer = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
      of: NIOBSDSocket.Handle.self
    ) {
      LocalSocket.credentials(of: $0)
    }
    guard let peer = peer ?? nil, LocalSocket.isTrusted(user: peer.user), clients.add(channel) else {
      return context.close(promise: nil)
    }
    credentials = peer
    deadline = context.eventLoop.assumeIsolated().scheduleTask(in: clients.limits.requestTime.timeAmount) {
      context.close(promise: nil)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    deadline?.cancel()
    clients.remove(context.channel)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard let credentials, !isAnswering else { return }
    let buffer = unwrapInboundIn(data)
    let view = buffer.readableBytesView
    let end = view.firstIndex(of: UInt8(ascii: "\n"))
    line.append(contentsOf: view[..<(end ?? view.endIndex)])
    guard line.count <= clients.limits.requestByteCount else { return context.close(promise: nil) }
    guard end != nil else { return }
    deadline?.cancel()
    isAnswering = true
    clients.deliver(
      LocalControlRequest(line: line, credentials: credentials, channel: context.channel, clients: clients))
    line = []
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
