import LanguageModels
import NeuralNetworks
import Synchronization
import Testing

/// The files of a model held in memory, each of which a test may spoil.
struct MemoryFiles: ModelFiles {
  let name: String
  var contents: [String: [UInt8]] = [:]

  init(name: String = "model", _ contents: [String: [UInt8]] = [:]) {
    self.name = name
    self.contents = contents
  }

  func region(named file: String) throws(CheckpointFailure) -> (any ByteRegion)? {
    contents[file].map { MemoryRegion(name: file, bytes: $0) }
  }
}

/// A region that remembers what it was advised of.
private final class AdvisedRegion: ByteRegion {
  private let memory: MemoryRegion
  private let advice = Mutex((needed: [Range<Int>](), released: [Range<Int>]()))

  init(_ bytes: [UInt8]) { memory = MemoryRegion(name: "advised", bytes: bytes) }

  var bytes: UnsafeRawBufferPointer { memory.bytes }
  var name: String { memory.name }
  func releaseResidentPages() {}
  func willNeed(_ range: Range<Int>) { advice.withLock { $0.needed.append(range) } }
  func release(_ range: Range<Int>) { advice.withLock { $0.released.append(range) } }
  var needed: [Range<Int>] { advice.withLock { $0.needed } }
  var released: [Range<Int>] { advice.withLock { $0.released } }
}

@Suite("A checkpoint")
struct CheckpointTests {
  private static let values: [Float] = [1, -2, 0.5, 65504, 1e-8, -0.0]

  private static func bytes(_ tensors: [(String, [Int])]) -> [UInt8] {
    let layout = SafetensorsLayout(tensors.map { (name: $0.0, shape: $0.1) })
    var bytes: [UInt8] = []
    streamSafetensors(layout) { entry, range, part in
      for (place, index) in range.enumerated() {
        part[place] = Float(entry.name.utf8.count * 100 + index)
      }
    } sink: {
      bytes += $0
    }
    return bytes
  }

  private static func index(_ map: [String: String]) -> MemoryRegion {
    let pairs = map.sorted { $0.key < $1.key }.map { "\"\($0.key)\":\"\($0.value)\"" }
    let json = "{\"metadata\":{\"total_size\":1},\"weight_map\":{\(pairs.joined(separator: ","))}}"
    return MemoryRegion(name: "index", bytes: Array(json.utf8))
  }

  private static func sharded(
    _ map: [String: String], _ shards: [String: [UInt8]]
  ) throws(CheckpointFailure) -> Checkpoint {
    let files = MemoryFiles(shards)
    return try Checkpoint(index: index(map)) { shard throws(CheckpointFailure) in
      try files.region(named: shard)
    }
  }

  @Test("advises on the bytes of leaves, neighbours together, and on no others")
  func advice() throws {
    let region = AdvisedRegion(Self.bytes([("a", [64]), ("b", [2, 32]), ("c", [64]), ("d", [16, 4])]))
    let checkpoint = try Checkpoint(region: region)
    func leaf(_ name: String, _ rows: Int, _ columns: Int) throws -> Parameter {
      let shape = try #require(checkpoint.entry(name)).shape
      return Parameter(
        frozen: name, rows: rows, columns: columns,
        values: try checkpoint.float32(named: name, shape: shape))
    }
    let start = try #require(checkpoint.entry("a")).byteRange.lowerBound
    let leaves = [try leaf("d", 16, 4), try leaf("a", 1, 64), try leaf("b", 2, 32)]
    checkpoint.willNeed(leaves)
    checkpoint.release([leaves[0]])
    #expect(region.needed == [start..<start + 512, start + 768..<start + 1024])
    #expect(region.released == [start + 768..<start + 1024])
    #expect(checkpoint.borrowedByteCount(leaves) == 768)
    #expect(checkpoint.ownedByteCount == 0)
    let own: [Float] = [1, 2]
    own.withUnsafeBufferPointer { values in
      guard let base = values.baseAddress else { return }
      checkpoint.release([Parameter(frozen: "elsewhere", rows: 1, columns: 2, values: base)])
    }
    #expect(region.released.count == 1)
  }

  @Test("has the same digest when every piece leaves memory behind the hash")
  func releasingDigest() throws {
    let bytes = Self.bytes([("a", [3, 1 << 20]), ("b", [7])])
    let region = AdvisedRegion(bytes)
    let digest = try Checkpoint(region: region).digest(releasing: true)
    #expect(try digest == Checkpoint(region: MemoryRegion(name: "f", bytes: bytes)).digest)
    #expect(region.released.last == 0..<bytes.count)
    let steps = zip(region.released, region.released.dropFirst()).map { $1.upperBound - $0.upperBound }
    #expect(steps.allSatisfy { $0 <= 8 << 20 }, "no more than one piece stays")
  }

  @Test("borrows aligned float32 in place")
  func borrowing() throws {
    let region = MemoryRegion(name: "f", bytes: Self.bytes([("w", [2, 3])]))
    let checkpoint = try Checkpoint(region: region)
    let pointer = try checkpoint.float32(named: "w", shape: [2, 3])
    withExtendedLifetime(checkpoint) {
      let offset = UnsafeRawPointer(pointer) - (region.bytes.baseAddress ?? UnsafeRawPointer(pointer))
      #expect(offset > 0 && offset < region.bytes.count)
      #expect((0..<6).map { pointer[$0] } == [100, 101, 102, 103, 104, 105])
    }
    #expect(checkpoint.parameterCount == 6)
  }

  @Test("converts half, brain and unaligned floats once")
  func conversion() throws {
    var data: [UInt8] = [9]
    for value in Self.values { data += withUnsafeBytes(of: Float16(value).bitPattern) { Array($0) } }
    for value in Self.values { data += withUnsafeBytes(of: UInt16(value.bitPattern >> 16)) { Array($0) } }
    for value in Self.values { data += withUnsafeBytes(of: value) { Array($0) } }
    let header = """
      {"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},\
      "half":{"dtype":"F16","shape":[6],"data_offsets":[1,13]},\
      "brain":{"dtype":"BF16","shape":[6],"data_offsets":[13,25]},\
      "full":{"dtype":"F32","shape":[6],"data_offsets":[25,49]}}
      """
    let checkpoint = try Checkpoint(region: safetensors(header: header, data: data))
    for (name, expected) in [
      ("half", Self.values.map { Float(Float16($0)) }),
      ("brain", Self.values.map { Float(bitPattern: $0.bitPattern & 0xFFFF_0000) }), ("full", Self.values),
    ] {
      let first = try checkpoint.float32(named: name, shape: [6])
      let second = try checkpoint.float32(named: name, shape: [6])
      withExtendedLifetime(checkpoint) {
        #expect((0..<6).map { first[$0].bitPattern } == expected.map(\.bitPattern), "\(name)")
        #expect(first == second, "\(name)")
      }
    }
  }

  @Test("names the tensor that is missing, of another shape or of no loadable type")
  func refusals() throws {
    let header = """
      {"bert.w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},\
      "ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}
      """
    let checkpoint = try Checkpoint(
      region: safetensors(header: header, data: [UInt8](repeating: 0, count: 16)))
    let file = "model.safetensors"
    #expect(throws: CheckpointFailure.missingTensor(file: file, tensor: "w", nearest: "bert.w")) {
      try checkpoint.float32(named: "w", shape: [2])
    }
    #expect(
      throws: CheckpointFailure.wrongShape(file: file, tensor: "bert.w", found: [2], expected: [1, 2])
    ) {
      try checkpoint.float32(named: "bert.w", shape: [1, 2])
    }
    #expect(throws: CheckpointFailure.notLoadable(file: file, tensor: "ids", elementType: "I64")) {
      try checkpoint.float32(named: "ids", shape: [1])
    }
  }

  @Test("has the same digest whole and in shards, in any order, and another when one bit differs")
  func digest() throws {
    let whole = Self.bytes([("a", [3]), ("bb", [2, 2]), ("ccc", [1])])
    let one = try Checkpoint(region: MemoryRegion(name: "whole", bytes: whole))
    let shards = [
      "1.safetensors": Self.bytes([("ccc", [1])]),
      "2.safetensors": Self.bytes([("a", [3]), ("bb", [2, 2])]),
    ]
    let map = ["a": "2.safetensors", "bb": "2.safetensors", "ccc": "1.safetensors"]
    let two = try Self.sharded(map, shards)
    #expect(one.digest == two.digest)
    #expect(two.names == ["a", "bb", "ccc"])
    #expect(try two.float32(named: "bb", shape: [2, 2])[3] == 203)

    var flipped = whole
    flipped[flipped.count - 1] ^= 1
    #expect(try Checkpoint(region: MemoryRegion(name: "whole", bytes: flipped)).digest != one.digest)
    let renamed = try Checkpoint(
      region: MemoryRegion(name: "whole", bytes: Self.bytes([("a", [3]), ("bb", [4]), ("ccc", [1])])))
    #expect(renamed.digest != one.digest, "the shape is part of the content")
  }

  @Test("in shards names what the index and the shards disagree on")
  func shardFailures() throws {
    let shard = Self.bytes([("a", [3])])
    #expect(throws: CheckpointFailure.missingShard(index: "index", shard: "2.safetensors")) {
      _ = try Self.sharded(["a": "1.safetensors", "b": "2.safetensors"], ["1.safetensors": shard])
    }
    #expect(throws: CheckpointFailure.tensorNotInShard(index: "index", tensor: "b", shard: "1.safetensors")) {
      _ = try Self.sharded(["a": "1.safetensors", "b": "1.safetensors"], ["1.safetensors": shard])
    }
    #expect(throws: CheckpointFailure.unlistedTensor(index: "index", tensor: "a", shard: "2.safetensors")) {
      _ = try Self.sharded(
        ["a": "1.safetensors", "b": "2.safetensors"],
        ["1.safetensors": shard, "2.safetensors": Self.bytes([("a", [3]), ("b", [1])])])
    }
  }

  @Test(
    "does not follow an index out of its directory",
    arguments: ["../secret", "/etc/passwd", "", ".hidden", "a/b"])
  func shardNames(shard: String) {
    do throws(CheckpointFailure) {
      _ = try Self.sharded(["a": shard], [shard: Self.bytes([("a", [3])])])
      Issue.record("\(shard) was opened")
    } catch {
      guard case .malformedIndex = error else {
        Issue.record("\(error)")
        return
      }
    }
  }

  @Test("stays usable while any copy of it lives", arguments: [8])
  func concurrentConversion(threads: Int) async throws {
    let header = "{\"half\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}"
    let checkpoint = try Checkpoint(region: safetensors(header: header, data: [0, 0x3C, 0, 0x40]))
    let addresses = try await withThrowingTaskGroup(of: Int.self) { group in
      for _ in 0..<threads {
        group.addTask { Int(bitPattern: try checkpoint.float32(named: "half", shape: [2])) }
      }
      var found: [Int] = []
      for try await address in group { found.append(address) }
      return found
    }
    #expect(Set(addresses).count == 1)
    #expect(try checkpoint.float32(named: "half", shape: [2])[1] == 2)
  }
}

@Suite("The safetensors writer")
struct SafetensorsWriterTests {
  @Test("gives the same bytes for the same tensors in any order, which the reader takes back")
  func roundTrip() throws {
    let weight: [Float] = [1, 2, 3, 4, 5, 6]
    let bias: [Float] = [-1, .pi]
    let written = weight.withUnsafeBufferPointer { weight in
      bias.withUnsafeBufferPointer { bias in
        let tensors = [
          NamedTensor(name: "b/ü", shape: [2], values: bias),
          NamedTensor(name: "a.weight", shape: [2, 3], values: weight),
        ]
        let metadata = ["format": "pt", "a": "\"quoted\"\n"]
        #expect(
          safetensorsBytes(tensors, metadata: metadata)
            == safetensorsBytes(tensors.reversed(), metadata: metadata))
        return safetensorsBytes(tensors, metadata: metadata)
      }
    }
    let region = MemoryRegion(name: "f", bytes: written)
    let file = try SafetensorsFile(region: region)
    #expect(file.metadata == ["format": "pt", "a": "\"quoted\"\n"])
    #expect(file.tensors.map(\.name) == ["a.weight", "b/ü"])
    #expect(file.tensors[0].byteRange.lowerBound % 8 == 0)
    let checkpoint = try Checkpoint(region: region)
    let read = try checkpoint.float32(named: "b/ü", shape: [2])
    withExtendedLifetime(checkpoint) { #expect([read[0], read[1]] == bias) }
  }

  @Test("streams in pieces that make the same file, whatever their size", arguments: [1, 3, 1000])
  func streaming(pieceElements: Int) {
    let layout = SafetensorsLayout([
      (name: "b", shape: [2, 5]), (name: "a", shape: [7]), (name: "none", shape: [0]),
    ])
    var bytes: [UInt8] = []
    var largest = 0
    streamSafetensors(layout, pieceElements: pieceElements) { entry, range, part in
      largest = max(largest, part.count)
      for (place, index) in range.enumerated() { part[place] = Float(entry.shape.count * 1000 + index) }
    } sink: {
      bytes += $0
    }
    #expect(bytes.count == layout.byteCount)
    #expect(largest <= pieceElements)
    let tail = bytes.suffix(4 * 10).withUnsafeBytes { raw in
      (0..<10).map { raw.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
    #expect(tail == (0..<10).map { Float(2000 + $0) })
  }

  @Test("writes what the reference library wrote, tensor for tensor")
  func sameContentAsReference() throws {
    let reference = try GoldenFixture("tiny-bert").weights()
    let floats = ExpectedOutputs(file: reference)
    let names = reference.tensors.filter { $0.element == .float32 }.map(\.name)
    let layout = SafetensorsLayout(names.map { (name: $0, shape: floats.shape($0)) })
    var bytes: [UInt8] = []
    streamSafetensors(layout) { entry, range, part in
      _ = part.update(fromContentsOf: floats.floats(entry.name)[range])
    } sink: {
      bytes += $0
    }
    let file = try SafetensorsFile(region: MemoryRegion(name: "written", bytes: bytes))
    let copied = ExpectedOutputs(file: file)
    for name in names { #expect(copied.floats(name) == floats.floats(name), "\(name)") }
  }
}
