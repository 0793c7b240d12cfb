import ArgumentParser
import Determinism
import HearthNode
import HearthStorage

/// `hearth-benchmark chunks`: what it costs to choose which chunk of a blob is asked of whom.
struct ChunksCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "chunks",
    abstract: "Measure choosing all chunks of a large blob, of which several sources hold more and more.",
    discussion: """
      One source has the whole blob, the others get a chunk each time this device does, and one of them says what it holds \
      at every 64th chunk. Nothing is sent, hashed or written.
      """)

  @Option(help: "Chunks of the blob, of 1 MiB each.")
  var chunks = BlobLimits.chunks

  @Option(help: "Sources.")
  var sources = 8

  func validate() throws {
    guard (1...BlobLimits.chunks).contains(chunks), (1...BlobFetchLimits.sources).contains(sources) else {
      throw ValidationError(
        "--chunks is 1 to \(BlobLimits.chunks) and --sources 1 to \(BlobFetchLimits.sources)")
    }
  }

  func run() throws {
    var swarm = ChoosingSwarm(chunks: chunks, sources: sources)
    let start = processCPUSeconds()
    let (questions, counts) = swarm.run()
    let seconds = processCPUSeconds() - start
    print("\(chunks) chunks, \(sources) sources: \(questions) questions, counted \(counts) times")
    print("processor time  \(rounded(seconds)) s")
  }
}

/// A device that fetches, as far as the choice of chunks goes, and what its sources hold.
private struct ChoosingSwarm {
  private var order: ChunkOrder
  private var open: BlobChunks
  /// What the sources hold, and what they have said of it.
  private var held: [BlobChunks]
  private var told: [BlobChunks]
  /// The order in which each source gets its chunks.
  private var arrivals: [[Int]]
  private var asked: [[Int]]

  init(chunks: Int, sources: Int) {
    order = ChunkOrder(chunkCount: chunks, seed: 1)
    open = BlobChunks(all: chunks)
    held = (0..<sources).map { $0 == 0 ? BlobChunks(all: chunks) : BlobChunks(none: chunks) }
    told = held
    asked = held.map { _ in [] }
    arrivals = held.indices.map { source in
      var generator = SeededGenerator(seed: UInt64(source))
      var order = Array(0..<chunks)
      generator.shuffle(&order)
      return order
    }
    order.count(told)
  }

  mutating func run() -> (questions: Int, counts: Int) {
    var (questions, counts, arrived) = (0, 0, 0)
    while arrived < open.count {
      for source in held.indices {
        let room = BlobFetchLimits.window - asked[source].count
        guard room > 0 else { continue }
        questions += 1
        guard let run = order.next(open: open, held: told[source], atMost: room) else { continue }
        for chunk in run { open.remove(chunk) }
        asked[source] += run
      }
      for source in held.indices where !asked[source].isEmpty {
        asked[source].removeFirst()
        for other in held.indices.dropFirst() { held[other].insert(arrivals[other][arrived]) }
        arrived += 1
        guard arrived % 64 == 0 else { continue }
        let teller = arrived / 64 % held.count
        told[teller] = held[teller]
        order.count(told)
        counts += 1
      }
    }
    return (questions, counts)
  }
}
