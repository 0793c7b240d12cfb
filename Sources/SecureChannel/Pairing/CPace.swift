package import CryptoPrimitives

/// CPace (draft-irtf-cfrg-cpace), suite CPACE-RISTR255-SHA512: two who know one short code agree on a strong key.
///
/// Each exchange lets the other side test one guess of the code and no more; what passes over the wire is of no
/// use for guessing offline. Names in comments are the draft's.
package struct CPace: ~Copyable, Sendable {
  /// Bytes of a share.
  package static let shareByteCount = RistrettoPoint.byteCount
  /// Bytes of a confirmation tag.
  package static let tagByteCount = HMACSHA512.byteCount
  private static let domain = Array("CPaceRistretto255".utf8)
  // The block size of SHA-512: the code fills the first block, so that the hash's time does not depend on it.
  private static let blockByteCount = 128

  /// What this side sends (Ya or Yb).
  package let share: [UInt8]
  private let scalar: RistrettoScalar
  private let sessionID: [UInt8]

  /// This side's share for a code (PRS), a channel identifier (CI) and a session id (sid) that is new each time.
  package init(
    code: borrowing SecretBytes, channel: [UInt8], sessionID: [UInt8], scalar: consuming RistrettoScalar
  ) {
    let generator = Self.generator(code: code, channel: channel, sessionID: sessionID)
    // The generator is the image of a hash: it is the neutral element with probability 2^-252.
    guard let point = scalar.times(generator) else {
      preconditionFailure("the generator of CPace is the neutral element")
    }
    share = point.withUnsafeBytes { Array($0) }
    self.scalar = scalar
    self.sessionID = sessionID
  }

  /// The key with the side that sent `other`; nil when that is no point, or the neutral element.
  ///
  /// `isFirst` is whether this side is A, whose share goes first. The associated data are public and part of
  /// the key: what each side wants the other to have seen.
  package borrowing func key(
    with other: [UInt8], isFirst: Bool, ownAssociated: [UInt8] = [], otherAssociated: [UInt8] = []
  ) -> CPaceKey? {
    guard other.count == Self.shareByteCount else { return nil }
    guard let point = scalar.times(SecretBytes(copying: other)) else { return nil }
    let own = Self.lengthsAndValues(share, ownAssociated)
    let others = Self.lengthsAndValues(other, otherAssociated)
    let before =
      Self.lengthsAndValues(Self.domain + Array("_ISK".utf8), sessionID)
      + Self.lengthPrefix(RistrettoPoint.byteCount)
    let secret = SHA512Digest.secret(
      before: before, secret: point, after: isFirst ? own + others : others + own)
    return CPaceKey(secret: secret, sessionID: sessionID, ownPart: own, otherPart: others)
  }

  /// The secret generator (calculate_generator).
  package static func generator(
    code: borrowing SecretBytes, channel: [UInt8], sessionID: [UInt8]
  ) -> SecretBytes {
    let codePrefix = lengthPrefix(code.count)
    let before = lengthsAndValues(domain) + codePrefix
    let paddingCount = max(
      0, blockByteCount - 1 - codePrefix.count - code.count - lengthsAndValues(domain).count)
    let padding = [UInt8](repeating: 0, count: paddingCount)
    return RistrettoPoint.mapped(
      from: SHA512Digest.secret(
        before: before, secret: code, after: lengthsAndValues(padding, channel, sessionID)))
  }

  /// Each value with its length before it (lv_cat).
  package static func lengthsAndValues(_ values: [UInt8]...) -> [UInt8] {
    values.flatMap { lengthPrefix($0.count) + $0 }
  }

  /// A length in LEB128: seven bits a byte, the lowest first.
  private static func lengthPrefix(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = count
    repeat {
      bytes.append(UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0))
      rest >>= 7
    } while rest > 0
    return bytes
  }
}

/// The key that CPace gives (ISK), before and after both sides have shown that they have the same.
package struct CPaceKey: ~Copyable, Sendable {
  /// The intermediate session key: 64 bytes, to derive keys from.
  package let secret: SecretBytes
  private let macKey: SecretBytes
  private let ownPart: [UInt8]
  private let otherPart: [UInt8]

  init(secret: consuming SecretBytes, sessionID: [UInt8], ownPart: [UInt8], otherPart: [UInt8]) {
    macKey = SHA512Digest.secret(before: Array("CPaceMac".utf8) + sessionID, secret: secret)
    self.secret = secret
    self.ownPart = ownPart
    self.otherPart = otherPart
  }

  /// Shows the other side that this one has the key; send it only once, after the first side has sent its own.
  package borrowing func confirmation() -> [UInt8] { HMACSHA512.tag(of: ownPart, key: macKey) }

  /// Whether the other side has shown that it has the same key.
  package borrowing func confirms(_ tag: [UInt8]) -> Bool {
    equalInConstantTime(tag, HMACSHA512.tag(of: otherPart, key: macKey))
  }
}
