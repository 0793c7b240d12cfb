import FoundationEssentials

/// The settings of a BERT tokenizer that lie beside its vocabulary.
struct WordPieceSettings {
  /// How text is prepared.
  var normalization = BERTNormalization()

  /// The longest `tokenizer.json`, which repeats the vocabulary.
  static let maximumTokenizerBytes = 64 << 20

  /// Settings from the files that are there; what `tokenizer_config.json` says wins, as in transformers.
  init(
    tokenizerJSON: (any ByteRegion)?, tokenizerConfiguration: (any ByteRegion)?
  ) throws(TokenizerFailure) {
    if let tokenizerJSON { try read(tokenizerJSON: tokenizerJSON) }
    if let tokenizerConfiguration { try read(configuration: tokenizerConfiguration) }
  }

  private struct TokenizerFields: Decodable {
    struct Normalizer: Decodable {
      let type: String
      let clean_text: Bool?
      let handle_chinese_chars: Bool?
      let strip_accents: Bool?
      let lowercase: Bool?
    }
    struct Model: Decodable {
      let type: String?
    }
    let normalizer: Normalizer?
    let model: Model?
  }

  private mutating func read(tokenizerJSON region: any ByteRegion) throws(TokenizerFailure) {
    let file = region.name
    let fields = try region.withBytes { bytes throws(TokenizerFailure) in
      guard bytes.count <= Self.maximumTokenizerBytes else {
        throw .tooLong(file: file, bytes: bytes.count, limit: Self.maximumTokenizerBytes)
      }
      do {
        return try JSONDecoder().decode(TokenizerFields.self, from: Data(bytes))
      } catch let error as DecodingError {
        throw .malformed(file: file, reason: error.shortReason)
      } catch {
        throw .malformed(file: file, reason: "\(error)")
      }
    }
    if let type = fields.model?.type, type != "WordPiece" {
      throw .unsupported(file: file, what: "the tokenizer model", found: type, supported: "WordPiece")
    }
    guard let normalizer = fields.normalizer else { return }
    guard normalizer.type == "BertNormalizer" else {
      throw .unsupported(
        file: file, what: "the normalizer", found: normalizer.type, supported: "BertNormalizer")
    }
    normalization.cleanText = normalizer.clean_text ?? true
    normalization.separateIdeographs = normalizer.handle_chinese_chars ?? true
    normalization.lowercase = normalizer.lowercase ?? true
    normalization.stripAccents = normalizer.strip_accents
  }

  private mutating func read(configuration region: any ByteRegion) throws(TokenizerFailure) {
    let name: String?
    do {
      let json = try JSONObject(region: region)
      normalization.lowercase = try json.bool("do_lower_case", default: normalization.lowercase)
      normalization.separateIdeographs = try json.bool(
        "tokenize_chinese_chars", default: normalization.separateIdeographs)
      if json.values["strip_accents"] ?? .null != .null {
        normalization.stripAccents = try json.bool("strip_accents", default: false)
      }
      name = try json.string("tokenizer_class")
    } catch {
      throw .settings(error)
    }
    if let name, name != "BertTokenizer", name != "BertTokenizerFast" {
      throw .unsupported(
        file: region.name, what: "tokenizer_class", found: name, supported: "BertTokenizer")
    }
  }
}
