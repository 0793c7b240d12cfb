import FineTuning
import LanguageModels

/// Which model writes, and how.
package struct GenerationRequest: Sendable, Equatable {
  /// Directory of the model; nil uses the one that the adapter names.
  package var modelDirectory: String?
  /// Directory of a seq2seq adapter; nil writes with the model as it is.
  package var adapterDirectory: String?
  /// Hypotheses that are kept; 1 is greedy search.
  package var beams: Int
  /// The most tokens of an output, its end included; nil takes the adapter's, or the usual number.
  package var maximumTokens: Int?
  /// Exponent of the length by which log-probabilities are divided.
  package var lengthPenalty: Double
  /// Tokens of the longest input text, beyond which it is cut and counted; nil takes the adapter's, or the usual number.
  package var maximumLength: Int?
  /// Compute threads; nil uses the cores that this process may use.
  package var threads: Int?

  /// Longest input when nothing else is asked: the length that T5 was trained with.
  package static let defaultMaximumLength = 512
  /// Most hypotheses.
  package static let beamLimit = GenerationSettings.maximumBeams
  /// Most tokens of an output: far above what the supported models were trained to write.
  package static let tokenLimit = 4_096

  /// The most tokens of an output when nothing else is asked.
  package static let defaultMaximumTokens = GenerationSettings().maximumTokens

  /// Greedy search with the usual lengths, by a model as it is.
  package init(modelDirectory: String) {
    self.init(model: modelDirectory, adapter: nil)
  }

  /// Greedy search with the usual lengths, by an adapted model; `modelDirectory` nil uses the one that it names.
  package init(adapterDirectory: String, modelDirectory: String? = nil) {
    self.init(model: modelDirectory, adapter: adapterDirectory)
  }

  private init(model: String?, adapter: String?) {
    modelDirectory = model
    adapterDirectory = adapter
    let settings = GenerationSettings()
    (beams, lengthPenalty) = (settings.beams, settings.lengthPenalty)
    maximumTokens = nil
    maximumLength = nil
    threads = nil
  }

  /// The settings for a model with or without an adapter.
  func settings(for adapter: AdapterDescription?) -> GenerationSettings {
    var most = Self.defaultMaximumTokens
    if case .seq2seq(let length) = adapter?.task { most = length }
    return GenerationSettings(
      beams: beams, maximumTokens: maximumTokens ?? most, lengthPenalty: lengthPenalty)
  }
}

/// What a model wrote for one text.
package struct GeneratedText: Sendable, Equatable {
  /// The text.
  package var text: String
  /// Number of its tokens, without the end.
  package var tokens: Int
  /// True when it did not end within the most tokens.
  package var isCut: Bool
  /// True when the input was cut at the greatest length.
  package var truncatedInput: Bool

  /// A text that a model wrote.
  package init(text: String, tokens: Int, isCut: Bool, truncatedInput: Bool) {
    self.text = text
    self.tokens = tokens
    self.isCut = isCut
    self.truncatedInput = truncatedInput
  }

  /// The text as one line, or as a JSON object; `row` is the line of the input on which its text starts.
  package func line(row: Int, json: Bool) throws -> String {
    guard json else {
      // One line in, one line out: a line break that a model wrote would shift all that follow.
      return String(text.map { $0.isNewline ? " " : $0 }) + "\n"
    }
    return try jsonLine(
      Line(row: row, text: text, tokens: tokens, cut: isCut, truncated: truncatedInput)) + "\n"
  }

  private struct Line: Encodable {
    var row: Int
    var text: String
    var tokens: Int
    var cut: Bool
    var truncated: Bool
  }
}

/// Why a model writes no text.
package enum GenerationFailure: UserFacingFailure, Equatable {
  /// The model has no decoder.
  case noDecoder(path: String, family: String)
  /// The adapter predicts labels or numbers.
  case noWriter(adapter: String)
  /// The buffers need more memory than there is. Both values are bytes.
  case memory(needed: Int, available: Int)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .noDecoder: .badData
    case .noWriter: .usage
    case .memory: .insufficientResources
    }
  }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .noDecoder(let path, let family):
      "model directory '\(path)' holds \(family), which reads text and writes none; choose T5 or BART, "
        + "or make a BART of it with: hearth convert bert-to-bart"
    case .noWriter(let adapter):
      "adapter '\(adapter)' predicts labels or numbers and writes no text; use hearth predict, "
        + "or train one with --task seq2seq"
    case .memory(let needed, let available):
      "writing needs \(ByteCount(needed)) of memory and \(ByteCount(available)) are available; "
        + "use fewer --beams, --max-tokens or --threads, or a smaller --max-length"
    }
  }
}
