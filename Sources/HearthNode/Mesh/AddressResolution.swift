import ComputeRuntime
import Glibc
package import MeshModel
package import PeerDiscovery

/// Resolves a listed peer's name on a thread of its own, since the system's resolver blocks; no address is an
/// empty list.
package func resolveAddresses(
  of peer: StaticPeer, then body: @escaping @Sendable ([NetworkAddress]) -> Void
) {
  OperatingSystemThread.detached(name: "hearth-resolve") { body(resolvedAddresses(of: peer)) }
}

/// The addresses of a host name or a literal, each once, in the system's order; blocks.
package func resolvedAddresses(of peer: StaticPeer) -> [NetworkAddress] {
  var hints = addrinfo()
  hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
  hints.ai_flags = AI_ADDRCONFIG
  var first: UnsafeMutablePointer<addrinfo>?
  guard getaddrinfo(peer.host, nil, &hints, &first) == 0 else { return [] }
  defer { freeaddrinfo(first) }
  var found: [NetworkAddress] = []
  var next = first
  while let entry = next {
    if let address = networkAddress(entry.pointee, port: peer.port), !found.contains(address) {
      found.append(address)
    }
    next = entry.pointee.ai_next
  }
  return found
}

private func networkAddress(_ entry: addrinfo, port: UInt16) -> NetworkAddress? {
  guard let raw = UnsafeRawPointer(entry.ai_addr) else { return nil }
  switch entry.ai_family {
  case AF_INET:
    let address = raw.loadUnaligned(as: sockaddr_in.self)
    return NetworkAddress(.v4(UInt32(bigEndian: address.sin_addr.s_addr)), port: port)
  case AF_INET6:
    let address = raw.loadUnaligned(as: sockaddr_in6.self)
    let words = withUnsafeBytes(of: address.sin6_addr) { bytes in
      (
        UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
        UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      )
    }
    return NetworkAddress(.v6(high: words.0, low: words.1, scope: address.sin6_scope_id), port: port)
  default: return nil
  }
}
