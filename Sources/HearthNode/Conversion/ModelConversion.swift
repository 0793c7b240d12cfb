import CryptoPrimitives
import HearthStorage
import LanguageModels

/// What is to be converted, and where to.
package struct ConversionRequest: Sendable, Equatable {
  /// Directory of the BERT model.
  package var modelDirectory: String
  /// New or empty directory for the BART model.
  package var output: String
  /// Layers of the decoder.
  package var decoderLayers: Int

  /// Layers of the decoder when nothing else is asked: enough to learn from the encoder's states.
  package static let defaultDecoderLayers = 2

  /// A conversion with the usual decoder.
  package init(modelDirectory: String, output: String) {
    self.modelDirectory = modelDirectory
    self.output = output
    decoderLayers = Self.defaultDecoderLayers
  }
}

/// What a conversion made.
package struct ConversionSummary: Sendable, Equatable, Encodable {
  /// Directory of the new model.
  package var modelDirectory: String
  /// Layers of its encoder.
  package var encoderLayers: Int
  /// Layers of its decoder.
  package var decoderLayers: Int
  /// Number of weights.
  package var parameters: Int
  /// Content digest of the weights.
  package var digest: String

  /// What a person reads.
  package var text: String {
    tableLines([
      ["model:", modelDirectory], ["layers:", "\(encoderLayers) encoder + \(decoderLayers) decoder"],
      ["parameters:", grouped(parameters)], ["digest:", digest],
    ]).joined(separator: "\n") + "\n"
  }
}

/// Why a model is not converted.
package enum ConversionFailure: UserFacingFailure, Equatable {
  /// The model is of another family.
  case notBERT(path: String, found: String)
  /// The decoder would have more layers than the model.
  case decoderLayers(found: Int, most: Int)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .notBERT: .badData
    case .decoderLayers: .usage
    }
  }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .notBERT(let path, let found):
      "model directory '\(path)' holds \(found), and only BERT is converted to BART; choose a BERT model"
    case .decoderLayers(let found, let most):
      "--decoder-layers is \(found), and the model has \(most) layers to make them from; give 1 to \(most)"
    }
  }
}

/// Writes BERT's weights as a BART model directory that keeps its tokenizer.
package func convertBERTToBART(_ request: ConversionRequest) throws -> ConversionSummary {
  try RunPreflight.checkModelDirectory(request.modelDirectory)
  try RunPreflight.checkNewDirectory(request.output)
  let source = ModelFolder(request.modelDirectory)
  let configuration = try ModelDirectory.loadConfiguration(source)
  guard case .bert(let bert) = configuration else {
    throw ConversionFailure.notBERT(path: request.modelDirectory, found: configuration.familyName)
  }
  guard (1...bert.layers).contains(request.decoderLayers) else {
    throw ConversionFailure.decoderLayers(found: request.decoderLayers, most: bert.layers)
  }
  let loaded = try ModelDirectory.load(source)
  guard let tokenizer = loaded.tokenizer as? WordPieceTokenizer else {
    preconditionFailure("a BERT model came with another tokenizer")
  }
  let conversion = try BERTToBART(
    loaded.checkpoint, bert, startID: tokenizer.startID, endID: tokenizer.separatorID,
    decoderLayers: request.decoderLayers)
  let written = WrittenModel(
    layout: conversion.layout, configuration: conversion.configurationJSON, source: source,
    keptFiles: wordPieceFiles)
  try written.write(to: request.output) { entry, range, part in conversion.fill(entry, range, part) }
  // What was written has to load: a model that only looks finished would be found out much later.
  let made = try ModelDirectory.load(ModelFolder(request.output))
  return ConversionSummary(
    modelDirectory: request.output, encoderLayers: bert.layers, decoderLayers: request.decoderLayers,
    parameters: made.checkpoint.parameterCount, digest: made.checkpoint.digest.description)
}

/// Files that decide the ids of a WordPiece tokenizer; only the vocabulary must be there.
private let wordPieceFiles = ["vocab.txt", "tokenizer.json", "tokenizer_config.json"]
