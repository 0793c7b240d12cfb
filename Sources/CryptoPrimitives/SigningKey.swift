import CSodium

/// A private Ed25519 key (RFC 8032); signs, and does nothing else.
package struct SigningKey: ~Copyable, Sendable {
  /// Bytes of the seed, which is what is kept on disk.
  package static let seedByteCount = 32

  /// The key that others verify with.
  package let publicKey: SigningPublicKey
  // libsodium's form: the seed and the public key.
  private let secret: SecretBytes

  /// A new key.
  package init(entropy: inout some EntropySource) {
    let seed = SecretBytes(count: Self.seedByteCount, entropy: &entropy)
    guard let key = SigningKey(seed: seed) else { preconditionFailure("a seed has 32 bytes") }
    self = key
  }

  /// The key that belongs to a seed; nil unless the seed has 32 bytes.
  package init?(seed: borrowing SecretBytes) {
    guard seed.count == Self.seedByteCount else { return nil }
    var publicBytes = [UInt8](repeating: 0, count: SigningPublicKey.byteCount)
    secret = SecretBytes(count: Int(crypto_sign_SECRETKEYBYTES)) { secret in
      seed.withUnsafeBytes { seed in
        _ = crypto_sign_seed_keypair(&publicBytes, secret.bytesPointer, seed.bytesPointer)
      }
    }
    publicKey = SigningPublicKey(unchecked: publicBytes)
  }

  /// A copy of the seed, to store or to show as a recovery phrase.
  package borrowing func seed() -> SecretBytes { secret.part(0..<Self.seedByteCount) }

  /// The signature over the message; domain separation is the caller's.
  package borrowing func sign(_ message: [UInt8]) -> Signature {
    var bytes = [UInt8](repeating: 0, count: Signature.byteCount)
    secret.withUnsafeBytes { secret in
      _ = crypto_sign_detached(&bytes, nil, message, UInt64(message.count), secret.bytesPointer)
    }
    return Signature(unchecked: bytes)
  }
}

/// A public Ed25519 key.
package struct SigningPublicKey: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of the key.
  package static let byteCount = 32
  /// The key's bytes.
  package let bytes: [UInt8]

  /// The key with these bytes; nil unless there are exactly 32.
  ///
  /// Whether they are a point shows when verifying.
  package init?(bytes: some Collection<UInt8>) {
    guard bytes.count == Self.byteCount else { return nil }
    self.bytes = Array(bytes)
  }

  fileprivate init(unchecked bytes: [UInt8]) { self.bytes = bytes }

  /// Whether the holder of the private key signed exactly this message; never for a key of low order.
  package func verifies(_ signature: Signature, of message: [UInt8]) -> Bool {
    precondition(sodiumIsReady, "libsodium could not be initialised")
    return crypto_sign_verify_detached(signature.bytes, message, UInt64(message.count), bytes) == 0
  }

  /// The key in hexadecimal.
  package var description: String { hexadecimal(bytes) }
}

/// An Ed25519 signature.
package struct Signature: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of a signature.
  package static let byteCount = 64
  /// The signature's bytes.
  package let bytes: [UInt8]

  /// The signature with these bytes; nil unless there are exactly 64.
  package init?(bytes: some Collection<UInt8>) {
    guard bytes.count == Self.byteCount else { return nil }
    self.bytes = Array(bytes)
  }

  fileprivate init(unchecked bytes: [UInt8]) { self.bytes = bytes }

  /// The signature in hexadecimal.
  package var description: String { hexadecimal(bytes) }
}
