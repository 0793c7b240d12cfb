package import CryptoPrimitives

/// A text, or a pair of texts, as the ids that a backbone reads.
package struct EncodedText: Sendable, Equatable {
  /// Token ids with the model's special tokens in their places; never empty, never padded.
  package let ids: [Int32]
  /// Segment of each token: 0, or 1 for the second text of a pair and its end (BERT); all 0 for T5.
  package let types: [Int32]
  /// How many tokens the maximum length cut off.
  package let truncatedTokens: Int

  /// Ids with their segments; both lists have the same length.
  package init(ids: [Int32], types: [Int32], truncatedTokens: Int) {
    precondition(ids.count == types.count, "\(ids.count) ids with \(types.count) types")
    self.ids = ids
    self.types = types
    self.truncatedTokens = truncatedTokens
  }
}

/// A target text as a decoder reads it and as it should write it (teacher forcing).
package struct EncodedTarget: Sendable, Equatable {
  /// What the decoder reads: its start token, then the labels without the last.
  package let decoderIDs: [Int32]
  /// What the decoder should write at each place, the end of the text included.
  package let labels: [Int32]
  /// How many tokens the maximum length cut off.
  package let truncatedTokens: Int
}

/// Turns text into token ids, exactly as the backbone's pre-training did, and ids back into text.
///
/// It is only read, so any number of threads may share one.
package protocol Tokenizer: Sendable {
  /// Number of ids: every id that `encode` gives is below it.
  var vocabularySize: Int { get }
  /// The shortest `maxLength` that `encode` accepts, with a pair or without: the special tokens and one more.
  func minimumLength(withPair: Bool) -> Int
  /// Encodes a text, or a pair, into at most `maxLength` tokens, special tokens included.
  func encode(_ text: String, pair: String?, maxLength: Int) throws(TokenizerFailure) -> EncodedText
  /// Encodes a text that the model should write into at most `maxLength` tokens, special tokens included.
  func encodeOutput(_ text: String, maxLength: Int) throws(TokenizerFailure) -> EncodedText
  /// The text of ids that the model wrote; special tokens and ids that stand for nothing are left out.
  func decode(_ ids: [Int32]) -> String
  /// The content digest over everything that decides the ids: files and options.
  var digest: ContentDigest { get }
}

extension Tokenizer {
  /// Most models write what they read.
  package func encodeOutput(_ text: String, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    try encode(text, pair: nil, maxLength: maxLength)
  }

  /// The decoder's input and labels for a target text of at most `maxLength` labels: the labels are the text's ids,
  /// the input is the same moved right by one, behind `decoderStartID`.
  package func encodeTarget(
    _ text: String, decoderStartID: Int32, maxLength: Int
  ) throws(TokenizerFailure) -> EncodedTarget {
    let encoded = try encodeOutput(text, maxLength: maxLength)
    return EncodedTarget(
      decoderIDs: [decoderStartID] + encoded.ids.dropLast(), labels: encoded.ids,
      truncatedTokens: encoded.truncatedTokens)
  }
}

/// Why a tokenizer's files, or a text, cannot be used.
package enum TokenizerFailure: Error, Equatable, CustomStringConvertible {
  /// The file is longer than any vocabulary.
  case tooLong(file: String, bytes: Int, limit: Int)
  /// The file is not what its name says.
  case malformed(file: String, reason: String)
  /// A settings file is not one, or holds values that cannot be.
  case settings(ConfigurationFailure)
  /// A token that every encoding needs is not in the vocabulary.
  case missingToken(file: String, token: String)
  /// The tokenizer's files describe a kind that Hearth does not implement.
  case unsupported(file: String, what: String, found: String, supported: String)
  /// The maximum length leaves no room for text beside the special tokens.
  case maximumLength(found: Int, minimum: Int)
  /// The tokenizer has ids that the backbone has no embedding for.
  case vocabularyTooLarge(file: String, ids: Int, embeddings: Int)
  /// The library could not encode the text.
  case notEncodable(file: String, bytes: Int)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .tooLong(let file, let bytes, let limit):
      "\(file) has \(bytes) bytes, the limit is \(limit); it is not a tokenizer file"
    case .malformed(let file, let reason):
      "\(file) is not a usable tokenizer file: \(reason); fetch it again"
    case .settings(let failure): failure.description
    case .missingToken(let file, let token):
      "\(file) has no token \(token), which every text needs; fetch the vocabulary of the model again"
    case .unsupported(let file, let what, let found, let supported):
      "\(file): \(what) is \(found), supported is \(supported); choose a model with such a tokenizer"
    case .maximumLength(let found, let minimum):
      "the maximum length is \(found) tokens, but special tokens and text need at least \(minimum); raise it"
    case .vocabularyTooLarge(let file, let ids, let embeddings):
      "\(file) gives \(ids) ids, but the model has \(embeddings) embeddings; use the tokenizer of this model"
    case .notEncodable(let file, let bytes):
      "\(file): a text of \(bytes) bytes could not be encoded; shorten it"
    }
  }
}
