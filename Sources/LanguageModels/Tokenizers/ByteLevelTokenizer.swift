package import CryptoPrimitives
import FoundationEssentials

/// The byte-level BPE tokenizer of GPT-2 with BART's numbering of ids (Lewis et al., ACL 2020).
///
/// A text becomes `<s> text </s>`, a pair `<s> first </s></s> second </s>`. Special tokens that stand in the text
/// become their ids, as in the reference implementation; `<mask>` also takes the space before it. Models that were
/// fine-tuned to summarise (bart-large-cnn, bart-large-xsum) share the vocabulary but have no embedding for `<mask>`,
/// its highest id: to them it is text like any other.
package struct ByteLevelTokenizer: Tokenizer {
  private let merges: BytePairMerges
  /// The id of each symbol of `merges`; the unknown id where the vocabulary lacks it.
  private let idBySymbol: [Int32]
  private let bytesByID: [Int32: [UInt8]]
  private let specials: SpecialTokenScanner
  private let specialIDs: Set<Int32>
  private let maskID: Int32?
  private let startID: Int32
  private let endID: Int32
  /// Number of ids.
  package let vocabularySize: Int
  /// Over the vocabulary and the merges.
  package let digest: ContentDigest

  /// The largest file of a vocabulary or of merges.
  package static let maximumBytes = 64 << 20

  /// Reads Hugging Face's pair of files: `vocab.json` (token to id) and `merges.txt`; the model has `embeddings` rows.
  package init(
    vocabulary: any ByteRegion, merges: any ByteRegion, embeddings: Int = .max
  ) throws(TokenizerFailure) {
    try self.init(
      ids: try Self.vocabulary(vocabulary), file: vocabulary.name, merges: try Self.merges(merges),
      files: [vocabulary, merges], embeddings: embeddings)
  }

  /// Reads fairseq's three files: `encoder.json` (token to GPT-2 id), `vocab.bpe` (merges) and `dict.txt`, whose
  /// n-th line names the GPT-2 id with BART's id 4 + n.
  package init(
    encoder: any ByteRegion, merges: any ByteRegion, dictionary: any ByteRegion, embeddings: Int = .max
  ) throws(TokenizerFailure) {
    let tokens = try Self.vocabulary(encoder)
    var idByGPT: [Int32: Int32] = [:]
    var count: Int32 = 4
    for line in try Self.lines(dictionary) {
      guard count < Self.fairseqMaskID else { break }
      let name = line.prefix { $0 != UInt8(ascii: " ") }
      if let number = Int32(String(decoding: name, as: UTF8.self)) { idByGPT[number] = count }
      count += 1
    }
    var ids: [String: Int32] = [
      "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": max(count, Self.fairseqMaskID),
    ]
    for (token, gpt) in tokens { if let id = idByGPT[gpt] { ids[token] = id } }
    try self.init(
      ids: ids, file: encoder.name, merges: try Self.merges(merges), files: [encoder, merges, dictionary],
      embeddings: embeddings)
  }

  /// BART's `<mask>` follows 50,260 lines of `dict.txt`; further lines only pad fairseq's matrix.
  private static let fairseqMaskID: Int32 = 50_264

  private init(
    ids: [String: Int32], file: String, merges: BytePairMerges, files: [any ByteRegion], embeddings: Int
  ) throws(TokenizerFailure) {
    var ids = ids
    let lacksMask = ids["<mask>"].map { Int($0) >= embeddings } ?? false
    if lacksMask { ids["<mask>"] = nil }
    let idByToken = ids
    func id(_ token: String) throws(TokenizerFailure) -> Int32 {
      guard let id = idByToken[token] else { throw .missingToken(file: file, token: token) }
      return id
    }
    startID = try id("<s>")
    endID = try id("</s>")
    let unknownID = try id("<unk>")
    maskID = ids["<mask>"]
    let written = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].compactMap { token in
      ids[token].map { (token: token, id: $0) }
    }
    specials = SpecialTokenScanner(written)
    specialIDs = Set(written.map(\.id))
    var idByBytes: [[UInt8]: Int32] = [:]
    var bytesByID: [Int32: [UInt8]] = [:]
    // Sorted, so that of two tokens with one id the same one counts each time.
    for (token, id) in ids.sorted(by: { ($0.value, $0.key) < ($1.value, $1.key) })
    where !specialIDs.contains(id) {
      guard let bytes = ByteCharacters.bytes(of: token) else {
        throw .malformed(file: file, reason: "token \(id) has a character that stands for no byte")
      }
      idByBytes[bytes] = id
      bytesByID[id] = bytes
    }
    idBySymbol = merges.bytesBySymbol.map { idByBytes[$0] ?? unknownID }
    self.bytesByID = bytesByID
    self.merges = merges
    vocabularySize = Int(ids.values.max() ?? 0) + 1
    digest = Self.digest(of: files, lacksMask: lacksMask)
  }

  // MARK: Encoding

  /// One token of each text, `<s>` and each `</s>`.
  package func minimumLength(withPair: Bool) -> Int { withPair ? 6 : 3 }

  /// Encodes a text or a pair; truncation cuts text only, the longer text first.
  package func encode(_ text: String, pair: String?, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    let minimum = minimumLength(withPair: pair != nil)
    guard maxLength >= minimum else { throw .maximumLength(found: maxLength, minimum: minimum) }
    var first = tokens(of: text)
    var second = pair.map(tokens) ?? []
    let truncated = truncateLongestFirst(&first, &second, room: maxLength - (pair == nil ? 2 : 4))
    var ids = [startID] + first + [endID]
    if pair != nil { ids += [endID] + second + [endID] }
    return EncodedText(
      ids: ids, types: [Int32](repeating: 0, count: ids.count), truncatedTokens: truncated)
  }

  /// The text of ids; special tokens and ids that stand for nothing are left out, broken UTF-8 is replaced.
  package func decode(_ ids: [Int32]) -> String {
    String(decoding: ids.flatMap { bytesByID[$0] ?? [] }, as: UTF8.self)
  }

  private func tokens(of text: String) -> [Int32] {
    var ids: [Int32] = []
    let parts = specials.split(text)
    for (index, part) in parts.enumerated() {
      switch part {
      case .special(let id): ids.append(id)
      case .text(let utf8):
        var stretch = Substring(decoding: utf8, as: UTF8.self)
        if index + 1 < parts.count, let maskID, parts[index + 1] == .special(maskID) {
          while let last = stretch.unicodeScalars.last, last.properties.isWhitespace {
            stretch.unicodeScalars.removeLast()
          }
        }
        for word in ByteLevelWords.split(stretch) {
          ids += merges.encode(word).map { idBySymbol[Int($0)] }
        }
      }
    }
    return ids
  }

  // MARK: Files

  private static func vocabulary(_ region: any ByteRegion) throws(TokenizerFailure) -> [String: Int32] {
    try region.withBytes { bytes throws(TokenizerFailure) in
      try checkSize(bytes.count, region)
      guard let ids = try? JSONDecoder().decode([String: Int32].self, from: Data(bytes)) else {
        throw .malformed(file: region.name, reason: "it is not a JSON object of tokens with whole numbers")
      }
      guard ids.count > 4, let least = ids.values.min(), least >= 0 else {
        throw .malformed(file: region.name, reason: "it has \(ids.count) tokens, or one with a negative id")
      }
      return ids
    }
  }

  private static func merges(_ region: any ByteRegion) throws(TokenizerFailure) -> BytePairMerges {
    var merges = BytePairMerges()
    for (number, line) in try lines(region).enumerated() {
      if line.isEmpty || (number == 0 && line.starts(with: Array("#version".utf8))) { continue }
      let halves = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
      guard halves.count == 2, number < BytePairMerges.maximumMerges,
        let left = ByteCharacters.bytes(of: String(decoding: halves[0], as: UTF8.self)), !left.isEmpty,
        let right = ByteCharacters.bytes(of: String(decoding: halves[1], as: UTF8.self)), !right.isEmpty
      else {
        throw .malformed(
          file: region.name, reason: "line \(number + 1) is not two tokens with a space between")
      }
      merges.append(left, right)
    }
    return merges
  }

  private static func lines(_ region: any ByteRegion) throws(TokenizerFailure) -> [ArraySlice<UInt8>] {
    try region.withBytes { bytes throws(TokenizerFailure) in
      try checkSize(bytes.count, region)
      return Array(bytes).split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map {
        $0.last == UInt8(ascii: "\r") ? $0.dropLast() : $0
      }
    }
  }

  private static func checkSize(_ count: Int, _ region: any ByteRegion) throws(TokenizerFailure) {
    guard count <= maximumBytes else {
      throw .tooLong(file: region.name, bytes: count, limit: maximumBytes)
    }
  }

  private static func digest(of regions: [any ByteRegion], lacksMask: Bool) -> ContentDigest {
    var hasher = ContentHasher()
    hasher.update(lacksMask ? "hearth byte-level bpe 1 without mask" : "hearth byte-level bpe 1")
    for region in regions {
      region.withBytes { bytes in
        hasher.update(bytes.count)
        hasher.update(bytes)
      }
    }
    return hasher.finalize()
  }
}
