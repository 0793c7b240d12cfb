import COpenSSL

/// `ChaChaPoly` in one direction, for streams of large records: the same bytes, more than twice as fast.
///
/// OpenSSL's implementation uses the widest vectors of the processor; libsodium's does not. The expanded key
/// lives in OpenSSL's own memory, which it wipes when the value ends. Where OpenSSL has no such cipher (a
/// configuration that allows only FIPS algorithms), libsodium computes it.
// Safety: one owner at a time has the context; every use of it is mutating.
package struct BulkChaChaPoly: ~Copyable, @unchecked Sendable {
  /// What a value is for; OpenSSL prepares a key for one of them.
  package enum Direction: Sendable {
    case sealing
    case opening
  }

  private let direction: Direction
  private var key: SecretBytes
  // Nil where libsodium computes.
  private let context: OpaquePointer?

  /// The cipher under a key of 32 bytes.
  package init(key: consuming SecretBytes, _ direction: Direction) {
    self.init(key: key, direction, usingOpenSSL: true)
  }

  /// The cipher computed by libsodium, for comparing the two.
  package static func byLibsodium(key: consuming SecretBytes, _ direction: Direction) -> BulkChaChaPoly {
    BulkChaChaPoly(key: key, direction, usingOpenSSL: false)
  }

  private init(key: consuming SecretBytes, _ direction: Direction, usingOpenSSL: Bool) {
    precondition(key.count == ChaChaPoly.keyByteCount, "a ChaCha20-Poly1305 key of \(key.count) bytes")
    self.key = key
    self.direction = direction
    context = usingOpenSSL && fetchedCipher.pointer != nil ? EVP_CIPHER_CTX_new() : nil
    prepare()
  }

  deinit { if let context { EVP_CIPHER_CTX_free(context) } }

  /// Whether OpenSSL computes.
  package var usesOpenSSL: Bool { context != nil }

  /// Seals the message that fills the buffer up to its last 16 bytes, which take the tag.
  ///
  /// - Parameter tail: the end of the message, where it lies outside the buffer; it is read there and sealed into its
  ///   place before the tag, which spares a copy of long messages.
  package mutating func seal(
    _ buffer: UnsafeMutableRawBufferPointer, tail: UnsafeRawBufferPointer = .init(start: nil, count: 0),
    counter: UInt64
  ) {
    precondition(direction == .sealing, "a cipher for opening seals")
    precondition(
      buffer.count >= ChaChaPoly.tagByteCount + tail.count,
      "no room for a tag and a tail of \(tail.count) bytes in \(buffer.count)")
    let bytes = buffer.bytesPointer
    let count = buffer.count - ChaChaPoly.tagByteCount
    let head = count - tail.count
    guard let context else {
      if let start = tail.baseAddress {
        UnsafeMutableRawPointer(bytes + head).copyMemory(from: start, byteCount: tail.count)
      }
      ChaChaPoly(key: key.copy()).seal(buffer, counter: counter)
      return
    }
    let isDone =
      begin(context, counter) && update(context, bytes, head)
      && update(context, bytes + head, tail.count, from: tail.baseAddress)
      && finish(context, bytes + count)
      && EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_GET_TAG, Int32(ChaChaPoly.tagByteCount), bytes + count) == 1
    precondition(isDone, "OpenSSL could not seal \(count) bytes")
  }

  /// Opens what `seal` made; false, with the buffer's content undefined, when anything differs.
  package mutating func open(_ buffer: UnsafeMutableRawBufferPointer, counter: UInt64) -> Bool {
    precondition(direction == .opening, "a cipher for sealing opens")
    guard buffer.count >= ChaChaPoly.tagByteCount else { return false }
    guard let context else { return ChaChaPoly(key: key.copy()).open(buffer, counter: counter) }
    let bytes = buffer.bytesPointer
    let count = buffer.count - ChaChaPoly.tagByteCount
    return begin(context, counter)
      && EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_SET_TAG, Int32(ChaChaPoly.tagByteCount), bytes + count) == 1
      && update(context, bytes, count) && finish(context, bytes + count)
  }

  /// Replaces the key by the one that follows it, as `ChaChaPoly` does.
  package mutating func rekey() {
    key = ChaChaPoly(key: key.copy()).followingKey()
    prepare()
  }

  private mutating func prepare() {
    guard let context else { return }
    let isDone = key.withUnsafeBytes { key in
      EVP_CipherInit_ex2(
        context, fetchedCipher.pointer, key.bytesPointer, nil, direction == .sealing ? 1 : 0, nil) == 1
    }
    precondition(isDone, "OpenSSL does not take a ChaCha20-Poly1305 key")
  }

  private func begin(_ context: OpaquePointer, _ counter: UInt64) -> Bool {
    var nonce: (UInt32, UInt32, UInt32) = (
      0, UInt32(truncatingIfNeeded: counter).littleEndian, UInt32(counter >> 32).littleEndian
    )
    // -1 keeps the direction, nil the cipher and the key.
    return Swift.withUnsafeBytes(of: &nonce) {
      EVP_CipherInit_ex2(context, nil, nil, $0.bytesPointer, -1, nil) == 1
    }
  }

  /// Encrypts or decrypts so many bytes, in place or from elsewhere.
  private func update(
    _ context: OpaquePointer, _ bytes: UnsafeMutablePointer<UInt8>, _ count: Int,
    from source: UnsafeRawPointer? = nil
  ) -> Bool {
    guard count > 0 else { return true }
    var written: Int32 = 0
    let input = source?.assumingMemoryBound(to: UInt8.self) ?? UnsafePointer(bytes)
    return EVP_CipherUpdate(context, bytes, &written, input, Int32(count)) == 1 && written == count
  }

  /// Finishes behind the last byte; when opening, says whether the tag fits.
  private func finish(_ context: OpaquePointer, _ end: UnsafeMutablePointer<UInt8>) -> Bool {
    var written: Int32 = 0
    return EVP_CipherFinal_ex(context, end, &written) == 1 && written == 0
  }
}

/// OpenSSL's description of the cipher, looked up once.
// Safety: OpenSSL's descriptions never change and may be used by all threads.
private struct FetchedCipher: @unchecked Sendable {
  let pointer: OpaquePointer?
}

private let fetchedCipher = FetchedCipher(pointer: EVP_CIPHER_fetch(nil, "ChaCha20-Poly1305", nil))
