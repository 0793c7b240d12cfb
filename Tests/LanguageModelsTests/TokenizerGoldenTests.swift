import Determinism
import FoundationEssentials
import LanguageModels
import Testing

/// One text of a `token-ids.json` and what the reference tokenizer gave.
struct TokenizerCase: Decodable {
  let settings: String?
  let text: String
  let pair: String?
  let maxLength: Int?
  let ids: [Int32]
  let types: [Int32]?
  let truncated: Int?
  let decoded: String

  static func list(of fixture: GoldenFixture) throws -> [TokenizerCase] {
    try fixture.region("token-ids.json").withBytes { bytes in
      try JSONDecoder().decode([TokenizerCase].self, from: Data(bytes))
    }
  }
}

@Suite("A WordPiece tokenizer")
struct WordPieceTokenizerTests {
  static let normalizations: KeyValuePairs<String, BERTNormalization> = [
    "uncased": BERTNormalization(),
    "cased": BERTNormalization(lowercase: false),
    "uncased, accents kept": BERTNormalization(stripAccents: false),
    "cased, accents stripped": BERTNormalization(lowercase: false, stripAccents: true),
    "uncased, ideographs joined": BERTNormalization(separateIdeographs: false),
  ]

  static func tokenizer(_ settings: String = "uncased") throws -> WordPieceTokenizer {
    let normalization = try #require(normalizations.first { $0.key == settings }?.value)
    return try WordPieceTokenizer(
      vocabulary: try GoldenFixture("tiny-bert").region("vocab.txt"), normalization: normalization)
  }

  @Test("gives the reference's ids, segments and truncation for tricky texts and pairs")
  func golden() throws {
    let cases = try TokenizerCase.list(of: GoldenFixture("tiny-bert"))
    #expect(cases.count > 300)
    for (settings, _) in Self.normalizations {
      let tokenizer = try Self.tokenizer(settings)
      for example in cases where example.settings == settings {
        let encoded = try tokenizer.encode(
          example.text, pair: example.pair, maxLength: try #require(example.maxLength))
        let context = "\(settings): \(example.text.debugDescription), \(example.pair ?? "no pair")"
        #expect(encoded.ids == example.ids, "\(context)")
        #expect(encoded.types == example.types, "\(context)")
        #expect(encoded.truncatedTokens == example.truncated, "\(context)")
      }
    }
  }

  @Test("gives back the reference's text of its ids")
  func decoding() throws {
    let tokenizer = try Self.tokenizer()
    for example in try TokenizerCase.list(of: GoldenFixture("tiny-bert")) where example.settings == "uncased"
    {
      let ids = try tokenizer.encode(example.text, pair: example.pair, maxLength: 512).ids
      #expect(
        Array(tokenizer.decode(ids).utf8) == Array(example.decoded.utf8), "\(example.text.debugDescription)")
    }
    #expect(tokenizer.decode([-1, Int32.max]).isEmpty)
  }

  @Test("refuses a maximum length without room for text")
  func maximumLength() throws {
    let tokenizer = try Self.tokenizer()
    #expect(throws: TokenizerFailure.maximumLength(found: 2, minimum: 3)) {
      try tokenizer.encode("a", pair: nil, maxLength: 2)
    }
    #expect(throws: TokenizerFailure.maximumLength(found: 4, minimum: 5)) {
      try tokenizer.encode("a", pair: "b", maxLength: 4)
    }
  }

  @Test("refuses a vocabulary without the tokens that every text needs, or that is not text")
  func vocabularyFailures() {
    func load(_ bytes: [UInt8]) throws(TokenizerFailure) {
      _ = try WordPieceTokenizer(
        vocabulary: MemoryRegion(name: "vocab.txt", bytes: bytes), normalization: BERTNormalization())
    }
    #expect(throws: TokenizerFailure.missingToken(file: "vocab.txt", token: "[SEP]")) {
      try load(Array("[UNK]\n[CLS]\nthe\n".utf8))
    }
    #expect(throws: TokenizerFailure.missingToken(file: "vocab.txt", token: "[UNK]")) { try load([]) }
    #expect(throws: TokenizerFailure.malformed(file: "vocab.txt", reason: "it is not UTF-8 text")) {
      try load([0xFF, 0xFE, 0x0A])
    }
  }

  @Test("reads a vocabulary with CRLF line ends alike, and its digest covers content and options")
  func lineEndsAndDigest() throws {
    func load(_ text: String, _ normalization: BERTNormalization) throws -> WordPieceTokenizer {
      try WordPieceTokenizer(
        vocabulary: MemoryRegion(name: "vocab.txt", bytes: Array(text.utf8)), normalization: normalization)
    }
    let text = "[UNK]\n[CLS]\n[SEP]\nhouse\n##s"
    let unix = try load(text, BERTNormalization())
    let windows = try load(
      text.split(separator: "\n").joined(separator: "\r\n") + "\r\n", BERTNormalization())
    #expect(unix.vocabularySize == 5)
    #expect(windows.vocabularySize == 5)
    #expect(try unix.encode("Houses", pair: nil, maxLength: 8).ids == [1, 3, 4, 2])
    #expect(try windows.encode("Houses", pair: nil, maxLength: 8).ids == [1, 3, 4, 2])
    #expect(try load(text, BERTNormalization()).digest == unix.digest)
    #expect(try load(text, BERTNormalization(lowercase: false)).digest != unix.digest)
    #expect(try load(text + "\nmore", BERTNormalization()).digest != unix.digest)
  }
}

@Suite("A SentencePiece tokenizer")
struct SentencePieceTokenizerTests {
  static func tokenizer() throws -> SentencePieceTokenizer {
    try SentencePieceTokenizer(region: try GoldenFixture("tiny-t5").region("spiece.model"))
  }

  static func check(_ tokenizer: SentencePieceTokenizer, _ cases: [TokenizerCase]) throws {
    #expect(cases.count > 50)
    for example in cases {
      let encoded = try tokenizer.encode(example.text, pair: nil, maxLength: 512)
      #expect(encoded.ids == example.ids, "\(example.text.debugDescription)")
      #expect(encoded.types == [Int32](repeating: 0, count: example.ids.count))
      #expect(encoded.truncatedTokens == 0)
      #expect(
        Array(tokenizer.decode(encoded.ids).utf8) == Array(example.decoded.utf8),
        "\(example.text.debugDescription)")
    }
  }

  @Test("gives the reference's ids for tricky texts, and its text of them")
  func golden() throws {
    try Self.check(try Self.tokenizer(), try TokenizerCase.list(of: GoldenFixture("tiny-t5")))
  }

  @Test(
    "gives the published ids of T5's own vocabulary",
    .enabled(if: T5Vocabulary.region != nil, T5Vocabulary.hint))
  func t5Vocabulary() throws {
    let tokenizer = try SentencePieceTokenizer(region: try #require(T5Vocabulary.region))
    #expect(tokenizer.pieceCount == 32_000)
    try Self.check(tokenizer, try TokenizerCase.list(of: GoldenFixture("t5-vocabulary")))
    let german = "translate English to German: The house is wonderful."
    #expect(
      try tokenizer.encode(german, pair: nil, maxLength: 64).ids
        == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1])
    #expect(try tokenizer.encode("<extra_id_0>", pair: nil, maxLength: 64).ids == [32099, 1])
  }

  @Test("puts sentinels above the pieces, the first one highest")
  func sentinels() throws {
    let tokenizer = try Self.tokenizer()
    #expect(tokenizer.pieceCount == 320)
    #expect(tokenizer.vocabularySize == 420)
    let encoded = try tokenizer.encode("<extra_id_0><extra_id_99><extra_id_100>", pair: nil, maxLength: 64)
    #expect(encoded.ids.prefix(2) == [419, 320])
    #expect(encoded.ids.allSatisfy { $0 == 419 || $0 < 321 })
  }

  @Test("ends each text of a pair, and truncation keeps the ends and counts what it cut")
  func pairs() throws {
    let tokenizer = try Self.tokenizer()
    let first = try tokenizer.encode("the house is wonderful", pair: nil, maxLength: 64).ids
    let second = try tokenizer.encode("a cat", pair: nil, maxLength: 64).ids
    let both = try tokenizer.encode("the house is wonderful", pair: "a cat", maxLength: 64)
    #expect(both.ids == first + second)
    #expect(both.truncatedTokens == 0)
    for length in 4..<first.count + second.count {
      let cut = try tokenizer.encode("the house is wonderful", pair: "a cat", maxLength: length)
      #expect(cut.ids.count == length)
      #expect(cut.ids.last == 1)
      #expect(cut.ids.filter { $0 == 1 }.count == 2)
      #expect(cut.truncatedTokens == first.count + second.count - length)
    }
    #expect(throws: TokenizerFailure.maximumLength(found: 1, minimum: 2)) {
      try tokenizer.encode("a", pair: nil, maxLength: 1)
    }
  }

  @Test("refuses a model that is cut anywhere, and one that is something else")
  func foreignModels() throws {
    let region = try GoldenFixture("tiny-t5").region("spiece.model")
    let bytes = region.withBytes { Array($0) }
    var generator = SeededGenerator(seed: 0x5EED)
    let lengths = Array(0..<200) + (0..<100).map { _ in generator.uniform(below: bytes.count) }
    for length in lengths {
      #expect(throws: TokenizerFailure.self, "cut at \(length)") {
        _ = try SentencePieceTokenizer(region: MemoryRegion(name: "spiece.model", bytes: bytes[..<length]))
      }
    }
    for text in ["<html>not found</html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"] {
      #expect(throws: TokenizerFailure.self, "\(text)") {
        _ = try SentencePieceTokenizer(region: MemoryRegion(name: "spiece.model", bytes: Array(text.utf8)))
      }
    }
  }
}

/// T5's own vocabulary, which belongs to no repository of ours; tests that need it skip without it.
enum T5Vocabulary {
  static let hint: Comment = "set HEARTH_DATA to the directory with tokenizers/t5/spiece.model"

  static var region: MemoryRegion? {
    guard let data = ProcessInfo.processInfo.environment["HEARTH_DATA"] else { return nil }
    for path in ["\(data)/tokenizers/t5/spiece.model", "\(data)/../tokenizers/t5/spiece.model"] {
      if let bytes = try? Data(contentsOf: URL(filePath: path)) {
        return MemoryRegion(name: "spiece.model", bytes: bytes)
      }
    }
    return nil
  }
}
