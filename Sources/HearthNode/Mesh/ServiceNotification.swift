import Glibc

/// Tells the service manager how the daemon is (sd_notify(3)); without one, nothing happens.
package struct ServiceNotification: Sendable {
  private let socketPath: String?

  /// The manager that the environment names in NOTIFY_SOCKET.
  package init(environment: [String: String]) {
    let path = environment["NOTIFY_SOCKET"] ?? ""
    socketPath = path.hasPrefix("/") || path.hasPrefix("@") ? path : nil
  }

  /// The daemon works; `status` is a line for people.
  package func ready(status: String) { send("READY=1\nSTATUS=\(status)\nMAINPID=\(getpid())") }

  /// The daemon ends.
  package func stopping() { send("STOPPING=1") }

  /// Sends a message; false when there is no manager or it did not take it.
  @discardableResult
  package func send(_ message: String) -> Bool {
    guard let socketPath else { return false }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var name = Array(socketPath.utf8)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    guard name.count < capacity else { return false }
    // An abstract name starts with a zero byte, and its length counts.
    let isAbstract = name.first == UInt8(ascii: "@")
    if isAbstract { name[0] = 0 }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: name) }
    let offset = MemoryLayout<sockaddr_un>.size - capacity
    let length = socklen_t(offset + name.count + (isAbstract ? 0 : 1))
    let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    let bytes = Array(message.utf8)
    let sent = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        sendto(descriptor, bytes, bytes.count, CInt(MSG_NOSIGNAL), $0, length)
      }
    }
    return sent == bytes.count
  }
}
