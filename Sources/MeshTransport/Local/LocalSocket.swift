import Glibc

/// The parts of a Unix stream socket that server and client share.
enum LocalSocket {
  /// Longest path: `sun_path` less its final zero.
  static let pathByteCount = 107

  /// Who is at the other end of a local socket, as the kernel knows it (`SO_PEERCRED`).
  struct PeerCredentials: Sendable, Equatable {
    // The C struct `ucred`, which needs a feature macro that Swift's Glibc does not set.
    var process: Int32 = 0
    var user: UInt32 = 0
    var group: UInt32 = 0
  }

  /// A new socket that children do not inherit.
  static func make(path: String) throws(LocalControlFailure) -> CInt {
    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw .system(call: "socket", code: errno, path: path) }
    return descriptor
  }

  /// Calls `body` with the address of `path`.
  static func withAddress(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt
  ) throws(LocalControlFailure) -> CInt {
    let bytes = Array(path.utf8)
    guard bytes.count <= pathByteCount else { throw .pathTooLong(path: path, limit: pathByteCount) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }

  /// Who is at the other end.
  static func credentials(of descriptor: CInt) -> PeerCredentials? {
    var credentials = PeerCredentials()
    var size = socklen_t(MemoryLayout<PeerCredentials>.size)
    let status = getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size)
    return status == 0 && Int(size) == MemoryLayout<PeerCredentials>.size ? credentials : nil
  }

  /// Whether a process of that user may talk with this one: the same user, or root.
  static func isTrusted(user: UInt32) -> Bool { user == geteuid() || user == 0 }
}
