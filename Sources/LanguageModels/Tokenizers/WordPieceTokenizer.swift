package import CryptoPrimitives

/// The WordPiece tokenizer of BERT (Devlin et al., 2019).
///
/// A text becomes `[CLS] text [SEP]`, a pair `[CLS] first [SEP] second [SEP]` with segment 1 from the second
/// text on. Special tokens that stand in the text become their ids, as in the reference implementation.
package struct WordPieceTokenizer: Tokenizer {
  private let pieces: ByteTrie
  private let continuation: Int32?
  private let specials: SpecialTokenScanner
  private let decomposition = CanonicalDecomposition()
  private let normalization: BERTNormalization
  private let textByID: [ArraySlice<UInt8>]
  private let specialIDs: Set<Int32>
  private let unknownID: Int32
  /// Id of `[CLS]`, with which every text begins.
  package let startID: Int32
  /// Id of `[SEP]`, which ends every text.
  package let separatorID: Int32
  /// Number of lines of the vocabulary.
  package let vocabularySize: Int
  /// Over the vocabulary file and the normalisation.
  package let digest: ContentDigest

  /// The longest word in characters; a longer one is `[UNK]`.
  package static let maximumWordCharacters = 100
  /// The largest vocabulary file.
  package static let maximumBytes = 64 << 20
  /// The most lines of a vocabulary file.
  package static let maximumTokens = 2_000_000

  /// Reads a `vocab.txt`: one piece a line, its id is the line's number from 0.
  package init(vocabulary region: any ByteRegion, normalization: BERTNormalization) throws(TokenizerFailure) {
    let file = region.name
    let lines = try region.withBytes { bytes throws(TokenizerFailure) in
      try Self.lines(of: bytes, file: file)
    }
    var pieces = ByteTrie()
    for (id, line) in lines.enumerated() { pieces.insert(line, id: Int32(id)) }
    func id(_ token: String) throws(TokenizerFailure) -> Int32 {
      guard let id = pieces.id(of: token.utf8) else { throw .missingToken(file: file, token: token) }
      return id
    }
    unknownID = try id("[UNK]")
    startID = try id("[CLS]")
    separatorID = try id("[SEP]")
    let written = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].compactMap { token in
      pieces.id(of: token.utf8).map { (token: token, id: $0) }
    }
    specials = SpecialTokenScanner(written)
    specialIDs = Set(written.map(\.id))
    textByID = lines
    continuation = pieces.node(after: "##".utf8)
    self.pieces = pieces
    self.normalization = normalization
    vocabularySize = lines.count
    digest = region.withBytes { bytes in
      var hasher = ContentHasher()
      hasher.update("hearth wordpiece 1")
      for option in [normalization.lowercase, normalization.cleanText, normalization.separateIdeographs] {
        hasher.update(option ? 1 : 0)
      }
      hasher.update(normalization.stripAccents ?? normalization.lowercase ? 1 : 0)
      hasher.update(bytes.count)
      hasher.update(bytes)
      return hasher.finalize()
    }
  }

  private static func lines(
    of bytes: UnsafeRawBufferPointer, file: String
  ) throws(TokenizerFailure) -> [ArraySlice<UInt8>] {
    guard bytes.count <= maximumBytes else {
      throw .tooLong(file: file, bytes: bytes.count, limit: maximumBytes)
    }
    guard String(validating: bytes, as: UTF8.self) != nil else {
      throw .malformed(file: file, reason: "it is not UTF-8 text")
    }
    var lines = Array(bytes).split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
    if lines.last?.isEmpty == true { lines.removeLast() }
    guard lines.count <= maximumTokens else {
      throw .malformed(file: file, reason: "\(lines.count) lines, the limit is \(maximumTokens)")
    }
    return lines.map { $0.last == UInt8(ascii: "\r") ? $0.dropLast() : $0 }
  }

  /// One token of each text, `[CLS]` and each `[SEP]`.
  package func minimumLength(withPair: Bool) -> Int { withPair ? 5 : 3 }

  /// Encodes a text or a pair; truncation cuts text only, the longer text first.
  package func encode(_ text: String, pair: String?, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    let minimum = minimumLength(withPair: pair != nil)
    guard maxLength >= minimum else { throw .maximumLength(found: maxLength, minimum: minimum) }
    var first = tokens(of: text)
    var second = pair.map(tokens) ?? []
    let room = maxLength - (pair == nil ? 2 : 3)
    let truncated = truncateLongestFirst(&first, &second, room: room)
    var ids = [startID] + first + [separatorID]
    var types = [Int32](repeating: 0, count: ids.count)
    if pair != nil {
      ids += second + [separatorID]
      types += [Int32](repeating: 1, count: second.count + 1)
    }
    return EncodedText(ids: ids, types: types, truncatedTokens: truncated)
  }

  /// The text of ids, words with a space between; special tokens and ids of no piece are left out.
  ///
  /// As in the reference implementation, the space before `.`, `?`, `!`, `,` and some clipped words goes, and a
  /// continuation that begins the text keeps its `##`.
  package func decode(_ ids: [Int32]) -> String {
    var text: [UInt8] = []
    var isFirst = true
    for id in ids where !specialIDs.contains(id) && textByID.indices.contains(Int(id)) {
      let piece = textByID[Int(id)]
      if isFirst {
        text += piece
      } else if piece.starts(with: Self.continuationMark) {
        text += piece.dropFirst(Self.continuationMark.count)
      } else {
        if !Self.clipped.contains(where: { piece.starts(with: $0) }) { text.append(UInt8(ascii: " ")) }
        text += piece
      }
      isFirst = false
    }
    return String(decoding: text, as: UTF8.self)
  }

  private static let continuationMark = Array("##".utf8)
  private static let clipped = [".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"].map { Array($0.utf8) }

  private func tokens(of text: String) -> [Int32] {
    var ids: [Int32] = []
    for part in specials.split(text) {
      switch part {
      case .special(let id): ids.append(id)
      case .text(let utf8):
        for word in normalization.words(of: utf8, decomposition: decomposition) {
          appendPieces(of: word, to: &ids)
        }
      }
    }
    return ids
  }

  /// Greedy longest match from the left; a word that cannot be covered whole is one `[UNK]`.
  private func appendPieces(of word: ArraySlice<UInt8>, to ids: inout [Int32]) {
    let characters = word.reduce(0) { $0 + ($1 & 0xC0 == 0x80 ? 0 : 1) }
    guard characters <= Self.maximumWordCharacters else {
      ids.append(unknownID)
      return
    }
    let before = ids.count
    var rest = word
    var node: Int32? = 0
    while !rest.isEmpty {
      guard let start = node, let match = pieces.longestMatch(in: rest, from: start) else {
        ids.removeLast(ids.count - before)
        ids.append(unknownID)
        return
      }
      ids.append(match.id)
      rest = rest.dropFirst(match.length)
      node = continuation
    }
  }
}
