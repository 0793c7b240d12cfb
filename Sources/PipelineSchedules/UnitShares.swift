/// How the members of one stage divide the micro-batches among themselves.
///
/// The unit of division is a lane's micro-batch, which is computed whole by one device. Units are numbered
/// through the mini-batch; pipeline micro-batch `j` holds the units `j·n ..< (j+1)·n`, and each member takes a
/// contiguous part.
package struct UnitShares: Sendable, Equatable {
  /// Units of each member in every pipeline micro-batch.
  package let counts: [Int]
  private let starts: [Int]

  /// The division in which member `i` takes `counts[i]` units of every micro-batch.
  package init(counts: [Int]) {
    precondition(counts.allSatisfy { $0 >= 0 }, "shares \(counts) are negative")
    self.counts = counts
    var start = 0
    starts = counts.map { count in
      defer { start += count }
      return start
    }
  }

  /// Units of one pipeline micro-batch.
  package var unitsPerMicroBatch: Int { counts.reduce(0, +) }

  /// The units of a mini-batch that a member computes in one micro-batch.
  package func units(member: Int, microBatch: Int) -> Range<Int> {
    let start = microBatch * unitsPerMicroBatch + starts[member]
    return start..<start + counts[member]
  }
}
