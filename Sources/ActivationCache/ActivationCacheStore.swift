package import CryptoPrimitives
import Synchronization
package import TensorKernels

/// The activation cache of one layer range on one device: appended to in live epochs, read in cached ones
/// (PAC §4.2: cached epochs skip the backbone).
///
/// Any number of threads may append and read at once. Appends take one lock for the write alone; reads take
/// none. What was appended may be read at once and survives a power cut from the next `flush()` on.
package final class ActivationCacheStore: Sendable {
  /// What the cached activations depend on.
  package let identity: CacheIdentity
  /// What opening found damaged, dropped or recovered.
  package let recovery: CacheRecovery

  let storage: any ShardStorage
  let layout: CacheLayout
  let identityDigest: ContentDigest
  let shardLimit: Int
  let counters = CacheCounters()
  // Lock order: writer, then table.
  let writer: Mutex<CacheWriter>
  let table: Mutex<[SampleKey: CacheEntry]>

  /// Opens the cache in `storage` and takes its lock, or makes a new one.
  ///
  /// Records and index entries that a crash left unfinished are cut off, and `recovery` says how much. A cache of
  /// another identity is refused. A shard that reaches `shardLimit` bytes is followed by a new one.
  package init(
    _ storage: any ShardStorage, identity: CacheIdentity, shardLimit: Int = CacheFormat.defaultShardLimit
  ) throws(CacheFailure) {
    precondition(shardLimit > 0, "a shard limit of \(shardLimit) bytes")
    self.storage = storage
    self.identity = identity
    self.shardLimit = shardLimit
    layout = CacheLayout(identity)
    identityDigest = identity.digest
    do {
      try storage.lock()
    } catch {
      throw CacheFailure(error, directory: storage.name)
    }
    do throws(CacheFailure) {
      let opened = try OpenedCache(storage, identity: identity)
      recovery = opened.recovery
      writer = Mutex(CacheWriter(opened))
      table = Mutex(opened.table)
    } catch {
      storage.unlock()
      throw error
    }
  }

  deinit {
    // After removeAll() the lock is given back already and may be another store's.
    if !writer.withLock({ $0.isRemoved }) { storage.unlock() }
  }

  /// Samples that can be read.
  package var entries: Int { table.withLock { $0.count } }
  /// Bytes of all shards.
  package var bytes: Int { writer.withLock { $0.shards.reduce(0) { $0 + $1.length } } }
  /// What was read, appended and dropped so far.
  package var statistics: CacheStatistics { counters.statistics }

  /// Whether the sample's activations are there.
  package func contains(_ key: SampleKey) -> Bool { table.withLock { $0[key] != nil } }

  /// Appends the rows of one sample; see the form for a micro-batch.
  package func append(
    _ key: SampleKey, shape: CacheRecordShape, taps: [[EncodedRows]]
  ) throws(CacheFailure) {
    try append([key], shapes: [shape], taps: taps)
  }

  /// Appends the samples of a micro-batch whose rows are token-packed in the order of `keys`.
  ///
  /// `sequences` has an element a stack and `taps` one `[stack][tap]`, as the identity lists them. Samples that
  /// are there already are passed over. After a failure the samples before the one at fault stay.
  package func append(
    _ keys: [SampleKey], sequences: [PackedSequences], taps: [[EncodedRows]]
  ) throws(CacheFailure) {
    precondition(
      sequences.count == layout.stackCount && sequences.allSatisfy { $0.count == keys.count },
      "\(keys.count) samples with sequences \(sequences.map(\.count)) in \(layout.stackCount) stacks")
    let shapes = keys.indices.map { sample in
      CacheRecordShape(tokens: sequences.map { $0.length(sample) })
    }
    try append(keys, shapes: shapes, taps: taps)
  }

  private func append(
    _ keys: [SampleKey], shapes: [CacheRecordShape], taps: [[EncodedRows]]
  ) throws(CacheFailure) {
    var rows = SIMD4<Int>()
    for shape in shapes { rows &+= SIMD4<Int>(truncatingIfNeeded: shape.counts) }
    layout.check(taps, rows: rows, what: "append")
    var segments: [UnsafeRawBufferPointer] = []
    segments.reserveCapacity(layout.segmentCount + 1)
    var first = SIMD4<Int>()
    for (key, shape) in zip(keys, shapes) {
      precondition(
        layout.admits(shape), "sample \(key) has tokens \(shape.counts) in \(layout.stackCount) stacks")
      if !contains(key) {
        gather(shape, from: taps, first: first, into: &segments)
        // The checksum is the caller's own work: the lock covers only the write.
        let checksum = segments.dropFirst().reduce(UInt32(0)) { crc32c($1, seed: $0) }
        try write(key, shape, checksum, &segments)
      }
      first &+= SIMD4<Int>(truncatingIfNeeded: shape.counts)
    }
  }

  /// Lists the row blocks of one sample in record order, behind a place for the header.
  private func gather(
    _ shape: CacheRecordShape, from taps: [[EncodedRows]], first: SIMD4<Int>,
    into segments: inout [UnsafeRawBufferPointer]
  ) {
    segments.removeAll(keepingCapacity: true)
    segments.append(UnsafeRawBufferPointer(start: nil, count: 0))
    for stack in 0..<layout.stackCount where shape.tokens(stack) > 0 {
      for tap in 0..<layout.tapCounts[stack] {
        let rows = taps[stack][tap].rowRange(first[stack], count: shape.tokens(stack))
        segments.append(UnsafeRawBufferPointer(start: rows.base, count: rows.byteCount))
      }
    }
  }

  private func write(
    _ key: SampleKey, _ shape: CacheRecordShape, _ checksum: UInt32,
    _ segments: inout [UnsafeRawBufferPointer]
  ) throws(CacheFailure) {
    let payloadBytes = layout.payloadBytes(shape)
    precondition(payloadBytes <= CacheFormat.maximumPayloadBytes, "a record of \(payloadBytes) bytes")
    let written = try writer.withLock { (writer) throws(CacheFailure) -> Bool in
      // Another thread may have appended the same text meanwhile.
      if contains(key) { return false }
      let entry = try writer.append(
        key, shape, payloadBytes: payloadBytes, checksum: checksum, segments: &segments, store: self)
      table.withLock { $0[key] = entry }
      return true
    }
    if written { counters.appended(bytes: payloadBytes + CacheFormat.headerBytes) }
  }

  /// Puts everything appended so far on the disk: shards, then indexes, then the manifest.
  ///
  /// When the disk refuses, entries that are not safe on it are dropped, so what remains is never wrong.
  package func flush() throws(CacheFailure) {
    try writer.withLock { (writer) throws(CacheFailure) in try writer.flush(self) }
  }

  /// Records that all samples of a data set are in the cache, from the next flush on; false when some are not.
  @discardableResult
  package func markComplete(_ dataSet: ContentDigest, covering keys: [SampleKey]) -> Bool {
    writer.withLock { writer in
      guard table.withLock({ table in keys.allSatisfy { table[$0] != nil } }) else { return false }
      writer.markComplete(dataSet)
      return true
    }
  }

  /// Whether all samples of a data set were recorded to be in the cache and none was dropped since.
  package func isComplete(_ dataSet: ContentDigest) -> Bool {
    writer.withLock { $0.completeDataSets.contains(dataSet) }
  }

  /// Removes every file of the cache and its directory, if nothing else is in it; the store is empty and closed
  /// afterwards.
  ///
  /// No other thread may append or read meanwhile or later.
  package func removeAll() throws(CacheFailure) {
    try writer.withLock { (writer) throws(CacheFailure) in
      table.withLock { $0.removeAll() }
      do throws(ShardStorageFailure) {
        try writer.removeFiles(storage)
        storage.unlock()
        try storage.removeIfEmpty()
      } catch {
        throw CacheFailure(error, directory: storage.name)
      }
    }
  }
}

/// Counts of what was done, updated by any thread.
final class CacheCounters: Sendable {
  private let bytesRead = Atomic(0)
  private let recordsRead = Atomic(0)
  private let bytesAppended = Atomic(0)
  private let recordsAppended = Atomic(0)
  private let recordsDropped = Atomic(0)

  func read(records: Int, bytes: Int) {
    recordsRead.add(records, ordering: .relaxed)
    bytesRead.add(bytes, ordering: .relaxed)
  }

  func appended(bytes: Int) {
    recordsAppended.add(1, ordering: .relaxed)
    bytesAppended.add(bytes, ordering: .relaxed)
  }

  func dropped(_ records: Int) { recordsDropped.add(records, ordering: .relaxed) }

  var statistics: CacheStatistics {
    CacheStatistics(
      bytesRead: bytesRead.load(ordering: .relaxed), recordsRead: recordsRead.load(ordering: .relaxed),
      bytesAppended: bytesAppended.load(ordering: .relaxed),
      recordsAppended: recordsAppended.load(ordering: .relaxed),
      recordsDropped: recordsDropped.load(ordering: .relaxed))
  }
}
