/// Cuts a text into the stretches that byte-level BPE never merges across (Radford et al., 2019).
///
/// The published pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`: one
/// space belongs to the word that follows it, and the last of several spaces too.
enum ByteLevelWords {
  private enum Class {
    case letter
    case number
    case space
    case other
  }

  private static let contractions = ["s", "t", "re", "ve", "m", "ll", "d"].map { Array($0.unicodeScalars) }

  /// The stretches, in order, each as UTF-8; together they are the text.
  static func split(_ text: some StringProtocol) -> [[UInt8]] {
    let scalars = Array(text.unicodeScalars)
    let classes = scalars.map(classify)
    var words: [[UInt8]] = []
    var start = 0
    while start < scalars.count {
      let end = wordEnd(from: start, scalars, classes)
      var word: [UInt8] = []
      for scalar in scalars[start..<end] {
        word += Array(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
      }
      words.append(word)
      start = end
    }
    return words
  }

  private static func wordEnd(from start: Int, _ scalars: [Unicode.Scalar], _ classes: [Class]) -> Int {
    if scalars[start] == "'" {
      for rest in contractions where scalars[(start + 1)...].starts(with: rest) {
        return start + 1 + rest.count
      }
    }
    // One space may lead a word of letters, of numbers, or of other characters.
    let first = scalars[start] == " " && start + 1 < scalars.count ? start + 1 : start
    if classes[first] != .space {
      return runEnd(from: first, classes)
    }
    let end = runEnd(from: start, classes)
    return end == scalars.count || end - start == 1 ? end : end - 1
  }

  private static func runEnd(from start: Int, _ classes: [Class]) -> Int {
    var end = start
    while end < classes.count, classes[end] == classes[start] { end += 1 }
    return end
  }

  private static func classify(_ scalar: Unicode.Scalar) -> Class {
    if scalar.properties.isWhitespace { return .space }
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return .letter
    case .decimalNumber, .letterNumber, .otherNumber: return .number
    default: return .other
    }
  }
}

/// The printable characters that stand for the 256 bytes in the files of byte-level BPE.
enum ByteCharacters {
  /// The byte of each character; nil for a character that stands for none.
  static func byte(of scalar: Unicode.Scalar) -> UInt8? {
    let value = scalar.value
    if isPrintable(value) { return UInt8(value) }
    guard value >= 256, value < 256 + UInt32(unprintable.count) else { return nil }
    return unprintable[Int(value - 256)]
  }

  /// The bytes that a token of such a file stands for; nil when a character stands for none.
  static func bytes(of token: some StringProtocol) -> [UInt8]? {
    var bytes: [UInt8] = []
    for scalar in token.unicodeScalars {
      guard let byte = byte(of: scalar) else { return nil }
      bytes.append(byte)
    }
    return bytes
  }

  /// Bytes without a printable character of their own; the n-th is written as U+0100 + n.
  private static let unprintable: [UInt8] = (UInt8.min...UInt8.max).filter { !isPrintable(UInt32($0)) }

  private static func isPrintable(_ value: UInt32) -> Bool {
    (0x21...0x7E).contains(value) || (0xA1...0xAC).contains(value) || (0xAE...0xFF).contains(value)
  }
}
