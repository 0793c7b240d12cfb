import Collectives
import Determinism

/// Members of a ring that exchange through links of random latency which keep order, in virtual time.
struct RingSimulation {
  enum Trouble: Error, CustomStringConvertible {
    case stuck(seed: UInt64, members: Int, count: Int)

    var description: String {
      switch self {
      case .stuck(let seed, let members, let count):
        "seed \(seed): \(members) members wait for each other over \(count) elements"
      }
    }
  }

  private struct Delivery {
    var time: Int
    var number: Int
    var piece: RingPiece
    var elements: [Int64]
  }

  let seed: UInt64
  private(set) var vectors: [[Int64]]
  private(set) var rings: [RingReduction]
  /// Elements that each member has sent.
  private(set) var sent: [Int]
  /// The most messages that were between members at once.
  private(set) var mostInFlight = 0
  /// How often each member was told that it has finished.
  private(set) var finishes: [Int]
  private var links: [[Delivery]]
  private var generator: SeededGenerator
  private var now = 0
  private var deliveries = 0

  init(seed: UInt64, vectors: [[Int64]], chunks: RingChunks, piece: Int, window: Int) {
    self.seed = seed
    self.vectors = vectors
    rings = vectors.indices.map { RingReduction(place: $0, chunks: chunks, piece: piece, window: window) }
    sent = vectors.map { _ in 0 }
    finishes = sent
    links = vectors.map { _ in [] }
    generator = SeededGenerator(seed: seed)
  }

  /// Runs until nothing is under way.
  ///
  /// - Parameter reordering: messages of a link may overtake each other when the receiver's rules allow it.
  mutating func run(reordering: Bool = false) throws {
    for member in rings.indices { perform(rings[member].start(), by: member, message: []) }
    while let (receiver, index) = earliest(reordering: reordering) {
      let delivery = links[receiver].remove(at: index)
      now = max(now, delivery.time)
      let result = Result { () throws(RingFailure) in
        try rings[receiver].received(delivery.piece, elements: delivery.elements.count)
      }
      if reordering, case .failure(.early) = result {
        links[receiver].append(delivery)
        links[receiver][links[receiver].count - 1].time = now + 1
      } else {
        perform(try result.get(), by: receiver, message: delivery.elements)
      }
    }
    guard rings.allSatisfy(\.isFinished) else {
      throw Trouble.stuck(seed: seed, members: rings.count, count: vectors[0].count)
    }
  }

  private mutating func perform(_ effects: [RingEffect], by member: Int, message: [Int64]) {
    for effect in effects {
      switch effect {
      case .send(let piece, let range):
        sent[member] += range.count
        deliveries += 1
        links[rings[member].successor].append(
          Delivery(
            time: now + generator.uniform(below: 1_000), number: deliveries, piece: piece,
            elements: Array(vectors[member][range])))
        mostInFlight = max(mostInFlight, links.reduce(0) { $0 + $1.count })
      case .add(let range):
        for (offset, element) in zip(range, message) { vectors[member][offset] &+= element }
      case .store(let range): vectors[member].replaceSubrange(range, with: message)
      case .finished: finishes[member] += 1
      }
    }
  }

  /// The receiver and index of what arrives next: the first of a link, or any when messages overtake.
  private func earliest(reordering: Bool) -> (Int, Int)? {
    var place: (Int, Int)?
    var key = (Int.max, Int.max)
    for (receiver, link) in links.enumerated() {
      for (index, delivery) in (reordering ? link[...] : link.prefix(1)).enumerated() {
        guard (delivery.time, delivery.number) < key else { continue }
        key = (delivery.time, delivery.number)
        place = (receiver, index)
      }
    }
    return place
  }
}

/// Vectors of random integers of all magnitudes, so that sums wrap round now and then.
func randomVectors(members: Int, count: Int, seed: UInt64) -> [[Int64]] {
  var generator = SeededGenerator(seed: seed, 1)
  return (0..<members).map { _ in (0..<count).map { _ in Int64(bitPattern: generator.next()) } }
}

/// The plain sum, element by element.
func plainSum(_ vectors: [[Int64]]) -> [Int64] {
  vectors.dropFirst().reduce(vectors[0]) { sum, vector in zip(sum, vector).map { $0 &+ $1 } }
}
