import FoundationEssentials
import LanguageModels
import Testing

/// One text of tiny-bart's `token-ids.json` and what the reference tokenizer gave.
private struct ByteLevelCase: Decodable {
  let text: String
  let pair: String?
  let maxLength: Int
  let ids: [Int32]
  let truncated: Int
  let decoded: String
}

@Suite("A byte-level BPE tokenizer")
struct ByteLevelTokenizerTests {
  static let fixture = GoldenFixture("tiny-bart")

  static func tokenizer() throws -> ByteLevelTokenizer {
    try ByteLevelTokenizer(
      vocabulary: try fixture.region("vocab.json"), merges: try fixture.region("merges.txt"))
  }

  private static func cases() throws -> [ByteLevelCase] {
    try fixture.region("token-ids.json").withBytes { bytes in
      try JSONDecoder().decode([ByteLevelCase].self, from: Data(bytes))
    }
  }

  @Test("gives the reference's ids and truncation for tricky texts and pairs")
  func golden() throws {
    let tokenizer = try Self.tokenizer()
    let cases = try Self.cases()
    #expect(cases.count > 100)
    for example in cases {
      let encoded = try tokenizer.encode(example.text, pair: example.pair, maxLength: example.maxLength)
      let context = "\(example.text.debugDescription), \(example.pair ?? "no pair")"
      #expect(encoded.ids == example.ids, "\(context)")
      #expect(encoded.truncatedTokens == example.truncated, "\(context)")
      #expect(encoded.types.allSatisfy { $0 == 0 }, "\(context)")
    }
  }

  @Test("gives back the reference's text of its ids")
  func decoding() throws {
    let tokenizer = try Self.tokenizer()
    for example in try Self.cases() {
      let ids = try tokenizer.encode(example.text, pair: example.pair, maxLength: 512).ids
      #expect(
        Array(tokenizer.decode(ids).utf8) == Array(example.decoded.utf8), "\(example.text.debugDescription)")
    }
  }

  @Test("takes time that grows no faster than n log n with a word's length")
  func longWord() throws {
    let tokenizer = try Self.tokenizer()
    let word = String(repeating: "the", count: 100_000)
    let encoded = try tokenizer.encode(word, pair: nil, maxLength: 1_000_000)
    #expect(tokenizer.decode(encoded.ids) == word)
  }

  @Test("of a model without an embedding for <mask>, the highest id, takes it for text")
  func withoutMask() throws {
    // As bart-large-cnn: 50,264 embeddings under a vocabulary of 50,265 tokens.
    let vocabulary = Array(
      #"{"<s>":0,"<pad>":1,"</s>":2,"<unk>":3,"<":4,"m":5,"a":6,"s":7,"k":8,">":9,"<mask>":10}"#.utf8)
    func load(embeddings: Int) throws -> ByteLevelTokenizer {
      try ByteLevelTokenizer(
        vocabulary: MemoryRegion(name: "vocab.json", bytes: vocabulary),
        merges: MemoryRegion(name: "merges.txt", bytes: []), embeddings: embeddings)
    }
    let (with, without) = (try load(embeddings: 11), try load(embeddings: 10))
    #expect(with.vocabularySize == 11 && without.vocabularySize == 10)
    #expect(try with.encode("a<mask>", pair: nil, maxLength: 16).ids == [0, 6, 10, 2])
    #expect(try without.encode("a<mask>", pair: nil, maxLength: 16).ids == [0, 6, 4, 5, 6, 7, 8, 9, 2])
    #expect(with.digest != without.digest)
    #expect(try load(embeddings: 9).vocabularySize == 10, "a token of the text is never left out")
  }

  @Test("names the file and the line of a merge that is none")
  func malformedMerges() throws {
    let merges = MemoryRegion(name: "merges.txt", bytes: Array("#version: 0.2\nt h\nthree words here\n".utf8))
    #expect(
      throws: TokenizerFailure.malformed(
        file: "merges.txt", reason: "line 3 is not two tokens with a space between")
    ) { try ByteLevelTokenizer(vocabulary: try Self.fixture.region("vocab.json"), merges: merges) }
  }

  @Test("refuses a vocabulary without the special tokens, or that is none")
  func malformedVocabulary() throws {
    let merges = try Self.fixture.region("merges.txt")
    let plain = MemoryRegion(name: "vocab.json", bytes: Array(#"{"a":0,"b":1,"c":2,"d":3,"e":4}"#.utf8))
    #expect(throws: TokenizerFailure.missingToken(file: "vocab.json", token: "<s>")) {
      try ByteLevelTokenizer(vocabulary: plain, merges: merges)
    }
    let list = MemoryRegion(name: "vocab.json", bytes: Array("[1, 2]".utf8))
    #expect(throws: TokenizerFailure.self) { try ByteLevelTokenizer(vocabulary: list, merges: merges) }
  }

  @Test(
    "with fairseq's three files gives BART's published ids",
    .enabled(if: publishedFiles != nil, "needs HEARTH_DATA with tokenizers/bart"))
  func published() throws {
    let folder = try #require(publishedFiles)
    func region(_ file: String) throws -> MemoryRegion {
      MemoryRegion(name: file, bytes: Array(try Data(contentsOf: URL(filePath: "\(folder)/\(file)"))))
    }
    let tokenizer = try ByteLevelTokenizer(
      encoder: try region("encoder.json"), merges: try region("vocab.bpe"), dictionary: try region("dict.txt")
    )
    #expect(tokenizer.vocabularySize == 50_265)
    #expect(try tokenizer.encode("Hello world", pair: nil, maxLength: 64).ids == [0, 31414, 232, 2])
    // From fairseq's own documentation of BART.
    let carbs = "My friends are cool but they eat too many carbs."
    #expect(
      try tokenizer.encode(carbs, pair: nil, maxLength: 64).ids
        == [0, 2387, 964, 32, 3035, 53, 51, 3529, 350, 171, 33237, 4, 2])
    #expect(try tokenizer.encode("a<mask>b", pair: nil, maxLength: 64).ids.contains(50_264))
  }
}

/// BART's own tokenizer files, where HEARTH_DATA or the folder beside the checkout holds them.
private let publishedFiles: String? = dataFolder(holding: "tokenizers/bart/dict.txt").map {
  "\($0)/tokenizers/bart"
}

/// The first of `$HEARTH_DATA` and `../shared` that holds the file, or nil.
func dataFolder(holding file: String) -> String? {
  let given = ProcessInfo.processInfo.environment["HEARTH_DATA"].map { [$0, "\($0)/.."] } ?? []
  return given.first { FileManager.default.fileExists(atPath: "\($0)/\(file)") }
}
