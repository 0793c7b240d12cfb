import Collectives
import Determinism
import Testing

@Suite("Ring reduction")
struct RingReductionTests {
  @Test(
    "gives every member the plain sum over links of random latency, and sends the bytes of the closed form",
    arguments: [1, 2, 3, 5, 8], [0, 1, 7, 64, 130, 1_000, 4_099])
  func sums(members: Int, count: Int) throws {
    for seed in UInt64(0)..<40 {
      var generator = SeededGenerator(seed: seed, 2)
      let piece = 1 + generator.uniform(below: 200)
      let window = 1 + generator.uniform(below: 8)
      let alignment = [1, 4, 64][generator.uniform(below: 3)]
      let chunks = RingChunks(count: count, members: members, alignment: alignment)
      let vectors = randomVectors(members: members, count: count, seed: seed)
      var simulation = RingSimulation(
        seed: seed, vectors: vectors, chunks: chunks, piece: piece, window: window)
      try simulation.run()
      let sum = plainSum(vectors)
      for member in 0..<members {
        #expect(simulation.vectors[member] == sum, "seed \(seed), member \(member)")
        #expect(simulation.sent[member] == chunks.elementsSent(by: member), "seed \(seed), member \(member)")
        #expect(simulation.finishes[member] == 1, "seed \(seed), member \(member)")
      }
    }
  }

  @Test("sums vectors whose chunks are as unequal as can be", arguments: [2, 3, 5, 8])
  func unevenChunks(members: Int) throws {
    for seed in UInt64(0)..<200 {
      var generator = SeededGenerator(seed: seed, 3)
      var weights = (0..<members).map { _ in max(0, generator.uniform(below: 40) - 20) }
      weights[generator.uniform(below: members)] += 1
      let count = generator.uniform(below: 3_000)
      let chunks = RingChunks(count: count, weights: weights, alignment: 1)
      let vectors = randomVectors(members: members, count: count, seed: seed)
      var simulation = RingSimulation(
        seed: seed, vectors: vectors, chunks: chunks, piece: 1 + generator.uniform(below: 30),
        window: 1 + generator.uniform(below: 3))
      try simulation.run()
      let sum = plainSum(vectors)
      #expect(simulation.vectors.allSatisfy { $0 == sum }, "seed \(seed), weights \(weights)")
    }
  }

  @Test("takes pieces that overtake each other, as long as each could have been sent")
  func overtaking() throws {
    for seed in UInt64(0)..<200 {
      let members = [2, 3, 5, 8][Int(seed % 4)]
      let vectors = randomVectors(members: members, count: 700, seed: seed)
      var simulation = RingSimulation(
        seed: seed, vectors: vectors, chunks: RingChunks(count: 700, members: members), piece: 10, window: 4)
      try simulation.run(reordering: true)
      let sum = plainSum(vectors)
      #expect(simulation.vectors.allSatisfy { $0 == sum }, "seed \(seed)")
    }
  }

  @Test(
    "sends 2(n-1)/n of the vector a member (Patarasuk and Yuan 2009, Theorem 1)", arguments: [2, 3, 5, 8])
  func closedForm(members: Int) {
    let count = members * 64 * 10
    let chunks = RingChunks(count: count, members: members)
    for place in 0..<members {
      #expect(chunks.elementsSent(by: place) == 2 * (members - 1) * count / members)
      #expect(chunks.elementsReceived(by: place) == chunks.elementsSent(by: place))
    }
    // However uneven: in all, each element crosses 2(n-1) links.
    let uneven = RingChunks(count: 1_001, weights: (0..<members).map { $0 * $0 }, alignment: 1)
    let total = (0..<members).reduce(0) { $0 + uneven.elementsSent(by: $1) }
    #expect(total == 2 * (members - 1) * 1_001)
  }

  @Test("has at most members times the window of messages between members")
  func messagesInFlight() throws {
    for seed in UInt64(0)..<50 {
      let members = [2, 3, 5, 8][Int(seed % 4)]
      let window = 1 + Int(seed) / 10
      // Chunks of equally many pieces, which need no wider window.
      let vectors = randomVectors(members: members, count: members * 640, seed: seed)
      var simulation = RingSimulation(
        seed: seed, vectors: vectors, chunks: RingChunks(count: members * 640, members: members), piece: 16,
        window: window)
      try simulation.run()
      #expect(simulation.mostInFlight <= members * window, "seed \(seed)")
    }
  }

  @Test("names the pieces in the order in which a link that keeps order brings them", arguments: [2, 3, 5])
  func expectedOrder(members: Int) throws {
    let chunks = RingChunks(count: 500, members: members, alignment: 8)
    let senders = (0..<members).map { RingReduction(place: $0, chunks: chunks, piece: 30, window: 2) }
    var rings = senders
    var links = [[RingPiece]](repeating: [], count: members)
    func pieces(_ effects: [RingEffect]) -> [RingPiece] {
      effects.compactMap { if case .send(let piece, _) = $0 { piece } else { nil } }
    }
    for member in 0..<members { links[rings[member].successor] += pieces(rings[member].start()) }
    while let receiver = links.indices.first(where: { !links[$0].isEmpty }) {
      let piece = links[receiver].removeFirst()
      #expect(rings[receiver].awaited == piece)
      #expect(rings[receiver].piece(piece.phase, part: piece.part) == piece)
      let effects = try rings[receiver].received(piece, elements: rings[receiver].range(piece).count)
      links[rings[receiver].successor] += pieces(effects)
    }
    #expect(rings.allSatisfy { $0.isFinished && $0.awaited == nil })
  }

  @Test("a member alone has finished at once")
  func alone() {
    var ring = RingReduction(place: 0, chunks: RingChunks(count: 100, members: 1), piece: 10)
    #expect(ring.awaited == nil)
    #expect(ring.start() == [.finished])
    #expect(ring.isFinished)
    #expect(ring.chunks.elementsSent(by: 0) == 0)
    let piece = RingPiece(.allGather, hop: 0, chunk: 0, piece: 0)
    #expect(failure(of: &ring, piece, 10) == .unknownChunk(piece, expected: nil))
  }

  @Test("follows the paper's walk of chunks: member 1 of 3 grows chunks 0 and 2 and finishes its own")
  func walk() throws {
    var ring = RingReduction(place: 1, chunks: RingChunks(count: 9, members: 3, alignment: 1), piece: 3)
    #expect(ring.start() == [.send(RingPiece(.reduceScatter, hop: 0, chunk: 0, piece: 0), range: 0..<3)])
    #expect(
      try ring.received(RingPiece(.reduceScatter, hop: 0, chunk: 2, piece: 0), elements: 3) == [
        .add(range: 6..<9), .send(RingPiece(.reduceScatter, hop: 1, chunk: 2, piece: 0), range: 6..<9),
      ])
    #expect(
      try ring.received(RingPiece(.reduceScatter, hop: 1, chunk: 1, piece: 0), elements: 3) == [
        .add(range: 3..<6), .send(RingPiece(.allGather, hop: 0, chunk: 1, piece: 0), range: 3..<6),
      ])
    #expect(
      try ring.received(RingPiece(.allGather, hop: 0, chunk: 0, piece: 0), elements: 3) == [
        .store(range: 0..<3), .send(RingPiece(.allGather, hop: 1, chunk: 0, piece: 0), range: 0..<3),
      ])
    #expect(
      try ring.received(RingPiece(.allGather, hop: 1, chunk: 2, piece: 0), elements: 3) == [
        .store(range: 6..<9), .finished,
      ])
  }
}

/// What a message is refused with; it must leave the ring as it was.
private func failure(of ring: inout RingReduction, _ piece: RingPiece, _ elements: Int) -> RingFailure? {
  let before = ring.awaited
  do throws(RingFailure) {
    _ = try ring.received(piece, elements: elements)
    return nil
  } catch {
    return ring.awaited == before && error.description.hasSuffix("the step cannot go on") ? error : nil
  }
}

@Suite("Ring reduction, messages outside the rules")
struct RingRefusalTests {
  private func started() -> RingReduction {
    var ring = RingReduction(
      place: 1, chunks: RingChunks(count: 30, members: 3, alignment: 1), piece: 4)
    _ = ring.start()
    return ring
  }

  @Test("an unknown hop, chunk, piece or length is refused, and the ring goes on as if it had not come")
  func unknown() throws {
    var ring = started()
    for hop in [-1, 2, .max] {
      let piece = RingPiece(.reduceScatter, hop: hop, chunk: 2, piece: 0)
      #expect(failure(of: &ring, piece, 4) == .unknownChunk(piece, expected: nil))
    }
    for chunk in [-1, 0, 1, 3, .max] {
      let piece = RingPiece(.reduceScatter, hop: 0, chunk: chunk, piece: 0)
      #expect(failure(of: &ring, piece, 4) == .unknownChunk(piece, expected: 2))
    }
    for number in [-1, 3, .max] {
      let piece = RingPiece(.reduceScatter, hop: 0, chunk: 2, piece: number)
      #expect(failure(of: &ring, piece, 4) == .unknownPiece(piece, pieces: 3))
    }
    for (number, elements, expected) in [(0, 3, 4), (0, 5, 4), (2, 4, 2), (2, 0, 2)] {
      let piece = RingPiece(.reduceScatter, hop: 0, chunk: 2, piece: number)
      #expect(
        failure(of: &ring, piece, elements) == .wrongLength(piece, elements: elements, expected: expected))
    }
    #expect(ring.piece(.reduceScatter, part: 3) == nil)
    #expect(ring.piece(.reduceScatter, part: .max) == nil)
    let good = RingPiece(.reduceScatter, hop: 0, chunk: 2, piece: 2)
    #expect(try ring.received(good, elements: 2).first == .add(range: 28..<30))
  }

  @Test("a piece that comes twice is refused, in its phase and later")
  func repeated() throws {
    var ring = started()
    let piece = RingPiece(.reduceScatter, hop: 0, chunk: 2, piece: 0)
    _ = try ring.received(piece, elements: 4)
    #expect(failure(of: &ring, piece, 4) == .repeated(piece))
    let final = RingPiece(.allGather, hop: 1, chunk: 2, piece: 0)
    _ = try ring.received(final, elements: 4)
    #expect(failure(of: &ring, final, 4) == .repeated(final))
    #expect(failure(of: &ring, piece, 4) == .repeated(piece))
  }

  @Test("a finished piece without this member's sums is refused")
  func early() throws {
    var ring = started()
    let piece = RingPiece(.allGather, hop: 1, chunk: 2, piece: 0)
    #expect(failure(of: &ring, piece, 4) == .early(piece))
    // The own first chunk left whole at the start, so it may come back.
    #expect(
      try ring.received(RingPiece(.allGather, hop: 0, chunk: 0, piece: 1), elements: 4).first
        == .store(range: 4..<8))
  }

  @Test("random messages never break a ring: what it takes is what it still lacked")
  func randomMessages() {
    for seed in UInt64(0)..<100 {
      var generator = SeededGenerator(seed: seed)
      var ring = started()
      var taken: Set<RingPiece> = []
      for _ in 0..<2_000 {
        let piece = RingPiece(
          RingPhase.allCases[generator.uniform(below: 2)], hop: generator.uniform(below: 4) - 1,
          chunk: generator.uniform(below: 5) - 1, piece: generator.uniform(below: 5) - 1)
        guard let effects = try? ring.received(piece, elements: generator.uniform(below: 2) == 0 ? 4 : 2)
        else { continue }
        #expect(taken.insert(piece).inserted, "seed \(seed)")
        #expect(!effects.isEmpty, "seed \(seed)")
      }
      #expect(ring.isFinished == (taken.count == 12), "seed \(seed)")
    }
  }
}
