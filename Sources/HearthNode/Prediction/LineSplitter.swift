/// Cuts a stream of bytes into lines of UTF-8 text as they arrive.
///
/// LF and CRLF end a line, a byte order mark at the start is dropped, bytes that are no UTF-8 are a failure.
package struct LineSplitter: Sendable {
  /// Most bytes of a line: far above any text that a model reads, far below what memory holds.
  package static let maximumLineBytes = 1 << 20

  private var pending: [UInt8] = []
  private var finishedLines = 0
  private let name: String

  /// A splitter at the start of the stream `name`.
  package init(name: String) { self.name = name }

  /// Adds bytes and returns the lines that they complete, in order.
  package mutating func add(_ bytes: some Sequence<UInt8>) throws(RunFailure) -> [String] {
    var lines: [String] = []
    for byte in bytes {
      if byte == UInt8(ascii: "\n") {
        lines.append(try takeLine())
      } else {
        guard pending.count < Self.maximumLineBytes else {
          throw .badInput(
            role: "input", path: name,
            detail: "line \(finishedLines + 1) is longer than \(ByteCount(Self.maximumLineBytes)); "
              + "one text a line is expected")
        }
        pending.append(byte)
      }
    }
    return lines
  }

  /// The last line, when the stream did not end in a line break.
  package mutating func finish() throws(RunFailure) -> String? { pending.isEmpty ? nil : try takeLine() }

  private mutating func takeLine() throws(RunFailure) -> String {
    defer { pending.removeAll(keepingCapacity: true) }
    finishedLines += 1
    var line = pending[...]
    if finishedLines == 1 && line.starts(with: [0xEF, 0xBB, 0xBF]) { line = line.dropFirst(3) }
    if line.last == UInt8(ascii: "\r") { line = line.dropLast() }
    guard let text = String(validating: line, as: UTF8.self) else {
      throw .badInput(
        role: "input", path: name,
        detail: "line \(finishedLines) is not UTF-8; convert it, for instance with iconv")
    }
    return text
  }
}
