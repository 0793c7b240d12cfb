/// Checks a serialized SentencePiece model before libsentencepiece sees it.
///
/// The library trusts its input: it walks the normaliser's trie without bounds and takes a file that was cut
/// between two pieces for a smaller vocabulary. So the outer protocol-buffer framing, the number of pieces
/// and every edge of the trie are checked here first. Field numbers: `sentencepiece_model.proto`.
struct SentencePieceModelCheck {
  /// Number of pieces in the file.
  private(set) var pieces = 0
  private let file: String

  /// The largest model file.
  static let maximumBytes = 64 << 20
  /// The most pieces of a model.
  static let maximumPieces = 1_000_000
  /// The longest piece in bytes.
  static let maximumPieceBytes = 4096

  /// Field numbers of the outermost message.
  private enum ModelField {
    static let piece: UInt64 = 1
    static let trainer: UInt64 = 2
    static let normaliser: UInt64 = 3
    static let denormaliser: UInt64 = 5
  }

  /// The only trained model type whose ids Hearth reproduces.
  private static let unigramType: UInt64 = 1

  init(_ bytes: UnsafeRawBufferPointer, file: String) throws(TokenizerFailure) {
    self.file = file
    guard bytes.count <= Self.maximumBytes else {
      throw .tooLong(file: file, bytes: bytes.count, limit: Self.maximumBytes)
    }
    var trainers = 0
    var normalisers = 0
    var claimedPieces: UInt64?
    var fields = ProtocolBufferFields(bytes)
    while let field = try next(&fields) {
      switch (field.number, field.value) {
      case (ModelField.piece, .bytes(let piece)):
        pieces += 1
        guard pieces <= Self.maximumPieces else { throw malformed("over \(Self.maximumPieces) pieces") }
        try checkPiece(piece)
      case (ModelField.trainer, .bytes(let trainer)):
        trainers += 1
        claimedPieces = try checkTrainer(trainer)
      case (ModelField.normaliser, .bytes(let normaliser)):
        normalisers += 1
        try checkNormaliser(normaliser)
      case (ModelField.denormaliser, .bytes(let denormaliser)):
        try checkNormaliser(denormaliser)
      case (ModelField.piece...ModelField.denormaliser, .number),
        (ModelField.piece...ModelField.denormaliser, .fixed):
        throw malformed("field \(field.number) has the wrong wire type")
      default: break
      }
    }
    guard trainers == 1, normalisers == 1, pieces > 0 else {
      throw malformed(
        "\(pieces) pieces, \(trainers) trainer and \(normalisers) normaliser settings, expected some, 1 and 1"
          + " (it may be truncated)")
    }
    guard claimedPieces == UInt64(pieces) else {
      throw malformed("\(pieces) pieces where its settings say \(claimedPieces.map { "\($0)" } ?? "nothing")")
    }
  }

  private func malformed(_ reason: String) -> TokenizerFailure { .malformed(file: file, reason: reason) }

  private func next(
    _ fields: inout ProtocolBufferFields
  ) throws(TokenizerFailure) -> ProtocolBufferFields.Field? {
    do {
      return try fields.next()
    } catch {
      throw malformed("it is not a SentencePiece model or is truncated (\(error))")
    }
  }

  private func checkPiece(_ bytes: UnsafeRawBufferPointer) throws(TokenizerFailure) {
    var text: UnsafeRawBufferPointer?
    var fields = ProtocolBufferFields(bytes)
    while let field = try next(&fields) {
      switch (field.number, field.value) {
      case (1, .bytes(let piece)): text = piece
      case (2, .fixed(let bits)):
        guard Float(bitPattern: bits).isFinite else {
          throw malformed("piece \(pieces - 1) has no finite score")
        }
      case (3, .number): break
      case (1...3, _): throw malformed("piece \(pieces - 1) has a field of the wrong wire type")
      default: break
      }
    }
    guard let text, !text.isEmpty, text.count <= Self.maximumPieceBytes else {
      throw malformed(
        "piece \(pieces - 1) has \(text?.count ?? 0) bytes, expected 1 to \(Self.maximumPieceBytes)")
    }
    guard !text.contains(0), String(validating: text, as: UTF8.self) != nil else {
      throw malformed("piece \(pieces - 1) is not text")
    }
  }

  private func checkTrainer(_ bytes: UnsafeRawBufferPointer) throws(TokenizerFailure) -> UInt64? {
    var claimed: UInt64?
    var fields = ProtocolBufferFields(bytes)
    while let field = try next(&fields) {
      switch (field.number, field.value) {
      case (3, .number(let type)):
        guard type == Self.unigramType else {
          throw .unsupported(
            file: file, what: "the model type", found: "\(type)", supported: "\(Self.unigramType) (unigram)")
        }
      case (4, .number(let count)): claimed = count
      default: break
      }
    }
    return claimed
  }

  private func checkNormaliser(_ bytes: UnsafeRawBufferPointer) throws(TokenizerFailure) {
    var maps = 0
    var fields = ProtocolBufferFields(bytes)
    while let field = try next(&fields) {
      guard field.number == 2, case .bytes(let map) = field.value else { continue }
      maps += 1
      guard maps == 1 else { throw malformed("two character maps in one normaliser") }
      if !map.isEmpty { try checkCharacterMap(map) }
    }
  }

  /// A character map is a length, a double-array trie of that many bytes, and NUL-terminated replacements.
  ///
  /// A unit without bit 31 is a node: its children are the units `(i ^ offset) ^ label` of one block of 256, and
  /// with bit 8 the unit `i ^ offset` holds a place in the replacements. Both must stay inside their arrays
  /// whatever bytes are looked up. The root is taken for a node without a look at its bit 31.
  private func checkCharacterMap(_ map: UnsafeRawBufferPointer) throws(TokenizerFailure) {
    guard map.count > 4 else { throw malformed("its character map has \(map.count) bytes") }
    let trieBytes = Int(UInt32(littleEndian: map.loadUnaligned(as: UInt32.self)))
    guard trieBytes >= 1024, trieBytes % 1024 == 0, trieBytes < map.count - 4, map[map.count - 1] == 0 else {
      throw malformed("its character map of \(map.count) bytes claims a trie of \(trieBytes)")
    }
    let units = trieBytes / 4
    let replacements = map.count - 4 - trieBytes
    func unit(_ index: Int) -> UInt32 {
      UInt32(littleEndian: map.loadUnaligned(fromByteOffset: 4 + 4 * index, as: UInt32.self))
    }
    for index in 0..<units {
      let node = unit(index)
      guard node >> 31 == 0 || index == 0 else { continue }
      let base = index ^ Int((node >> 10) << ((node & (1 << 9)) >> 6))
      let holdsPlace = node & (1 << 8) != 0
      guard base | 0xFF < units, !holdsPlace || Int(unit(base) & 0x7FFF_FFFF) < replacements else {
        throw malformed("unit \(index) of its character map points outside")
      }
    }
  }
}

/// Walks the fields of one protocol-buffer message without interpreting them.
struct ProtocolBufferFields {
  /// A field's payload by wire type.
  enum Value {
    case number(UInt64)
    case bytes(UnsafeRawBufferPointer)
    case fixed(UInt32)
    case fixed64
  }

  /// One field.
  struct Field {
    let number: UInt64
    let value: Value
  }

  /// Why the walk cannot go on.
  enum Failure: Error, CustomStringConvertible {
    case truncated(at: Int)
    case wireType(UInt64, at: Int)

    var description: String {
      switch self {
      case .truncated(let offset): "the message ends inside a field at byte \(offset)"
      case .wireType(let type, let offset): "wire type \(type) at byte \(offset)"
      }
    }
  }

  private let bytes: UnsafeRawBufferPointer
  private var position = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  /// The next field, or nil at the end.
  mutating func next() throws(Failure) -> Field? {
    guard position < bytes.count else { return nil }
    let start = position
    let key = try varint()
    let number = key >> 3
    switch key & 7 {
    case 0: return Field(number: number, value: .number(try varint()))
    case 1:
      _ = try take(8)
      return Field(number: number, value: .fixed64)
    case 2:
      let length = try varint()
      guard length <= UInt64(bytes.count - position) else { throw .truncated(at: start) }
      return Field(number: number, value: .bytes(try take(Int(length))))
    case 5:
      let value = UInt32(littleEndian: try take(4).loadUnaligned(as: UInt32.self))
      return Field(number: number, value: .fixed(value))
    default: throw .wireType(key & 7, at: start)
    }
  }

  private mutating func take(_ count: Int) throws(Failure) -> UnsafeRawBufferPointer {
    guard count <= bytes.count - position else { throw .truncated(at: position) }
    defer { position += count }
    return UnsafeRawBufferPointer(rebasing: bytes[position..<position + count])
  }

  private mutating func varint() throws(Failure) -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 64, by: 7) {
      guard position < bytes.count else { throw .truncated(at: position) }
      let byte = bytes[position]
      position += 1
      value |= UInt64(byte & 0x7F) << shift
      if byte & 0x80 == 0 { return value }
    }
    throw .truncated(at: position)
  }
}
