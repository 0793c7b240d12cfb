import Determinism
import FoundationEssentials
import LanguageModels
import Testing

/// The files of a model in a folder, read whole.
private struct FolderFiles: ModelFiles {
  let name: String

  func region(named file: String) -> (any ByteRegion)? {
    guard let data = try? Data(contentsOf: URL(filePath: "\(name)/\(file)")) else { return nil }
    return MemoryRegion(name: file, bytes: Array(data))
  }
}

private let folder: String? = dataFolder(holding: "models/g2p-bart/model.safetensors").map {
  "\($0)/models/g2p-bart"
}

/// A published BART of one block a stack that writes the phonemes of English words.
@Suite(
  "BART's published grapheme-to-phoneme weights",
  .enabled(if: folder != nil, "needs HEARTH_DATA with models/g2p-bart"))
struct PhonemeModelTests {
  /// The model with greedy search, made once.
  private struct Writer {
    let tokenizer: any Tokenizer
    let generator: TextGenerator
    /// Token ids of the longest word that the model takes.
    let longest: Int

    init(beams: Int = 1) throws {
      let model = try ModelDirectory.load(FolderFiles(name: try #require(folder)))
      guard case .bart(let configuration) = model.configuration else {
        throw ConfigurationFailure.missing(file: "config.json", key: "BART")
      }
      tokenizer = model.tokenizer
      longest = configuration.positions
      generator = TextGenerator(
        try BARTBackbone(model.checkpoint, configuration),
        settings: GenerationSettings(beams: beams, maximumTokens: configuration.positions),
        maximumSource: configuration.positions)
    }

    func ids(of word: String) throws -> (read: [Int32], written: [Int32]) {
      let read = try tokenizer.encode(word, pair: nil, maxLength: longest).ids
      return (read, generator.generate(read).ids)
    }
  }

  /// Greedy output of an independent numpy implementation of BART over the same weights.
  @Test(
    "write the known phonemes",
    arguments: [
      ("hello", "hˈɛlO"), ("adapter", "ədˈæptəɹ"), ("transformer", "tɹænsfˈɔɹməɹ"), ("Swift", "swˈɪft"),
      ("household", "hˈWshˌOld"),
    ])
  func phonemes(word: String, expected: String) throws {
    let writer = try Writer()
    #expect(writer.tokenizer.decode(try writer.ids(of: word).written) == expected)
  }

  @Test("read and write the known ids")
  func ids() throws {
    let writer = try Writer()
    // The reference's outputs also hold the start token in front.
    let hello = try writer.ids(of: "hello")
    #expect(hello.read == [1, 12, 52, 16, 16, 54, 2])
    #expect(hello.written == [1, 12, 45, 32, 16, 6])
    let adapter = try writer.ids(of: "adapter")
    #expect(adapter.read == [1, 50, 10, 50, 19, 21, 52, 56, 2])
    #expect(adapter.written == [1, 31, 10, 45, 26, 19, 21, 31, 36])
  }

  // The reference wrote 277 of 400 random words as the lexicon does, a rate of 0.6925. A right implementation drawing
  // another 400 words differs from that by chance alone, with a deviation of √(2·0.6925·0.3075/400) = 0.033 for the
  // difference of two such samples; the bar is two of them below: 251 words.
  @Test(
    "write as many of 400 words as the lexicon does as the reference, within sampling error",
    arguments: [1, 4])
  func lexicon(beams: Int) throws {
    let writer = try Writer(beams: beams)
    let data = try Data(contentsOf: URL(filePath: "\(try #require(folder))/us_gold.json"))
    let lexicon = try JSONDecoder().decode([String: Entry].self, from: data)
    // The reference drew from the plain lower-case words.
    var words = lexicon.keys.filter { key in
      key.utf8.allSatisfy { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0) }
        && lexicon[key]?.phonemes != nil
    }.sorted()
    var generator = SeededGenerator(seed: 0x6732_7062_6172_7400)
    generator.shuffle(&words)
    let exact = try words.prefix(400).count { word in
      writer.tokenizer.decode(try writer.ids(of: word).written) == lexicon[word]?.phonemes
    }
    #expect(exact >= 251, "\(exact) of 400 with \(beams) beams")
    #expect(exact < 400, "a lexicon of its own outputs would prove nothing")
  }

  /// A word's phonemes; words that depend on their part of speech have an object in place of a text.
  private struct Entry: Decodable {
    let phonemes: String?

    init(from decoder: any Decoder) throws {
      phonemes = try? decoder.singleValueContainer().decode(String.self)
    }
  }
}
