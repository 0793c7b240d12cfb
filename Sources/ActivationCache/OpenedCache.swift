import CryptoPrimitives
import Synchronization

/// A cache as it is found on opening, with everything damaged set aside.
struct OpenedCache {
  private(set) var shards: [WrittenShard] = []
  private(set) var table: [SampleKey: CacheEntry] = [:]
  private(set) var completeDataSets: [ContentDigest] = []
  private(set) var recovery = CacheRecovery()
  /// What the manifest file says now; nil when there is none that can be read.
  private(set) var manifest: CacheManifest?

  private let storage: any ShardStorage
  let identity: CacheIdentity

  /// Reads the cache in `storage`, whose lock the caller holds; an empty directory becomes a new cache.
  init(_ storage: any ShardStorage, identity: CacheIdentity) throws(CacheFailure) {
    self.storage = storage
    self.identity = identity
    let names = try attempt { () throws(ShardStorageFailure) in try storage.names() }
    let ordinals = names.compactMap { CacheFormat.ordinal($0, suffix: ".shard") }.sorted()
    try readManifest(isShardThere: !ordinals.isEmpty)
    for ordinal in ordinals { try openShard(ordinal) }
    try removeOrphanedIndexes(names)
    takeRecords()
    compareWithManifest()
  }

  private func attempt<Result>(
    _ operation: () throws(ShardStorageFailure) -> Result
  ) throws(CacheFailure) -> Result {
    do throws(ShardStorageFailure) {
      return try operation()
    } catch {
      throw CacheFailure(error, directory: storage.name)
    }
  }

  private mutating func readManifest(isShardThere: Bool) throws(CacheFailure) {
    do throws(CacheFailure) {
      manifest = try CacheManifest.read(from: storage)
    } catch {
      // Shards that prove to be this cache's can do without; a lone file of that name is somebody else's.
      guard case .notACache = error, isShardThere else { throw error }
    }
    if let manifest {
      let differences = identity.differences(fromCache: manifest.identity)
      guard differences.isEmpty else { throw .foreign(directory: storage.name, differences: differences) }
      completeDataSets = manifest.completeDataSets
    } else if isShardThere {
      recovery.isManifestRebuilt = true
    } else {
      // The manifest comes before the first shard, so that a crash never leaves shards of nobody.
      let new = CacheManifest(identity: identity, shards: [], completeDataSets: [])
      do throws(ShardStorageFailure) {
        try storage.replace(CacheFormat.manifestName, with: new.json())
      } catch {
        throw CacheFailure(error, directory: storage.name, needed: new.json().count, entries: 0)
      }
      manifest = new
    }
  }

  private mutating func openShard(_ ordinal: Int) throws(CacheFailure) {
    let name = CacheFormat.shardName(ordinal)
    let header = CacheFileHeader(kind: .shard, identityDigest: identity.digest, ordinal: ordinal)
    let file = try attempt { () throws(ShardStorageFailure) in try storage.open(name) }
    let byteCount = try attempt { () throws(ShardStorageFailure) in try file.byteCount() }
    var found = [UInt8](repeating: 0, count: CacheFormat.headerBytes)
    let headerBytes = try attempt { () throws(ShardStorageFailure) in
      try file.read(at: 0, into: &found, count: CacheFormat.headerBytes)
    }
    switch header.check(found[..<headerBytes]) {
    case .matching: break
    case .damaged(let reason):
      guard manifest != nil else {
        throw .notACache(directory: storage.name, file: name, reason: reason)
      }
      try discardShard(ordinal, byteCount: byteCount, isUnfinished: found.allSatisfy { $0 == 0 })
      return
    case .foreign(let reason):
      throw .notACache(directory: storage.name, file: name, reason: reason)
    }
    let scan = try attempt { () throws(ShardStorageFailure) in
      let index = try storage.contents(CacheFormat.indexName(ordinal), limit: CacheFormat.maximumIndexBytes)
      return try ShardScan(
        file, fileBytes: byteCount, index: index, shardHeader: header, layout: CacheLayout(identity))
    }
    if scan.length < byteCount {
      try attempt { () throws(ShardStorageFailure) in try file.truncate(to: scan.length) }
      recovery.tornShardBytes += byteCount - scan.length
    }
    recovery.damagedIndexBytes += scan.damagedIndexBytes
    recovery.damagedShardBytes += scan.damagedShardBytes
    recovery.recoveredRecords += scan.recoveredRecords
    shards.append(
      WrittenShard(
        ordinal: ordinal, file: file, header: header, length: scan.length,
        synchronizedLength: scan.indexedLength,
        entries: scan.records.map { CacheEntry($0, shard: ordinal, file: file) },
        indexedEntries: scan.isIndexCurrent ? scan.records.count : 0, isIndexStale: !scan.isIndexCurrent,
        isNameVolatile: !scan.isIndexCurrent))
  }

  /// Removes a shard whose header never reached the disk or was damaged since.
  private mutating func discardShard(
    _ ordinal: Int, byteCount: Int, isUnfinished: Bool
  ) throws(CacheFailure) {
    try attempt { () throws(ShardStorageFailure) in
      try storage.remove(CacheFormat.shardName(ordinal))
      try storage.remove(CacheFormat.indexName(ordinal))
    }
    if isUnfinished {
      recovery.tornShardBytes += byteCount
    } else {
      recovery.discardedShards += 1
    }
  }

  /// An index may have become durable for a shard that did not.
  private func removeOrphanedIndexes(_ names: [String]) throws(CacheFailure) {
    for name in names {
      guard let ordinal = CacheFormat.ordinal(name, suffix: ".index"),
        !shards.contains(where: { $0.ordinal == ordinal })
      else { continue }
      try attempt { () throws(ShardStorageFailure) in try storage.remove(name) }
    }
  }

  /// Fills the lookup; a sample that was appended again after its record was dropped is where it was last.
  private mutating func takeRecords() {
    for shard in shards {
      for entry in shard.entries where !entry.isDropped {
        if let older = table.updateValue(entry, forKey: entry.record.key) {
          older.state.store(.dropped, ordering: .releasing)
        }
      }
    }
  }

  private mutating func compareWithManifest() {
    for promised in manifest?.shards ?? [] {
      let shard = shards.first { CacheFormat.shardName($0.ordinal) == promised.file }
      let present = shard?.entries.count { !$0.isDropped } ?? 0
      recovery.lostEntries += max(0, promised.entries - present)
    }
    // Recovered records alone take nothing away from a data set.
    var losses = recovery
    losses.recoveredRecords = 0
    if !losses.isClean { completeDataSets = [] }
  }
}
