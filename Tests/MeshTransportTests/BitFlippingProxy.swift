import Foundation
import Glibc
import Synchronization
import Testing

/// A man in the middle of one connection on loopback, who changes one bit of one byte.
final class BitFlippingProxy: Sendable {
  let port: UInt16
  private let listener: CInt
  private let target: UInt16
  private let offset: Int?
  private let fromDialler: Bool
  private let counts = Mutex((fromDialler: 0, fromAcceptor: 0))

  /// Listens, and forwards the first connection to `target`.
  init(to target: UInt16, flipping offset: Int?, fromDialler: Bool) throws {
    self.target = target
    self.offset = offset
    self.fromDialler = fromDialler
    let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
    try #require(
      RawConnection.call(loopback, 0) { bind(descriptor, $0, $1) } == 0 && listen(descriptor, 1) == 0)
    var address = sockaddr_in()
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
    }
    try #require(status == 0)
    port = UInt16(bigEndian: address.sin_port)
    listener = descriptor
    Thread.detachNewThread { [self] in serve() }
  }

  /// Bytes that came in the direction of the change.
  var byteCount: Int { counts.withLock { fromDialler ? $0.fromDialler : $0.fromAcceptor } }

  /// Ends the waiting for a connection.
  func stop() { shutdown(listener, CInt(SHUT_RDWR)) }

  private func serve() {
    defer { close(listener) }
    let accepted = accept(listener, nil, nil)
    guard accepted >= 0 else { return }
    let dialler = RawConnection(descriptor: accepted)
    guard let acceptor = RawConnection(to: target) else { return }
    var requests = [
      pollfd(fd: dialler.descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: acceptor.descriptor, events: Int16(POLLIN), revents: 0),
    ]
    while poll(&requests, 2, RawConnection.patience) > 0 {
      for index in 0..<2 where requests[index].revents != 0 {
        let isDialler = index == 0
        let (source, sink) = isDialler ? (dialler, acceptor) : (acceptor, dialler)
        guard var bytes = source.receive(), !bytes.isEmpty else { return }
        let before = counts.withLock { counts in
          defer {
            if isDialler { counts.fromDialler += bytes.count } else { counts.fromAcceptor += bytes.count }
          }
          return isDialler ? counts.fromDialler : counts.fromAcceptor
        }
        if let offset, isDialler == fromDialler, (before..<(before + bytes.count)).contains(offset) {
          bytes[offset - before] ^= 1 << UInt8(offset % 8)
        }
        guard sink.send(bytes) else { return }
      }
    }
  }
}
