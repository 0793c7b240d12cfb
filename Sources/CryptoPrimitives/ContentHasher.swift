import CSodium

/// Whether libsodium is ready; initialised once, on first use.
let sodiumIsReady = sodium_init() >= 0

/// A streaming BLAKE2b hash (RFC 7693) through libsodium, of 16 to 64 bytes, optionally keyed.
///
/// Integers enter as little-endian bytes of their width and strings as their UTF-8 length (8 bytes) and their
/// UTF-8 bytes, so that two different lists of fields never give the same stream. Raw bytes enter as they are.
package struct ContentHasher: ~Copyable {
  /// Bytes of the digest that `finalizeBytes()` returns.
  package let digestByteCount: Int
  // The C state is aligned to 64 bytes, more than Swift gives a value, so it is opaque to Swift.
  private let memory: UnsafeMutableRawPointer
  private var state: OpaquePointer { OpaquePointer(memory) }

  /// A hasher that has seen nothing yet.
  ///
  /// The digest has 16 to 64 bytes (libsodium's range); a key has 16 to 64 bytes, or none for a plain hash.
  package init(digestByteCount: Int = ContentDigest.byteCount, key: [UInt8] = []) {
    self.init(digestByteCount, key.isEmpty ? nil : key, key.count)
  }

  /// A hasher that has seen nothing yet, keyed by 16 to 64 secret bytes, which are not copied on the way.
  package init(digestByteCount: Int = ContentDigest.byteCount, key: borrowing SecretBytes) {
    precondition(key.count > 0, "a BLAKE2b key of no bytes")
    self = key.withUnsafeBytes { ContentHasher(digestByteCount, $0.bytesPointer, $0.count) }
  }

  private init(_ digestByteCount: Int, _ key: UnsafePointer<UInt8>?, _ keyByteCount: Int) {
    precondition(sodiumIsReady, "libsodium could not be initialised")
    precondition((16...64).contains(digestByteCount), "a BLAKE2b digest of \(digestByteCount) bytes")
    precondition(
      keyByteCount == 0 || (16...64).contains(keyByteCount), "a BLAKE2b key of \(keyByteCount) bytes")
    self.digestByteCount = digestByteCount
    memory = .allocate(byteCount: crypto_generichash_blake2b_statebytes(), alignment: 64)
    let status = crypto_generichash_blake2b_init(
      OpaquePointer(memory), key, keyByteCount, digestByteCount)
    precondition(status == 0, "crypto_generichash_blake2b_init returned \(status)")
  }

  deinit {
    // The state may hold key material.
    sodium_memzero(memory, crypto_generichash_blake2b_statebytes())
    memory.deallocate()
  }

  /// Adds raw bytes.
  package mutating func update(_ bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress, !bytes.isEmpty else { return }
    crypto_generichash_blake2b_update(
      state,
      base.assumingMemoryBound(to: UInt8.self), UInt64(bytes.count))
  }

  /// Adds raw bytes held in an array.
  package mutating func update(bytes: [UInt8]) {
    bytes.withUnsafeBytes { update($0) }
  }

  /// Adds an integer as the little-endian bytes of its width; `Int` counts as 8 bytes on every machine.
  package mutating func update<Integer: FixedWidthInteger>(_ value: Integer) {
    if Integer.self == Int.self {
      withUnsafeBytes(of: Int64(value).littleEndian) { update($0) }
    } else {
      withUnsafeBytes(of: value.littleEndian) { update($0) }
    }
  }

  /// Adds a string: its length in UTF-8 bytes as a 64-bit integer, then those bytes.
  package mutating func update(_ text: String) {
    let bytes = Array(text.utf8)
    update(bytes.count)
    update(bytes: bytes)
  }

  /// Adds a list of 32-bit integers: its count as a 64-bit integer, then the integers.
  package mutating func update(_ values: [Int32]) {
    update(values.count)
    #if _endian(little)
      values.withUnsafeBytes { update($0) }
    #else
      for value in values { update(value) }
    #endif
  }

  /// Ends the stream of a hasher of 32 bytes.
  package consuming func finalize() -> ContentDigest {
    let bytes = finalizeBytes()
    guard let digest = ContentDigest(bytes: bytes) else {
      preconditionFailure("a content digest has 32 bytes; this hasher was made for \(bytes.count)")
    }
    return digest
  }

  /// Ends the stream and returns `digestByteCount` bytes.
  package consuming func finalizeBytes() -> [UInt8] {
    let count = digestByteCount
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      let status = crypto_generichash_blake2b_final(
        state, buffer.baseAddress!, count)
      precondition(status == 0, "crypto_generichash_blake2b_final returned \(status)")
      initialized = count
    }
  }
}
