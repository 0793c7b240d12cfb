/// The extents of token-packed sequences: sequence `i` is rows `offsets[i] ..< offsets[i + 1]`.
///
/// Nothing is padded: a micro-batch of lengths 3, 7 and 2 is 12 rows (docs/ARCHITECTURE.md).
package struct PackedSequences: Sendable, Equatable {
  /// `count + 1` ascending row offsets, starting at 0.
  package let offsets: [Int]
  /// Length of the longest sequence; 0 when there is none.
  package let longest: Int

  /// Packs sequences of the given lengths one after another; every length must be positive.
  package init(lengths: [Int]) {
    var offsets = [0]
    offsets.reserveCapacity(lengths.count + 1)
    var longest = 0
    for length in lengths {
      precondition(length > 0, "a packed sequence needs at least one token, not \(length)")
      offsets.append(offsets[offsets.count - 1] + length)
      longest = max(longest, length)
    }
    self.offsets = offsets
    self.longest = longest
  }

  /// Number of sequences.
  package var count: Int { offsets.count - 1 }
  /// Number of rows of all sequences together.
  package var tokens: Int { offsets[offsets.count - 1] }
  /// Number of rows of sequence `index`.
  package func length(_ index: Int) -> Int { offsets[index + 1] - offsets[index] }
}
