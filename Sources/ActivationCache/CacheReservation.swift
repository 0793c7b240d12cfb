import Synchronization
package import TensorKernels

/// Room in a cache for samples whose rows come tap by tap, as a layer-by-layer forward makes them.
///
/// A record holds its taps in the order in which such a forward computes them, so each tap is written to its place
/// at once and nothing is buffered. Nothing of a reservation can be read, or survives a crash, before `commit()`:
/// records have no headers until then, and an opening cuts off what has none. While a reservation is open its
/// cache takes no other appends.
///
/// - Safety: one thread at a time writes a given sample; `commit` and `abandon` run while nobody writes.
package final class CacheReservation: @unchecked Sendable {
  private let store: ActivationCacheStore
  /// The reserved records by sample; nil where the cache, or an earlier sample of the list, has the record.
  private let places: UnsafeMutableBufferPointer<ReservedPlace?>
  private var isOpen = true

  init(_ store: ActivationCacheStore, _ places: [ReservedPlace?]) {
    self.store = store
    self.places = .allocate(capacity: places.count)
    _ = self.places.initialize(from: places)
  }

  deinit {
    abandon()
    places.deinitialize()
    places.deallocate()
  }

  /// Whether the sample of this index in the list has a record to be written.
  package func needs(_ sample: Int) -> Bool { places[sample] != nil }

  /// Writes the rows of the sample's next tap: stack by stack, taps ascending, no tap left out.
  package func write(_ sample: Int, _ rows: EncodedRows) throws(CacheFailure) {
    guard isOpen, let place = places[sample] else {
      preconditionFailure("sample \(sample) of \(places.count) has no reserved record")
    }
    let bytes = UnsafeRawBufferPointer(start: rows.base, count: rows.byteCount)
    precondition(
      place.written + bytes.count <= place.payloadBytes,
      "\(bytes.count) bytes behind \(place.written) of a record of \(place.payloadBytes)")
    do throws(ShardStorageFailure) {
      try withUnsafePointer(to: bytes) { segment throws(ShardStorageFailure) in
        try place.file.write(
          UnsafeBufferPointer(start: segment, count: 1),
          at: place.offset + CacheFormat.headerBytes + place.written)
      }
    } catch {
      throw CacheFailure(
        error, directory: store.storage.name, needed: place.payloadBytes - place.written,
        entries: store.entries)
    }
    places[sample]?.checksum = crc32c(bytes, seed: place.checksum)
    places[sample]?.written += bytes.count
  }

  /// Lets what was written so far leave memory for the disk.
  package func settle() {
    for place in places {
      guard let place else { continue }
      place.file.release(place.offset..<place.offset + CacheFormat.headerBytes + place.written)
    }
  }

  /// Makes every reserved record readable; all of their taps must have been written.
  package func commit() throws(CacheFailure) {
    precondition(isOpen, "a reservation is committed once")
    let records = places.compactMap { $0 }
    for record in records {
      precondition(
        record.written == record.payloadBytes,
        "\(record.written) of \(record.payloadBytes) bytes of \(record.key) were written")
    }
    isOpen = false
    try store.writer.withLock { (writer) throws(CacheFailure) in try writer.commit(records, store) }
    for record in records { store.counters.appended(bytes: record.payloadBytes + CacheFormat.headerBytes) }
  }

  /// Gives the room back; what was written is lost.
  package func abandon() {
    guard isOpen else { return }
    isOpen = false
    store.writer.withLock { $0.endReservation() }
  }
}

/// Where a reserved record goes, and how far its payload has come.
struct ReservedPlace {
  let key: SampleKey
  let shape: CacheRecordShape
  /// Ordinal of the shard.
  let shard: Int
  let file: any ShardFile
  let offset: Int
  let payloadBytes: Int
  var checksum: UInt32 = 0
  var written = 0

  var end: Int { offset + CacheFormat.headerBytes + payloadBytes }
}

extension ActivationCacheStore {
  /// Reserves a record for each sample that the cache does not have; `sequences` has an element a stack, as in
  /// `append`.
  package func reserve(
    _ keys: [SampleKey], sequences: [[PackedSequences]]
  ) throws(CacheFailure) -> CacheReservation {
    var shapes: [CacheRecordShape] = []
    for batch in sequences {
      precondition(batch.count == layout.stackCount, "\(batch.count) of \(layout.stackCount) stacks")
      for sample in 0..<batch[0].count {
        shapes.append(CacheRecordShape(tokens: batch.map { $0.length(sample) }))
      }
    }
    precondition(shapes.count == keys.count, "\(keys.count) samples of \(shapes.count) shapes")
    var seen: Set<SampleKey> = []
    let isNew = keys.map { !contains($0) && seen.insert($0).inserted }
    let places = try writer.withLock { (writer) throws(CacheFailure) in
      try writer.reserve(keys, shapes, isNew: isNew, self)
    }
    return CacheReservation(self, places)
  }
}

extension CacheWriter {
  /// Lays records out behind what is there, into new shards where one is full.
  mutating func reserve(
    _ keys: [SampleKey], _ shapes: [CacheRecordShape], isNew: [Bool], _ store: ActivationCacheStore
  ) throws(CacheFailure) -> [ReservedPlace?] {
    precondition(!isRemoved && !isReserved, "a reservation of a cache that is removed or reserved already")
    var places: [ReservedPlace?] = []
    var end = shards.last?.length ?? 0
    for sample in keys.indices {
      guard isNew[sample] else {
        places.append(nil)
        continue
      }
      let payloadBytes = store.layout.payloadBytes(shapes[sample])
      precondition(
        store.layout.admits(shapes[sample]) && payloadBytes <= CacheFormat.maximumPayloadBytes,
        "a record of \(payloadBytes) bytes")
      let needed = CacheFormat.headerBytes + payloadBytes
      if shards.isEmpty || (end + needed > store.shardLimit && end > CacheFormat.headerBytes) {
        try appendShard(for: needed, store)
        end = CacheFormat.headerBytes
      }
      let shard = shards[shards.count - 1]
      places.append(
        ReservedPlace(
          key: keys[sample], shape: shapes[sample], shard: shard.ordinal, file: shard.file, offset: end,
          payloadBytes: payloadBytes))
      end += needed
    }
    isReserved = true
    return places
  }

  /// Writes the headers of reserved records and takes them into the cache.
  mutating func commit(_ records: [ReservedPlace], _ store: ActivationCacheStore) throws(CacheFailure) {
    precondition(isReserved, "a commit without a reservation")
    var entries: [(shard: Int, entry: CacheEntry)] = []
    do throws(ShardStorageFailure) {
      for place in records {
        guard let index = shards.firstIndex(where: { $0.ordinal == place.shard }) else {
          preconditionFailure("shard \(place.shard) of a reservation is gone")
        }
        let record = CacheRecord(
          key: place.key, shape: place.shape, offset: place.offset, payloadBytes: place.payloadBytes,
          payloadChecksum: place.checksum)
        try place.file.write(
          record.bytes(magic: CacheRecord.recordMagic, seed: shards[index].header.checksum),
          at: place.offset)
        entries.append((index, CacheEntry(record, shard: place.shard, file: place.file)))
      }
    } catch {
      endReservation()
      throw CacheFailure(
        error, directory: store.storage.name, needed: CacheFormat.headerBytes,
        entries: store.table.withLock { $0.count })
    }
    for (index, entry) in entries { take(entry, into: index) }
    store.table.withLock { table in
      for (_, entry) in entries { table[entry.record.key] = entry }
    }
    isReserved = false
  }

  /// Cuts off what a reservation left behind its cache's records.
  mutating func endReservation() {
    isReserved = false
    // Should a cut fail, the bytes lie beyond the shard's length: the next record replaces them, and the next
    // opening cuts them off.
    for shard in shards { try? shard.file.truncate(to: shard.length) }
  }
}
