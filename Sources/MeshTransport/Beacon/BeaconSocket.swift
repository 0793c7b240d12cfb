import Glibc
package import MeshModel
import NIOCore
import NIOPosix
import Synchronization

/// An interface on which beacons are sent and awaited.
package struct BeaconInterface: Hashable, Sendable {
  /// The interface's name, for messages.
  package let name: String
  /// The interface's index, the scope of its link-local addresses.
  package let index: UInt32
  /// The directed broadcast address of its IPv4 network; nil when it has none.
  package let broadcast: UInt32?
  /// Whether it has a link-local IPv6 address.
  package let hasIPv6: Bool

  /// An interface.
  package init(name: String, index: UInt32, broadcast: UInt32?, hasIPv6: Bool) {
    self.name = name
    self.index = index
    self.broadcast = broadcast
    self.hasIPv6 = hasIPv6
  }
}

/// Bytes that came to the beacon port, and from where.
package struct ReceivedBeacon: Hashable, Sendable {
  /// What was sent; nothing about it is proved.
  package let bytes: [UInt8]
  /// The sender's address, with the interface when it is link-local.
  package let source: NetworkAddress
}

/// Why beacons cannot be sent or received.
package enum BeaconFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The beacon port cannot be had.
  case unavailable(port: UInt16, call: String, code: Int32)
  /// An interface takes no part.
  case interface(name: String, call: String, code: Int32)

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .unavailable(let port, let call, let code):
      "beacons need UDP port \(port), but \(call) failed: \(Self.text(code)); free the port, or rely on Avahi"
    case .interface(let name, let call, let code):
      "no beacons on \(name): \(call) failed: \(Self.text(code)); check that the interface is up"
    }
  }

  private static func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}

/// Sends and receives beacons: IPv4 broadcast, IPv6 link-local multicast, and unicast answers.
///
/// It carries bytes; what they mean is for others.
///
/// Several processes of one machine share the port: all get broadcasts and multicasts, one of them a unicast.
package final class BeaconSocket: Sendable {
  /// Longest beacon; longer datagrams are dropped.
  package static let byteCount = 512
  /// Received beacons that wait for the owner; the oldest give way.
  package static let waitingBeacons = 256
  /// Interfaces at once.
  package static let interfaceLimit = 64
  /// `ff12::4845:4152:5448`: a transient link-local group that spells "HEARTH"; the one of discovery's plan.
  package static let multicastGroup = NetworkAddress.Host.v6(
    high: 0xFF12_0000_0000_0000, low: 0x4845_4152_5448, scope: 0)

  /// Beacons as they come, this device's own among them; for one reader.
  package let received: AsyncStream<ReceivedBeacon>
  /// The UDP port.
  package let port: UInt16

  private struct State {
    var interfaces: [BeaconInterface] = []
    var joined: Set<UInt32> = []
    /// The descriptor may be somebody else's now.
    var isShutDown = false
  }

  private let group: MultiThreadedEventLoopGroup
  private let v4: any Channel
  private let v6: (any Channel)?
  private let v6Descriptor: CInt
  private let continuation: AsyncStream<ReceivedBeacon>.Continuation
  private let state = Mutex(State())

  /// Takes the port on IPv4 and, where the machine has it, on IPv6.
  package init(port: UInt16) async throws(BeaconFailure) {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    (received, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(Self.waitingBeacons))
    do throws(BeaconFailure) {
      let first = try BeaconDescriptor.open(AF_INET, port: port)
      v4 = try await Self.channel(on: first, group, port, continuation)
      let actual = v4.localAddress?.networkAddress?.port ?? port
      self.port = actual
      if let second = try? BeaconDescriptor.open(AF_INET6, port: actual) {
        v6 = try? await Self.channel(on: second, group, actual, continuation)
        v6Descriptor = v6 == nil ? -1 : second
      } else {
        v6 = nil
        v6Descriptor = -1
      }
    } catch {
      try? await group.shutdownGracefully()
      throw error
    }
    self.group = group
  }

  /// Whether IPv6 beacons can be sent at all.
  package var hasIPv6: Bool { v6 != nil }

  /// From now on these interfaces, at most `interfaceLimit`; tells which of them do not work.
  @discardableResult
  package func update(interfaces: [BeaconInterface]) -> [BeaconFailure] {
    let kept = Array(interfaces.prefix(Self.interfaceLimit))
    return state.withLock { state in
      state.interfaces = kept
      guard v6 != nil, !state.isShutDown else { return [] }
      let wanted = kept.filter(\.hasIPv6)
      for index in state.joined.subtracting(wanted.map(\.index)).sorted() {
        // An interface that went away took its membership with it.
        _ = BeaconDescriptor.membership(v6Descriptor, IPV6_LEAVE_GROUP, interface: index)
        state.joined.remove(index)
      }
      var failures: [BeaconFailure] = []
      for interface in wanted where !state.joined.contains(interface.index) {
        let code = BeaconDescriptor.membership(v6Descriptor, IPV6_JOIN_GROUP, interface: interface.index)
        if code == 0 || code == EADDRINUSE {
          state.joined.insert(interface.index)
        } else {
          failures.append(.interface(name: interface.name, call: "joining the group", code: code))
        }
      }
      return failures
    }
  }

  /// Sends to everybody on all interfaces; returns the interfaces on which it failed.
  @discardableResult
  package func send(_ bytes: [UInt8]) async -> [BeaconFailure] {
    let interfaces = state.withLock { $0.interfaces }
    var failures: [BeaconFailure] = []
    for interface in interfaces {
      if let broadcast = interface.broadcast {
        let code = await write(bytes, to: NetworkAddress(.v4(broadcast), port: port))
        if code != 0 { failures.append(.interface(name: interface.name, call: "broadcast", code: code)) }
      }
      if interface.hasIPv6, v6 != nil, case .v6(let high, let low, _) = Self.multicastGroup {
        let code = await write(bytes, high: high, low: low, scope: interface.index)
        if code != 0 { failures.append(.interface(name: interface.name, call: "multicast", code: code)) }
      }
    }
    return failures
  }

  /// Sends to one address; a group needs the interface to send on, other addresses bring it or need none.
  ///
  /// Returns 0 or the system's error.
  @discardableResult
  package func send(_ bytes: [UInt8], to address: NetworkAddress, interface: UInt32 = 0) async -> Int32 {
    guard case .v6(let high, let low, let scope) = address.host, scope == 0, interface != 0 else {
      return await write(bytes, to: address)
    }
    return await write(
      bytes, SocketAddress(v6High: high, low: low, scope: interface, port: address.port))
  }

  /// Gives the port back and ends `received`.
  package func shutdown() async {
    state.withLock { $0.isShutDown = true }
    try? await v4.close()
    try? await v6?.close()
    continuation.finish()
    try? await group.shutdownGracefully()
  }

  private func write(_ bytes: [UInt8], to address: NetworkAddress) async -> Int32 {
    await write(bytes, SocketAddress(address))
  }

  /// A multicast address keeps its scope, which `NetworkAddress` has for link-local unicast only.
  private func write(_ bytes: [UInt8], high: UInt64, low: UInt64, scope: UInt32) async -> Int32 {
    await write(bytes, SocketAddress(v6High: high, low: low, scope: scope, port: port))
  }

  private func write(_ bytes: [UInt8], _ address: SocketAddress) async -> Int32 {
    precondition(bytes.count <= Self.byteCount, "a beacon of \(bytes.count) bytes")
    let isV6 = address.protocol == .inet6
    guard let channel = isV6 ? v6 : v4 else { return EAFNOSUPPORT }
    var buffer = channel.allocator.buffer(capacity: bytes.count)
    buffer.writeBytes(bytes)
    do {
      try await channel.writeAndFlush(AddressedEnvelope(remoteAddress: address, data: buffer))
      return 0
    } catch {
      return (error as? IOError)?.errnoCode ?? EIO
    }
  }

  private static func channel(
    on descriptor: CInt, _ group: MultiThreadedEventLoopGroup, _ port: UInt16,
    _ continuation: AsyncStream<ReceivedBeacon>.Continuation
  ) async throws(BeaconFailure) -> any Channel {
    do {
      return try await DatagramBootstrap(group: group)
        .channelOption(
          .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.byteCount + 1)
        )
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(BeaconHandler(continuation: continuation))
          }
        }
        .withBoundSocket(descriptor)
        .get()
    } catch {
      throw .unavailable(port: port, call: "opening", code: (error as? IOError)?.errnoCode ?? EIO)
    }
  }
}

/// Hands received datagrams on.
private final class BeaconHandler: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>

  private let continuation: AsyncStream<ReceivedBeacon>.Continuation

  init(continuation: AsyncStream<ReceivedBeacon>.Continuation) {
    self.continuation = continuation
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    guard envelope.data.readableBytes <= BeaconSocket.byteCount,
      let source = envelope.remoteAddress.networkAddress
    else { return }
    continuation.yield(ReceivedBeacon(bytes: Array(envelope.data.readableBytesView), source: source))
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // An ICMP answer to an earlier datagram ends nothing.
  }
}

/// The system calls of the beacon sockets.
private enum BeaconDescriptor {
  /// A bound socket of one family.
  static func open(_ family: CInt, port: UInt16) throws(BeaconFailure) -> CInt {
    let kind = CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(family, kind, 0)
    guard descriptor >= 0 else { throw .unavailable(port: port, call: "socket", code: errno) }
    do throws(BeaconFailure) {
      func set(_ level: CInt, _ option: CInt, _ value: CInt, _ call: String) throws(BeaconFailure) {
        var value = value
        guard setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<CInt>.size)) == 0 else {
          throw .unavailable(port: port, call: call, code: errno)
        }
      }
      try set(SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR")
      let address: SocketAddress
      if family == AF_INET {
        try set(SOL_SOCKET, SO_BROADCAST, 1, "SO_BROADCAST")
        address = SocketAddress(NetworkAddress(.v4(0), port: port))
      } else {
        try set(CInt(IPPROTO_IPV6), IPV6_V6ONLY, 1, "IPV6_V6ONLY")
        try set(CInt(IPPROTO_IPV6), IPV6_MULTICAST_HOPS, 1, "IPV6_MULTICAST_HOPS")
        try set(CInt(IPPROTO_IPV6), IPV6_MULTICAST_LOOP, 1, "IPV6_MULTICAST_LOOP")
        address = SocketAddress(v6High: 0, low: 0, scope: 0, port: port)
      }
      guard address.withSockAddr({ bind(descriptor, $0, socklen_t($1)) }) == 0 else {
        throw .unavailable(port: port, call: "bind", code: errno)
      }
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }

  /// Joins or leaves the group on one interface; 0 or the error.
  static func membership(_ descriptor: CInt, _ option: CInt, interface: UInt32) -> Int32 {
    guard case .v6(let high, let low, _) = BeaconSocket.multicastGroup else { return EINVAL }
    var request = ipv6_mreq()
    request.ipv6mr_interface = interface
    withUnsafeMutableBytes(of: &request.ipv6mr_multiaddr) { bytes in
      bytes.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
      bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
    let size = socklen_t(MemoryLayout<ipv6_mreq>.size)
    return setsockopt(descriptor, CInt(IPPROTO_IPV6), option, &request, size) == 0 ? 0 : errno
  }
}
