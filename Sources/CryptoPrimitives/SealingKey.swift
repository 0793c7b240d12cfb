import CSodium

/// A private X25519 key that opens sealed boxes, and does nothing else.
///
/// A sealed box (libsodium's `crypto_box_seal`) has no sender: sign what is inside.
package struct SealingKey: ~Copyable, Sendable {
  /// Bytes of the private key, which is what is kept on disk.
  package static let byteCount = 32

  /// The key that others seal to.
  package let publicKey: SealingPublicKey
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
    publicKey = SealingPublicKey(unchecked: publicX25519(of: secret))
    self.secret = secret
  }

  /// A copy of the private bytes, to store.
  package borrowing func privateBytes() -> SecretBytes { secret.copy() }

  /// What was sealed to this key; nil when the box is for another key, changed, or too short.
  package borrowing func open(_ box: [UInt8]) -> SecretBytes? {
    guard box.count >= SealingPublicKey.overheadByteCount else { return nil }
    var isGood = false
    let message = SecretBytes(count: box.count - SealingPublicKey.overheadByteCount) { message in
      secret.withUnsafeBytes { secret in
        isGood =
          crypto_box_seal_open(
            message.bytesPointer, box, UInt64(box.count), publicKey.bytes, secret.bytesPointer) == 0
      }
    }
    return isGood ? consume message : nil
  }
}

/// A public X25519 key that boxes are sealed to.
package struct SealingPublicKey: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of the key.
  package static let byteCount = 32
  /// Bytes that sealing adds.
  package static let overheadByteCount = Int(crypto_box_PUBLICKEYBYTES + crypto_box_MACBYTES)
  /// The key's bytes.
  package let bytes: [UInt8]

  /// The key with these bytes; nil unless there are exactly 32.
  package init?(bytes: some Collection<UInt8>) {
    guard bytes.count == Self.byteCount else { return nil }
    self.bytes = Array(bytes)
  }

  fileprivate init(unchecked bytes: [UInt8]) { self.bytes = bytes }

  /// A box that only the private key opens; nil when this key is a point of low order.
  ///
  /// The format is libsodium's sealed box: an ephemeral public key, then `crypto_box` under the nonce
  /// BLAKE2b-192(ephemeral key ‖ this key). The ephemeral key is drawn here so that a simulation repeats.
  package func seal(_ message: borrowing SecretBytes, entropy: inout some EntropySource) -> [UInt8]? {
    let ephemeral = SecretBytes(count: SealingKey.byteCount, entropy: &entropy)
    let ephemeralPublic = publicX25519(of: ephemeral)
    var hasher = ContentHasher(digestByteCount: Int(crypto_box_NONCEBYTES))
    hasher.update(bytes: ephemeralPublic)
    hasher.update(bytes: bytes)
    let nonce = hasher.finalizeBytes()
    var sealed = [UInt8](repeating: 0, count: message.count + Int(crypto_box_MACBYTES))
    let isGood = message.withUnsafeBytes { message in
      ephemeral.withUnsafeBytes { ephemeral in
        crypto_box_easy(
          &sealed, message.bytesPointer, UInt64(message.count), nonce, bytes, ephemeral.bytesPointer) == 0
      }
    }
    return isGood ? ephemeralPublic + sealed : nil
  }

  /// The key in hexadecimal.
  package var description: String { hexadecimal(bytes) }
}
