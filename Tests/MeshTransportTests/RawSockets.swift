import CryptoPrimitives
import Glibc
import HouseholdTrust
import MeshModel
import MeshProtocol
import SecureChannel
import Testing
import WireCoding

/// A TCP connection as an attacker has it: bytes without rules.
///
/// Every wait has a limit.
final class RawConnection {
  let descriptor: CInt
  /// How long a read waits before it counts as silence.
  static let patience: CInt = 50_000

  /// Connects from an address of 127/8 to a port on loopback; nil when that is refused.
  init?(to port: UInt16, from source: UInt16 = 1) {
    descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return nil }
    var reuse: CInt = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuse, 4)
    guard Self.call(0x7F00_0000 | UInt32(source), 0, { bind(descriptor, $0, $1) }) == 0,
      Self.call(loopback, port, { connect(descriptor, $0, $1) }) == 0
    else {
      close(descriptor)
      return nil
    }
  }

  /// Takes a descriptor over.
  init(descriptor: CInt) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// False when the connection is gone.
  @discardableResult
  func send(_ bytes: [UInt8]) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      sent += count
    }
    return true
  }

  /// What has come; empty at the end, nil after `patience`.
  func receive(_ limit: Int = 65_536, patience: CInt = RawConnection.patience) -> [UInt8]? {
    var request = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    guard poll(&request, 1, patience) > 0 else { return nil }
    var buffer = [UInt8](repeating: 0, count: limit)
    let count = recv(descriptor, &buffer, limit, 0)
    return Array(buffer[..<max(0, count)])
  }

  /// Reads to the end; false when that does not come.
  func isClosedByPeer() -> Bool {
    while let part = receive() {
      if part.isEmpty { return true }
    }
    return false
  }

  static func call(_ host: UInt32, _ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt)
    -> CInt
  {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = host.bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }
}

/// A UDP socket that sends whatever it is given.
final class RawDatagrams {
  private let descriptor = socket(AF_INET, CInt(SOCK_DGRAM.rawValue), 0)

  deinit { close(descriptor) }

  func send(_ bytes: [UInt8], to port: UInt16) {
    _ = RawConnection.call(loopback, port) { address, size in
      CInt(bytes.withUnsafeBytes { sendto(descriptor, $0.baseAddress, $0.count, 0, address, size) })
    }
  }
}

/// A member of the household that speaks the protocol by hand, and can therefore break it.
final class RawMember {
  let connection: RawConnection
  private var records: RecordCiphers
  private(set) var datagrams: DatagramCiphers
  private var buffer: [UInt8]

  init(_ household: Household, _ purpose: SessionPurpose, to port: UInt16) throws {
    connection = try #require(RawConnection(to: port))
    var entropy = SystemEntropy()
    let identity = HandshakeIdentity(
      trust: household.snapshot, boot: BootID(counter: 9, nonce: 9), listeningPort: 9, receiverIndex: 77)
    var handshake = SessionHandshake(dialling: purpose, as: identity, entropy: &entropy)
    var effects = handshake.start()
    var session: EstablishedSession?
    while session == nil {
      for effect in effects {
        switch effect {
        case .send(let bytes): connection.send(bytes)
        case .established(let established): session = established
        case .pairing, .failed: Issue.record("\(effect)")
        }
      }
      if session == nil {
        let bytes = try #require(connection.receive())
        try #require(!bytes.isEmpty, "closed during the handshake")
        effects = handshake.receive(bytes)
      }
    }
    let established = try #require(session)
    records = established.takeRecords()
    datagrams = established.takeDatagrams()
    buffer = established.leftover
  }

  /// The stream's bytes of a message.
  func framed(_ message: [UInt8]) -> [UInt8] { records.sealer.framed(message) }

  func framed(_ frame: MeshFrame) -> [UInt8] { framed(frame.encoded) }

  /// The stream's bytes that say that this side lives.
  func keepAlive() -> [UInt8] { records.sealer.rekeyFrame() }

  func sealed(datagram body: [UInt8]) -> [UInt8] { datagrams.sealer.sealed(body) }

  /// The next message of the other side; empty for a change of its key, nil at the end.
  func nextMessage() throws -> [UInt8]? {
    while true {
      if buffer.count >= 2 {
        let count = Int(buffer[0]) | Int(buffer[1]) << 8
        if buffer.count >= 2 + count {
          defer { buffer.removeFirst(2 + count) }
          return try records.opener.opened(buffer[2..<(2 + count)])
        }
      }
      guard let bytes = connection.receive(), !bytes.isEmpty else { return nil }
      buffer += bytes
    }
  }
}
