import CSentencePiece
package import CryptoPrimitives

/// The unigram tokenizer of T5 (Kudo, 2018) through libsentencepiece.
///
/// A text ends in `</s>`; a pair is `first </s> second </s>`. The 100 sentinels `<extra_id_0>` … `<extra_id_99>`
/// of T5's span corruption are not in the model file: they are the ids right above its pieces, counted down,
/// so that `<extra_id_0>` is the highest. Sentinels, `<pad>`, `</s>` and `<unk>` that stand in the text become
/// their ids, as in the reference implementation.
package struct SentencePieceTokenizer: Tokenizer {
  private let model: LoadedSentencePieceModel
  private let specials: SpecialTokenScanner
  private let file: String
  /// Number of pieces in the model file; sentinels follow.
  package let pieceCount: Int
  /// Over the model file and the number of sentinels.
  package let digest: ContentDigest

  /// Number of sentinels above the pieces.
  package static let sentinelCount = 100
  private static let padID: Int32 = 0
  private static let endID: Int32 = 1
  private static let unknownID: Int32 = 2
  private static let specialIDs = [padID, endID, unknownID]

  /// Loads a `spiece.model`.
  package init(region: any ByteRegion) throws(TokenizerFailure) {
    file = region.name
    model = try region.withBytes { bytes throws(TokenizerFailure) in
      _ = try SentencePieceModelCheck(bytes, file: region.name)
      return try LoadedSentencePieceModel(bytes, file: region.name)
    }
    pieceCount = model.pieceCount
    var ids: [(token: String, id: Int32)] = []
    for (token, id) in [("<pad>", Self.padID), ("</s>", Self.endID), ("<unk>", Self.unknownID)] {
      guard model.id(of: token) == id else {
        throw .missingToken(file: region.name, token: "\(token) = \(id)")
      }
      ids.append((token, id))
    }
    for sentinel in 0..<Self.sentinelCount {
      ids.append(("<extra_id_\(sentinel)>", Int32(pieceCount + Self.sentinelCount - 1 - sentinel)))
    }
    specials = SpecialTokenScanner(ids)
    digest = region.withBytes { bytes in
      var hasher = ContentHasher()
      hasher.update("hearth sentencepiece 1")
      hasher.update(Self.sentinelCount)
      hasher.update(bytes.count)
      hasher.update(bytes)
      return hasher.finalize()
    }
  }

  /// Pieces and sentinels.
  package var vocabularySize: Int { pieceCount + Self.sentinelCount }

  /// One token of each text and its `</s>`.
  package func minimumLength(withPair: Bool) -> Int { withPair ? 4 : 2 }

  /// Encodes a text or a pair; truncation cuts text only, so each `</s>` stays.
  package func encode(_ text: String, pair: String?, maxLength: Int) throws(TokenizerFailure) -> EncodedText {
    let minimum = minimumLength(withPair: pair != nil)
    guard maxLength >= minimum else { throw .maximumLength(found: maxLength, minimum: minimum) }
    var first = try tokens(of: text)
    var second = try pair.map { text throws(TokenizerFailure) in try tokens(of: text) } ?? []
    let room = maxLength - (pair == nil ? 1 : 2)
    let truncated = truncateLongestFirst(&first, &second, room: room)
    var ids = first + [Self.endID]
    if pair != nil { ids += second + [Self.endID] }
    return EncodedText(
      ids: ids, types: [Int32](repeating: 0, count: ids.count), truncatedTokens: truncated)
  }

  /// The text of ids; special tokens, sentinels among them, and ids of no piece are left out.
  package func decode(_ ids: [Int32]) -> String {
    let pieces = ids.filter { $0 >= 0 && $0 < pieceCount && !Self.specialIDs.contains($0) }
    return model.decode(pieces)
  }

  /// The ids of a text without the final `</s>`: the stretches between special tokens are encoded one by one.
  private func tokens(of text: String) throws(TokenizerFailure) -> [Int32] {
    var ids: [Int32] = []
    for part in specials.split(text) {
      switch part {
      case .special(let id): ids.append(id)
      case .text(let utf8): try model.encode(utf8, file: file, appendingTo: &ids)
      }
    }
    return ids
  }
}

/// A model inside libsentencepiece.
///
/// - Safety: the library's object is written while it loads, in `init`, and only read afterwards; encoding
///   with one model from several threads is what the library documents.
private final class LoadedSentencePieceModel: @unchecked Sendable {
  private let handle: OpaquePointer
  let pieceCount: Int

  init(_ bytes: UnsafeRawBufferPointer, file: String) throws(TokenizerFailure) {
    var reason = [CChar](repeating: 0, count: 512)
    guard let handle = hearth_sentencepiece_load(bytes.baseAddress, bytes.count, &reason, reason.count) else {
      let text = String(decoding: reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      throw .malformed(file: file, reason: text)
    }
    self.handle = handle
    pieceCount = Int(hearth_sentencepiece_piece_count(handle))
  }

  deinit { hearth_sentencepiece_free(handle) }

  func id(of piece: String) -> Int32 {
    let utf8 = piece.utf8.map { CChar(bitPattern: $0) }
    return hearth_sentencepiece_id(handle, utf8, utf8.count)
  }

  func encode(_ utf8: ArraySlice<UInt8>, file: String, appendingTo ids: inout [Int32])
    throws(TokenizerFailure)
  {
    // A piece is at least one byte of the normalised text; characters that normalise to several are rare,
    // so the first capacity is nearly always enough.
    var capacity = utf8.count + 16
    while true {
      var found = [Int32](repeating: 0, count: capacity)
      let count = utf8.withUnsafeBytes { bytes in
        hearth_sentencepiece_encode(
          handle, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count, &found, capacity)
      }
      guard count >= 0 else { throw .notEncodable(file: file, bytes: utf8.count) }
      if count <= capacity {
        ids += found.prefix(Int(count))
        return
      }
      capacity = Int(count)
    }
  }

  /// The text of pieces' ids.
  func decode(_ ids: [Int32]) -> String {
    // A guess: pieces of real vocabularies are shorter on average.
    var capacity = 16 * ids.count + 16
    while true {
      var found = [CChar](repeating: 0, count: capacity)
      let count = Int(hearth_sentencepiece_decode(handle, ids, ids.count, &found, capacity))
      precondition(count >= 0, "\(ids.count) ids below \(pieceCount) were not decoded")
      if count <= capacity {
        return String(decoding: found.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      }
      capacity = count
    }
  }
}
