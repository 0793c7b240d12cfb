import Glibc

/// A program that runs beside this one, its input and output being pipes and its errors going nowhere.
///
/// Foundation's `Process` would do, but its library keeps five megabytes resident in every process that links it.
package final class ChildProcess {
  /// Longest line that `line()` reads.
  package static let lineByteCount = 1 << 20

  private let process: pid_t
  private var input: CInt
  private let output: CInt
  private var buffered: [UInt8] = []
  private var status: Int32?

  /// Starts the program at `path`; nil when it cannot be started.
  package init?(_ path: String, _ arguments: [String]) {
    var toChild: [CInt] = [-1, -1]
    var fromChild: [CInt] = [-1, -1]
    guard Self.openPipe(&toChild) else { return nil }
    guard Self.openPipe(&fromChild) else {
      for end in toChild { close(end) }
      return nil
    }
    (input, output) = (toChild[1], fromChild[0])
    defer {
      close(toChild[0])
      close(fromChild[1])
    }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, toChild[0], STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, fromChild[1], STDOUT_FILENO)
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
    let words = ([path] + arguments).map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var child = pid_t()
    guard posix_spawn(&child, path, &actions, nil, words, environ) == 0 else {
      close(input)
      close(output)
      return nil
    }
    process = child
  }

  deinit {
    endInput()
    close(output)
    if status == nil {
      kill(process, SIGKILL)
      _ = wait()
    }
  }

  /// The number by which the system knows it.
  package var identifier: Int32 { process }

  /// Writes to the program's input; false when it reads no more.
  package func write(_ text: String) -> Bool {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { Glibc.write(input, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return false }
      bytes = bytes.dropFirst(count)
    }
    return true
  }

  /// Closes the program's input.
  package func endInput() {
    if input >= 0 { close(input) }
    input = -1
  }

  /// The next line of its output without its end; nil at the end of the output, and when none has come after so many
  /// seconds.
  package func line(seconds: Double? = nil) -> String? {
    let deadline = seconds.map { MonotonicClock.seconds() + $0 }
    while true {
      if let end = buffered.firstIndex(of: UInt8(ascii: "\n")) {
        defer { buffered.removeFirst(end + 1) }
        return String(decoding: buffered[..<end], as: UTF8.self)
      }
      let left = deadline.map { $0 - MonotonicClock.seconds() }
      if let left, left <= 0 { return nil }
      guard buffered.count < Self.lineByteCount, readMore(timeout: left) else { return nil }
    }
  }

  /// All of its output up to `limit` bytes; nil when that has not ended after so many seconds, and the program is
  /// ended then.
  package func wholeOutput(limit: Int, seconds: Double? = nil) -> String? {
    let deadline = seconds.map { MonotonicClock.seconds() + $0 }
    while buffered.count < limit {
      let left = deadline.map { $0 - MonotonicClock.seconds() }
      if let left, left <= 0 {
        kill(process, SIGKILL)
        return nil
      }
      if !readMore(timeout: left) { break }
    }
    return String(decoding: buffered.prefix(limit), as: UTF8.self)
  }

  /// Waits for its end; its exit status, or 128 and the number of the signal that ended it.
  package func wait() -> Int32 {
    if let status { return status }
    var raw: Int32 = 0
    while waitpid(process, &raw, 0) < 0 && errno == EINTR {}
    let code = raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + (raw & 0x7F)
    status = code
    return code
  }

  /// A pipe that other children do not inherit.
  private static func openPipe(_ ends: inout [CInt]) -> Bool {
    guard pipe(&ends) == 0 else { return false }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return true
  }

  /// Reads what comes; false at the end, true also when nothing came in time.
  private func readMore(timeout: Double?) -> Bool {
    var request = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
    let ready = poll(&request, 1, timeout.map { CInt(max(1, $0 * 1000)) } ?? -1)
    guard ready > 0 else { return ready == 0 || errno == EINTR }
    var chunk = [UInt8](repeating: 0, count: 64 << 10)
    let count = read(output, &chunk, chunk.count)
    if count < 0 { return errno == EINTR }
    buffered += chunk[..<count]
    return count > 0
  }
}
