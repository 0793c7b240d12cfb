import Determinism
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
  private static let userTimeout: CInt = 18

  /// Applies what a purpose asks for; an option that the kernel refuses is left.
  static func apply(to channel: any Channel, for purpose: SessionPurpose, timing: TransportTiming) {
    let patience = purpose == .bulk ? timing.bulkUserTimeout : timing.controlUserTimeout
    let isV6 = channel.remoteAddress?.protocol == .inet6
    withDescriptor(of: channel) { descriptor in
      set(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, CInt(1))
      set(descriptor, CInt(IPPROTO_TCP), userTimeout, CInt(clamping: patience.wholeMilliseconds))
      guard purpose != .bulk else { return }
      if isV6 {
        set(descriptor, CInt(IPPROTO_IPV6), IPV6_TCLASS, expeditedForwarding)
      } else {
        set(descriptor, CInt(IPPROTO_IP), IP_TOS, expeditedForwarding)
      }
    }
  }

  /// Gives a connection that has proved itself the memory to be fast.
  static func widen(_ channel: any Channel) {
    guard let options = channel.syncOptions else { return }
    try? options.setOption(
      .recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: receiveByteCount))
    try? options.setOption(.maxMessagesPerRead, value: readsInTurn)
    try? options.setOption(.writeBufferWaterMark, value: writeMarks)
  }

  /// Closing sends a reset and leaves no TIME-WAIT behind, so that a flood fills no table of the kernel's.
  static func resetOnClose(_ channel: any Channel) {
    withDescriptor(of: channel) { set($0, SOL_SOCKET, SO_LINGER, linger(l_onoff: 1, l_linger: 0)) }
  }

  /// A descriptor of the connection that outlives the channel; the caller closes it.
  static func duplicateDescriptor(of channel: any Channel) -> CInt? {
    var duplicate: CInt = -1
    withDescriptor(of: channel) { duplicate = fcntl($0, F_DUPFD_CLOEXEC, 0) }
    return duplicate >= 0 ? duplicate : nil
  }

  private static func withDescriptor(of channel: any Channel, _ body: (CInt) -> Void) {
    _ = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(
      of: NIOBSDSocket.Handle.self, body)
  }

  private static func set<Value>(_ descriptor: CInt, _ level: CInt, _ option: CInt, _ value: Value) {
    withUnsafeBytes(of: value) { bytes in
      _ = setsockopt(descriptor, level, option, bytes.baseAddress, socklen_t(bytes.count))
    }
  }
}
