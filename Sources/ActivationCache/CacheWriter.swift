import CryptoPrimitives
import Synchronization

/// One shard as its writer sees it.
struct WrittenShard {
  let ordinal: Int
  let file: any ShardFile
  /// The identity and place that its files begin with.
  let header: CacheFileHeader
  /// End of the last whole record; bytes beyond it do not count.
  var length: Int
  /// Length that a power cut cannot take.
  var synchronizedLength: Int
  /// Every record of the shard in order, dead ones included.
  var entries: [CacheEntry]
  /// Leading entries that the index file holds, and how many bytes it has then.
  var indexedEntries: Int
  /// Whether the index file must be written anew instead of appended to.
  var isIndexStale: Bool
  /// Whether the names of its files may still be lost in a power cut.
  var isNameVolatile: Bool
}

/// The state behind the writer's lock: what is in the shards and what is not on the disk yet.
struct CacheWriter {
  private(set) var shards: [WrittenShard]
  private(set) var completeDataSets: [ContentDigest]
  private var isManifestStale: Bool
  /// Whether the files are gone for good.
  private(set) var isRemoved = false
  /// Whether room behind the last record belongs to a reservation.
  var isReserved = false

  init(_ opened: OpenedCache) {
    shards = opened.shards
    completeDataSets = opened.completeDataSets
    isManifestStale = false
    // An index may have been flushed without its manifest.
    isManifestStale = manifest(opened.identity) != opened.manifest
  }

  mutating func markComplete(_ dataSet: ContentDigest) {
    guard !completeDataSets.contains(dataSet) else { return }
    completeDataSets.append(dataSet)
    completeDataSets.sort()
    isManifestStale = true
  }

  /// A record of the shard was dropped: its index entry is to say so, and no data set is complete any more.
  mutating func noteDropped(shard ordinal: Int) {
    for index in shards.indices where shards[index].ordinal == ordinal { shards[index].isIndexStale = true }
    completeDataSets = []
    isManifestStale = true
  }

  /// Writes one record; `segments` are its payload behind a place for the header.
  mutating func append(
    _ key: SampleKey, _ shape: CacheRecordShape, payloadBytes: Int, checksum: UInt32,
    segments: inout [UnsafeRawBufferPointer], store: ActivationCacheStore
  ) throws(CacheFailure) -> CacheEntry {
    precondition(!isRemoved && !isReserved, "an append after removeAll() or beside a reservation")
    let directory = store.storage.name
    let needed = CacheFormat.headerBytes + payloadBytes
    let index = try shardIndex(for: needed, store)
    let record = CacheRecord(
      key: key, shape: shape, offset: shards[index].length, payloadBytes: payloadBytes,
      payloadChecksum: checksum)
    let file = shards[index].file
    do throws(ShardStorageFailure) {
      let header = record.bytes(magic: CacheRecord.recordMagic, seed: shards[index].header.checksum)
      try header.withUnsafeBufferPointer { bytes throws(ShardStorageFailure) in
        segments[0] = UnsafeRawBufferPointer(bytes)
        try segments.withUnsafeBufferPointer { parts throws(ShardStorageFailure) in
          try file.write(parts, at: record.offset)
        }
      }
    } catch {
      // What was written of the record goes again. Should that fail too, the bytes lie beyond the shard's
      // length: the next record replaces them, and the next opening cuts them off.
      try? file.truncate(to: record.offset)
      let entries = store.table.withLock { $0.count }
      throw CacheFailure(error, directory: directory, needed: needed, entries: entries)
    }
    let entry = CacheEntry(record, shard: shards[index].ordinal, file: file)
    take(entry, into: index)
    return entry
  }

  /// Takes a record that was written whole behind the last one of a shard.
  mutating func take(_ entry: CacheEntry, into index: Int) {
    shards[index].length = entry.record.end
    shards[index].entries.append(entry)
    isManifestStale = true
  }

  /// The shard that takes the next `needed` bytes: the last one, or a new one.
  private mutating func shardIndex(
    for needed: Int, _ store: ActivationCacheStore
  ) throws(CacheFailure) -> Int {
    if let last = shards.last,
      last.length + needed <= store.shardLimit || last.length == CacheFormat.headerBytes
    {
      return shards.count - 1
    }
    try appendShard(for: needed, store)
    return shards.count - 1
  }

  /// Makes a new, empty shard, because the last one has no room for `needed` bytes.
  mutating func appendShard(for needed: Int, _ store: ActivationCacheStore) throws(CacheFailure) {
    let ordinal = (shards.last?.ordinal ?? -1) + 1
    guard ordinal < CacheFormat.maximumShards else {
      throw .tooManyShards(directory: store.storage.name, limit: CacheFormat.maximumShards)
    }
    let header = CacheFileHeader(kind: .shard, identityDigest: store.identityDigest, ordinal: ordinal)
    let name = CacheFormat.shardName(ordinal)
    do throws(ShardStorageFailure) {
      let file = try store.storage.open(name)
      try file.write(header.bytes, at: 0)
      shards.append(
        WrittenShard(
          ordinal: ordinal, file: file, header: header, length: CacheFormat.headerBytes,
          synchronizedLength: 0,
          entries: [], indexedEntries: 0, isIndexStale: true, isNameVolatile: true))
    } catch {
      // A shard without a whole header would only be reported as damaged later.
      try? store.storage.remove(name)
      let entries = store.table.withLock { $0.count }
      throw CacheFailure(error, directory: store.storage.name, needed: needed, entries: entries)
    }
  }

  /// Shards, then indexes, then the manifest: a file never names what may not be there after a power cut.
  mutating func flush(_ store: ActivationCacheStore) throws(CacheFailure) {
    precondition(!isRemoved, "a flush after removeAll()")
    let storage = store.storage
    var needed = 0
    do throws(ShardStorageFailure) {
      for index in shards.indices { try synchronizeShard(index, store) }
      if shards.contains(where: \.isNameVolatile) {
        try storage.synchronizeNames()
        for index in shards.indices { shards[index].isNameVolatile = false }
      }
      for index in shards.indices {
        needed = (shards[index].entries.count + 1) * CacheFormat.headerBytes
        try writeIndex(index, storage)
      }
      guard isManifestStale else { return }
      let manifest = manifest(store.identity).json()
      needed = manifest.count
      try storage.replace(CacheFormat.manifestName, with: manifest)
      isManifestStale = false
    } catch {
      let entries = store.table.withLock { $0.count }
      throw CacheFailure(error, directory: storage.name, needed: needed, entries: entries)
    }
  }

  private mutating func synchronizeShard(
    _ index: Int, _ store: ActivationCacheStore
  ) throws(ShardStorageFailure) {
    guard shards[index].synchronizedLength < shards[index].length else { return }
    do throws(ShardStorageFailure) {
      try shards[index].file.synchronize()
      shards[index].synchronizedLength = shards[index].length
    } catch {
      // The system may have thrown unwritten pages away, so reading them again proves nothing.
      forgetUnsynchronized(index, store)
      throw error
    }
  }

  private mutating func forgetUnsynchronized(_ index: Int, _ store: ActivationCacheStore) {
    let safe = max(shards[index].synchronizedLength, CacheFormat.headerBytes)
    var lost = 0
    while let entry = shards[index].entries.last, entry.record.end > safe {
      entry.state.store(.dropped, ordering: .releasing)
      store.table.withLock { if $0[entry.record.key] === entry { $0[entry.record.key] = nil } }
      shards[index].entries.removeLast()
      lost += 1
    }
    shards[index].length = safe
    try? shards[index].file.truncate(to: safe)
    completeDataSets = []
    store.counters.dropped(lost)
  }

  private mutating func writeIndex(_ index: Int, _ storage: any ShardStorage) throws(ShardStorageFailure) {
    let shard = shards[index]
    let name = CacheFormat.indexName(shard.ordinal)
    var header = shard.header
    header.kind = .index
    let seed = header.checksum
    func bytes(_ entries: ArraySlice<CacheEntry>) -> [UInt8] {
      entries.flatMap { $0.indexed.bytes(magic: CacheRecord.entryMagic, seed: seed) }
    }
    if shard.isIndexStale {
      try storage.replace(name, with: header.bytes + bytes(shard.entries[...]))
      shards[index].isIndexStale = false
    } else if shard.indexedEntries < shard.entries.count {
      let file = try storage.open(name)
      let end = CacheFormat.headerBytes * (1 + shard.indexedEntries)
      do throws(ShardStorageFailure) {
        try file.write(bytes(shard.entries[shard.indexedEntries...]), at: end)
        try file.synchronize()
      } catch {
        // The shard still proves its records itself; the index is written whole next time.
        try? file.truncate(to: end)
        shards[index].isIndexStale = true
        throw error
      }
    }
    shards[index].indexedEntries = shard.entries.count
  }

  private func manifest(_ identity: CacheIdentity) -> CacheManifest {
    CacheManifest(
      identity: identity,
      shards: shards.map { shard in
        CacheManifest.Shard(
          file: CacheFormat.shardName(shard.ordinal), bytes: shard.length,
          entries: shard.entries.count { !$0.isDropped }, taps: identity.stacks)
      },
      completeDataSets: completeDataSets)
  }

  /// Removes all files of the cache; the manifest goes last, so that a crash leaves a cache, not stray shards.
  mutating func removeFiles(_ storage: any ShardStorage) throws(ShardStorageFailure) {
    for shard in shards {
      try storage.remove(CacheFormat.shardName(shard.ordinal))
      try storage.remove(CacheFormat.indexName(shard.ordinal))
    }
    try storage.remove(CacheFormat.manifestName)
    shards = []
    completeDataSets = []
    isRemoved = true
  }
}
