import Glibc

/// An open descriptor that is read as bytes arrive.
package final class InputStream {
  private static let chunkBytes = 1 << 16

  private let descriptor: Int32
  private let name: String
  private let owned: Bool

  /// The process' standard input.
  package static func standard() -> InputStream {
    InputStream(descriptor: STDIN_FILENO, name: "standard input", owned: false)
  }

  /// Opens a file; throws `RunFailure.missingInput` when that fails.
  package static func file(_ path: String, role: String) throws(RunFailure) -> InputStream {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw .missingInput(role: role, path: path, detail: String(cString: strerror(errno)))
    }
    return InputStream(descriptor: descriptor, name: path, owned: true)
  }

  private init(descriptor: Int32, name: String, owned: Bool) {
    self.descriptor = descriptor
    self.name = name
    self.owned = owned
  }

  deinit {
    if owned { close(descriptor) }
  }

  /// What has arrived, at least one byte; empty at the end.
  package func next() throws(RunFailure) -> [UInt8] {
    var failure: Int32 = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: Self.chunkBytes) { buffer, count in
      var got = -1
      repeat { got = read(descriptor, buffer.baseAddress, Self.chunkBytes) } while got < 0 && errno == EINTR
      if got < 0 { failure = errno }
      count = max(0, got)
    }
    guard failure == 0 else { throw .inputOutput(path: name, detail: String(cString: strerror(failure))) }
    return bytes
  }

  /// Everything up to the end; throws `RunFailure.badInput` beyond `limit` bytes.
  package func all(limit: Int) throws(RunFailure) -> [UInt8] {
    var bytes: [UInt8] = []
    while true {
      let chunk = try next()
      if chunk.isEmpty { return bytes }
      guard bytes.count + chunk.count <= limit else {
        throw .badInput(role: "input", path: name, detail: "is larger than \(ByteCount(limit))")
      }
      bytes += chunk
    }
  }
}
