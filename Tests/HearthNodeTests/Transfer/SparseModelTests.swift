import CryptoPrimitives
import Foundation
import HearthNode
import HearthStorage
import LanguageModels
import Synchronization
import Testing
import TrainingCoordination
import WireCoding

@Suite("A model of which a device needs a part", .timeLimit(.minutes(5)))
struct SparseModelTests {
  private let job = JobID(3, 4)

  @Test("is fetched in the chunks of its layers, has holes elsewhere, and says so before it is used")
  func stage() async throws {
    let bench = try await TransferBench(.sockets, devices: 2)
    let (owner, member) = (bench.devices[0], bench.devices[1])
    let model = try MadeModel()
    let offer = try SparseModel.offer(model.path, store: owner.store)
    #expect(owner.store.usedBytes == offer.byteCount, "the owner's weights were copied")
    owner.desk.blobs.admit(job: job, blobs: offer.blobs, readers: bench.roster)
    let directory = model.path + "-part"
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let middle = WeightNeeds(layers: 1..<2, needsOutput: false)
    let told = Told()
    let part = try await SparseModel.obtain(
      offer.listing, middle, for: job, from: bench.roster, by: member.desk, store: member.store,
      into: directory
    ) { told.note($0, $1) }
    try part.check(middle)
    let (all, sparse) = (try model.weights(model.path), try model.weights(directory))
    #expect(sparse.names == all.names)
    for name in all.names where name.hasPrefix("encoder.block.1.") || name.contains("relative_attention_bias")
    {
      #expect(try sparse.values(name) == all.values(name), "\(name)")
    }
    // The largest matrices of the layers beside it lie in chunks of their own.
    for name in ["encoder.block.2.layer.1.DenseReluDense.wo.weight", "shared.weight"] {
      let (whole, holed) = (try all.values(name), try sparse.values(name))
      #expect(holed.contains(0) && holed != whole, "\(name) was fetched although nobody needs it")
    }
    #expect(member.store.usedBytes < model.byteCount / 2, "\(member.store.usedBytes) of \(model.byteCount)")
    let (fetched, needed) = told.last
    #expect(fetched == needed && needed > 3 << 20)
    for more in [
      WeightNeeds(layers: 0..<2, needsOutput: false), WeightNeeds(layers: 1..<2, needsOutput: true),
    ] {
      #expect(throws: WeightFailure.self) { try part.check(more) }
    }
    // The rest later, on what is there: the same weights as the owner's, to the last bit.
    let whole = try await SparseModel.obtain(
      offer.listing, WeightNeeds(layers: 0..<5, needsOutput: true), for: job, from: bench.roster,
      by: member.desk, store: member.store, into: directory)
    try whole.check(WeightNeeds(layers: 0..<5, needsOutput: true))
    #expect(try model.checkpoint(directory).digest == model.checkpoint(model.path).digest)
    await bench.shutdown()
  }

  @Test("is not fetched where the same files are already, under whatever directory")
  func local() async throws {
    let bench = try await TransferBench(.memory, devices: 2)
    let (owner, member) = (bench.devices[0], bench.devices[1])
    let model = try MadeModel()
    let offer = try SparseModel.offer(model.path, store: owner.store)
    owner.desk.blobs.admit(job: job, blobs: offer.blobs, readers: bench.roster)
    let copy = model.path + "-copy"
    try FileManager.default.copyItem(atPath: model.path, toPath: copy)
    let directory = model.path + "-used"
    defer { for path in [copy, directory] { try? FileManager.default.removeItem(atPath: path) } }
    let listing = try ModelListing(directory: model.path, store: owner.store)
    #expect(try listing.adopt(directory: copy, into: member.store))
    let needs = WeightNeeds(layers: 0..<5, needsOutput: true)
    _ = try await SparseModel.obtain(
      offer.listing, needs, for: job, from: bench.roster, by: member.desk, store: member.store,
      into: directory)
    #expect(member.store.usedBytes == offer.byteCount)
    #expect(try model.checkpoint(directory).digest == model.checkpoint(model.path).digest)
    // One byte of difference is another model.
    let handle = try #require(FileHandle(forWritingAtPath: copy + "/model.safetensors"))
    try handle.seek(toOffset: 5_000_000)
    try handle.write(contentsOf: Data([1, 2, 3]))
    try handle.close()
    let other = try BlobStore(stateDirectory: model.path + "-state", budget: 1 << 30)
    defer { try? FileManager.default.removeItem(atPath: model.path + "-state") }
    #expect(try !listing.adopt(directory: copy, into: other))
    await bench.shutdown()
  }

  @Test("lists configuration, tokenizer and weights, shards with their index, and nothing else")
  func listing() throws {
    let path = NSTemporaryDirectory() + "hearth-listing-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: path) }
    let names = [
      "README.md", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
      "model.safetensors.index.json", "pytorch_model.bin", "spiece.model",
    ]
    for name in names { try Data(name.utf8).write(to: URL(fileURLWithPath: "\(path)/\(name)")) }
    let store = try BlobStore(stateDirectory: path + "/state", budget: 1 << 20)
    let listing = try ModelListing(directory: path, store: store)
    #expect(listing.files.map(\.name) == Array(names[1...4]) + ["spiece.model"])
    #expect(try ModelListing(decoding: listing.encoded) == listing)
    try FileManager.default.removeItem(atPath: path + "/model-00001-of-00002.safetensors")
    try FileManager.default.removeItem(atPath: path + "/model-00002-of-00002.safetensors")
    #expect(throws: WeightFailure.noModel(directory: path)) {
      try ModelListing(directory: path, store: store)
    }
  }

  @Test("is refused when its listing names files outside its directory, or out of order")
  func hostileListing() {
    func encoded(_ names: [String]) -> [UInt8] {
      var writer = ByteWriter()
      writer.count(names.count)
      for name in names {
        writer.text(name)
        writer.integer(UInt64(1))
        writer.raw([UInt8](repeating: 7, count: 32))
      }
      return writer.bytes
    }
    #expect((try? ModelListing(decoding: encoded(["a", "b"]))) != nil)
    for names in [["../x"], ["/etc/passwd"], [".x"], [""], ["a\0b"], ["b", "a"], ["a", "a"], ["x/y"]] {
      #expect(throws: DecodingFailure.self) { try ModelListing(decoding: encoded(names)) }
    }
  }

  /// Names as transformers saves them.
  @Test("has every tensor in its layer, counted through all stacks; what several layers read is in none")
  func places() {
    let t5 = TensorPlaces(ModelShape.t5Small.architecture)
    #expect(t5.layer(of: "encoder.block.5.layer.1.DenseReluDense.wi.weight") == 5)
    #expect(t5.layer(of: "decoder.block.0.layer.1.EncDecAttention.k.weight") == 6)
    #expect(t5.layer(of: "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight") == nil)
    #expect(t5.layer(of: "encoder.final_layer_norm.weight") == nil)
    let bart = TensorPlaces(ModelShape.bartBase.architecture)
    #expect(bart.layer(of: "model.decoder.layers.2.encoder_attn.q_proj.bias") == 8)
    #expect(bart.layer(of: "decoder.layernorm_embedding.weight") == nil)
    let bert = TensorPlaces(ModelShape.miniLM.architecture)
    #expect(bert.layer(of: "bert.encoder.layer.3.attention.self.query.weight") == 3)
    #expect(bert.layer(of: "embeddings.LayerNorm.bias") == nil)
    for shape in ModelShape.allCases {
      let places = TensorPlaces(shape.architecture)
      let layers = shape.architecture.stacks.reduce(0) { $0 + $1.layers }
      let tensors = shape.configuration.tensorShapes
      func count(_ layers: Range<Int>, _ output: Bool) -> Int {
        tensors.count {
          places.needs(WeightNeeds(layers: layers, needsOutput: output), $0.name, shape: $0.shape)
        }
      }
      #expect(count(0..<layers, false) == tensors.count && count(0..<layers, true) == tensors.count)
      // A table of words only where words come in or go out.
      #expect(count(0..<1, false) == count(0..<1, true))
      #expect(count(1..<2, false) + 1 == count(1..<2, true))
      #expect(count(layers - 1..<layers, false) == count(layers - 1..<layers, true))
    }
  }
}

/// A T5 of 3 + 2 blocks in a directory of its own; large enough for many chunks.
private final class MadeModel {
  let path: String
  var byteCount: Int {
    (try? FileManager.default.attributesOfItem(atPath: path + "/model.safetensors"))?[.size] as? Int ?? 0
  }

  private static let configuration = """
    {"model_type": "t5", "d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 3, "num_decoder_layers": 2,
     "num_heads": 4, "feed_forward_proj": "relu", "vocab_size": 6000, "tie_word_embeddings": true}
    """

  init() throws {
    path = NSTemporaryDirectory() + "hearth-sparse-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    try Data(Self.configuration.utf8).write(to: URL(fileURLWithPath: path + "/config.json"))
    try Data("a tokenizer".utf8).write(to: URL(fileURLWithPath: path + "/spiece.model"))
    let shapes = try ModelDirectory.loadConfiguration(ModelFolder(path)).tensorShapes
    var bytes: [UInt8] = []
    streamSafetensors(SafetensorsLayout(shapes)) { tensor, range, values in
      // No value is zero, so that a hole is told from a weight.
      for index in 0..<values.count {
        values[index] = Float(1 + (range.lowerBound + index) % 1000) + Float(tensor.name.utf8.count)
      }
    } sink: { (piece: UnsafeRawBufferPointer) in
      bytes += piece
    }
    try Data(bytes).write(to: URL(fileURLWithPath: path + "/model.safetensors"))
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func checkpoint(_ directory: String) throws -> Checkpoint {
    try ModelDirectory.loadCheckpoint(ModelFolder(directory))
  }

  func weights(_ directory: String) throws -> MadeWeights {
    MadeWeights(checkpoint: try checkpoint(directory))
  }
}

private struct MadeWeights {
  let checkpoint: Checkpoint
  var names: [String] { checkpoint.names }

  func values(_ name: String) throws -> [Float] {
    let entry = try #require(checkpoint.entry(name))
    return Array(
      UnsafeBufferPointer(
        start: try checkpoint.float32(named: name, shape: entry.shape), count: entry.elementCount))
  }
}

/// What progress was told last.
private final class Told: Sendable {
  private let values = Mutex<(UInt64, UInt64)>((0, 0))
  func note(_ fetched: UInt64, _ needed: UInt64) { values.withLock { $0 = (fetched, needed) } }
  var last: (UInt64, UInt64) { values.withLock { $0 } }
}
