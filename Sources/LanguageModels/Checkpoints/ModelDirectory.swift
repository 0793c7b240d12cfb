/// The files of one model, by name; storage implements it over a directory.
package protocol ModelFiles {
  /// What to call the place in an error, for instance the directory's path.
  var name: String { get }
  /// The bytes of a file, or nil when there is none of that name.
  func region(named file: String) throws(CheckpointFailure) -> (any ByteRegion)?
}

/// Why a directory cannot be used as a model.
package enum ModelFailure: Error, Equatable, CustomStringConvertible {
  /// A file that every model needs is absent.
  case missingFile(directory: String, file: String, what: String)
  /// The weights are there, but in a format that Hearth does not read.
  case foreignWeights(directory: String, file: String)
  /// The weights cannot be used.
  case checkpoint(CheckpointFailure)
  /// The configuration cannot be used.
  case configuration(ConfigurationFailure)
  /// The tokenizer cannot be used.
  case tokenizer(TokenizerFailure)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .missingFile(let directory, let file, let what):
      "\(directory) has no \(file) (\(what)); fetch the whole model directory"
    case .foreignWeights(let directory, let file):
      "\(directory) holds its weights as \(file); fetch or convert them as model.safetensors"
    case .checkpoint(let failure): failure.description
    case .configuration(let failure): failure.description
    case .tokenizer(let failure): failure.description
    }
  }
}

/// A model's parts, each checked by itself and against the others.
package struct LoadedModel: Sendable {
  /// The backbone's shape.
  package let configuration: ModelConfiguration
  /// The weights; every tensor that the configuration needs is there in the right shape.
  package let checkpoint: Checkpoint
  /// The tokenizer; every id has an embedding.
  package let tokenizer: any Tokenizer
}

/// A Hugging Face model directory: `config.json`, safetensors weights and tokenizer files.
package enum ModelDirectory {
  private static let configurationFile = "config.json"
  private static let weightsFile = "model.safetensors"
  private static let indexFile = "model.safetensors.index.json"
  private static let foreignFiles = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"]

  /// Reads configuration, weights and tokenizer, and checks that they belong together.
  package static func load(_ files: some ModelFiles) throws(ModelFailure) -> LoadedModel {
    let configuration = try loadConfiguration(files)
    let checkpoint = try loadCheckpoint(files)
    do {
      try configuration.validate(checkpoint, file: files.name + "/" + configurationFile)
    } catch {
      throw .configuration(error)
    }
    let tokenizer = try loadTokenizer(files, configuration: configuration)
    return LoadedModel(configuration: configuration, checkpoint: checkpoint, tokenizer: tokenizer)
  }

  /// Reads `config.json`.
  package static func loadConfiguration(_ files: some ModelFiles) throws(ModelFailure) -> ModelConfiguration {
    let region = try require(configurationFile, what: "the model's configuration", in: files)
    do {
      return try ModelConfiguration(region: region)
    } catch {
      throw .configuration(error)
    }
  }

  /// Opens the weights: one file, or the shards that an index names.
  package static func loadCheckpoint(_ files: some ModelFiles) throws(ModelFailure) -> Checkpoint {
    do {
      if let region = try files.region(named: weightsFile) { return try Checkpoint(region: region) }
      if let index = try files.region(named: indexFile) {
        return try Checkpoint(index: index) { shard throws(CheckpointFailure) in
          try files.region(named: shard)
        }
      }
    } catch {
      throw .checkpoint(error)
    }
    for file in foreignFiles where try optional(file, in: files) != nil {
      throw .foreignWeights(directory: files.name, file: file)
    }
    throw .missingFile(directory: files.name, file: weightsFile, what: "the weights")
  }

  /// Reads the tokenizer that belongs to the configuration's family.
  package static func loadTokenizer(
    _ files: some ModelFiles, configuration: ModelConfiguration
  ) throws(ModelFailure) -> any Tokenizer {
    let file: String
    let tokenizer: any Tokenizer
    switch configuration {
    case .bert:
      file = "vocab.txt"
      tokenizer = try loadWordPiece(files, vocabulary: require(file, what: "the vocabulary", in: files))
    case .t5:
      file = "spiece.model"
      let region = try require(file, what: "the SentencePiece model", in: files)
      do {
        tokenizer = try SentencePieceTokenizer(region: region)
      } catch {
        throw .tokenizer(error)
      }
    case .bart(let bart): (tokenizer, file) = try loadBART(files, bart)
    }
    guard tokenizer.vocabularySize <= configuration.vocabulary else {
      throw .tokenizer(
        .vocabularyTooLarge(
          file: files.name + "/" + file, ids: tokenizer.vocabularySize, embeddings: configuration.vocabulary))
    }
    return tokenizer
  }

  private static func loadWordPiece(
    _ files: some ModelFiles, vocabulary: any ByteRegion
  ) throws(ModelFailure) -> any Tokenizer {
    let tokenizerJSON = try optional("tokenizer.json", in: files)
    let tokenizerConfiguration = try optional("tokenizer_config.json", in: files)
    do {
      let settings = try WordPieceSettings(
        tokenizerJSON: tokenizerJSON, tokenizerConfiguration: tokenizerConfiguration)
      return try WordPieceTokenizer(vocabulary: vocabulary, normalization: settings.normalization)
    } catch {
      throw .tokenizer(error)
    }
  }

  /// Characters where the configuration lists them, else byte-level BPE in fairseq's or Hugging Face's files, else
  /// the WordPiece vocabulary of a converted BERT.
  private static func loadBART(
    _ files: some ModelFiles, _ configuration: BARTConfiguration
  ) throws(ModelFailure) -> (any Tokenizer, file: String) {
    let configurationPath = files.name + "/" + configurationFile
    let characters = try tokenizer { () throws(TokenizerFailure) in
      try CharacterTokenizer(configuration, file: configurationPath)
    }
    if let characters { return (characters, configurationFile) }
    if let dictionary = try optional("dict.txt", in: files),
      let encoder = try optional("encoder.json", in: files),
      let merges = try optional("vocab.bpe", in: files)
    {
      let made = try tokenizer { () throws(TokenizerFailure) in
        try ByteLevelTokenizer(
          encoder: encoder, merges: merges, dictionary: dictionary, embeddings: configuration.vocabulary)
      }
      return (made, "encoder.json")
    }
    if try optional("vocab.json", in: files) == nil, let vocabulary = try optional("vocab.txt", in: files) {
      return (try loadWordPiece(files, vocabulary: vocabulary), "vocab.txt")
    }
    let vocabulary = try require("vocab.json", what: "the vocabulary", in: files)
    let merges = try require("merges.txt", what: "the merges of byte-pair encoding", in: files)
    let made = try tokenizer { () throws(TokenizerFailure) in
      try ByteLevelTokenizer(vocabulary: vocabulary, merges: merges, embeddings: configuration.vocabulary)
    }
    return (made, "vocab.json")
  }

  private static func tokenizer<Value>(
    _ make: () throws(TokenizerFailure) -> Value
  ) throws(ModelFailure) -> Value {
    do {
      return try make()
    } catch {
      throw .tokenizer(error)
    }
  }

  private static func optional(
    _ file: String, in files: some ModelFiles
  ) throws(ModelFailure) -> (any ByteRegion)? {
    do {
      return try files.region(named: file)
    } catch {
      throw .checkpoint(error)
    }
  }

  private static func require(
    _ file: String, what: String, in files: some ModelFiles
  ) throws(ModelFailure) -> any ByteRegion {
    guard let region = try optional(file, in: files) else {
      throw .missingFile(directory: files.name, file: file, what: what)
    }
    return region
  }
}
