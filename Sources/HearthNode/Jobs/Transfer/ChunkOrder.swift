import Determinism
package import HearthStorage

/// Which open chunks a source is asked for next: those that the fewest sources hold, in an order of the reader's own.
///
/// Readers that all began at the front would all wait for the device that has the whole blob, and have nothing for each
/// other. So each goes through blocks of neighbouring chunks in an order that its seed decides, and what one source alone
/// holds goes before what others can give (BitTorrent's "rarest first", Cohen 2003, §2.4).
package struct ChunkOrder: Sendable {
  /// Blocks of a blob, if its chunks allow; a block never has more chunks than one question may ask for.
  private static let blocks = 64

  /// The blocks in the reader's order.
  private let blocks: [Range<Int>]
  /// How many sources hold each chunk, as far as they said.
  private var holders: ChunkCounts

  /// The order of the reader with that seed, before any source has said what it holds.
  package init(chunkCount: Int, seed: UInt64) {
    holders = ChunkCounts(chunkCount)
    let block = min(max(1, chunkCount / Self.blocks), BlobFetchLimits.window)
    var blocks = stride(from: 0, to: chunkCount, by: block).map { $0..<min(chunkCount, $0 + block) }
    var generator = SeededGenerator(seed: seed)
    generator.shuffle(&blocks)
    self.blocks = blocks
  }

  /// Counts again, from what each source holds now.
  package mutating func count(_ sources: some Sequence<BlobChunks>) {
    holders = ChunkCounts(holders.chunkCount)
    for held in sources { holders.add(held) }
  }

  /// The chunks to ask of a source: a run, equally rare, that is open and held; nil when there is none.
  package func next(open: BlobChunks, held: BlobChunks, atMost limit: Int) -> Range<Int>? {
    let rarest = holders.fewest(among: open.intersection(held))
    for block in blocks {
      guard let first = rarest.first(in: block) else { continue }
      var end = first + 1
      while end < first + limit, rarest.contains(end) { end += 1 }
      return first..<end
    }
    return nil
  }
}

/// How often each chunk of a blob was counted, as binary digits: one set of chunks for each digit.
///
/// Adding a set and finding the least counted chunks then take a few operations for 64 chunks at once.
private struct ChunkCounts: Sendable {
  let chunkCount: Int
  /// The chunks whose count has that digit, the lowest digit first.
  private var digits: [BlobChunks] = []

  init(_ chunkCount: Int) { self.chunkCount = chunkCount }

  /// Counts each of these chunks once more.
  mutating func add(_ chunks: BlobChunks) {
    var carry = chunks
    for index in digits.indices {
      let both = digits[index].intersection(carry)
      digits[index] = digits[index].symmetricDifference(carry)
      carry = both
    }
    if !carry.isEmpty { digits.append(carry) }
  }

  /// Of these chunks those that were counted least often.
  func fewest(among chunks: BlobChunks) -> BlobChunks {
    var fewest = chunks
    for digit in digits.reversed() {
      let fewer = fewest.subtracting(digit)
      if !fewer.isEmpty { fewest = fewer }
    }
    return fewest
  }
}
