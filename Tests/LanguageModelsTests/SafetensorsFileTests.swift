import Determinism
import LanguageModels
import Testing

/// A safetensors file put together by hand, so that every claim of its header can be made false.
func safetensors(header: String, data: [UInt8]) -> MemoryRegion {
  let json = Array(header.utf8)
  let length = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Array($0) }
  return MemoryRegion(name: "model.safetensors", bytes: length + json + data)
}

@Suite("A safetensors file")
struct SafetensorsFileTests {
  static let valid = """
    {"__metadata__":{"format":"pt"},\
    "b":{"dtype":"F32","shape":[2,2],"data_offsets":[4,20]},\
    "a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},\
    "ids":{"dtype":"I64","shape":[1,1],"data_offsets":[20,28]},\
    "empty":{"dtype":"F32","shape":[0,3],"data_offsets":[28,28]},\
    "scalar":{"dtype":"F32","shape":[],"data_offsets":[28,32]}}
    """

  static func failure(_ header: String, dataBytes: Int = 32) -> CheckpointFailure? {
    do {
      _ = try SafetensorsFile(
        region: safetensors(header: header, data: [UInt8](repeating: 0, count: dataBytes)))
      return nil
    } catch {
      return error
    }
  }

  static func entry(
    name: String = "w", dtype: String = "F32", shape: String = "[2,4]", offsets: String = "[0,32]"
  ) -> String {
    "{\"\(name)\":{\"dtype\":\"\(dtype)\",\"shape\":\(shape),\"data_offsets\":\(offsets)}}"
  }

  @Test("lists its tensors in the order of their bytes, with type, shape and metadata")
  func reading() throws {
    let file = try SafetensorsFile(
      region: safetensors(header: Self.valid, data: [UInt8](repeating: 0, count: 32)))
    #expect(file.tensors.map(\.name) == ["a", "b", "ids", "empty", "scalar"])
    #expect(file.tensor("b")?.shape == [2, 2])
    #expect(file.tensor("ids")?.element == .int64)
    #expect(file.tensor("scalar")?.elementCount == 1)
    #expect(file.tensor("empty")?.elementCount == 0)
    #expect(file.tensor("absent") == nil)
    #expect(file.metadata == ["format": "pt"])
  }

  @Test("that ends early is refused at every length")
  func truncation() throws {
    let whole = safetensors(header: Self.valid, data: [UInt8](repeating: 0, count: 32))
    let bytes = whole.withBytes { Array($0) }
    for length in 0..<bytes.count {
      let region = MemoryRegion(name: "model.safetensors", bytes: bytes[..<length])
      #expect(throws: CheckpointFailure.self, "cut at \(length)") { try SafetensorsFile(region: region) }
    }
    #expect(throws: CheckpointFailure.truncated(file: "f", part: "the header length", needs: 8, has: 3)) {
      try SafetensorsFile(region: MemoryRegion(name: "f", bytes: [1, 2, 3]))
    }
  }

  @Test("with an absurd header length is refused before anything is allocated")
  func headerLength() {
    for claimed in [0, 1, UInt64(SafetensorsLimits.headerBytes) + 1, .max, 1 << 63] {
      let region = MemoryRegion(
        name: "f", bytes: withUnsafeBytes(of: claimed.littleEndian) { Array($0) } + [0x7B, 0x7D])
      let expected = CheckpointFailure.headerLength(
        file: "f", found: claimed, limit: SafetensorsLimits.headerBytes)
      #expect(throws: expected) { try SafetensorsFile(region: region) }
    }
  }

  @Test("names tensor, finding and expectation in each failure")
  func failures() {
    let file = "model.safetensors"
    #expect(
      Self.failure(Self.entry(dtype: "F8_E4M3"))
        == .unknownElementType(file: file, tensor: "w", found: "F8_E4M3"))
    #expect(
      Self.failure(Self.entry(shape: "[2,5]"))
        == .byteCount(file: file, tensor: "w", shape: [2, 5], elementType: "F32", found: 32, expected: 40))
    #expect(
      Self.failure(Self.entry(offsets: "[32,0]"))
        == .byteRange(file: file, tensor: "w", begin: 32, end: 0, reason: "is not a range of bytes"))
    #expect(
      Self.failure(Self.entry(shape: "[2,8]", offsets: "[0,64]"))
        == .byteRange(
          file: file, tensor: "w", begin: 0, end: 64,
          reason: "is outside the 32 bytes that the file has (it may be truncated)"))
    #expect(Self.failure(Self.entry(), dataBytes: 40) == .trailingBytes(file: file, count: 8))
    #expect(
      Self.failure(Self.entry(shape: "[1,1,1,1,1,1,1,2,4]"))
        == .limitExceeded(file: file, tensor: "w", what: "the number of dimensions", found: 9, limit: 8))
    let longName = String(repeating: "n", count: 1025)
    #expect(
      Self.failure(Self.entry(name: longName))
        == .limitExceeded(
          file: file, tensor: String(repeating: "n", count: 40) + "…", what: "the length of the name",
          found: 1025, limit: 1024))
  }

  @Test("with a gap or an overlap between tensors is refused")
  func neighbours() {
    func two(_ first: String, _ second: String) -> String {
      "{\"p\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":\(first)},"
        + "\"q\":{\"dtype\":\"U8\",\"shape\":[16],\"data_offsets\":\(second)}}"
    }
    #expect(Self.failure(two("[0,16]", "[16,32]")) == nil)
    #expect(
      Self.failure(two("[0,16]", "[8,24]"))
        == .byteRange(
          file: "model.safetensors", tensor: "q", begin: 8, end: 24, reason: "overlaps the tensor before it"))
    #expect(
      Self.failure(two("[0,16]", "[20,36]"), dataBytes: 36)
        == .byteRange(
          file: "model.safetensors", tensor: "q", begin: 20, end: 36, reason: "leaves a gap from byte 16"))
  }

  @Test("with one name twice is refused, however the name is written")
  func duplicates() {
    let entry = "{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[0,32]}"
    #expect(
      Self.failure("{\"w\":\(entry),\"w\":\(entry)}")
        == .duplicateTensor(file: "model.safetensors", tensor: "w"))
    let escaped = Self.failure("{\"w\":\(entry),\"\\u0077\":\(entry)}")
    #expect(
      escaped == .malformedHeader(file: "model.safetensors", reason: "2 keys but only 1 different ones"))
  }

  @Test(
    "whose header is not the expected JSON is refused",
    arguments: [
      "{ ", "[]", "null", "{\"w\":3}", "{\"w\":{\"dtype\":\"F32\"}}",
      "{\"w\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}}",
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,8],\"data_offsets\":[0,32]}}",
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}",
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}",
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[1e99],\"data_offsets\":[0,4]}}",
      "{\"__metadata__\":{\"a\":1}}", "{\"w\":{}} trailing",
      String(repeating: "[", count: 100_000),
    ])
  func malformed(header: String) {
    guard case .malformedHeader = Self.failure(header) else {
      Issue.record("\(header.prefix(80)) gave \(String(describing: Self.failure(header)))")
      return
    }
  }

  @Test("survives any mutation of header or length: it loads inside its bytes or fails in a typed way")
  func mutations() throws {
    let seed: UInt64 = 0x5AFE
    var generator = SeededGenerator(seed: seed)
    let whole = safetensors(header: Self.valid, data: [UInt8](repeating: 7, count: 32))
    let original = whole.withBytes { Array($0) }
    let tokens = [
      "\"", "{", "}", "[", "]", ",", ":", "-", "9", "0", "F32", "I64", "null", "\\", "\u{0}", "1e9",
    ]
    var loaded = 0
    for round in 0..<4000 {
      var bytes = original
      for _ in 0...generator.uniform(below: 4) {
        let place = generator.uniform(below: bytes.count)
        switch generator.uniform(below: 5) {
        case 0: bytes[place] = UInt8(truncatingIfNeeded: generator.next())
        case 1: bytes[place] ^= 1 << UInt8(generator.uniform(below: 8))
        case 2: bytes.remove(at: place)
        case 3: bytes.insert(contentsOf: tokens[generator.uniform(below: tokens.count)].utf8, at: place)
        default: bytes.removeLast(generator.uniform(below: bytes.count - 8))
        }
        if bytes.count < 16 { break }
      }
      let region = MemoryRegion(name: "f", bytes: bytes)
      do throws(CheckpointFailure) {
        let file = try SafetensorsFile(region: region)
        loaded += 1
        var total = 0
        for tensor in file.tensors {
          total += file.bytes(of: tensor).reduce(0) { $0 + Int($1) }
          #expect(tensor.byteRange.upperBound <= bytes.count, "seed \(seed), round \(round)")
        }
        #expect(total >= 0)
      } catch {
        #expect(error.description.hasPrefix("f"), "seed \(seed), round \(round): \(error)")
      }
    }
    #expect(loaded > 0 && loaded < 4000)
  }
}
