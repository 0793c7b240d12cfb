/// How a vector is divided among the members of a ring: as many consecutive chunks as members.
///
/// Chunk `c` is member `c`'s to finish in a reduce-scatter (Patarasuk and Yuan 2009, §3). Boundaries fall on multiples
/// of `alignment`, so that a chunk is added with whole vector registers.
package struct RingChunks: Sendable, Equatable {
  /// Elements of the vector.
  package let count: Int
  /// Members of the ring, and chunks.
  package let members: Int
  /// Every chunk but the last begins and ends on a multiple of this.
  package let alignment: Int
  /// Where chunks begin, and the end of the last.
  private let boundaries: [Int]

  /// Divides `count` elements evenly among `members`.
  package init(count: Int, members: Int, alignment: Int = 64) {
    precondition(members > 0, "\(count) elements for \(members) members")
    self.init(count: count, weights: [Int](repeating: 1, count: members), alignment: alignment)
  }

  /// Divides `count` elements in proportion to `weights`, one a member; a member of weight 0 has an empty chunk.
  package init(count: Int, weights: [Int], alignment: Int = 64) {
    let total = weights.reduce(0, +)
    precondition(
      count >= 0 && alignment > 0 && total > 0 && weights.allSatisfy { $0 >= 0 },
      "\(count) elements for members of weights \(weights) in steps of \(alignment)")
    self.count = count
    self.members = weights.count
    self.alignment = alignment
    let blocks = (count + alignment - 1) / alignment
    var boundaries = [0]
    var before = 0
    for weight in weights {
      before += weight
      boundaries.append(min(count, blocks * before / total * alignment))
    }
    self.boundaries = boundaries
  }

  /// The elements of a chunk; empty when the vector is too short for all members.
  package func range(_ chunk: Int) -> Range<Int> {
    precondition(0..<members ~= chunk, "chunk \(chunk) of \(members)")
    return boundaries[chunk]..<boundaries[chunk + 1]
  }

  /// Elements that a member sends to its successor in one whole reduction.
  ///
  /// It sends every chunk but its own while sums grow, and every chunk but its successor's while they are handed round:
  /// `2(n-1)/n` of the vector where chunks are equal, the least that any all-reduce can do (Patarasuk and Yuan 2009,
  /// "Bandwidth optimal all-reduce algorithms for clusters of workstations", J. Parallel Distrib. Comput. 69, Theorem 1).
  package func elementsSent(by place: Int) -> Int {
    guard members > 1 else { return 0 }
    return 2 * count - range(place).count - range((place + 1) % members).count
  }

  /// Elements that a member receives from its predecessor in one whole reduction.
  package func elementsReceived(by place: Int) -> Int { elementsSent(by: (place + members - 1) % members) }
}
