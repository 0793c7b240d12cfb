import Glibc

/// The reader of our output went away; the command ends quietly, as `head` expects.
package struct ReaderGone: Error {
  /// Nobody reads any more.
  package init() {}
}

/// An open descriptor that text is written to at once.
package struct OutputStream: Sendable {
  /// The open descriptor.
  package let descriptor: Int32
  private let name: String

  /// The process' standard output.
  package static let standard = OutputStream(descriptor: STDOUT_FILENO, name: "standard output")
  /// The process' standard error.
  package static let diagnostics = OutputStream(descriptor: STDERR_FILENO, name: "standard error")

  /// A stream over an open descriptor.
  package init(descriptor: Int32, name: String) {
    self.descriptor = descriptor
    self.name = name
  }

  /// Writes all of `text`; throws `ReaderGone` on a closed pipe and `RunFailure.inputOutput` on anything else.
  package func write(_ text: String) throws {
    var text = text
    try text.withUTF8 { bytes in
      var written = 0
      while written < bytes.count {
        let count = Glibc.write(descriptor, bytes.baseAddress.map { $0 + written }, bytes.count - written)
        if count < 0 {
          if errno == EINTR { continue }
          if errno == EPIPE { throw ReaderGone() }
          throw RunFailure.inputOutput(path: name, detail: String(cString: strerror(errno)))
        }
        written += count
      }
    }
  }

  /// Makes writes to a closed pipe, and beyond a file size limit, fail with an error that can be told instead of
  /// ending the process.
  package static func reportWriteErrors() {
    signal(SIGPIPE, SIG_IGN)
    signal(SIGXFSZ, SIG_IGN)
  }
}
