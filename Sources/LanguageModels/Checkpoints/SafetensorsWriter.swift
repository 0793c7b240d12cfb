import FoundationEssentials

/// What a safetensors file of float32 tensors will hold, settled before any value exists.
///
/// The same tensors and strings give the same bytes: tensors lie in the order of their names' UTF-8 bytes.
package struct SafetensorsLayout: Sendable {
  /// The tensors with their places in the file, in the order of their bytes.
  package let tensors: [SafetensorsEntry]
  /// Length field and JSON, padded so that the data begins at a multiple of 8.
  let header: [UInt8]
  /// Bytes of the whole file.
  package let byteCount: Int

  private enum Field: Encodable {
    case strings([String: String])
    case tensor(shape: [Int], begin: Int, end: Int)

    struct Tensor: Encodable {
      let dtype: String
      let shape: [Int]
      let data_offsets: [Int]
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      switch self {
      case .strings(let strings): try container.encode(strings)
      case .tensor(let shape, let begin, let end):
        try container.encode(
          Tensor(dtype: TensorElement.float32.rawValue, shape: shape, data_offsets: [begin, end]))
      }
    }
  }

  /// Lays out tensors of the given names and shapes; names must be unique and within the reader's limits.
  package init(_ tensors: [(name: String, shape: [Int])], metadata: [String: String] = [:]) {
    precondition(
      tensors.count <= SafetensorsLimits.tensors, "\(tensors.count) tensors are beyond the format's limit")
    var fields: [String: Field] = [:]
    if !metadata.isEmpty { fields[SafetensorsHeader.metadataKey] = .strings(metadata) }
    var ranges: [(name: String, shape: [Int], range: Range<Int>)] = []
    var end = 0
    for (name, shape) in tensors.sorted(by: { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }) {
      precondition(
        name != SafetensorsHeader.metadataKey && name.utf8.count <= SafetensorsLimits.nameBytes
          && shape.count <= SafetensorsLimits.dimensions && shape.allSatisfy { $0 >= 0 },
        "tensor \(name) of shape \(shape) is not one that the reader would accept")
      let begin = end
      end += shape.reduce(TensorElement.float32.byteCount, *)
      let previous = fields.updateValue(.tensor(shape: shape, begin: begin, end: end), forKey: name)
      precondition(previous == nil, "two tensors have the name \(name)")
      ranges.append((name, shape, begin..<end))
    }
    header = Self.header(fields)
    let dataStart = header.count
    self.tensors = ranges.map {
      SafetensorsEntry(
        name: $0.name, element: .float32, shape: $0.shape,
        byteRange: dataStart + $0.range.lowerBound..<dataStart + $0.range.upperBound)
    }
    byteCount = dataStart + end
  }

  private static func header(_ fields: [String: Field]) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    var json: [UInt8]
    do {
      json = Array(try encoder.encode(fields))
    } catch {
      preconditionFailure("a header of strings and whole numbers did not encode: \(error)")
    }
    while json.count % 8 != 0 { json.append(UInt8(ascii: " ")) }
    return withUnsafeBytes(of: UInt64(json.count).littleEndian) { Array($0) } + json
  }
}

/// Writes a safetensors file of float32 tensors to `sink` piece by piece, holding one piece at a time.
///
/// `fill` writes the elements `range` of an entry (row-major); pieces come in the order of the file.
package func streamSafetensors<Failure: Error>(
  _ layout: SafetensorsLayout, pieceElements: Int = 1 << 20,
  fill: (SafetensorsEntry, _ range: Range<Int>, UnsafeMutableBufferPointer<Float>) throws(Failure) -> Void,
  sink: (UnsafeRawBufferPointer) throws(Failure) -> Void
) throws(Failure) {
  precondition(pieceElements > 0, "a piece of \(pieceElements) elements makes no progress")
  let header = MemoryRegion(name: "header", bytes: layout.header)
  try header.withBytes(sink)
  let longest = layout.tensors.reduce(0) { max($0, $1.elementCount) }
  let piece = UnsafeMutableBufferPointer<Float>.allocate(capacity: max(1, min(pieceElements, longest)))
  piece.initialize(repeating: 0)
  defer { piece.deallocate() }
  for tensor in layout.tensors {
    var first = 0
    while first < tensor.elementCount {
      let count = min(piece.count, tensor.elementCount - first)
      let part = UnsafeMutableBufferPointer(rebasing: piece[0..<count])
      try fill(tensor, first..<first + count, part)
      try sink(UnsafeRawBufferPointer(part))
      first += count
    }
  }
}

/// One float32 tensor to be written: its name, shape and borrowed values.
package struct NamedTensor {
  /// The name, unique in the file.
  package let name: String
  /// The dimensions, outermost first.
  package let shape: [Int]
  /// The values, row-major.
  package let values: UnsafeBufferPointer<Float>

  /// Names borrowed values; their count must be the product of the dimensions.
  package init(name: String, shape: [Int], values: UnsafeBufferPointer<Float>) {
    precondition(
      shape.reduce(1, *) == values.count, "tensor \(name) of shape \(shape) got \(values.count) values")
    self.name = name
    self.shape = shape
    self.values = values
  }
}

/// The bytes of a safetensors file that holds `tensors`; meant for small files such as adapters.
package func safetensorsBytes(_ tensors: [NamedTensor], metadata: [String: String] = [:]) -> [UInt8] {
  let layout = SafetensorsLayout(tensors.map { ($0.name, $0.shape) }, metadata: metadata)
  let valuesByName = Dictionary(uniqueKeysWithValues: tensors.map { ($0.name, $0.values) })
  var bytes: [UInt8] = []
  bytes.reserveCapacity(layout.byteCount)
  streamSafetensors(layout) { entry, range, part in
    guard let values = valuesByName[entry.name] else {
      preconditionFailure("tensor \(entry.name) has no values")
    }
    _ = part.update(from: UnsafeBufferPointer(rebasing: values[range]))
  } sink: { piece in
    bytes.append(contentsOf: piece)
  }
  return bytes
}
