import Determinism
import HearthStorage

/// Which open chunks a source is asked for next: those that the fewest sources hold, in an order of the reader's own.
///
/// Readers that all began at the front would all wait for the device that has the whole blob, and have nothing for each
/// other. So each goes through blocks of neighbouring chunks in an order that its seed decides, and what one source alone
/// holds goes before what others can give (BitTorrent's "rarest first", Cohen 2003, §2.4).
struct ChunkOrder: Sendable {
  /// Blocks of a blob, if its chunks allow; a block never has more chunks than one question may ask for.
  private static let blocks = 64

  /// Chunks of a block.
  private let block: Int
  /// The rank of every block in the reader's order.
  private let ranks: [Int]
  /// How many sources hold each chunk, as far as they said.
  private var holders: [Int]

  /// The order of the reader with that seed, before any source has said what it holds.
  init(chunkCount: Int, seed: UInt64) {
    holders = Array(repeating: 0, count: chunkCount)
    block = min(max(1, chunkCount / Self.blocks), BlobFetchLimits.window)
    var order = Array(0..<(chunkCount + block - 1) / block)
    var generator = SeededGenerator(seed: seed)
    generator.shuffle(&order)
    var ranks = order
    for (rank, block) in order.enumerated() { ranks[block] = rank }
    self.ranks = ranks
  }

  /// Counts again, from what each source holds now.
  mutating func count(_ sources: some Sequence<BlobChunks>) {
    for chunk in holders.indices { holders[chunk] = 0 }
    for held in sources { for chunk in holders.indices where held.contains(chunk) { holders[chunk] += 1 } }
  }

  /// The chunks to ask of a source: a run, equally rare, that is open and held; nil when there is none.
  func next(open: BlobChunks, held: BlobChunks, atMost limit: Int) -> Range<Int>? {
    var best: (holders: Int, rank: Int, chunk: Int)?
    for chunk in 0..<open.count where open.contains(chunk) && held.contains(chunk) {
      let candidate = (holders[chunk], ranks[chunk / block], chunk)
      if best.map({ candidate < $0 }) ?? true { best = candidate }
    }
    guard let first = best?.chunk else { return nil }
    var end = first + 1
    while end < first + limit, open.contains(end), held.contains(end), holders[end] == holders[first] {
      end += 1
    }
    return first..<end
  }
}
