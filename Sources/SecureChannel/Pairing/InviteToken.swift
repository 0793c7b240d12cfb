package import CryptoPrimitives
package import MeshModel
import WireCoding

/// An invitation for a device without a keyboard: a secret of 256 bits with who invites, as text to copy.
///
/// `hearth1` and base32 of household 16, inviting admin 16, id 16, secret 32, check 4 bytes. Single use; the
/// inviting admin keeps the other half and forgets it after a day.
package struct InviteToken: ~Copyable, Sendable {
  /// Bytes of a token's id.
  package static let idByteCount = 16
  /// Bytes of the secret.
  package static let secretByteCount = 32
  private static let prefix = "hearth1"
  private static let checkByteCount = 4
  private static let byteCount = 2 * DeviceID.byteCount + idByteCount + secretByteCount + checkByteCount

  /// The household that the token invites to.
  package let household: HouseholdID
  /// The admin that made the token and that alone can redeem it.
  package let admin: DeviceID
  /// Which token it is; goes over the wire in clear.
  package let id: [UInt8]
  let secret: SecretBytes

  /// A new token of an admin.
  package init(household: HouseholdID, admin: DeviceID, entropy: inout some EntropySource) {
    self.household = household
    self.admin = admin
    id = entropy.bytes(Self.idByteCount)
    secret = SecretBytes(count: Self.secretByteCount, entropy: &entropy)
  }

  /// The token that a text stands for.
  package init(text: some StringProtocol) throws(InviteTokenFailure) {
    // Longer than any token with line breaks in it; nothing is decoded before this.
    guard text.utf8.count <= 256 else { throw .tooLong(byteCount: text.utf8.count) }
    let compact = String(text.filter { !$0.isWhitespace }).lowercased()
    guard compact.hasPrefix(Self.prefix) else { throw .noToken }
    guard var bytes = base32Decoded(compact.dropFirst(Self.prefix.count)), bytes.count == Self.byteCount
    else { throw .cutOff }
    defer { wipe(&bytes) }
    var body = Array(bytes.dropLast(Self.checkByteCount))
    defer { wipe(&body) }
    guard Self.check(body) == Array(bytes.suffix(Self.checkByteCount)) else { throw .mistyped }
    guard let household = HouseholdID(bytes: body[0..<16]), let admin = DeviceID(bytes: body[16..<32]) else {
      preconditionFailure("names have 16 bytes")
    }
    self.household = household
    self.admin = admin
    id = Array(body[32..<48])
    secret = SecretBytes(count: Self.secretByteCount) { $0.copyBytes(from: body[48...]) }
  }

  private init(
    household: HouseholdID, admin: DeviceID, id: [UInt8], secret: consuming SecretBytes
  ) {
    self.household = household
    self.admin = admin
    self.id = id
    self.secret = secret
  }

  /// A second value of the same token.
  package borrowing func copy() -> InviteToken {
    InviteToken(household: household, admin: admin, id: id, secret: secret.copy())
  }

  /// The text to give to the device that shall join; whoever reads it can join.
  package borrowing func text() -> String {
    var body = household.bytes + admin.bytes + id + secret.withUnsafeBytes { Array($0) }
    let check = Self.check(body)
    defer { wipe(&body) }
    return Self.prefix + base32(body + check)
  }

  // Finds typing mistakes; it is no protection, the handshake is.
  private static func check(_ body: [UInt8]) -> [UInt8] {
    var hasher = ContentHasher(digestByteCount: 16)
    hasher.update("hearth invite token check 1")
    hasher.update(bytes: body)
    return Array(hasher.finalizeBytes().prefix(checkByteCount))
  }
}

/// Why a text is no invite token.
package enum InviteTokenFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// Does not begin as a token does.
  case noToken
  /// Has too few or too many characters, or ones that no token has.
  case cutOff
  /// Far longer than any token.
  case tooLong(byteCount: Int)
  /// The check does not fit: a character is wrong.
  case mistyped

  /// What is wrong, and what to do.
  package var description: String {
    switch self {
    case .noToken: "an invite token begins with 'hearth1'; copy the line that 'hearth invite --token' printed"
    case .cutOff: "the invite token is cut off or has foreign characters; copy the whole line again"
    case .tooLong(let byteCount): "an invite token has 142 characters, not \(byteCount); copy only that line"
    case .mistyped: "a character of the invite token is wrong; copy the line again"
    }
  }
}

private let base32Alphabet = Array("abcdefghijklmnopqrstuvwxyz234567".utf8)

/// The text of some bytes in base32 (RFC 4648), lower case, without padding.
func base32(_ bytes: [UInt8]) -> String {
  var text: [UInt8] = []
  var buffer: UInt32 = 0
  var bits = 0
  for byte in bytes {
    buffer = buffer << 8 | UInt32(byte)
    bits += 8
    while bits >= 5 {
      bits -= 5
      text.append(base32Alphabet[Int(buffer >> UInt32(bits) & 31)])
    }
  }
  if bits > 0 { text.append(base32Alphabet[Int(buffer << UInt32(5 - bits) & 31)]) }
  return String(decoding: text, as: UTF8.self)
}

/// The bytes of a base32 text in lower case; nil when it is none, or not the one that `base32` writes.
func base32Decoded(_ text: some StringProtocol) -> [UInt8]? {
  var bytes: [UInt8] = []
  var buffer: UInt32 = 0
  var bits = 0
  for character in text.utf8 {
    guard let value = base32Alphabet.firstIndex(of: character) else { return nil }
    buffer = buffer << 5 | UInt32(value)
    bits += 5
    if bits >= 8 {
      bits -= 8
      bytes.append(UInt8(truncatingIfNeeded: buffer >> UInt32(bits)))
    }
  }
  // What is left over is less than a character's bits, and zero.
  guard bits < 5, buffer & (1 << UInt32(bits) - 1) == 0 else { return nil }
  return bytes
}
