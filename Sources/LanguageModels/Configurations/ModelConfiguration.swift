/// The configuration of a supported backbone.
package enum ModelConfiguration: Sendable, Equatable {
  /// A BERT encoder.
  case bert(BERTConfiguration)
  /// A T5 encoder-decoder, v1.0 or v1.1.
  case t5(T5Configuration)
  /// A BART encoder-decoder.
  case bart(BARTConfiguration)

  /// The architectures that `config.json` may name.
  package static let supportedArchitectures = [
    "BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification", "T5Model",
    "T5ForConditionalGeneration", "T5WithLMHeadModel", "BartModel", "BartForConditionalGeneration",
    "BartForSequenceClassification",
  ]
  private static let supportedTypes = ["bert", "t5", "bart"]

  /// Reads a `config.json`.
  package init(region: any ByteRegion) throws(ConfigurationFailure) {
    let json = try JSONObject(region: region)
    switch try Self.modelType(json) {
    case "bert": self = .bert(try BERTConfiguration(json))
    case "bart": self = .bart(try BARTConfiguration(json))
    default: self = .t5(try T5Configuration(json))
    }
  }

  /// The family, from `model_type` or, in old files, from the first of `architectures`.
  private static func modelType(_ json: JSONObject) throws(ConfigurationFailure) -> String {
    if let type = try json.string("model_type") {
      guard supportedTypes.contains(type) else {
        throw .unsupported(file: json.file, key: "model_type", found: type, supported: supportedTypes)
      }
      return type
    }
    guard case .array(let names)? = json.values["architectures"], case .string(let name)? = names.first else {
      throw .missing(file: json.file, key: "model_type")
    }
    guard supportedArchitectures.contains(name) else {
      throw .unsupported(
        file: json.file, key: "architectures", found: name, supported: supportedArchitectures)
    }
    return name.hasPrefix("Bert") ? "bert" : name.hasPrefix("Bart") ? "bart" : "t5"
  }

  /// The family as people write it: "BERT", "T5" or "BART".
  package var familyName: String {
    switch self {
    case .bert: "BERT"
    case .t5: "T5"
    case .bart: "BART"
    }
  }

  /// The stacks of the backbone that it describes.
  package var architecture: BackboneArchitecture {
    switch self {
    case .bert(let bert): bert.architecture
    case .t5(let t5): t5.architecture
    case .bart(let bart): bart.architecture
    }
  }

  /// Rows of the word embedding: every token id is below it.
  package var vocabulary: Int {
    switch self {
    case .bert(let bert): bert.vocabulary
    case .t5(let t5): t5.vocabulary
    case .bart(let bart): bart.vocabulary
    }
  }

  /// The longest sequence that the backbone can take; nil when positions are relative.
  package var maximumPositions: Int? {
    switch self {
    case .bert(let bert): bert.positions
    case .t5: nil
    case .bart(let bart): bart.positions
    }
  }
}
