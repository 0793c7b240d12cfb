import Foundation
import Glibc
import MeshTransport
import Testing

/// The socket between the command line and the daemon.
@Suite("The local control socket", .timeLimit(.minutes(1)))
struct LocalControlTests {
  /// A directory of its own for each test.
  private final class Directory {
    let url: URL
    init() throws {
      url = FileManager.default.temporaryDirectory.appendingPathComponent("hearth-\(UUID().uuidString)")
      try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(at: url) }
    var socket: String { url.appendingPathComponent("control.sock").path }
  }

  private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

  /// Runs blocking calls of a client away from the pool's threads.
  private func client<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
  }

  @Test("carries a line there and lines back, until the answer ends")
  func answers() async throws {
    let directory = try Directory()
    let path = directory.socket
    let server = try await LocalControlServer.listen(at: path)
    async let lines = client {
      var client = try LocalControlClient(path: path)
      try client.send(Array(#"{"command":"peers"}"#.utf8))
      var lines: [[UInt8]] = []
      while let line = try client.nextLine(timeout: nil) { lines.append(line) }
      return lines
    }
    var requests = server.requests.makeAsyncIterator()
    let request = try #require(await requests.next())
    #expect(request.line == bytes(#"{"command":"peers"}"#))
    #expect(request.process == getpid() && request.user == geteuid())
    let long = [UInt8](repeating: UInt8(ascii: "x"), count: 3 << 20)
    try await request.answer(bytes("{}"))
    try await request.answer(long)
    try await request.answer([])
    await #expect(throws: LocalControlFailure.notALine) { try await request.answer([10]) }
    await request.finish()
    #expect(try await lines == [bytes("{}"), long, []])
    await server.shutdown()
    #expect(await requests.next() == nil)
  }

  @Test("has mode 0600 and is removed at the end")
  func mode() async throws {
    let directory = try Directory()
    let server = try await LocalControlServer.listen(at: directory.socket)
    var status = stat()
    #expect(lstat(directory.socket, &status) == 0 && status.st_mode & 0o7777 == 0o600)
    await server.shutdown()
    #expect(lstat(directory.socket, &status) == -1 && errno == ENOENT)
  }

  @Test("streams to several watchers and notices the ones that go")
  func watchers() async throws {
    let directory = try Directory()
    let path = directory.socket
    let server = try await LocalControlServer.listen(at: path)
    // Each watcher takes its own number of lines and goes.
    async let watched = withThrowingTaskGroup(of: Int.self) { group in
      for count in 1...8 {
        group.addTask {
          try await client {
            var client = try LocalControlClient(path: path)
            try client.send(Array("\(count)".utf8))
            for _ in 0..<count { #expect(try client.nextLine(timeout: nil) != nil) }
            return count
          }
        }
      }
      return try await group.reduce(0, +)
    }
    var served = 0
    try await withThrowingTaskGroup(of: Void.self) { group in
      for await request in server.requests {
        group.addTask {
          // Until the watcher goes: that ends the writing with a failure.
          do {
            while true { try await request.answer(Array("tick".utf8)) }
          } catch {
            #expect(error as? LocalControlFailure == .disconnected(path: path))
          }
          await request.closed()
        }
        served += 1
        if served == 8 { break }
      }
      try await group.waitForAll()
    }
    #expect(try await watched == 36)
    await server.shutdown()
  }

  @Test("closes on clients that ask too much, too long, or are too many")
  func limits() async throws {
    let directory = try Directory()
    let path = directory.socket
    var limits = LocalControlServer.Limits()
    limits.clients = 2
    limits.requestByteCount = 100
    limits.requestTime = .milliseconds(200)
    let server = try await LocalControlServer.listen(at: path, limits: limits)
    let refused = try await client {
      var client = try LocalControlClient(path: path)
      try client.send([UInt8](repeating: 1, count: 101))
      return try client.nextLine(timeout: nil) == nil
    }
    #expect(refused)
    // A client that says nothing is closed after the time for a request.
    let closed = try await client {
      var client = try LocalControlClient(path: path)
      return try client.nextLine(timeout: nil) == nil
    }
    #expect(closed)
    let third = try await client {
      let first = try LocalControlClient(path: path)
      let second = try LocalControlClient(path: path)
      try first.send([1])
      try second.send([2])
      var third = try LocalControlClient(path: path)
      return try third.nextLine() == nil
    }
    #expect(third)
    await server.shutdown()
  }

  @Test("closes when the daemon forgets a request")
  func forgotten() async throws {
    let directory = try Directory()
    let path = directory.socket
    let server = try await LocalControlServer.listen(at: path)
    async let end = client {
      var client = try LocalControlClient(path: path)
      try client.send([1])
      return try client.nextLine(timeout: nil) == nil
    }
    var requests = server.requests.makeAsyncIterator()
    _ = await requests.next()
    #expect(try await end)
    await server.shutdown()
  }

  @Test("takes the place of a dead daemon's socket, but not of a living one or of a file")
  func places() async throws {
    let directory = try Directory()
    let path = directory.socket
    await #expect(throws: LocalControlFailure.notRunning(path: path)) {
      try await client { _ = try LocalControlClient(path: path) }
    }
    let server = try await LocalControlServer.listen(at: path)
    await #expect(throws: LocalControlFailure.alreadyServed(path: path)) {
      _ = try await LocalControlServer.listen(at: path)
    }
    await server.shutdown()
    // A socket that nobody listens at, as a killed daemon leaves it.
    let dead = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(dead, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(bound == 0)
    close(dead)
    await #expect(throws: LocalControlFailure.notRunning(path: path)) {
      try await client { _ = try LocalControlClient(path: path) }
    }
    let next = try await LocalControlServer.listen(at: path)
    await next.shutdown()
    try Data("kept".utf8).write(to: URL(fileURLWithPath: path))
    await #expect(throws: LocalControlFailure.notASocket(path: path)) {
      _ = try await LocalControlServer.listen(at: path)
    }
    let long = "/tmp/" + String(repeating: "x", count: 103)
    #expect(long.utf8.count == 108)
    await #expect(throws: LocalControlFailure.pathTooLong(path: long, limit: 107)) {
      _ = try await LocalControlServer.listen(at: long)
    }
  }
}
