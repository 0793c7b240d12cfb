import Determinism
import HearthStorage
import LanguageModels
import TensorKernels
import Testing

@Suite("A model directory")
struct ModelDirectoryTests {
  /// The files of a fixture, which a test then spoils.
  static func files(_ fixture: String) throws -> MemoryFiles {
    var files = MemoryFiles()
    let tokenizer = fixture == "tiny-bert" ? "vocab.txt" : "spiece.model"
    for file in ["config.json", "model.safetensors", tokenizer] {
      files.contents[file] = try GoldenFixture(fixture).region(file).withBytes { Array($0) }
    }
    return files
  }

  /// The same files with one text in `config.json` replaced.
  static func files(_ fixture: String, replacing old: String, by new: String) throws -> MemoryFiles {
    var files = try files(fixture)
    let text = String(decoding: try #require(files.contents["config.json"]), as: UTF8.self)
    let parts = text.split(separator: old, omittingEmptySubsequences: false)
    try #require(parts.count == 2, "\(old) is not once in \(text)")
    files.contents["config.json"] = Array(parts.joined(separator: new).utf8)
    return files
  }

  static func failure(_ files: MemoryFiles) -> ModelFailure? {
    do throws(ModelFailure) {
      _ = try ModelDirectory.load(files)
      return nil
    } catch {
      return error
    }
  }

  @Test(
    "on disk gives configuration, weights and tokenizer of one model",
    arguments: ["tiny-bert", "tiny-t5", "tiny-bart"])
  func loading(fixture: String) throws {
    let model = try ModelDirectory.load(ModelFolder(GoldenFixture(fixture).directory))
    #expect(model.tokenizer.vocabularySize <= model.configuration.vocabulary)
    #expect(model.checkpoint.names.count > 50)
    switch model.configuration {
    case .bert(let bert):
      #expect(bert.width == 48 && bert.layers == 3 && bert.headSize == 12 && bert.activation == .gelu)
      #expect(model.configuration.maximumPositions == 64)
      // Word, position and segment rows, embedding norm, 3 blocks, pooler; the position ids do not count.
      let block = 4 * (48 * 48 + 48) + 2 * 48 * 96 + 96 + 48 + 4 * 48
      #expect(model.checkpoint.parameterCount == (420 + 64 + 2 + 2) * 48 + 3 * block + 48 * 48 + 48)
    case .t5(let t5):
      #expect(t5.encoderLayers == 3 && t5.decoderLayers == 2 && t5.attentionWidth == 32 && t5.isTied)
      #expect(t5.bucketDistance == 128 && t5.activation == .relu && !t5.isGated)
      #expect(model.configuration.maximumPositions == nil)
    case .bart(let bart):
      #expect(bart.width == 48 && bart.encoder.layers == 3 && bart.decoder.heads == 6 && bart.scalesEmbedding)
      #expect(bart.epsilon == 1e-5 && bart.decoderStartID == 2 && bart.endID == 2 && bart.startID == 0)
      #expect(model.configuration.maximumPositions == 64)
    }
  }

  @Test("of T5 v1.1 is gated with the tanh GELU and has a head of its own")
  func gated() throws {
    let fixture = GoldenFixture("tiny-t5-gated")
    let folder = ModelFolder(fixture.directory)
    let configuration = try ModelDirectory.loadConfiguration(folder)
    guard case .t5(let t5) = configuration else {
      Issue.record("\(configuration)")
      return
    }
    #expect(t5.isGated && t5.activation == .geluTanh && !t5.isTied && t5.buckets == 8)
    try configuration.validate(try ModelDirectory.loadCheckpoint(folder), file: "config.json")
    #expect(
      throws: ModelFailure.missingFile(
        directory: fixture.directory, file: "spiece.model", what: "the SentencePiece model")
    ) {
      try ModelDirectory.load(folder)
    }
  }

  @Test("without a file names the file, and weights in another format are named as such")
  func missingFiles() throws {
    for (file, what) in [
      ("config.json", "the model's configuration"), ("model.safetensors", "the weights"),
      ("vocab.txt", "the vocabulary"),
    ] {
      var files = try Self.files("tiny-bert")
      files.contents[file] = nil
      #expect(Self.failure(files) == .missingFile(directory: "model", file: file, what: what))
    }
    var files = try Self.files("tiny-bert")
    files.contents["pytorch_model.bin"] = files.contents.removeValue(forKey: "model.safetensors")
    #expect(Self.failure(files) == .foreignWeights(directory: "model", file: "pytorch_model.bin"))
    let absent = GoldenFixture("no-such-directory").directory
    #expect(
      throws: ModelFailure.missingFile(
        directory: absent, file: "config.json", what: "the model's configuration")
    ) {
      try ModelDirectory.load(ModelFolder(absent))
    }
  }

  @Test("whose configuration contradicts a tensor names key, values and shapes")
  func contradictions() throws {
    let file = "model/config.json"
    let hidden = try Self.files(
      "tiny-bert", replacing: "\"intermediate_size\": 96", by: "\"intermediate_size\": 80")
    #expect(
      Self.failure(hidden)
        == .configuration(
          .contradiction(
            file: file, key: "intermediate_size", configured: 80,
            tensor: "encoder.layer.0.intermediate.dense.weight", shape: [96, 48], expected: [80, 48])))
    let width = try Self.files("tiny-t5", replacing: "\"d_model\": 48", by: "\"d_model\": 64")
    #expect(
      Self.failure(width)
        == .configuration(
          .contradiction(
            file: file, key: "d_model", configured: 64, tensor: "shared.weight", shape: [448, 48],
            expected: [448, 64])))
    let deeper = try Self.files("tiny-t5", replacing: "\"num_layers\": 3", by: "\"num_layers\": 4")
    #expect(
      Self.failure(deeper)
        == .configuration(
          .absentTensor(
            file: file, tensor: "encoder.block.3.layer.0.SelfAttention.q.weight", shape: [32, 48],
            because: "num_layers is 4")))
    let shallower = try Self.files(
      "tiny-t5", replacing: "\"num_decoder_layers\": 2", by: "\"num_decoder_layers\": 1")
    #expect(
      Self.failure(shallower)
        == .configuration(
          .surplusBlock(
            file: file, key: "num_decoder_layers", configured: 1,
            tensor: "decoder.block.1.layer.0.SelfAttention.k.weight")))
    let untied = try Self.files(
      "tiny-t5", replacing: "\"tie_word_embeddings\": true", by: "\"tie_word_embeddings\": false")
    #expect(
      Self.failure(untied)
        == .configuration(
          .absentTensor(
            file: file, tensor: "lm_head.weight", shape: [448, 48], because: "tie_word_embeddings is false")))
  }

  @Test("whose tokenizer has more ids than the model has embeddings is refused")
  func foreignTokenizer() throws {
    var files = try Self.files("tiny-bert")
    files.contents["vocab.txt", default: []] += Array("one\ntoo\nmany\n".utf8)
    #expect(
      Self.failure(files)
        == .tokenizer(.vocabularyTooLarge(file: "model/vocab.txt", ids: 423, embeddings: 420)))
  }

  @Test("follows the tokenizer's own settings, tokenizer_config.json before tokenizer.json")
  func tokenizerSettings() throws {
    func ids(_ extra: [String: String]) throws -> [Int32] {
      var files = try Self.files("tiny-bert")
      for (file, text) in extra { files.contents[file] = Array(text.utf8) }
      return try ModelDirectory.load(files).tokenizer.encode("The A", pair: nil, maxLength: 16).ids
    }
    let uncased = try ids([:])
    let cased = try ids(["tokenizer_config.json": "{\"do_lower_case\": false}"])
    #expect(uncased != cased)
    let normalizer =
      "{\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":false},\"model\":{\"type\":\"WordPiece\"}}"
    #expect(try ids(["tokenizer.json": normalizer]) == cased)
    #expect(
      try ids(["tokenizer.json": normalizer, "tokenizer_config.json": "{\"do_lower_case\": true}"]) == uncased
    )

    var files = try Self.files("tiny-bert")
    files.contents["tokenizer.json"] = Array("{\"model\":{\"type\":\"BPE\"}}".utf8)
    #expect(
      Self.failure(files)
        == .tokenizer(
          .unsupported(
            file: "tokenizer.json", what: "the tokenizer model", found: "BPE", supported: "WordPiece")))
  }
}

@Suite("A model configuration")
struct ModelConfigurationTests {
  static func failure(_ text: String) -> ConfigurationFailure? {
    do throws(ConfigurationFailure) {
      _ = try ModelConfiguration(region: MemoryRegion(name: "config.json", bytes: Array(text.utf8)))
      return nil
    } catch {
      return error
    }
  }

  static func failure(_ fixture: String, replacing old: String, by new: String) throws
    -> ConfigurationFailure?
  {
    let files = try ModelDirectoryTests.files(fixture, replacing: old, by: new)
    return failure(String(decoding: try #require(files.contents["config.json"]), as: UTF8.self))
  }

  @Test("of an unknown architecture lists the supported ones")
  func unknownArchitecture() throws {
    #expect(
      Self.failure("{\"model_type\":\"llama\"}")
        == .unsupported(
          file: "config.json", key: "model_type", found: "llama", supported: ["bert", "t5", "bart"]))
    #expect(
      Self.failure("{\"architectures\":[\"GPT2LMHeadModel\"]}")
        == .unsupported(
          file: "config.json", key: "architectures", found: "GPT2LMHeadModel",
          supported: ModelConfiguration.supportedArchitectures))
    #expect(Self.failure("{}") == .missing(file: "config.json", key: "model_type"))
    #expect(
      Self.failure("{\"architectures\":[\"T5Model\"]}") == .missing(file: "config.json", key: "d_model"))
  }

  @Test("names the key whose value is absent, of another type, out of range or not supported")
  func values() throws {
    let file = "config.json"
    #expect(
      try Self.failure("tiny-bert", replacing: "\"hidden_size\": 48,", by: "")
        == .missing(file: file, key: "hidden_size"))
    #expect(
      try Self.failure("tiny-bert", replacing: "\"hidden_size\": 48", by: "\"hidden_size\": \"48\"")
        == .wrongType(file: file, key: "hidden_size", found: "\"48\"", expected: "a whole number"))
    #expect(
      try Self.failure("tiny-bert", replacing: "\"hidden_size\": 48", by: "\"hidden_size\": 0")
        == .outOfRange(file: file, key: "hidden_size", found: "0", expected: "1 to 16384"))
    #expect(
      try Self.failure("tiny-bert", replacing: "\"hidden_size\": 48", by: "\"hidden_size\": 50")
        == .inconsistent(file: file, reason: "hidden_size 50 is not a multiple of num_attention_heads 4"))
    #expect(
      try Self.failure("tiny-bert", replacing: "\"absolute\"", by: "\"relative_key\"")
        == .unsupported(
          file: file, key: "position_embedding_type", found: "relative_key", supported: ["absolute"]))
    #expect(
      try Self.failure("tiny-bert", replacing: "\"hidden_act\": \"gelu\"", by: "\"hidden_act\": \"silu\"")
        == .unsupported(
          file: file, key: "hidden_act", found: "silu",
          supported: ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]))
    #expect(
      try Self.failure("tiny-t5", replacing: "\"relu\"", by: "\"relu\", \"is_gated_act\": true")
        == .inconsistent(file: file, reason: "is_gated_act is true, which feed_forward_proj contradicts"))
    #expect(
      try Self.failure(
        "tiny-t5", replacing: "\"decoder_start_token_id\": 0", by: "\"decoder_start_token_id\": 448")
        == .outOfRange(file: file, key: "decoder_start_token_id", found: "448", expected: "0 to 447"))
  }

  @Test(
    "survives any mutation: it is read or refused in a typed way", arguments: ["tiny-bert", "tiny-t5-gated"])
  func mutations(fixture: String) throws {
    let seed: UInt64 = 0xC0F1
    var generator = SeededGenerator(seed: seed)
    let original = try GoldenFixture(fixture).region("config.json").withBytes { Array($0) }
    let tokens = [
      "\"", "{", "}", ",", ":", "-", "1e308", "null", "true", "[]", "{}", "0", "99999999999999999999",
    ]
    var read = 0
    for _ in 0..<2000 {
      var bytes = original
      for _ in 0...generator.uniform(below: 3) {
        let place = generator.uniform(below: bytes.count)
        switch generator.uniform(below: 3) {
        case 0: bytes[place] = UInt8(truncatingIfNeeded: generator.next())
        case 1: bytes.remove(at: place)
        default: bytes.insert(contentsOf: tokens[generator.uniform(below: tokens.count)].utf8, at: place)
        }
      }
      do throws(ConfigurationFailure) {
        _ = try ModelConfiguration(region: MemoryRegion(name: "config.json", bytes: bytes))
        read += 1
      } catch {
        #expect(error.description.hasPrefix("config.json"), "seed \(seed): \(error)")
      }
    }
    #expect(read > 0 && read < 2000)
  }
}
