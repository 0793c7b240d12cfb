import Determinism
import Glibc
import MeshModel
import NIOCore

// The members of `sockaddr_in` and `sockaddr_in6` belong to a module of NIO's own here, so the structs are written
// and read as the bytes that Linux fixes: family u16, port u16 (big-endian), then for IPv4 the address, and for IPv6
// the flow u32, the address, the scope u32.

extension SocketAddress {
  /// The socket address of a network address, with its interface when it is link-local.
  init(_ address: NetworkAddress) {
    switch address.host {
    case .v4(let bits):
      self.init(
        withZeroedBytes(of: sockaddr_in.self) { bytes in
          bytes.storeBytes(of: UInt16(AF_INET), toByteOffset: 0, as: UInt16.self)
          bytes.storeBytes(of: address.port.bigEndian, toByteOffset: 2, as: UInt16.self)
          bytes.storeBytes(of: bits.bigEndian, toByteOffset: 4, as: UInt32.self)
        })
    case .v6(let high, let low, let scope):
      self.init(v6High: high, low: low, scope: scope, port: address.port)
    }
  }

  /// An IPv6 socket address with its scope, whatever kind of address it is.
  init(v6High high: UInt64, low: UInt64, scope: UInt32, port: UInt16) {
    self.init(
      withZeroedBytes(of: sockaddr_in6.self) { bytes in
        bytes.storeBytes(of: UInt16(AF_INET6), toByteOffset: 0, as: UInt16.self)
        bytes.storeBytes(of: port.bigEndian, toByteOffset: 2, as: UInt16.self)
        bytes.storeBytes(of: high.bigEndian, toByteOffset: 8, as: UInt64.self)
        bytes.storeBytes(of: low.bigEndian, toByteOffset: 16, as: UInt64.self)
        bytes.storeBytes(of: scope, toByteOffset: 24, as: UInt32.self)
      })
  }

  /// The network address of an IP socket address; nil for a Unix socket.
  ///
  /// A mapped IPv4 address counts as IPv4.
  var networkAddress: NetworkAddress? {
    switch self {
    case .v4(let wrapped):
      return withUnsafeBytes(of: wrapped.address) { bytes in
        NetworkAddress(
          .v4(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 4, as: UInt32.self))),
          port: UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)))
      }
    case .v6(let wrapped):
      return withUnsafeBytes(of: wrapped.address) { bytes in
        let port = UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        let high = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let low = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
        let scope = bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
        if high == 0, low >> 32 == 0xFFFF {
          return NetworkAddress(.v4(UInt32(truncatingIfNeeded: low)), port: port)
        }
        return NetworkAddress(.v6(high: high, low: low, scope: scope), port: port)
      }
    case .unixDomainSocket: return nil
    }
  }
}

/// A C struct of zeros, after `body` has written to its bytes.
private func withZeroedBytes<Value>(
  of type: Value.Type, _ body: (UnsafeMutableRawBufferPointer) -> Void
) -> Value {
  withUnsafeTemporaryAllocation(
    byteCount: MemoryLayout<Value>.size, alignment: MemoryLayout<Value>.alignment
  ) { bytes in
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
    body(bytes)
    return bytes.load(as: Value.self)
  }
}

extension Duration {
  /// The same length of time as NIO counts it.
  var timeAmount: TimeAmount { .nanoseconds(wholeNanoseconds) }

  /// The duration in whole milliseconds, towards zero.
  var wholeMilliseconds: Int64 { wholeNanoseconds / 1_000_000 }
}
