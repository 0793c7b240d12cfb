package import CryptoPrimitives

/// A tokenizer of single characters, for models whose `config.json` lists them, such as grapheme-to-phoneme ones.
///
/// The id of a character is its place in the list; a text becomes `start text end`. Input and output may be
/// written in different lists.
package struct CharacterTokenizer: Tokenizer {
  private let inputIDs: [Unicode.Scalar: Int32]
  private let outputIDs: [Unicode.Scalar: Int32]
  private let outputs: [Unicode.Scalar]
  private let startID: Int32
  private let endID: Int32
  /// Number of ids of the longer list.
  package let vocabularySize: Int
  /// Over both lists and the special ids.
  package let digest: ContentDigest

  /// The id of a character that is in no list.
  package static let unknownID: Int32 = 3
  /// Ids below it are special tokens, whose places in the lists hold a filler.
  package static let firstCharacterID = 4
  /// The most characters of a list.
  package static let maximumCharacters = 100_000

  /// Reads the two lists of a configuration; nil when it has none.
  package init?(_ configuration: BARTConfiguration, file: String) throws(TokenizerFailure) {
    guard let inputText = configuration.inputCharacters, let outputText = configuration.outputCharacters
    else {
      return nil
    }
    let inputs = Array(inputText.unicodeScalars)
    outputs = Array(outputText.unicodeScalars)
    for (key, count) in [("grapheme_chars", inputs.count), ("phoneme_chars", outputs.count)] {
      guard count > Self.firstCharacterID, count <= Self.maximumCharacters else {
        throw .malformed(
          file: file,
          reason: "\(key) has \(count) characters; \(Self.firstCharacterID + 1) to "
            + "\(Self.maximumCharacters) are needed")
      }
    }
    inputIDs = Self.ids(of: inputs)
    outputIDs = Self.ids(of: outputs)
    startID = configuration.startID
    endID = configuration.endID
    vocabularySize = max(inputs.count, outputs.count)
    var hasher = ContentHasher()
    hasher.update("hearth characters 1")
    hasher.update(inputText)
    hasher.update(outputText)
    hasher.update(startID)
    hasher.update(endID)
    digest = hasher.finalize()
  }

  /// The place of each character; of a repeated one the first.
  private static func ids(of characters: [Unicode.Scalar]) -> [Unicode.Scalar: Int32] {
    var ids: [Unicode.Scalar: Int32] = [:]
    for (id, character) in characters.enumerated().dropFirst(firstCharacterID) where ids[character] == nil {
      ids[character] = Int32(id)
    }
    return ids
  }

  /// One character of each text, and the ids around them.
  package func minimumLength(withPair: Bool) -> Int { withPair ? 5 : 3 }

  /// Encodes a text or a pair, which `end` separates; truncation cuts text only, the longer text first.
  package func encode(_ text: String, pair: String?, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    let minimum = minimumLength(withPair: pair != nil)
    guard maxLength >= minimum else { throw .maximumLength(found: maxLength, minimum: minimum) }
    var first = tokens(of: text, inputIDs)
    var second = pair.map { tokens(of: $0, inputIDs) } ?? []
    let truncated = truncateLongestFirst(&first, &second, room: maxLength - (pair == nil ? 2 : 3))
    var ids = [startID] + first + [endID]
    if pair != nil { ids += second + [endID] }
    return EncodedText(
      ids: ids, types: [Int32](repeating: 0, count: ids.count), truncatedTokens: truncated)
  }

  /// Encodes a text in the output's list of characters.
  package func encodeOutput(_ text: String, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    let minimum = minimumLength(withPair: false)
    guard maxLength >= minimum else { throw .maximumLength(found: maxLength, minimum: minimum) }
    let all = tokens(of: text, outputIDs)
    let kept = all.prefix(maxLength - 2)
    let ids = [startID] + kept + [endID]
    return EncodedText(
      ids: ids, types: [Int32](repeating: 0, count: ids.count), truncatedTokens: all.count - kept.count)
  }

  /// The output text of ids; special ids are left out.
  package func decode(_ ids: [Int32]) -> String {
    var text = String.UnicodeScalarView()
    for id in ids where Int(id) >= Self.firstCharacterID && Int(id) < outputs.count {
      text.append(outputs[Int(id)])
    }
    return String(text)
  }

  private func tokens(of text: String, _ ids: [Unicode.Scalar: Int32]) -> [Int32] {
    text.unicodeScalars.map { ids[$0] ?? Self.unknownID }
  }
}
