import Glibc
import MeshModel
import PeerDiscovery

/// Sends a multicast to oneself: whether it comes back tells of this machine's own stack and firewall.
enum MulticastProbe {
  /// Longest wait, in milliseconds; what comes at all comes at once.
  private static let patience: Int32 = 400

  /// Whether a datagram to the beacon group comes back on an interface; nil when it has no IPv6.
  static func returns(on name: String) -> Bool? {
    let index = if_nametoindex(name)
    guard index != 0 else { return nil }
    let descriptor = socket(AF_INET6, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var yes: CInt = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<CInt>.size))
    guard case .v6(let high, let low, _) = Beacon.group.host else { return nil }
    var group = in6_addr()
    withUnsafeMutableBytes(of: &group) { bytes in
      bytes.storeBytes(of: high.bigEndian, toByteOffset: 0, as: UInt64.self)
      bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
    var request = ipv6_mreq()
    request.ipv6mr_multiaddr = group
    request.ipv6mr_interface = index
    guard
      setsockopt(
        descriptor, CInt(IPPROTO_IPV6), IPV6_JOIN_GROUP, &request, socklen_t(MemoryLayout<ipv6_mreq>.size))
        == 0
    else { return nil }
    // A port of its own, so that no daemon takes it for a beacon.
    var own = sockaddr_in6()
    own.sin6_family = sa_family_t(AF_INET6)
    guard withAddress(&own, { bind(descriptor, $0, $1) }) == 0 else { return nil }
    var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    _ = withUnsafeMutablePointer(to: &own) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
    }
    var target = own
    target.sin6_addr = group
    target.sin6_scope_id = index
    var word = [UInt8]("hearth".utf8)
    guard withAddress(&target, { sendto(descriptor, word, word.count, 0, $0, $1) }) == word.count else {
      return false
    }
    var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    guard poll(&wait, 1, patience) == 1 else { return false }
    return recv(descriptor, &word, word.count, 0) == word.count
  }

  private static func withAddress<Value>(
    _ address: inout sockaddr_in6, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Value
  ) -> Value {
    withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
      }
    }
  }
}
