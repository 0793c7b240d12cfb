import CryptoPrimitives

/// The running hash, chaining key and cipher of a handshake (Noise §5.2).
struct SymmetricState: ~Copyable {
  /// `h`: everything that both sides must have seen.
  private(set) var hash: [UInt8]
  private var chainingKey: SecretBytes
  private var cipher: ChaChaPoly
  private var hasKey = false
  private var counter: UInt64 = 0

  init(protocolName: String) {
    let name = Array(protocolName.utf8)
    // A name of up to 64 bytes is padded, not hashed.
    hash =
      name.count <= SHA512Digest.byteCount
      ? name + [UInt8](repeating: 0, count: SHA512Digest.byteCount - name.count)
      : SHA512Digest(of: name).bytes
    chainingKey = SecretBytes(copying: hash)
    cipher = ChaChaPoly(key: SecretBytes(count: ChaChaPoly.keyByteCount) { _ in })
  }

  mutating func mixHash(_ data: [UInt8]) {
    hash = SHA512Digest(of: hash, data).bytes
  }

  mutating func mixKey(_ input: borrowing SecretBytes) {
    let keys = HMACSHA512.noiseKeys(chainingKey: chainingKey, input: input, outputs: 2)
    chainingKey = keys.part(0..<64)
    setKey(keys.part(64..<96))
  }

  /// For ephemeral keys in patterns with a pre-shared key (§9.2).
  mutating func mixPublicKey(_ input: [UInt8]) {
    mixKey(SecretBytes(copying: input))
  }

  mutating func mixKeyAndHash(_ input: borrowing SecretBytes) {
    let keys = HMACSHA512.noiseKeys(chainingKey: chainingKey, input: input, outputs: 3)
    chainingKey = keys.part(0..<64)
    hash = SHA512Digest.secret(before: hash, secret: keys.part(64..<128)).withUnsafeBytes { Array($0) }
    setKey(keys.part(128..<160))
  }

  mutating func encryptAndHash(_ message: [UInt8]) -> [UInt8] {
    guard hasKey else {
      mixHash(message)
      return message
    }
    let sealed = cipher.sealed(message, counter: counter, associated: hash)
    counter += 1
    mixHash(sealed)
    return sealed
  }

  /// Nil when the tag does not fit.
  mutating func decryptAndHash(_ sealed: [UInt8]) -> [UInt8]? {
    guard hasKey else {
      mixHash(sealed)
      return sealed
    }
    guard let message = cipher.opened(sealed, counter: counter, associated: hash) else { return nil }
    counter += 1
    mixHash(sealed)
    return message
  }

  /// Bytes that encryption adds now.
  var overheadByteCount: Int { hasKey ? ChaChaPoly.tagByteCount : 0 }

  /// The keys of both directions, one after the other: the initiator's, then the responder's.
  borrowing func split() -> SecretBytes {
    let keys = HMACSHA512.noiseKeys(
      chainingKey: chainingKey, input: SecretBytes(count: 0) { _ in }, outputs: 2)
    return SecretBytes(count: 2 * ChaChaPoly.keyByteCount) { both in
      keys.withUnsafeBytes { keys in
        both.copyMemory(from: UnsafeRawBufferPointer(rebasing: keys[0..<32]))
        UnsafeMutableRawBufferPointer(rebasing: both[32...])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: keys[64..<96]))
      }
    }
  }

  private mutating func setKey(_ key: consuming SecretBytes) {
    cipher = ChaChaPoly(key: key)
    counter = 0
    hasKey = true
  }
}
