/// How a BERT tokenizer prepares text before it looks up pieces.
package struct BERTNormalization: Sendable, Equatable {
  /// Lower-cases (uncased models).
  package var lowercase: Bool
  /// Strips accents; nil means the same as `lowercase`, as in BERT.
  package var stripAccents: Bool?
  /// Drops control characters and makes every white space a blank.
  package var cleanText: Bool
  /// Puts blanks around CJK ideographs, so that each is a word.
  package var separateIdeographs: Bool

  /// The settings of bert-base-uncased unless said otherwise.
  package init(
    lowercase: Bool = true, stripAccents: Bool? = nil, cleanText: Bool = true,
    separateIdeographs: Bool = true
  ) {
    self.lowercase = lowercase
    self.stripAccents = stripAccents
    self.cleanText = cleanText
    self.separateIdeographs = separateIdeographs
  }

  /// The words of a text as UTF-8: normalised, cut at white space, each punctuation mark a word of its own.
  func words(
    of text: ArraySlice<UInt8>, decomposition: CanonicalDecomposition
  ) -> [ArraySlice<UInt8>] {
    if text.allSatisfy({ $0 < 0x80 }) { return asciiWords(of: text) }
    var scalars = Array(String(decoding: text, as: UTF8.self).unicodeScalars)
    if cleanText { scalars = Self.cleaned(scalars) }
    if separateIdeographs { scalars = Self.separated(scalars) }
    if stripAccents ?? lowercase {
      scalars = decomposition.decompose(scalars).filter { $0.properties.generalCategory != .nonspacingMark }
    }
    if lowercase { scalars = scalars.flatMap { $0.properties.lowercaseMapping.unicodeScalars } }
    return Self.cut(scalars)
  }

  /// The same for ASCII, which nearly all text is: no table is asked.
  private func asciiWords(of text: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count)
    for byte in text {
      switch byte {
      case 0x09, 0x0A, 0x0D: bytes.append(cleanText ? 0x20 : byte)
      case 0..<0x20, 0x7F: if !cleanText { bytes.append(byte) }
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): bytes.append(lowercase ? byte | 0x20 : byte)
      default: bytes.append(byte)
      }
    }
    var words: [ArraySlice<UInt8>] = []
    var start = 0
    for index in bytes.indices {
      let isMark = Self.isASCIIPunctuation(UInt32(bytes[index]))
      guard isMark || Self.isASCIISpace(bytes[index]) else { continue }
      if start < index { words.append(bytes[start..<index]) }
      if isMark { words.append(bytes[index...index]) }
      start = index + 1
    }
    if start < bytes.count { words.append(bytes[start...]) }
    return words
  }

  private static func cleaned(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    var kept: [Unicode.Scalar] = []
    kept.reserveCapacity(scalars.count)
    for scalar in scalars {
      switch scalar.value {
      case 0x09, 0x0A, 0x0D: kept.append(" ")
      case 0xFFFD: continue
      default:
        switch scalar.properties.generalCategory {
        case .control, .format, .privateUse: continue
        default: kept.append(scalar.properties.isWhitespace ? " " : scalar)
        }
      }
    }
    return kept
  }

  private static func separated(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    scalars.flatMap { isIdeograph($0.value) ? [" ", $0, " "] : [$0] }
  }

  private static func cut(_ scalars: [Unicode.Scalar]) -> [ArraySlice<UInt8>] {
    var words: [ArraySlice<UInt8>] = []
    var word: [UInt8] = []
    for scalar in scalars {
      let isMark = isPunctuation(scalar)
      guard isMark || scalar.properties.isWhitespace else {
        word += UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter
        continue
      }
      if !word.isEmpty { words.append(word[...]) }
      if isMark { words.append(ArraySlice(UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)) }
      word = []
    }
    if !word.isEmpty { words.append(word[...]) }
    return words
  }

  private static func isASCIISpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

  /// ASCII marks count as punctuation even where Unicode calls them symbols, for instance `$` and `^`.
  private static func isASCIIPunctuation(_ value: UInt32) -> Bool {
    (0x21...0x2F).contains(value) || (0x3A...0x40).contains(value) || (0x5B...0x60).contains(value)
      || (0x7B...0x7E).contains(value)
  }

  private static func isPunctuation(_ scalar: Unicode.Scalar) -> Bool {
    if isASCIIPunctuation(scalar.value) { return true }
    switch scalar.properties.generalCategory {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
      .finalPunctuation, .otherPunctuation:
      return true
    default: return false
    }
  }

  /// The blocks that BERT calls CJK; Hangul, Hiragana and Katakana are written with spaces or as words.
  private static func isIdeograph(_ value: UInt32) -> Bool {
    switch value {
    case 0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F, 0x2B740...0x2B81F,
      0x2B920...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F:
      true
    default: false
    }
  }
}
