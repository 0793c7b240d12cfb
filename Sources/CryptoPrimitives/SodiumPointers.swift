// libsodium takes pointers that are never null; a secret's buffer always has an address.

extension UnsafeRawBufferPointer {
  /// The bytes as libsodium takes them; the buffer must have an address.
  var bytesPointer: UnsafePointer<UInt8> {
    guard let baseAddress else { preconditionFailure("a buffer of \(count) bytes without an address") }
    return baseAddress.assumingMemoryBound(to: UInt8.self)
  }
}

extension UnsafeMutableRawBufferPointer {
  /// The bytes as libsodium takes them; the buffer must have an address.
  var bytesPointer: UnsafeMutablePointer<UInt8> {
    guard let baseAddress else { preconditionFailure("a buffer of \(count) bytes without an address") }
    return baseAddress.assumingMemoryBound(to: UInt8.self)
  }
}
