/// The element types that the safetensors format may hold and this reader knows.
package enum TensorElement: String, Sendable, Equatable, CaseIterable {
  /// IEEE 754 single precision.
  case float32 = "F32"
  /// IEEE 754 half precision.
  case float16 = "F16"
  /// The upper half of a single-precision number.
  case bfloat16 = "BF16"
  /// IEEE 754 double precision; present only, never weights.
  case float64 = "F64"
  /// 64-bit signed integers, for instance position ids; present only, never weights.
  case int64 = "I64"
  /// 32-bit signed integers; present only, never weights.
  case int32 = "I32"
  /// 16-bit signed integers; present only, never weights.
  case int16 = "I16"
  /// 8-bit signed integers; present only, never weights.
  case int8 = "I8"
  /// 8-bit unsigned integers; present only, never weights.
  case uint8 = "U8"
  /// One byte a truth value; present only, never weights.
  case bool = "BOOL"

  /// Bytes of one element.
  package var byteCount: Int {
    switch self {
    case .float64, .int64: 8
    case .float32, .int32: 4
    case .float16, .bfloat16, .int16: 2
    case .int8, .uint8, .bool: 1
    }
  }

  /// True for the types that can be read as float32 weights.
  package var isLoadable: Bool {
    switch self {
    case .float32, .float16, .bfloat16: true
    case .float64, .int64, .int32, .int16, .int8, .uint8, .bool: false
    }
  }
}

/// One tensor's entry in a safetensors header.
package struct SafetensorsEntry: Sendable, Equatable {
  /// The tensor's name, unique in its file.
  package let name: String
  /// The type of its elements.
  package let element: TensorElement
  /// Its dimensions, outermost first; empty for a scalar.
  package let shape: [Int]
  /// Where its bytes lie in the file.
  package let byteRange: Range<Int>

  /// Product of the dimensions.
  package var elementCount: Int { byteRange.count / element.byteCount }
}

/// Limits on what a safetensors file may claim, so that a hostile header costs no memory.
package enum SafetensorsLimits {
  /// The longest header in bytes.
  package static let headerBytes = 16 << 20
  /// The most tensors in one file.
  package static let tensors = 100_000
  /// The most dimensions of one tensor.
  package static let dimensions = 8
  /// The longest tensor name in UTF-8 bytes.
  package static let nameBytes = 1024
}

/// A validated safetensors file: every entry's range, type and shape agree before anything is read.
///
/// Format: https://github.com/huggingface/safetensors — eight bytes of header length (little-endian), a
/// JSON object of entries, then the data. As in the reference reader, the data holds the tensors without
/// gap or overlap and nothing else.
package struct SafetensorsFile: Sendable {
  /// The bytes of the file.
  package let region: any ByteRegion
  /// The entries in the order of their bytes.
  package let tensors: [SafetensorsEntry]
  /// The free-form strings under `__metadata__`.
  package let metadata: [String: String]
  private let indexByName: [String: Int]

  /// Reads and checks the header; no weight is touched.
  package init(region: any ByteRegion) throws(CheckpointFailure) {
    let header = try region.withBytes { bytes throws(CheckpointFailure) in
      try SafetensorsHeader(bytes, file: region.name)
    }
    self.region = region
    tensors = header.tensors
    metadata = header.metadata
    indexByName = Dictionary(uniqueKeysWithValues: header.tensors.enumerated().map { ($1.name, $0) })
  }

  /// The entry of a name, or nil.
  package func tensor(_ name: String) -> SafetensorsEntry? {
    indexByName[name].map { tensors[$0] }
  }

  /// The bytes of an entry of this file; they stay while the region is kept.
  package func bytes(of entry: SafetensorsEntry) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: region.bytes[entry.byteRange])
  }
}
