import Determinism
import HearthNode
import HearthStorage
import Testing

@Suite("The order of chunks")
struct ChunkOrderTests {
  /// Sizes of one word and of several, with blocks of one chunk, of some and of as many as a question may ask for.
  @Test("is that of a plain search through all chunks, whatever is open and held", arguments: 0..<40)
  func plainSearch(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let sizes = [1, 2, 7, 63, 64, 65, 128, 200, 500, 1000, 1024, 2500]
    let count = sizes[Int(generator.uniform(below: sizes.count))]
    let sources = (0..<Int(generator.uniform(below: 12))).map { _ in
      Self.chunks(count, &generator)
    }
    var order = ChunkOrder(chunkCount: count, seed: seed)
    var plain = PlainOrder(chunkCount: count, seed: seed)
    for round in 0..<30 {
      // Some have left or have not said anything yet.
      let known = sources.filter { _ in generator.uniform(below: 4) > 0 }
      if round % 3 == 0 {
        order.count(known)
        plain.count(known)
      }
      let open = Self.chunks(count, &generator)
      let held = sources.first ?? Self.chunks(count, &generator)
      for limit in [1, 2, 16] {
        #expect(
          order.next(open: open, held: held, atMost: limit)
            == plain.next(open: open, held: held, atMost: limit),
          "seed \(seed), \(count) chunks, round \(round), at most \(limit)")
      }
    }
  }

  @Test("goes through all chunks, each once, as the plain search does", arguments: [1, 100, 1500])
  func wholeBlob(count: Int) {
    var generator = SeededGenerator(seed: UInt64(count))
    let held = (0..<4).map { $0 == 0 ? BlobChunks(all: count) : Self.chunks(count, &generator) }
    var order = ChunkOrder(chunkCount: count, seed: 5)
    var plain = PlainOrder(chunkCount: count, seed: 5)
    order.count(held)
    plain.count(held)
    var open = BlobChunks(all: count)
    var asked = 0
    while let run = order.next(open: open, held: held[0], atMost: 1 + asked % 16) {
      #expect(run == plain.next(open: open, held: held[0], atMost: 1 + asked % 16))
      for chunk in run { open.remove(chunk) }
      asked += run.count
    }
    #expect(asked == count && open.isEmpty)
  }

  /// None, all, single chunks, or long runs of chunks.
  private static func chunks(_ count: Int, _ generator: inout SeededGenerator) -> BlobChunks {
    switch generator.uniform(below: 6) {
    case 0: return BlobChunks(none: count)
    case 1: return BlobChunks(all: count)
    case 2, 3:
      var chunks = BlobChunks(none: count)
      for chunk in 0..<count where generator.uniform(below: 3) == 0 { chunks.insert(chunk) }
      return chunks
    default:
      var chunks = BlobChunks(none: count)
      for _ in 0..<3 {
        let first = Int(generator.uniform(below: count))
        chunks.insert(first..<min(count, first + 1 + Int(generator.uniform(below: 100))))
      }
      return chunks
    }
  }
}

/// The rule in the plainest form: of all open and held chunks the one with fewest holders, then of the first block in the
/// reader's order, then the first; and behind it those that are as rare.
private struct PlainOrder {
  private let block: Int
  private let ranks: [Int]
  private var holders: [Int]

  init(chunkCount: Int, seed: UInt64) {
    holders = Array(repeating: 0, count: chunkCount)
    block = min(max(1, chunkCount / 64), BlobFetchLimits.window)
    var order = Array(0..<(chunkCount + block - 1) / block)
    var generator = SeededGenerator(seed: seed)
    generator.shuffle(&order)
    var ranks = order
    for (rank, block) in order.enumerated() { ranks[block] = rank }
    self.ranks = ranks
  }

  mutating func count(_ sources: [BlobChunks]) {
    for chunk in holders.indices { holders[chunk] = sources.count { $0.contains(chunk) } }
  }

  func next(open: BlobChunks, held: BlobChunks, atMost limit: Int) -> Range<Int>? {
    let candidates = (0..<open.count).filter { open.contains($0) && held.contains($0) }
    let first = candidates.min {
      (holders[$0], ranks[$0 / block], $0) < (holders[$1], ranks[$1 / block], $1)
    }
    guard let first else { return nil }
    var end = first + 1
    while end < first + limit, open.contains(end), held.contains(end), holders[end] == holders[first] {
      end += 1
    }
    return first..<end
  }
}
