import Glibc
import MeshProtocol
import NIOCore
import NIOPosix

/// What the kernel is told about the connections of sessions.
enum SocketSettings {
  /// Bytes that one read takes at most.
  static let receiveByteCount = 256 << 10
  /// Reads of one connection before others have their turn.
  static let readsInTurn: UInt = 4
  /// Sealed bytes that wait for the kernel: above `high` sealing stops until below `low`.
  static let writeMarks = ChannelOptions.Types.WriteBufferWaterMark(low: 256 << 10, high: 512 << 10)
  /// Expedited forwarding (RFC 3246), in the upper six bits of the traffic class.
  private static let expeditedForwarding: CInt = 46 << 2
  /// TCP_USER_TIMEOUT of <linux/tcp.h> (RFC 5482), in milliseconds.
  private static let userTimeout = NIOBSDSocket.Option(rawValue: 18)
  private static let trafficClassV4 = NIOBSDSocket.Option(rawValue: CInt(IP_TOS))
  private static let trafficClassV6 = NIOBSDSocket.Option(rawValue: CInt(IPV6_TCLASS))

  /// Applies what a purpose asks for; an option that the kernel refuses is left.
  static func apply(to channel: any Channel, for purpose: SessionPurpose, timing: TransportTiming) {
    guard let options = channel.syncOptions else { return }
    let patience = purpose == .bulk ? timing.bulkUserTimeout : timing.controlUserTimeout
    try? options.setOption(.tcpOption(.tcp_nodelay), value: 1)
    try? options.setOption(
      .init(level: .tcp, name: userTimeout) as ChannelOptions.Types.SocketOption,
      value: CInt(clamping: patience.wholeMilliseconds))
    if purpose != .bulk {
      if channel.remoteAddress?.protocol == .inet6 {
        try? options.setOption(
          .init(level: .ipv6, name: trafficClassV6) as ChannelOptions.Types.SocketOption,
          value: expeditedForwarding)
      } else {
        try? options.setOption(
          .init(level: .ip, name: trafficClassV4) as ChannelOptions.Types.SocketOption,
          value: expeditedForwarding)
      }
    }
    try? options.setOption(
      .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: receiveByteCount))
    try? options.setOption(.maxMessagesPerRead, value: readsInTurn)
    try? options.setOption(.writeBufferWaterMark, value: writeMarks)
  }

  /// Closing sends a reset and leaves no TIME-WAIT behind, so that a flood fills no table of the kernel's.
  static func resetOnClose(_ channel: any Channel) {
    try? channel.syncOptions?.setOption(.socketOption(.so_linger), value: linger(l_onoff: 1, l_linger: 0))
  }
}
