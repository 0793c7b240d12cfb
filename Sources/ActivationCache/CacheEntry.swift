import Synchronization

/// One readable record, shared by the lookup table and by every selection that names it.
final class CacheEntry: Sendable {
  /// What is known about the payload's bytes in this process.
  enum State: UInt8, AtomicRepresentable {
    /// Not read yet: its checksum is compared on the first read.
    case unverified
    /// Read once with the right checksum.
    case verified
    /// Damaged, or lost when its shard could not be flushed; never read again.
    case dropped
  }

  let record: CacheRecord
  /// Ordinal of the shard.
  let shard: Int
  let file: any ShardFile
  let state: Atomic<State>

  init(_ record: CacheRecord, shard: Int, file: any ShardFile) {
    self.record = record
    self.shard = shard
    self.file = file
    state = Atomic(record.isDropped ? .dropped : .unverified)
  }

  var isDropped: Bool { state.load(ordering: .acquiring) == .dropped }

  /// The record as the index should hold it now.
  var indexed: CacheRecord {
    var record = record
    record.isDropped = isDropped
    return record
  }
}

/// The records of a list of samples, looked up once so that reading them takes no lock and no lookup.
package struct CacheSelection: Sendable {
  /// The samples that are not in the cache, in the order of the list.
  package let missing: [SampleKey]
  /// Bytes of the records' rows.
  package let byteCount: Int
  let entries: [CacheEntry]
  /// Tokens of each stack over all entries.
  let tokens: SIMD4<Int>

  init(entries: [CacheEntry], missing: [SampleKey]) {
    self.entries = entries
    self.missing = missing
    var tokens = SIMD4<Int>()
    var byteCount = 0
    for entry in entries {
      tokens &+= SIMD4<Int>(truncatingIfNeeded: entry.record.shape.counts)
      byteCount += entry.record.payloadBytes
    }
    self.tokens = tokens
    self.byteCount = byteCount
  }

  /// Whether every sample of the list was found.
  package var isComplete: Bool { missing.isEmpty }

  /// Tokens of stack `stack` over all found samples.
  package func tokens(_ stack: Int) -> Int { tokens[stack] }
}

/// The memory that one worker needs to read: the segment list of one record.
///
/// - Safety: one worker uses a scratch at a time; nobody else sees the buffer.
package final class CacheReadScratch: @unchecked Sendable {
  let segments: UnsafeMutableBufferPointer<UnsafeMutableRawBufferPointer>

  init(segmentCount: Int) {
    segments = .allocate(capacity: segmentCount)
    segments.initialize(repeating: UnsafeMutableRawBufferPointer(start: nil, count: 0))
  }

  deinit { segments.deallocate() }
}

/// What a read found.
package enum CacheReadOutcome: Sendable, Equatable {
  /// All rows are in place.
  case complete
  /// So many samples of the selection are not in the cache or turned out damaged; their rows are undefined and
  /// `resolve` now lists them as missing.
  case missing(Int)
}

/// What a cache has done in this process.
package struct CacheStatistics: Sendable, Equatable {
  /// Payload bytes read.
  package var bytesRead: Int
  /// Records read.
  package var recordsRead: Int
  /// Bytes appended, headers included.
  package var bytesAppended: Int
  /// Records appended.
  package var recordsAppended: Int
  /// Records dropped because their checksum was wrong or their bytes were gone.
  package var recordsDropped: Int
}
