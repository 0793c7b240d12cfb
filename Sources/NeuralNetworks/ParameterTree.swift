import TensorKernels

/// Ordered, named leaves: trainable ones live in one flat vector, frozen ones are borrowed.
///
/// The order of declaration is the order of the vector, so that a digest, an optimizer state or a file of the
/// vector means the same everywhere. Every leaf starts at a multiple of 16 floats (a cache line); the gaps
/// stay zero. Leaves whose sizes are multiples of 16 therefore follow each other without a gap, which lets
/// query, key and value be one matrix product.
package struct ParameterTree: Sendable {
  /// Trainable leaves in the order of the flat vector, then frozen leaves in the order given.
  package let parameters: [Parameter]
  /// Number of floats of the flat vector, with the gaps between leaves.
  package let vectorCount: Int
  /// Ranges that cover `0 ..< vectorCount` in order, each with or without weight decay.
  package let decayRanges: [DecayRange]

  private let storage: Arena
  private let indices: [String: Int]

  /// A part of the flat vector with one rule of weight decay.
  package struct DecayRange: Sendable, Equatable {
    /// Indices of the flat vector.
    package var range: Range<Int>
    /// True when weight decay applies.
    package var decays: Bool
  }

  /// Lays out and fills the trainable leaves.
  ///
  /// - Parameters:
  ///   - trainable: the leaves of the flat vector, in order; names must differ.
  ///   - frozen: leaves owned by somebody else, which must outlive the tree.
  ///   - initialize: called once a trainable leaf, in order, with its index and its zeroed values.
  package init(
    trainable: [ParameterShape], frozen: [Parameter] = [],
    initialize: (_ index: Int, _ values: UnsafeMutableBufferPointer<Float>) -> Void
  ) {
    var offsets: [Int] = []
    var end = 0
    for shape in trainable {
      offsets.append(end)
      end += Self.room(for: shape.count)
    }
    vectorCount = end
    storage = Arena(floatCount: max(end, 16))
    var leaves: [Parameter] = []
    for (shape, offset) in zip(trainable, offsets) {
      leaves.append(
        Parameter(
          name: shape.name, rows: shape.rows, columns: shape.columns, values: storage.base + offset,
          gradientOffset: offset, decays: shape.kind == .weight))
      initialize(
        leaves.count - 1,
        UnsafeMutableBufferPointer(start: storage.base + offset, count: shape.count))
    }
    for leaf in frozen {
      precondition(!leaf.isTrainable, "\(leaf.name) is trainable in another tree")
      leaves.append(leaf)
    }
    parameters = leaves
    decayRanges = Self.decayRanges(leaves.prefix(trainable.count), end: end)
    var indices: [String: Int] = [:]
    for (index, leaf) in leaves.enumerated() {
      precondition(indices.updateValue(index, forKey: leaf.name) == nil, "two parameters named \(leaf.name)")
    }
    self.indices = indices
  }

  /// Floats of the flat vector that a leaf of `count` takes: the gap behind it too, whose floats and sums are zero.
  package static func room(for count: Int) -> Int { (count + 15) / 16 * 16 }

  /// Number of trainable values, without the gaps of the flat vector.
  package var trainableCount: Int {
    parameters.reduce(0) { $0 + ($1.isTrainable ? $1.count : 0) }
  }

  /// The flat vector of all trainable values.
  package var vector: UnsafeMutablePointer<Float> { storage.base }

  /// Has a file hold the flat vector in place of memory; see `Arena.back`.
  package func back(
    by exchange: (UnsafeMutableRawBufferPointer) throws -> @Sendable (Range<Int>) -> Void
  ) rethrows { try storage.back(by: exchange) }

  /// Lets pages of a part of the flat vector leave memory, if a file holds them; the values stay.
  package func releasePages(_ part: Range<Int>) { storage.releasePages(part) }

  /// Gives up the memory of a part of the flat vector that nobody reads again.
  package func discard(_ part: Range<Int>) { storage.discard(part) }

  /// Gives the flat vector's bytes from the first to the last, in pieces that leave memory behind them if a file holds them.
  package func forEachPiece(_ body: (UnsafeRawBufferPointer) throws -> Void) rethrows {
    for start in Swift.stride(from: 0, to: vectorCount, by: Self.pieceFloats) {
      let piece = start..<min(start + Self.pieceFloats, vectorCount)
      try body(UnsafeRawBufferPointer(UnsafeBufferPointer(start: vector + start, count: piece.count)))
      releasePages(piece)
    }
  }

  /// Floats of a piece: 4 MiB, whole pages of any system.
  private static let pieceFloats = 1 << 20

  /// The leaf of that name, if there is one.
  package func parameter(named name: String) -> Parameter? {
    indices[name].map { parameters[$0] }
  }

  /// The leaf of that name, which must exist.
  package subscript(name: String) -> Parameter {
    guard let leaf = parameter(named: name) else {
      preconditionFailure("no parameter named \(name) among \(parameters.count)")
    }
    return leaf
  }

  private static func decayRanges(_ leaves: ArraySlice<Parameter>, end: Int) -> [DecayRange] {
    var ranges: [DecayRange] = []
    for (position, leaf) in leaves.enumerated() {
      guard let start = leaf.gradientOffset else { continue }
      let next = position + 1 < leaves.count ? leaves[position + 1].gradientOffset ?? end : end
      if let last = ranges.last, last.decays == leaf.decays {
        ranges[ranges.count - 1].range = last.range.lowerBound..<next
      } else {
        ranges.append(DecayRange(range: start..<next, decays: leaf.decays))
      }
    }
    return ranges
  }
}
