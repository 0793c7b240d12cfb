import Determinism
import Glibc
package import HouseholdTrust
package import MeshModel
import NIOCore
package import SecureChannel

/// Why a device could not be joined to a household at an address.
package enum PairingDialFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Nothing answers there.
  case noAnswer(NetworkAddress)
  /// Nobody listens there.
  case refused(NetworkAddress)
  /// Another error of the system.
  case system(call: String, code: Int32, NetworkAddress)
  /// The pairing itself failed.
  case pairing(PairingFailure)
  /// The household could not be stored; nothing is kept.
  case notStored(String)

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .noAnswer(let address):
      "no answer at \(address); check that the inviting device is on and on this network"
    case .refused(let address):
      "nobody listens at \(address); run 'hearth up' and 'hearth invite' on the inviting device"
    case .system(let call, let code, let address):
      "\(call) failed for \(address): \(String(cString: strerror(code))); check this device's network"
    case .pairing(let failure): failure.description
    case .notStored(let reason): "the household could not be stored: \(reason); nothing is kept, join again"
    }
  }
}

/// Joins a household over TCP, for a command: blocking calls, no event loop.
package enum PairingDialler {
  /// From the connection request to its answer.
  package static let connectTime: Duration = .seconds(3)

  /// Drives `joiner` against the inviting device at `address`; `store` keeps the household, and only when it has is
  /// the other side told.
  package static func join(
    at address: NetworkAddress, _ joiner: consuming PairingJoiner, store: (Household) throws -> Void
  ) throws(PairingDialFailure) -> Household {
    let descriptor = try connected(to: address)
    defer { close(descriptor) }
    var joiner = joiner
    var household: Household?
    var effects = joiner.start()
    while true {
      for effect in effects {
        switch effect {
        case .send(let bytes): try send(bytes, over: descriptor, address)
        // An inviter's, which a joiner never has.
        case .approve: break
        case .admitted(let admitted):
          do { try store(admitted) } catch { throw .notStored("\(error)") }
          household = admitted
          for case .send(let bytes) in joiner.stored() { try send(bytes, over: descriptor, address) }
        case .completed: break
        case .failed(let failure): throw .pairing(failure)
        }
      }
      if let household { return household }
      let left = DeviceClocks.now().sinceBoot.duration(to: joiner.deadline)
      if left <= .zero {
        effects = joiner.tick(at: DeviceClocks.now().sinceBoot)
      } else if let bytes = try receive(descriptor, within: left, address) {
        effects = bytes.isEmpty ? joiner.breakOff() : joiner.receive(bytes, at: DeviceClocks.now().sinceBoot)
      } else {
        effects = []
      }
    }
  }

  private static func connected(to address: NetworkAddress) throws(PairingDialFailure) -> CInt {
    let socketAddress = SocketAddress(address)
    let family = socketAddress.protocol == .inet6 ? AF_INET6 : AF_INET
    let kind = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(family, kind, 0)
    guard descriptor >= 0 else { throw .system(call: "socket", code: errno, address) }
    do throws(PairingDialFailure) {
      let status = socketAddress.withSockAddr { connect(descriptor, $0, socklen_t($1)) }
      if status != 0 {
        guard errno == EINPROGRESS else { throw failure("connect", errno, address) }
        guard try wait(descriptor, POLLOUT, within: connectTime, address) else { throw .noAnswer(address) }
        var code: CInt = 0
        var size = socklen_t(MemoryLayout<CInt>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
        guard code == 0 else { throw failure("connect", code, address) }
      }
      return descriptor
    } catch {
      close(descriptor)
      throw error
    }
  }

  private static func failure(
    _ call: String, _ code: Int32, _ address: NetworkAddress
  ) -> PairingDialFailure {
    switch code {
    case ECONNREFUSED: .refused(address)
    case ETIMEDOUT: .noAnswer(address)
    default: .system(call: call, code: code, address)
    }
  }

  private static func send(
    _ bytes: [UInt8], over descriptor: CInt, _ address: NetworkAddress
  ) throws(PairingDialFailure) {
    var sent = 0
    while sent < bytes.count {
      guard try wait(descriptor, POLLOUT, within: connectTime, address) else { throw .noAnswer(address) }
      let count = bytes[sent...].withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
      }
      if count > 0 {
        sent += count
      } else if errno == EPIPE || errno == ECONNRESET {
        throw .pairing(.brokenOff)
      } else if errno != EAGAIN && errno != EINTR {
        throw .system(call: "send", code: errno, address)
      }
    }
  }

  /// What has come; empty at the end of the connection, nil when nothing came in time.
  private static func receive(
    _ descriptor: CInt, within time: Duration, _ address: NetworkAddress
  ) throws(PairingDialFailure) -> [UInt8]? {
    guard try wait(descriptor, POLLIN, within: time, address) else { return nil }
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    let count = recv(descriptor, &buffer, buffer.count, 0)
    if count < 0 { return errno == EAGAIN || errno == EINTR ? nil : [] }
    return Array(buffer[..<count])
  }

  private static func wait(
    _ descriptor: CInt, _ events: Int32, within time: Duration, _ address: NetworkAddress
  ) throws(PairingDialFailure) -> Bool {
    var request = pollfd(fd: descriptor, events: Int16(events), revents: 0)
    let ready = poll(&request, 1, CInt(clamping: time.wholeMilliseconds + 1))
    guard ready >= 0 || errno == EINTR else { throw .system(call: "poll", code: errno, address) }
    return ready > 0
  }
}
