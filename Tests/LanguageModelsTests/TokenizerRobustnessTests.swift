import Determinism
import LanguageModels
import Testing

/// Texts that no person writes: random bytes repaired, random scalars, and runs of awkward ones.
struct StrangeTexts {
  private var generator: SeededGenerator
  private static let awkward: [Unicode.Scalar] = [
    "\u{0}", "\u{301}", "\u{323}", "\u{200D}", "\u{FEFF}", "\u{FFFD}", "\u{10FFFF}", "\u{AC01}", "\u{1161}",
    "\u{FDFA}", "\u{3300}", "\u{130}", "\u{DF}", "\u{2581}", "\u{4E00}", "\u{1F600}", " ", "#", "<", "[",
    "\n",
  ]

  init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

  mutating func next() -> String {
    let count = generator.uniform(below: 60)
    switch generator.uniform(below: 3) {
    case 0:
      let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
      return String(decoding: bytes, as: UTF8.self)
    case 1:
      var text = ""
      for _ in 0..<count {
        let value = UInt32(generator.uniform(below: generator.uniform(below: 2) == 0 ? 0x3000 : 0x110000))
        text.unicodeScalars.append(Unicode.Scalar(value) ?? "\u{FFFD}")
      }
      return text
    default:
      var text = ""
      for _ in 0..<count {
        let place = generator.uniform(below: Self.awkward.count)
        for _ in 0...generator.uniform(below: 3) { text.unicodeScalars.append(Self.awkward[place]) }
      }
      return text
    }
  }
}

@Suite("Tokenizers and strange input")
struct TokenizerRobustnessTests {
  @Test("give ids in range, within the length, for any text and any pair")
  func anyText() throws {
    let seed: UInt64 = 0x7E57
    let tokenizers: [any Tokenizer] = [
      try WordPieceTokenizerTests.tokenizer(), try SentencePieceTokenizerTests.tokenizer(),
    ]
    for tokenizer in tokenizers {
      var texts = StrangeTexts(seed: seed)
      var generator = SeededGenerator(seed: seed)
      for round in 0..<1500 {
        let text = texts.next()
        let pair = round % 3 == 0 ? texts.next() : nil
        let maxLength = tokenizer.minimumLength(withPair: pair != nil) + generator.uniform(below: 40)
        let encoded = try tokenizer.encode(text, pair: pair, maxLength: maxLength)
        let whole = try tokenizer.encode(text, pair: pair, maxLength: 100_000)
        let context = "seed \(seed), round \(round)"
        #expect(encoded.ids.count <= maxLength, "\(context)")
        #expect(encoded.ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize }, "\(context)")
        #expect(encoded.types.count == encoded.ids.count, "\(context)")
        #expect(encoded.truncatedTokens == whole.ids.count - encoded.ids.count, "\(context)")
        #expect(encoded.ids.last == whole.ids.last, "\(context)")
      }
    }
  }

  @Test("take a long text in one piece")
  func longText() throws {
    let text = String(repeating: "the house is wonderful ", count: 20_000)
    for tokenizer in [
      try WordPieceTokenizerTests.tokenizer() as any Tokenizer, try SentencePieceTokenizerTests.tokenizer(),
    ] {
      let encoded = try tokenizer.encode(text, pair: nil, maxLength: 128)
      #expect(encoded.ids.count == 128)
      #expect(encoded.truncatedTokens > 50_000)
    }
  }

  @Test("give the same ids to many threads at a time")
  func concurrentEncoding() async throws {
    let tokenizers: [any Tokenizer] = [
      try WordPieceTokenizerTests.tokenizer(), try SentencePieceTokenizerTests.tokenizer(),
    ]
    let cases = try TokenizerCase.list(of: GoldenFixture("tiny-t5")).map(\.text)
    for tokenizer in tokenizers {
      let alone = try cases.map { try tokenizer.encode($0, pair: nil, maxLength: 64) }
      let results = try await withThrowingTaskGroup(of: [EncodedText].self) { group in
        for _ in 0..<8 {
          group.addTask { try cases.map { try tokenizer.encode($0, pair: nil, maxLength: 64) } }
        }
        var found: [[EncodedText]] = []
        for try await result in group { found.append(result) }
        return found
      }
      #expect(results.allSatisfy { $0 == alone })
    }
  }

  @Test("survive any mutation of a SentencePiece model: it encodes or is refused in a typed way")
  func mutatedModels() throws {
    let seed: UInt64 = 0x59C5
    var generator = SeededGenerator(seed: seed)
    let original = try GoldenFixture("tiny-t5").region("spiece.model").withBytes { Array($0) }
    // The pieces are the first few kilobytes and the settings the last ones; the character map lies between.
    var texts = StrangeTexts(seed: seed)
    var loaded = 0
    for round in 0..<120 {
      var bytes = original
      for _ in 0...generator.uniform(below: 3) {
        let place =
          round % 2 == 0
          ? generator.uniform(below: bytes.count)
          : generator.uniform(below: 5000) % bytes.count
        switch generator.uniform(below: 4) {
        case 0: bytes[place] ^= 1 << UInt8(generator.uniform(below: 8))
        case 1: bytes.remove(at: place)
        case 2: bytes.insert(UInt8(truncatingIfNeeded: generator.next()), at: place)
        default: bytes[place] = UInt8(truncatingIfNeeded: generator.next())
        }
      }
      do throws(TokenizerFailure) {
        let tokenizer = try SentencePieceTokenizer(region: MemoryRegion(name: "spiece.model", bytes: bytes))
        loaded += 1
        for _ in 0..<4 {
          let encoded = try tokenizer.encode(texts.next(), pair: nil, maxLength: 512)
          #expect(encoded.ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize }, "round \(round)")
        }
      } catch {
        #expect(error.description.hasPrefix("spiece.model"), "seed \(seed), round \(round): \(error)")
      }
    }
    #expect(loaded > 0 && loaded < 120)
  }

  @Test("survive any mutation of a vocabulary")
  func mutatedVocabularies() throws {
    let seed: UInt64 = 0xB0CA
    var generator = SeededGenerator(seed: seed)
    let original = try GoldenFixture("tiny-bert").region("vocab.txt").withBytes { Array($0) }
    var texts = StrangeTexts(seed: seed)
    for _ in 0..<100 {
      var bytes = original
      for _ in 0...generator.uniform(below: 20) {
        let place = generator.uniform(below: bytes.count)
        if generator.uniform(below: 2) == 0 {
          bytes.remove(at: place)
        } else {
          bytes[place] = UInt8(truncatingIfNeeded: generator.next() & 0x7F)
        }
      }
      do throws(TokenizerFailure) {
        let tokenizer = try WordPieceTokenizer(
          vocabulary: MemoryRegion(name: "vocab.txt", bytes: bytes), normalization: BERTNormalization())
        let encoded = try tokenizer.encode(texts.next(), pair: nil, maxLength: 512)
        #expect(encoded.ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize }, "seed \(seed)")
      } catch {
        #expect(error.description.hasPrefix("vocab.txt"), "seed \(seed): \(error)")
      }
    }
  }
}

@Suite("Canonical decomposition")
struct CanonicalDecompositionTests {
  @Test("gives a canonically equivalent text, which it leaves as it is")
  func equivalence() {
    let decomposition = CanonicalDecomposition()
    var decomposed = 0
    for value in UInt32(0)...0x10FFFF {
      guard let scalar = Unicode.Scalar(value) else { continue }
      let scalars = decomposition.decompose([scalar])
      guard scalars != [scalar] else { continue }
      decomposed += 1
      #expect(String(String.UnicodeScalarView(scalars)) == String(scalar), "U+\(String(value, radix: 16))")
      #expect(decomposition.decompose(scalars) == scalars, "U+\(String(value, radix: 16))")
    }
    // The entries of Unicode 14 and the 11,172 Hangul syllables.
    #expect(decomposed == 2061 + 11_172)
  }

  @Test("orders marks by their class and keeps equal classes in the order of the text")
  func markOrder() {
    let decomposition = CanonicalDecomposition()
    func decompose(_ text: String) -> [Unicode.Scalar] { decomposition.decompose(Array(text.unicodeScalars)) }
    #expect(decompose("q\u{307}\u{323}") == ["q", "\u{323}", "\u{307}"])
    #expect(decompose("a\u{301}\u{300}") == ["a", "\u{301}", "\u{300}"])
    #expect(decompose("\u{1E0B}\u{323}") == ["d", "\u{323}", "\u{307}"])
    #expect(decompose("\u{D55C}") == ["\u{1112}", "\u{1161}", "\u{11AB}"])
  }
}
