import FoundationEssentials

/// The parsed header of a safetensors file.
struct SafetensorsHeader {
  /// Entries in the order of their bytes.
  let tensors: [SafetensorsEntry]
  /// Free-form strings.
  let metadata: [String: String]

  /// The key that holds strings about the file in place of a tensor.
  static let metadataKey = "__metadata__"
  private static let lengthBytes = 8

  init(_ bytes: UnsafeRawBufferPointer, file: String) throws(CheckpointFailure) {
    guard bytes.count >= Self.lengthBytes else {
      throw .truncated(file: file, part: "the header length", needs: Self.lengthBytes, has: bytes.count)
    }
    let claimed = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
    guard claimed >= 2, claimed <= UInt64(SafetensorsLimits.headerBytes) else {
      throw .headerLength(file: file, found: claimed, limit: SafetensorsLimits.headerBytes)
    }
    let dataStart = Self.lengthBytes + Int(claimed)
    guard bytes.count >= dataStart else {
      throw .truncated(file: file, part: "the header", needs: dataStart, has: bytes.count)
    }
    let json = UnsafeRawBufferPointer(rebasing: bytes[Self.lengthBytes..<dataStart])
    let fields = try Self.decode(json, file: file)
    metadata = fields.metadata
    tensors = try Self.checkedEntries(
      fields.entries, dataStart: dataStart, dataBytes: bytes.count - dataStart, file: file)
  }

  // MARK: JSON

  private struct Fields: Decodable {
    var entries: [(name: String, entry: Entry)] = []
    var metadata: [String: String] = [:]

    struct Entry: Decodable {
      let dtype: String
      let shape: [Int]
      let data_offsets: [Int]
    }

    struct Name: CodingKey {
      let stringValue: String
      var intValue: Int? { nil }
      init(stringValue: String) { self.stringValue = stringValue }
      init?(intValue: Int) { nil }
    }

    init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: Name.self)
      let names = container.allKeys.sorted { $0.stringValue < $1.stringValue }
      entries.reserveCapacity(names.count)
      for name in names {
        if name.stringValue == SafetensorsHeader.metadataKey {
          metadata = try container.decode([String: String].self, forKey: name)
        } else {
          entries.append((name.stringValue, try container.decode(Entry.self, forKey: name)))
        }
      }
    }
  }

  private static func decode(_ json: UnsafeRawBufferPointer, file: String) throws(CheckpointFailure) -> Fields
  {
    let keys = TopLevelKeys(of: json)
    let fields: Fields
    do {
      fields = try JSONDecoder().decode(Fields.self, from: Data(json))
    } catch let error as DecodingError {
      throw .malformedHeader(file: file, reason: error.shortReason)
    } catch {
      throw .malformedHeader(file: file, reason: "\(error)")
    }
    // The decoder keeps one of two equal keys without a word, so the keys are counted apart.
    if let name = keys.firstRepeated() { throw .duplicateTensor(file: file, tensor: name) }
    let decoded = fields.entries.count + (fields.metadata.isEmpty && !keys.contains(metadataKey) ? 0 : 1)
    guard keys.count == decoded else {
      throw .malformedHeader(file: file, reason: "\(keys.count) keys but only \(decoded) different ones")
    }
    return fields
  }

  // MARK: Checks

  private static func checkedEntries(
    _ fields: [(name: String, entry: Fields.Entry)], dataStart: Int, dataBytes: Int, file: String
  ) throws(CheckpointFailure) -> [SafetensorsEntry] {
    guard fields.count <= SafetensorsLimits.tensors else {
      throw .limitExceeded(
        file: file, tensor: fields[0].name, what: "the number of tensors in the file", found: fields.count,
        limit: SafetensorsLimits.tensors)
    }
    var entries: [SafetensorsEntry] = []
    entries.reserveCapacity(fields.count)
    for (name, field) in fields {
      entries.append(
        try checkedEntry(name, field, dataStart: dataStart, dataBytes: dataBytes, file: file))
    }
    entries.sort {
      ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound)
    }
    var position = dataStart
    for entry in entries {
      guard entry.byteRange.lowerBound == position else {
        let overlaps = entry.byteRange.lowerBound < position
        throw .byteRange(
          file: file, tensor: entry.name, begin: entry.byteRange.lowerBound - dataStart,
          end: entry.byteRange.upperBound - dataStart,
          reason: overlaps
            ? "overlaps the tensor before it" : "leaves a gap from byte \(position - dataStart)")
      }
      position = entry.byteRange.upperBound
    }
    guard position == dataStart + dataBytes else {
      throw .trailingBytes(file: file, count: dataStart + dataBytes - position)
    }
    return entries
  }

  private static func checkedEntry(
    _ name: String, _ field: Fields.Entry, dataStart: Int, dataBytes: Int, file: String
  ) throws(CheckpointFailure) -> SafetensorsEntry {
    let nameBytes = name.utf8.count
    guard nameBytes <= SafetensorsLimits.nameBytes else {
      throw .limitExceeded(
        file: file, tensor: String(name.prefix(40)) + "…", what: "the length of the name", found: nameBytes,
        limit: SafetensorsLimits.nameBytes)
    }
    guard let element = TensorElement(rawValue: field.dtype) else {
      throw .unknownElementType(file: file, tensor: name, found: String(field.dtype.prefix(40)))
    }
    guard field.shape.count <= SafetensorsLimits.dimensions else {
      throw .limitExceeded(
        file: file, tensor: name, what: "the number of dimensions", found: field.shape.count,
        limit: SafetensorsLimits.dimensions)
    }
    guard field.data_offsets.count == 2 else {
      throw .malformedHeader(
        file: file, reason: "tensor \(name) has \(field.data_offsets.count) data_offsets, expected 2")
    }
    let (begin, end) = (field.data_offsets[0], field.data_offsets[1])
    guard begin >= 0, begin <= end else {
      throw .byteRange(file: file, tensor: name, begin: begin, end: end, reason: "is not a range of bytes")
    }
    guard end <= dataBytes else {
      throw .byteRange(
        file: file, tensor: name, begin: begin, end: end,
        reason: "is outside the \(dataBytes) bytes that the file has (it may be truncated)")
    }
    var expected = element.byteCount
    for dimension in field.shape {
      let (product, overflow) = expected.multipliedReportingOverflow(by: dimension)
      guard dimension >= 0, !overflow else {
        throw .malformedHeader(file: file, reason: "tensor \(name) has the impossible shape \(field.shape)")
      }
      expected = product
    }
    guard expected == end - begin else {
      throw .byteCount(
        file: file, tensor: name, shape: field.shape, elementType: field.dtype, found: end - begin,
        expected: expected)
    }
    return SafetensorsEntry(
      name: name, element: element, shape: field.shape, byteRange: dataStart + begin..<dataStart + end)
  }
}

/// The keys of a JSON object's outermost level as they are written, found without building any value.
///
/// `JSONDecoder` has checked or will check the grammar; this scan only has to be right on valid JSON.
struct TopLevelKeys {
  private let keys: [ArraySlice<UInt8>]

  init(of json: UnsafeRawBufferPointer) {
    let bytes = Array(json)
    var keys: [ArraySlice<UInt8>] = []
    var depth = 0
    var lastString: Range<Int> = 0..<0
    var index = 0
    while index < bytes.count {
      switch bytes[index] {
      case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
      case UInt8(ascii: "}"), UInt8(ascii: "]"): depth -= 1
      case UInt8(ascii: ":") where depth == 1: keys.append(bytes[lastString])
      case UInt8(ascii: "\""):
        let start = index + 1
        index = start
        while index < bytes.count, bytes[index] != UInt8(ascii: "\"") {
          index += bytes[index] == UInt8(ascii: "\\") ? 2 : 1
        }
        lastString = start..<min(index, bytes.count)
      default: break
      }
      index += 1
    }
    self.keys = keys
  }

  /// How many keys the object has, equal ones counted each time.
  var count: Int { keys.count }

  /// True when a key is written as `name`.
  func contains(_ name: String) -> Bool { keys.contains { $0.elementsEqual(name.utf8) } }

  /// The first key that is written twice, in sorted order.
  func firstRepeated() -> String? {
    let sorted = keys.sorted { $0.lexicographicallyPrecedes($1) }
    for (key, next) in zip(sorted, sorted.dropFirst()) where key == next {
      return String(decoding: key, as: UTF8.self)
    }
    return nil
  }
}

extension DecodingError {
  /// What the decoder disliked and where, in a few words.
  var shortReason: String {
    let context: Context
    let what: String
    switch self {
    case .typeMismatch(let type, let inner): (context, what) = (inner, "expected \(type)")
    case .valueNotFound(let type, let inner): (context, what) = (inner, "expected \(type), found null")
    case .keyNotFound(let key, let inner): (context, what) = (inner, "the key \(key.stringValue) is missing")
    case .dataCorrupted(let inner): (context, what) = (inner, inner.debugDescription)
    @unknown default: return "it does not decode"
    }
    let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(
      separator: " ")
    return path.isEmpty ? what : "\(what) at \(path)"
  }
}
