package import CryptoPrimitives

/// The household's root as something to write on paper: eight groups of five letters and digits.
///
/// The alphabet is Crockford's base 32 (no I, L, O, U; what is typed as one of the first three is read as 1, 1, 0).
/// The last character of a group is a check over GF(32): any one wrong character, any two exchanged ones and any two
/// exchanged groups show, and which group it is. Four characters of a group carry 20 bits; 160 bits in all are a
/// secret of 128 bits and 32 bits of a digest over it, so that several errors that cancel out show too.
package struct RecoveryPhrase: ~Copyable, Sendable {
  /// Bytes of the secret.
  package static let secretByteCount = 16
  /// Groups of a phrase.
  package static let groupCount = 8
  /// Characters of a group, the last of which is its check.
  package static let groupLength = 5
  private static let checksumByteCount = 4

  let secret: SecretBytes

  /// A new phrase.
  package init(entropy: inout some EntropySource) {
    secret = SecretBytes(count: Self.secretByteCount, entropy: &entropy)
  }

  /// The phrase that a person typed, in either case, with or without hyphens and blanks.
  package init(typed text: String) throws(RecoveryPhraseFailure) {
    var symbols = try Self.symbols(of: text)
    defer { symbols.withUnsafeMutableBytes { wipe($0) } }
    let wrong = (0..<Self.groupCount).filter { group in
      let start = group * Self.groupLength
      return checkSymbol(of: symbols[start..<(start + Self.groupLength - 1)], group: group)
        != symbols[start + Self.groupLength - 1]
    }
    guard wrong.isEmpty else { throw .wrongGroups(wrong.map { $0 + 1 }) }
    var bytes = Self.bytes(of: symbols)
    defer { wipe(&bytes) }
    let checked = Array(bytes[Self.secretByteCount...])
    bytes.removeLast(Self.checksumByteCount)
    let secret = SecretBytes(wiping: &bytes)
    guard Self.checksum(secret) == checked else { throw .checksum }
    self.secret = secret
  }

  /// The phrase in upper case with hyphens between the groups; to be shown once, never stored or logged.
  package borrowing func revealed() -> String {
    var bytes = secret.withUnsafeBytes { Array($0) } + Self.checksum(secret)
    defer { wipe(&bytes) }
    var groups: [String] = []
    for group in 0..<Self.groupCount {
      var symbols: [UInt8] = []
      for index in 0..<(Self.groupLength - 1) {
        symbols.append(symbol(at: (group * (Self.groupLength - 1) + index) * 5, in: bytes))
      }
      symbols.append(checkSymbol(of: symbols[...], group: group))
      groups.append(String(decoding: symbols.map { alphabet[Int($0)] }, as: UTF8.self))
    }
    return groups.joined(separator: "-")
  }

  private static func checksum(_ secret: borrowing SecretBytes) -> [UInt8] {
    // BLAKE2b gives 16 bytes at least.
    Array(
      deriveBytes(label: "hearth recovery phrase check 1", from: secret, count: 16).prefix(checksumByteCount))
  }

  /// The 40 symbols of what was typed, as values from 0 to 31.
  private static func symbols(of text: String) throws(RecoveryPhraseFailure) -> [UInt8] {
    let limit = 4 * groupCount * groupLength
    guard text.utf8.count <= limit else { throw .length(found: text.utf8.count) }
    var groups = text.split { $0 == "-" || $0.isWhitespace }.map(String.init)
    if groups.count != groupCount {
      // Written without separators, or with others than the phrase was shown with.
      let joined = Array(groups.joined())
      guard joined.count == groupCount * groupLength else { throw .length(found: joined.count) }
      groups = stride(from: 0, to: joined.count, by: groupLength).map {
        String(joined[$0..<($0 + groupLength)])
      }
    }
    var symbols: [UInt8] = []
    for (index, group) in groups.enumerated() {
      guard group.count == groupLength else {
        throw .groupLength(group: index + 1, found: group.count)
      }
      for character in group {
        guard let value = value(of: character) else { throw .character(group: index + 1, "\(character)") }
        symbols.append(value)
      }
    }
    return symbols
  }

  private static func value(of character: Character) -> UInt8? {
    guard let ascii = character.asciiValue else { return nil }
    let upper = ascii >= UInt8(ascii: "a") && ascii <= UInt8(ascii: "z") ? ascii - 32 : ascii
    switch upper {
    case UInt8(ascii: "O"): return 0
    case UInt8(ascii: "I"), UInt8(ascii: "L"): return 1
    default: return alphabet.firstIndex(of: upper).map { UInt8($0) }
    }
  }

  /// The 20 bytes in the data symbols, the first symbol uppermost.
  private static func bytes(of symbols: [UInt8]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: secretByteCount + checksumByteCount)
    var bit = 0
    for (index, symbol) in symbols.enumerated() where index % groupLength != groupLength - 1 {
      for shift in stride(from: 4, through: 0, by: -1) {
        bytes[bit / 8] |= (symbol >> UInt8(shift) & 1) << UInt8(7 - bit % 8)
        bit += 1
      }
    }
    return bytes
  }

  private func symbol(at bit: Int, in bytes: [UInt8]) -> UInt8 {
    (bit..<(bit + 5)).reduce(0) { $0 << 1 | (bytes[$1 / 8] >> UInt8(7 - $1 % 8) & 1) }
  }
}

/// Why what was typed is not a recovery phrase.
package enum RecoveryPhraseFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// It does not have 40 characters.
  case length(found: Int)
  /// A group does not have five characters; groups count from 1.
  case groupLength(group: Int, found: Int)
  /// A character that the alphabet does not have.
  case character(group: Int, String)
  /// The check characters of these groups do not fit.
  case wrongGroups([Int])
  /// Every group fits by itself, but not all together.
  case checksum
  /// It is a phrase, but of another household.
  case otherHousehold

  /// What is wrong, where, and what to do.
  package var description: String {
    switch self {
    case .length(let found):
      "a recovery phrase has 8 groups of 5 characters, 40 in all; this has \(found); compare it with the paper"
    case .groupLength(let group, let found):
      "group \(group) of the recovery phrase has \(found) characters instead of 5; compare it with the paper"
    case .character(let group, let character):
      "group \(group) of the recovery phrase has '\(character)', which no phrase contains; compare it with the paper"
    case .wrongGroups(let groups):
      "the recovery phrase is mistyped in group \(groups.map(String.init).joined(separator: ", ")); "
        + "compare it with the paper"
    case .checksum:
      "the recovery phrase is mistyped in more than one place; compare all of it with the paper"
    case .otherHousehold:
      "this is the recovery phrase of another household; look for the one that was shown when this was created"
    }
  }
}

private let alphabet = Array("0123456789ABCDEFGHJKMNPQRSTVWXYZ".utf8)

/// The symbol that makes a group right: Σ αⁱ·symbolᵢ = group + 1 over GF(32), α a root of x⁵ + x² + 1.
///
/// All weights differ and none is zero, so one wrong or two exchanged symbols change the sum; the right side
/// differs from group to group.
private func checkSymbol(of symbols: ArraySlice<UInt8>, group: Int) -> UInt8 {
  var sum = UInt8(group + 1)
  var weight: UInt8 = 1
  for symbol in symbols {
    sum ^= product(weight, symbol)
    weight = product(weight, 2)
  }
  // The check's own weight is α⁴; its inverse is α²⁷.
  for _ in 0..<27 { sum = product(sum, 2) }
  return sum
}

private func product(_ left: UInt8, _ right: UInt8) -> UInt8 {
  var result: UInt8 = 0
  for bit in stride(from: 4, through: 0, by: -1) {
    result = result << 1 ^ (result & 0x10 != 0 ? 0x25 : 0)
    if right >> UInt8(bit) & 1 == 1 { result ^= left }
  }
  return result
}
