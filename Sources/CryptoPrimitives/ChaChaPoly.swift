import CSodium

/// ChaCha20-Poly1305 (RFC 8439) under one key, in place, with the nonce that Noise makes of a counter.
///
/// The nonce is 32 zero bits and the counter, little-endian (Noise §12.3). Whoever seals must never use a
/// counter twice; `RecordSealer` and `DatagramSealer` keep it.
package struct ChaChaPoly: ~Copyable, Sendable {
  /// Bytes of a key.
  package static let keyByteCount = 32
  /// Bytes that sealing adds.
  package static let tagByteCount = 16

  private var key: SecretBytes

  /// The cipher under a key of 32 bytes.
  package init(key: consuming SecretBytes) {
    precondition(key.count == Self.keyByteCount, "a ChaCha20-Poly1305 key of \(key.count) bytes")
    self.key = key
  }

  /// Seals the message that fills the buffer up to its last 16 bytes, which take the tag.
  package borrowing func seal(
    _ buffer: UnsafeMutableRawBufferPointer, counter: UInt64,
    associated: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
  ) {
    precondition(buffer.count >= Self.tagByteCount, "no room for a tag in \(buffer.count) bytes")
    let bytes = buffer.bytesPointer
    let messageCount = UInt64(buffer.count - Self.tagByteCount)
    withNonce(counter) { nonce in
      key.withUnsafeBytes { key in
        let status = crypto_aead_chacha20poly1305_ietf_encrypt(
          bytes, nil, bytes, messageCount, associated.baseAddress?.assumingMemoryBound(to: UInt8.self),
          UInt64(associated.count), nil, nonce, key.bytesPointer)
        precondition(status == 0, "crypto_aead_chacha20poly1305_ietf_encrypt returned \(status)")
      }
    }
  }

  /// Opens what `seal` made; false, with the buffer's content undefined, when anything differs.
  ///
  /// The message is the buffer without its last 16 bytes.
  package borrowing func open(
    _ buffer: UnsafeMutableRawBufferPointer, counter: UInt64,
    associated: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
  ) -> Bool {
    guard buffer.count >= Self.tagByteCount else { return false }
    let bytes = buffer.bytesPointer
    return withNonce(counter) { nonce in
      key.withUnsafeBytes { key in
        crypto_aead_chacha20poly1305_ietf_decrypt(
          bytes, nil, nil, bytes, UInt64(buffer.count),
          associated.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt64(associated.count), nonce,
          key.bytesPointer) == 0
      }
    }
  }

  /// Replaces the key by the one that follows it (Noise §4.2): the first 32 bytes of zeros sealed under the
  /// last counter, which is never used for anything else.
  package mutating func rekey() { key = followingKey() }

  /// The key that follows this one.
  borrowing func followingKey() -> SecretBytes {
    var sealed = [UInt8](repeating: 0, count: Self.keyByteCount + Self.tagByteCount)
    sealed.withUnsafeMutableBytes { seal($0, counter: .max) }
    defer { wipe(&sealed) }
    return SecretBytes(count: Self.keyByteCount) { $0.copyBytes(from: sealed[..<Self.keyByteCount]) }
  }

  private borrowing func withNonce<Result>(
    _ counter: UInt64, _ body: (UnsafePointer<UInt8>) -> Result
  ) -> Result {
    var nonce: (UInt32, UInt32, UInt32) = (
      0, UInt32(truncatingIfNeeded: counter).littleEndian, UInt32(counter >> 32).littleEndian
    )
    return Swift.withUnsafeBytes(of: &nonce) { body($0.bytesPointer) }
  }
}

extension ChaChaPoly {
  /// The sealed bytes of a message; for short messages, as it allocates.
  package borrowing func sealed(
    _ message: some Collection<UInt8>, counter: UInt64, associated: [UInt8] = []
  ) -> [UInt8] {
    var bytes = [UInt8]()
    bytes.reserveCapacity(message.count + Self.tagByteCount)
    bytes.append(contentsOf: message)
    bytes.append(contentsOf: repeatElement(0, count: Self.tagByteCount))
    bytes.withUnsafeMutableBytes { buffer in
      associated.withUnsafeBytes { seal(buffer, counter: counter, associated: $0) }
    }
    return bytes
  }

  /// The message of sealed bytes, or nil when anything differs; for short messages, as it allocates.
  package borrowing func opened(
    _ sealed: some Collection<UInt8>, counter: UInt64, associated: [UInt8] = []
  ) -> [UInt8]? {
    var bytes = Array(sealed)
    let isGood = bytes.withUnsafeMutableBytes { buffer in
      buffer.count >= Self.tagByteCount
        && associated.withUnsafeBytes { open(buffer, counter: counter, associated: $0) }
    }
    guard isGood else { return nil }
    bytes.removeLast(Self.tagByteCount)
    return bytes
  }
}
