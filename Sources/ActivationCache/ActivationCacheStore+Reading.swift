import Synchronization
package import TensorKernels

extension ActivationCacheStore {
  /// Looks the samples up; done before an epoch, so that its reads need no lock.
  package func resolve(_ keys: [SampleKey]) -> CacheSelection {
    table.withLock { table in
      var entries: [CacheEntry] = []
      var missing: [SampleKey] = []
      entries.reserveCapacity(keys.count)
      for key in keys {
        if let entry = table[key] { entries.append(entry) } else { missing.append(key) }
      }
      return CacheSelection(entries: entries, missing: missing)
    }
  }

  /// The memory that one worker needs for `read`.
  package func makeReadScratch() -> CacheReadScratch { CacheReadScratch(segmentCount: layout.segmentCount) }

  /// Advises the system to fetch the records of a selection now; neighbours in a shard go in one request.
  package func prefetch(_ selection: CacheSelection) {
    var index = 0
    while index < selection.entries.count {
      let first = selection.entries[index]
      var end = first.record.end
      index += 1
      while index < selection.entries.count, selection.entries[index].shard == first.shard,
        selection.entries[index].record.offset == end
      {
        end = selection.entries[index].record.end
        index += 1
      }
      first.file.willNeed(first.record.offset + CacheFormat.headerBytes..<end)
    }
  }

  /// Reads the rows of a selection, token-packed in its order, into `destination[stack][tap]`.
  ///
  /// The destination's blocks may have more rows than the selection has tokens. A record is compared with its
  /// checksum on its first read in this process; one that is damaged is dropped. Any number of threads may read,
  /// each with its own scratch. Allocates nothing.
  package func read(
    _ selection: CacheSelection, into destination: [[EncodedRows]], scratch: CacheReadScratch
  ) throws(CacheFailure) -> CacheReadOutcome {
    layout.check(destination, rows: selection.tokens, what: "read")
    var missing = selection.missing.count
    guard missing == 0 else { return .missing(missing) }
    var first = SIMD4<Int>()
    for entry in selection.entries {
      let isRead: Bool
      do throws(ShardStorageFailure) {
        isRead = try read(entry, into: destination, first: first, scratch)
      } catch {
        throw CacheFailure(error, directory: storage.name)
      }
      if !isRead { missing += 1 }
      first &+= SIMD4<Int>(truncatingIfNeeded: entry.record.shape.counts)
    }
    counters.read(records: selection.entries.count - missing, bytes: selection.byteCount)
    return missing == 0 ? .complete : .missing(missing)
  }

  /// Reads one record; false when it is, or now turns out to be, damaged.
  private func read(
    _ entry: CacheEntry, into destination: [[EncodedRows]], first: SIMD4<Int>, _ scratch: CacheReadScratch
  ) throws(ShardStorageFailure) -> Bool {
    let state = entry.state.load(ordering: .acquiring)
    if state == .dropped { return false }
    var count = 0
    for stack in 0..<layout.stackCount {
      let tokens = entry.record.shape.tokens(stack)
      let byteCount = tokens * layout.rowBytes[stack]
      if byteCount == 0 { continue }
      for tap in 0..<layout.tapCounts[stack] {
        let base = destination[stack][tap].base + first[stack] * layout.rowBytes[stack]
        scratch.segments[count] = UnsafeMutableRawBufferPointer(start: base, count: byteCount)
        count += 1
      }
    }
    let segments = UnsafeBufferPointer(start: scratch.segments.baseAddress, count: count)
    let read = try entry.file.read(at: entry.record.offset + CacheFormat.headerBytes, into: segments)
    var isIntact = read == entry.record.payloadBytes
    if isIntact, state == .unverified {
      var checksum: UInt32 = 0
      for segment in segments { checksum = crc32c(UnsafeRawBufferPointer(segment), seed: checksum) }
      isIntact = checksum == entry.record.payloadChecksum
    }
    if !isIntact {
      drop(entry)
    } else if state == .unverified {
      // Only from unverified: a flush that failed meanwhile may have dropped the entry.
      let exchange = entry.state.compareExchange(
        expected: .unverified, desired: .verified, ordering: .acquiringAndReleasing)
      return exchange.original != .dropped
    }
    return isIntact
  }

  /// Takes a damaged record out of the cache; its sample counts as missing from now on.
  private func drop(_ entry: CacheEntry) {
    guard entry.state.exchange(.dropped, ordering: .acquiringAndReleasing) != .dropped else { return }
    counters.dropped(1)
    writer.withLock { writer in
      table.withLock { table in
        // The sample may have been appended again since.
        if table[entry.record.key] === entry { table[entry.record.key] = nil }
      }
      writer.noteDropped(shard: entry.shard)
    }
  }
}
