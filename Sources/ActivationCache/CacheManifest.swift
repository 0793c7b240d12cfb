package import CryptoPrimitives
import FoundationEssentials
import TensorKernels

/// The readable summary of a cache, as of its last flush: what it belongs to, what it holds.
///
/// The shards and their indexes alone decide what is read; the manifest says which cache this is before any
/// of them is opened, and how much should be there.
package struct CacheManifest: Sendable, Equatable {
  /// What the manifest says about one shard.
  package struct Shard: Sendable, Equatable, Codable {
    /// Name of the shard's file.
    package var file: String
    /// Its length.
    package var bytes: Int
    /// Records in it that can be read.
    package var entries: Int
    /// The taps that its records hold, by stack.
    package var taps: [CachedStack]
  }

  /// What the cached activations depend on.
  package var identity: CacheIdentity
  /// The shards in order.
  package var shards: [Shard]
  /// Digests of the data sets all of whose samples are in the cache, sorted.
  package var completeDataSets: [ContentDigest]

  /// Samples that can be read.
  package var entries: Int { shards.reduce(0) { $0 + $1.entries } }
  /// Bytes of all shards.
  package var bytes: Int { shards.reduce(0) { $0 + $1.bytes } }

  /// The manifest of the cache in `storage`, or nil when there is none; takes no lock and changes nothing.
  package static func read(from storage: any ShardStorage) throws(CacheFailure) -> CacheManifest? {
    let bytes: [UInt8]?
    do {
      bytes = try storage.contents(CacheFormat.manifestName, limit: CacheFormat.maximumManifestBytes)
    } catch {
      throw CacheFailure(error, directory: storage.name)
    }
    guard let bytes else { return nil }
    do {
      return try CacheManifest(json: bytes)
    } catch {
      if let found = error.unsupportedVersion {
        throw .unsupportedVersion(
          directory: storage.name, found: found, supported: Int(CacheFormat.version))
      }
      throw .notACache(directory: storage.name, file: CacheFormat.manifestName, reason: error.reason)
    }
  }

  /// Text that is the same for the same content.
  func json() -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
    do {
      return Array(try encoder.encode(Document(self))) + [UInt8(ascii: "\n")]
    } catch {
      preconditionFailure("a manifest of strings and integers could not be encoded: \(error)")
    }
  }

  init(identity: CacheIdentity, shards: [Shard], completeDataSets: [ContentDigest]) {
    self.identity = identity
    self.shards = shards
    self.completeDataSets = completeDataSets
  }

  init(json bytes: [UInt8]) throws(CacheFormatFailure) {
    let document: Document
    do {
      let decoder = JSONDecoder()
      // The version decides how the rest is to be read, so it is looked at alone first.
      let version = try decoder.decode(VersionOnly.self, from: Data(bytes))
      guard version.format == Document.formatName else {
        throw CacheFormatFailure(
          reason: "its format is '\(version.format)', expected '\(Document.formatName)'")
      }
      guard version.version == Int(CacheFormat.version) else {
        throw CacheFormatFailure(
          reason: "version \(version.version)", unsupportedVersion: version.version)
      }
      document = try decoder.decode(Document.self, from: Data(bytes))
    } catch let failure as CacheFormatFailure {
      throw failure
    } catch {
      throw CacheFormatFailure(reason: "it is not the JSON of a manifest (\(Self.place(of: error)))")
    }
    guard document.shards.count <= CacheFormat.maximumShards,
      document.shards.allSatisfy({
        $0.bytes >= 0 && $0.entries >= 0 && $0.bytes < 1 << 50 && $0.entries < 1 << 40
      })
    else { throw CacheFormatFailure(reason: "the counts of its shards are out of range") }
    identity = try CacheIdentity(
      validating: document.backboneDigest, document.tokenizerDigest, document.maximumLength,
      document.element, document.stacks)
    guard identity.digest == document.identityDigest else {
      throw CacheFormatFailure(reason: "its identity and identityDigest do not belong together")
    }
    shards = document.shards
    completeDataSets = document.completeDataSets.sorted()
  }

  /// The key at fault in a decoding failure.
  private static func place(of error: any Error) -> String {
    let context: DecodingError.Context
    switch error as? DecodingError {
    case .keyNotFound(let key, _): return "key '\(key.stringValue)' is missing"
    case .typeMismatch(_, let found), .valueNotFound(_, let found), .dataCorrupted(let found): context = found
    default: return "it cannot be parsed"
    }
    let path = context.codingPath.map(\.stringValue).joined(separator: ".")
    return path.isEmpty ? "it cannot be parsed" : "the value of '\(path)' cannot be used"
  }

  private struct VersionOnly: Decodable {
    var format: String
    var version: Int
  }

  private struct Document: Codable {
    static let formatName = "hearth activation cache"

    var format: String
    var version: Int
    var identityDigest: ContentDigest
    var backboneDigest: ContentDigest
    var tokenizerDigest: ContentDigest
    var maximumLength: Int
    var element: ActivationElement
    var stacks: [CachedStack]
    var shards: [Shard]
    var entries: Int
    var bytes: Int
    var completeDataSets: [ContentDigest]

    init(_ manifest: CacheManifest) {
      format = Self.formatName
      version = Int(CacheFormat.version)
      identityDigest = manifest.identity.digest
      backboneDigest = manifest.identity.backboneDigest
      tokenizerDigest = manifest.identity.tokenizerDigest
      maximumLength = manifest.identity.maximumLength
      element = manifest.identity.element
      stacks = manifest.identity.stacks
      shards = manifest.shards
      entries = manifest.entries
      bytes = manifest.bytes
      completeDataSets = manifest.completeDataSets.sorted()
    }
  }
}
