import TensorKernels

/// What opening a cache found damaged, dropped or recovered.
package struct CacheRecovery: Sendable, Equatable, CustomStringConvertible {
  /// Bytes cut off the ends of shards: records that were not written whole.
  package var tornShardBytes = 0
  /// Bytes of indexes that were not a whole, valid entry.
  package var damagedIndexBytes = 0
  /// Bytes inside shards that are no valid record and that no index entry covers.
  package var damagedShardBytes = 0
  /// Records that no index entry named and that were found valid in a shard.
  package var recoveredRecords = 0
  /// Shards removed because their header was damaged.
  package var discardedShards = 0
  /// Entries that the manifest promised and that are not there.
  package var lostEntries = 0
  /// Whether the manifest was missing or unreadable and was made anew from the shards.
  package var isManifestRebuilt = false

  /// Whether nothing was found amiss.
  package var isClean: Bool { self == CacheRecovery() }

  /// One line with the numbers that are not zero.
  package var description: String {
    let parts = [
      tornShardBytes > 0 ? "cut \(tornShardBytes) bytes of unfinished records" : nil,
      damagedIndexBytes > 0 ? "dropped \(damagedIndexBytes) damaged bytes of indexes" : nil,
      damagedShardBytes > 0 ? "skipped \(damagedShardBytes) damaged bytes in shards" : nil,
      discardedShards > 0 ? "discarded \(discardedShards) shards with damaged headers" : nil,
      recoveredRecords > 0 ? "recovered \(recoveredRecords) records without index entry" : nil,
      lostEntries > 0 ? "lost \(lostEntries) entries, which are computed again" : nil,
      isManifestRebuilt ? "rebuilt the manifest" : nil,
    ]
    return isClean ? "nothing was damaged" : parts.compactMap { $0 }.joined(separator: ", ")
  }
}

/// Finds the records of one shard from its index and, where the index says nothing, from the shard itself.
///
/// The walk goes from record to record. Where the index has an entry, the record is taken without reading it
/// (its checksum is verified on its first read). Where it has none, the record must prove itself by its own
/// header and payload checksum; what cannot is skipped up to the next indexed record, or cut off at the end.
struct ShardScan {
  /// Records in ascending order, dead ones included.
  private(set) var records: [CacheRecord] = []
  /// End of the last record: where the next one goes.
  private(set) var length = CacheFormat.headerBytes
  /// End of the leading records that were indexed: they were flushed before their entries were written.
  private(set) var indexedLength = CacheFormat.headerBytes
  /// Whether the index file holds exactly the records found.
  private(set) var isIndexCurrent: Bool
  private(set) var damagedIndexBytes = 0
  private(set) var damagedShardBytes = 0
  private(set) var recoveredRecords = 0

  private let file: any ShardFile
  private let fileBytes: Int
  private let seed: UInt32
  private let layout: CacheLayout

  /// Scans the shard in `file` of `fileBytes` bytes; `index` is its index file, header included, or nil.
  init(
    _ file: any ShardFile, fileBytes: Int, index: [UInt8]?, shardHeader: CacheFileHeader, layout: CacheLayout
  ) throws(ShardStorageFailure) {
    self.file = file
    self.fileBytes = fileBytes
    self.layout = layout
    seed = shardHeader.checksum
    isIndexCurrent = true
    let indexed = readIndex(index, shardHeader)
    try walk(indexed)
    if records.count != indexed.count || recoveredRecords > 0 { isIndexCurrent = false }
  }

  /// The valid entries in ascending order without overlap.
  private mutating func readIndex(_ index: [UInt8]?, _ shardHeader: CacheFileHeader) -> [CacheRecord] {
    var header = shardHeader
    header.kind = .index
    let size = CacheFormat.headerBytes
    guard let index, header.check(index.prefix(size)) == .matching else {
      // A shard without records has no index yet; otherwise the whole index is damaged.
      damagedIndexBytes += index?.count ?? 0
      isIndexCurrent = false
      return []
    }
    var entries: [CacheRecord] = []
    var end = size
    for start in stride(from: size, to: index.count, by: size) {
      let bytes = index[start..<min(start + size, index.count)]
      if let entry = CacheRecord(bytes, magic: CacheRecord.entryMagic, seed: header.checksum, layout: layout),
        entry.offset >= end
      {
        entries.append(entry)
        end = entry.end
      } else {
        damagedIndexBytes += bytes.count
        isIndexCurrent = false
      }
    }
    return entries
  }

  private mutating func walk(_ indexed: [CacheRecord]) throws(ShardStorageFailure) {
    // One megabyte for reading payloads that no index entry vouches for; most shards never need it.
    var buffer: [UInt8] = []
    var next = 0
    while length < fileBytes {
      let limit = next < indexed.count ? indexed[next].offset : fileBytes
      if next < indexed.count, limit == length {
        guard indexed[next].end <= fileBytes else { break }
        take(indexed[next])
        next += 1
        if recoveredRecords == 0 { indexedLength = length }
      } else if let record = try proveRecord(at: length, limit: limit, &buffer) {
        take(record)
        recoveredRecords += 1
      } else if next < indexed.count, indexed[next].end <= fileBytes {
        // Marked as dead, so that the next opening does not look here again.
        damagedShardBytes += limit - length
        isIndexCurrent = false
        skip(to: limit)
      } else {
        break
      }
    }
  }

  private mutating func take(_ record: CacheRecord) {
    records.append(record)
    length = record.end
  }

  private mutating func skip(to offset: Int) {
    let payloadBytes = offset - length - CacheFormat.headerBytes
    if payloadBytes >= 0 {
      records.append(
        CacheRecord(
          key: SampleKey(high: 0, low: 0), shape: CacheRecordShape(tokens: []), offset: length,
          payloadBytes: payloadBytes, payloadChecksum: 0, isDropped: true))
    }
    length = offset
  }

  /// The record at `offset`, if its header and payload are valid and it ends by `limit`.
  private func proveRecord(
    at offset: Int, limit: Int, _ buffer: inout [UInt8]
  ) throws(ShardStorageFailure) -> CacheRecord? {
    guard offset + CacheFormat.headerBytes <= limit else { return nil }
    if buffer.isEmpty { buffer = [UInt8](repeating: 0, count: 1 << 20) }
    guard try file.read(at: offset, into: &buffer, count: CacheFormat.headerBytes) == CacheFormat.headerBytes,
      let record = CacheRecord(
        buffer[..<CacheFormat.headerBytes], magic: CacheRecord.recordMagic, seed: seed, layout: layout),
      record.offset == offset, record.end <= limit, !record.isDropped
    else { return nil }
    var checksum: UInt32 = 0
    var position = offset + CacheFormat.headerBytes
    while position < record.end {
      let count = min(buffer.count, record.end - position)
      guard try file.read(at: position, into: &buffer, count: count) == count else { return nil }
      checksum = crc32c(of: buffer[..<count], seed: checksum)
      position += count
    }
    return checksum == record.payloadChecksum ? record : nil
  }
}

extension ShardFile {
  /// Reads `count` bytes at `offset` into the front of `buffer`; returns the bytes read.
  func read(at offset: Int, into buffer: inout [UInt8], count: Int) throws(ShardStorageFailure) -> Int {
    try buffer.withUnsafeMutableBufferPointer { bytes throws(ShardStorageFailure) in
      let segment = UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: bytes[..<count]))
      return try withUnsafePointer(to: segment) { pointer throws(ShardStorageFailure) in
        try read(at: offset, into: UnsafeBufferPointer(start: pointer, count: 1))
      }
    }
  }

  /// Writes the bytes of an array at `offset`.
  func write(_ bytes: [UInt8], at offset: Int) throws(ShardStorageFailure) {
    try bytes.withUnsafeBufferPointer { buffer throws(ShardStorageFailure) in
      let segment = UnsafeRawBufferPointer(buffer)
      try withUnsafePointer(to: segment) { pointer throws(ShardStorageFailure) in
        try write(UnsafeBufferPointer(start: pointer, count: 1), at: offset)
      }
    }
  }
}
