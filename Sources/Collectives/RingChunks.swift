/// How a vector is divided among the members of a ring: as many consecutive chunks as members, near even.
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

  /// Divides `count` elements among `members`.
  package init(count: Int, members: Int, alignment: Int = 64) {
    precondition(
      count >= 0 && members > 0 && alignment > 0,
      "\(count) elements for \(members) members in steps of \(alignment)")
    self.count = count
    self.members = members
    self.alignment = alignment
  }

  /// The elements of a chunk; empty when the vector is too short for all members.
  package func range(_ chunk: Int) -> Range<Int> {
    precondition(0..<members ~= chunk, "chunk \(chunk) of \(members)")
    return boundary(chunk)..<boundary(chunk + 1)
  }

  private func boundary(_ chunk: Int) -> Int {
    let blocks = (count + alignment - 1) / alignment
    return min(count, (blocks * chunk / members) * alignment)
  }
}
