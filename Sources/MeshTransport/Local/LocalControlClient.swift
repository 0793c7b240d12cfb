import Glibc

/// The command line's end of the local socket: one request line, then answer lines until the daemon closes.
///
/// Plain blocking calls, so that a short command starts no event loop.
package struct LocalControlClient: ~Copyable {
  /// Longest answer line.
  package static let answerByteCount = 16 << 20

  private let descriptor: CInt
  private let path: String
  private var buffer: [UInt8] = []
  /// Bytes of `buffer` in which no line end was found.
  private var searched = 0

  /// Connects to the daemon at `path`; refuses one of another user.
  package init(path: String) throws(LocalControlFailure) {
    self.path = path
    descriptor = try Self.connected(to: path)
  }

  deinit { close(descriptor) }

  /// Sends one line; `line` holds no line end.
  package func send(_ line: [UInt8], timeout: Duration = .seconds(5)) throws(LocalControlFailure) {
    guard !line.contains(UInt8(ascii: "\n")) else { throw .notALine }
    let bytes = line + [UInt8(ascii: "\n")]
    var sent = 0
    while sent < bytes.count {
      try wait(for: POLLOUT, timeout)
      let count = bytes[sent...].withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL) | CInt(MSG_DONTWAIT))
      }
      if count > 0 {
        sent += count
      } else if errno == EPIPE || errno == ECONNRESET {
        throw .disconnected(path: path)
      } else if errno != EAGAIN && errno != EINTR {
        throw .system(call: "send", code: errno, path: path)
      }
    }
  }

  /// The next line of the answer, without its end; nil after the last.
  ///
  /// No `timeout` waits as long as it takes.
  package mutating func nextLine(timeout: Duration? = .seconds(30)) throws(LocalControlFailure) -> [UInt8]? {
    while true {
      if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
        let line = Array(buffer[..<end])
        buffer.removeFirst(end + 1)
        searched = 0
        return line
      }
      searched = buffer.count
      guard buffer.count <= Self.answerByteCount else { throw .lineTooLong(limit: Self.answerByteCount) }
      try wait(for: POLLIN, timeout)
      guard try readMore() else {
        guard buffer.isEmpty else { throw .disconnected(path: path) }
        return nil
      }
    }
  }

  /// Reads what is there; false at the end.
  private mutating func readMore() throws(LocalControlFailure) -> Bool {
    let chunk = 64 << 10
    let start = buffer.count
    buffer.append(contentsOf: repeatElement(0, count: chunk))
    let count = buffer[start...].withUnsafeMutableBytes { recv(descriptor, $0.baseAddress, $0.count, 0) }
    let code = errno
    buffer.removeLast(chunk - max(0, count))
    if count >= 0 { return count > 0 }
    if code == EINTR || code == EAGAIN { return true }
    // A daemon that stops hard is the end of the answer too, but not of a whole line.
    if code == ECONNRESET { return false }
    throw .system(call: "recv", code: code, path: path)
  }

  private func wait(for events: Int32, _ timeout: Duration?) throws(LocalControlFailure) {
    let milliseconds = timeout.map { CInt(clamping: max(0, $0.wholeMilliseconds)) } ?? -1
    var request = pollfd(fd: descriptor, events: Int16(events), revents: 0)
    while true {
      let ready = poll(&request, 1, milliseconds)
      if ready > 0 { return }
      if ready == 0 { throw .timedOut(path: path) }
      guard errno == EINTR else { throw .system(call: "poll", code: errno, path: path) }
    }
  }

  private static func connected(to path: String) throws(LocalControlFailure) -> CInt {
    let descriptor = try LocalSocket.make(path: path)
    do throws(LocalControlFailure) {
      let status = try LocalSocket.withAddress(path) { connect(descriptor, $0, $1) }
      guard status == 0 else {
        let code = errno
        throw code == ENOENT || code == ECONNREFUSED
          ? .notRunning(path: path) : .system(call: "connect", code: code, path: path)
      }
      guard let peer = LocalSocket.credentials(of: descriptor) else {
        throw .system(call: "getsockopt", code: errno, path: path)
      }
      guard LocalSocket.isTrusted(user: peer.user) else { throw .otherUser(user: peer.user, path: path) }
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }
}
