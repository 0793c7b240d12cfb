import FoundationEssentials

/// A parsed `model.safetensors.index.json`: which shard holds which tensor.
struct ShardIndex {
  /// The shard's file name for each tensor.
  let shardByTensor: [String: String]
  /// The shards' file names, sorted.
  let shards: [String]

  /// The longest index file in bytes.
  static let maximumBytes = 16 << 20
  /// The most shards of one checkpoint.
  static let maximumShards = 1024

  /// The tensors that the index lists, in the order of their UTF-8 bytes.
  var tensors: [String] { shardByTensor.keys.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) } }

  private struct Fields: Decodable {
    let weight_map: [String: String]
  }

  /// Parses the index; a shard's name must be a plain file name, so that an index cannot reach elsewhere.
  init(region: any ByteRegion) throws(CheckpointFailure) {
    let file = region.name
    let fields = try region.withBytes { bytes throws(CheckpointFailure) in
      guard bytes.count <= Self.maximumBytes else {
        throw .malformedIndex(file: file, reason: "\(bytes.count) bytes, the limit is \(Self.maximumBytes)")
      }
      do {
        return try JSONDecoder().decode(Fields.self, from: Data(bytes))
      } catch let error as DecodingError {
        throw .malformedIndex(file: file, reason: error.shortReason)
      } catch {
        throw .malformedIndex(file: file, reason: "\(error)")
      }
    }
    shardByTensor = fields.weight_map
    shards = Set(fields.weight_map.values).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    guard !shards.isEmpty, shards.count <= Self.maximumShards else {
      throw .malformedIndex(file: file, reason: "\(shards.count) shards, expected 1 to \(Self.maximumShards)")
    }
    for shard in shards {
      let isPlain = !shard.contains("/") && !shard.utf8.contains(0) && !shard.hasPrefix(".") && !shard.isEmpty
      guard isPlain, shard.utf8.count <= 255 else {
        throw .malformedIndex(file: file, reason: "\"\(shard.prefix(80))\" is not a plain file name")
      }
    }
  }
}
