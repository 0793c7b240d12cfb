import CSodium

/// The SHA-512 of some bytes (FIPS 180-4); for Noise and CPace only, content is named by `ContentDigest`.
package struct SHA512Digest: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of a digest.
  package static let byteCount = 64
  /// The digest's bytes.
  package let bytes: [UInt8]

  /// The digest of the parts, one after the other.
  package init(of parts: [UInt8]...) {
    var state = crypto_hash_sha512_state()
    crypto_hash_sha512_init(&state)
    for part in parts { crypto_hash_sha512_update(&state, part, UInt64(part.count)) }
    var digest = [UInt8](repeating: 0, count: Self.byteCount)
    crypto_hash_sha512_final(&state, &digest)
    bytes = digest
  }

  /// The digest of bytes around a secret, itself a secret.
  package static func secret(
    before: [UInt8] = [], secret: borrowing SecretBytes, after: [UInt8] = []
  ) -> SecretBytes {
    var state = crypto_hash_sha512_state()
    crypto_hash_sha512_init(&state)
    crypto_hash_sha512_update(&state, before, UInt64(before.count))
    secret.withUnsafeBytes { _ = crypto_hash_sha512_update(&state, $0.bytesPointer, UInt64($0.count)) }
    crypto_hash_sha512_update(&state, after, UInt64(after.count))
    defer { withUnsafeMutableBytes(of: &state) { wipe($0) } }
    return SecretBytes(count: Self.byteCount) { crypto_hash_sha512_final(&state, $0.bytesPointer) }
  }

  /// The digest in hexadecimal.
  package var description: String { hexadecimal(bytes) }
}

/// HMAC-SHA-512 (RFC 2104) and the derivations that Noise makes with it.
package enum HMACSHA512 {
  /// Bytes of a tag.
  package static let byteCount = 64

  /// The tag of a message under a key.
  package static func tag(of message: [UInt8], key: borrowing SecretBytes) -> [UInt8] {
    var tag = [UInt8](repeating: 0, count: byteCount)
    tag.withUnsafeMutableBytes { output in
      key.withUnsafeBytes { key in
        message.withUnsafeBytes { authenticate($0, key: key, into: output) }
      }
    }
    return tag
  }

  /// HKDF as Noise writes it (§4.3): `outputs` keys of 64 bytes, two or three, one after the other.
  package static func noiseKeys(
    chainingKey: borrowing SecretBytes, input: borrowing SecretBytes, outputs: Int
  ) -> SecretBytes {
    precondition((2...3).contains(outputs), "\(outputs) outputs; Noise has two or three")
    let temporary = SecretBytes(count: byteCount) { output in
      chainingKey.withUnsafeBytes { key in
        input.withUnsafeBytes { authenticate($0, key: key, into: output) }
      }
    }
    return SecretBytes(count: outputs * byteCount) { all in
      temporary.withUnsafeBytes { key in
        for index in 0..<outputs {
          let previous = UnsafeMutableRawBufferPointer(
            rebasing: all[(max(index - 1, 0) * byteCount)..<(index * byteCount)])
          let output = UnsafeMutableRawBufferPointer(rebasing: all[(index * byteCount)...].prefix(byteCount))
          authenticate(
            UnsafeRawBufferPointer(previous), ending: UInt8(index + 1), key: key, into: output)
        }
      }
    }
  }

  private static func authenticate(
    _ message: UnsafeRawBufferPointer, ending: UInt8? = nil, key: UnsafeRawBufferPointer,
    into output: UnsafeMutableRawBufferPointer
  ) {
    var state = crypto_auth_hmacsha512_state()
    crypto_auth_hmacsha512_init(&state, key.bytesPointer, key.count)
    if !message.isEmpty {
      crypto_auth_hmacsha512_update(&state, message.bytesPointer, UInt64(message.count))
    }
    if var ending { crypto_auth_hmacsha512_update(&state, &ending, 1) }
    crypto_auth_hmacsha512_final(&state, output.bytesPointer)
    withUnsafeMutableBytes(of: &state) { wipe($0) }
  }
}
