import CSodium

/// A private X25519 key (RFC 7748) for Noise, static or ephemeral; agrees on secrets, and does nothing else.
package struct AgreementKey: ~Copyable, Sendable {
  /// Bytes of the private key, which is what is kept on disk.
  package static let byteCount = 32

  /// The key that others agree with.
  package let publicKey: AgreementPublicKey
  private let secret: SecretBytes

  /// A new key.
  package init(entropy: inout some EntropySource) {
    self.init(unchecked: SecretBytes(count: Self.byteCount, entropy: &entropy))
  }

  /// The key with these private bytes; nil unless there are 32.
  package init?(privateBytes: borrowing SecretBytes) {
    guard privateBytes.count == Self.byteCount else { return nil }
    self.init(unchecked: privateBytes.copy())
  }

  private init(unchecked secret: consuming SecretBytes) {
    publicKey = AgreementPublicKey(unchecked: publicX25519(of: secret))
    self.secret = secret
  }

  private init(secret: consuming SecretBytes, publicKey: AgreementPublicKey) {
    self.secret = secret
    self.publicKey = publicKey
  }

  /// A second key with the same bytes, for a handshake that outlives a borrow.
  package borrowing func copy() -> AgreementKey {
    AgreementKey(secret: secret.copy(), publicKey: publicKey)
  }

  /// A copy of the private bytes, to store.
  package borrowing func privateBytes() -> SecretBytes { secret.copy() }

  /// The secret that both sides get; nil when the other key is a point of low order, which gives zero to anybody.
  package borrowing func sharedSecret(with other: AgreementPublicKey) -> SecretBytes? {
    var isGood = false
    let shared = SecretBytes(count: Int(crypto_scalarmult_BYTES)) { shared in
      secret.withUnsafeBytes { secret in
        isGood = crypto_scalarmult(shared.bytesPointer, secret.bytesPointer, other.bytes) == 0
      }
    }
    return isGood ? consume shared : nil
  }
}

/// A public X25519 key for Noise.
package struct AgreementPublicKey: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of the key.
  package static let byteCount = 32
  /// The key's bytes.
  package let bytes: [UInt8]

  /// The key with these bytes; nil unless there are exactly 32.
  package init?(bytes: some Collection<UInt8>) {
    guard bytes.count == Self.byteCount else { return nil }
    self.bytes = Array(bytes)
  }

  fileprivate init(unchecked bytes: [UInt8]) { self.bytes = bytes }

  /// The key in hexadecimal.
  package var description: String { hexadecimal(bytes) }
}

/// The public key of a private X25519 key of 32 bytes.
func publicX25519(of secret: borrowing SecretBytes) -> [UInt8] {
  precondition(secret.count == 32, "a private X25519 key of \(secret.count) bytes")
  var bytes = [UInt8](repeating: 0, count: 32)
  secret.withUnsafeBytes { _ = crypto_scalarmult_base(&bytes, $0.bytesPointer) }
  return bytes
}
