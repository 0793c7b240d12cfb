import Determinism
import Glibc
import MeshModel
import NIOCore
import NIOPosix

/// The bound sockets of a transport: TCP and UDP at one port on each address.
struct Listeners: Sendable {
  /// Tries to find a port that is free for all.
  private static let tries = 16

  let port: UInt16
  let servers: [any Channel]
  let datagrams: [any Channel]

  /// Binds all, or nothing.
  ///
  /// Addresses that the machine does not have are left out.
  static func bind(
    _ configuration: TransportConfiguration, on group: MultiThreadedEventLoopGroup,
    accept: @escaping @Sendable (any Channel) throws -> Void,
    receive: @escaping @Sendable ([UInt8], NetworkAddress) -> Void
  ) async throws(TransportFailure) -> Listeners {
    precondition(!configuration.hosts.isEmpty, "a transport that listens nowhere")
    for _ in 0..<tries {
      var port = configuration.port
      var servers: [any Channel] = []
      var datagrams: [any Channel] = []
      var failure: TransportFailure?
      for host in configuration.hosts {
        do {
          let server = try await bindServer(NetworkAddress(host, port: port), group, accept)
          servers.append(server)
          port = server.localAddress?.networkAddress?.port ?? port
          datagrams.append(try await bindDatagrams(NetworkAddress(host, port: port), group, receive))
        } catch {
          let code = (error as? IOError)?.errnoCode ?? EIO
          // No IPv6 here, or an address that has gone: the others do.
          if code == EADDRNOTAVAIL || code == EAFNOSUPPORT { continue }
          failure = .portUnavailable(NetworkAddress(host, port: port), code: code)
          break
        }
      }
      if failure == nil, !servers.isEmpty, servers.count == datagrams.count {
        return Listeners(port: port, servers: servers, datagrams: datagrams)
      }
      for channel in servers + datagrams { try? await channel.close() }
      if servers.isEmpty, failure == nil {
        throw .portUnavailable(
          NetworkAddress(configuration.hosts[0], port: configuration.port), code: EADDRNOTAVAIL)
      }
      if let failure, configuration.port != 0 { throw failure }
    }
    throw .noCommonPort(tries: tries)
  }

  private static func bindServer(
    _ address: NetworkAddress, _ group: MultiThreadedEventLoopGroup,
    _ accept: @escaping @Sendable (any Channel) throws -> Void
  ) async throws -> any Channel {
    var bootstrap = ServerBootstrap(group: group)
      // A flood fills a short queue, and the kernel then drops the requests of those who are welcome.
      .serverChannelOption(.backlog, value: 512)
      .serverChannelOption(.maxMessagesPerRead, value: 64)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.autoRead, value: false)
      // A stranger gets little memory.
      .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 4096))
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { try accept(channel) } }
    if case .v6 = address.host { bootstrap = bootstrap.serverChannelOption(onlyV6, value: 1) }
    return try await bootstrap.bind(to: SocketAddress(address)).get()
  }

  private static func bindDatagrams(
    _ address: NetworkAddress, _ group: MultiThreadedEventLoopGroup,
    _ receive: @escaping @Sendable ([UInt8], NetworkAddress) -> Void
  ) async throws -> any Channel {
    var bootstrap = DatagramBootstrap(group: group)
      .channelOption(
        .recvAllocator,
        value: FixedSizeRecvByteBufferAllocator(capacity: TransportLimits.datagramByteCount + 1)
      )
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(DatagramHandler(receive: receive))
        }
      }
    if case .v6 = address.host { bootstrap = bootstrap.channelOption(onlyV6, value: 1) }
    return try await bootstrap.bind(to: SocketAddress(address)).get()
  }

  /// IPv4 has a socket of its own.
  private static let onlyV6 = ChannelOptions.Types.SocketOption(
    level: .ipv6, name: .init(rawValue: CInt(IPV6_V6ONLY)))

  /// The datagram socket for an address; nil when its family is not bound.
  func datagramChannel(for address: NetworkAddress) -> (any Channel)? {
    let family: NIOBSDSocket.ProtocolFamily =
      switch address.host {
      case .v4: .inet
      case .v6: .inet6
      }
    return datagrams.first { $0.localAddress?.protocol == family }
  }
}

/// Hands datagrams on; no datagram ends the loop.
private final class DatagramHandler: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>

  private let receive: @Sendable ([UInt8], NetworkAddress) -> Void

  init(receive: @escaping @Sendable ([UInt8], NetworkAddress) -> Void) {
    self.receive = receive
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    guard let source = envelope.remoteAddress.networkAddress else { return }
    receive(Array(envelope.data.readableBytesView), source)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // An ICMP answer to an earlier datagram.
  }
}
