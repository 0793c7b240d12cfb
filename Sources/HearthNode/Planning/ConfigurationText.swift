import FoundationEssentials
package import LanguageModels

/// The numbers, words and yes-or-no values of a `config.json`: all that decides a model's shape.
///
/// Label names, examples and other long content stay out, so that the text is short and equal shapes have equal texts.
package struct ConfigurationText {
  /// Words longer than this decide no shape.
  private static let longestWord = 64

  private var values: [String: Scalar]

  private enum Scalar: Codable, Equatable {
    case yesOrNo(Bool)
    case whole(Int)
    case real(Double)
    case word(String)
    case words([String])
    case other

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let value = try? container.decode(Bool.self) {
        self = .yesOrNo(value)
      } else if let value = try? container.decode(Int.self) {
        self = .whole(value)
      } else if let value = try? container.decode(Double.self) {
        self = .real(value)
      } else if let value = try? container.decode(String.self) {
        self = .word(value)
      } else if let value = try? container.decode([String].self) {
        self = .words(value)
      } else {
        self = .other
      }
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      switch self {
      case .yesOrNo(let value): try container.encode(value)
      case .whole(let value): try container.encode(value)
      case .real(let value): try container.encode(value)
      case .word(let value): try container.encode(value)
      case .words(let value): try container.encode(value)
      case .other: try container.encodeNil()
      }
    }

    var isKept: Bool {
      switch self {
      case .yesOrNo, .whole, .real: true
      case .word(let word): word.utf8.count <= ConfigurationText.longestWord
      case .words(let words): words.count <= 4 && words.allSatisfy { $0.utf8.count <= longestWord }
      case .other: false
      }
    }
  }

  /// What a `config.json` says.
  package init(_ text: String) throws(JobPlanningFailure) {
    do {
      values = try JSONDecoder().decode([String: Scalar].self, from: Data(text.utf8)).filter(\.value.isKept)
    } catch {
      throw .settings(detail: "the model's config.json is no JSON object")
    }
    guard self.text.utf8.count <= JobShape.maximumConfiguration else {
      throw .settings(
        detail:
          "the model's config.json has more than \(JobShape.maximumConfiguration) bytes of numbers and words")
    }
  }

  /// JSON with sorted keys.
  package var text: String { canonicalJSON(values).map { String(decoding: $0, as: UTF8.self) } ?? "{}" }

  /// The same model with other numbers of blocks.
  package func with(encoderLayers: Int, decoderLayers: Int) -> ConfigurationText {
    var copy = self
    for key in ["num_layers", "num_hidden_layers", "encoder_layers"] where values[key] != nil {
      copy.values[key] = .whole(encoderLayers)
    }
    // T5 has as many decoder blocks as encoder blocks when it does not say.
    for key in ["num_decoder_layers", "decoder_layers"]
    where values[key] != nil || values["num_layers"] != nil {
      copy.values[key] = .whole(decoderLayers)
    }
    return copy
  }

  /// The configuration that it describes.
  package func configuration() throws(JobPlanningFailure) -> ModelConfiguration {
    do {
      return try ModelConfiguration(region: MemoryRegion(name: "config.json", bytes: Array(text.utf8)))
    } catch {
      throw .settings(detail: "\(error)")
    }
  }
}
