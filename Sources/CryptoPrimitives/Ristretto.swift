import CSodium

/// A secret scalar of the group ristretto255 (RFC 9496).
package struct RistrettoScalar: ~Copyable, Sendable {
  /// Bytes of a scalar.
  package static let byteCount = 32
  private let secret: SecretBytes

  /// A uniform scalar: 64 random bytes reduced by the order of the group.
  package init(entropy: inout some EntropySource) {
    let wide = SecretBytes(count: Int(crypto_core_ristretto255_NONREDUCEDSCALARBYTES), entropy: &entropy)
    secret = SecretBytes(count: Self.byteCount) { scalar in
      wide.withUnsafeBytes { crypto_core_ristretto255_scalar_reduce(scalar.bytesPointer, $0.bytesPointer) }
    }
  }

  /// The scalar with these bytes, little-endian; nil unless there are 32.
  package init?(bytes: borrowing SecretBytes) {
    guard bytes.count == Self.byteCount else { return nil }
    secret = bytes.copy()
  }

  /// The scalar times a point; nil when the bytes encode no point or the product is the neutral element.
  package borrowing func times(_ point: borrowing SecretBytes) -> SecretBytes? {
    guard point.count == RistrettoPoint.byteCount else { return nil }
    var isGood = false
    let product = SecretBytes(count: RistrettoPoint.byteCount) { product in
      secret.withUnsafeBytes { scalar in
        point.withUnsafeBytes { point in
          isGood =
            crypto_scalarmult_ristretto255(product.bytesPointer, scalar.bytesPointer, point.bytesPointer) == 0
        }
      }
    }
    return isGood ? consume product : nil
  }
}

/// Points of the group ristretto255 (RFC 9496), by their encodings.
package enum RistrettoPoint {
  /// Bytes of an encoded point.
  package static let byteCount = 32
  /// Bytes that are mapped to a point.
  package static let uniformByteCount = 64

  /// The point that 64 uniform bytes are mapped to (RFC 9496 §4.3.4); nobody knows its discrete logarithm.
  package static func mapped(from uniform: borrowing SecretBytes) -> SecretBytes {
    precondition(uniform.count == uniformByteCount, "\(uniform.count) bytes to map to a point")
    return SecretBytes(count: byteCount) { point in
      uniform.withUnsafeBytes { _ = crypto_core_ristretto255_from_hash(point.bytesPointer, $0.bytesPointer) }
    }
  }

  /// Whether the bytes are the canonical encoding of a point.
  package static func isValid(_ bytes: [UInt8]) -> Bool {
    bytes.count == byteCount && crypto_core_ristretto255_is_valid_point(bytes) == 1
  }
}
