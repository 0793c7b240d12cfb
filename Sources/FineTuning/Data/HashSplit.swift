import CryptoPrimitives
import Determinism

/// Training rows and held-out rows of one file.
package struct DataSplit: Sendable, Equatable {
  /// Rows to learn from, in the order of the file.
  package var training: [LabelledText]
  /// Rows to measure on, in the order of the file.
  package var validation: [LabelledText]
}

/// Holds out about `fraction` of the rows, chosen by a hash of their texts.
///
/// A row's side depends on its text, its pair and `seed` only: not on its place, its label or the other rows. Rows
/// may be added or reordered without moving the rest, and identical texts never stand on both sides.
///
/// - Parameter fraction: the share to hold out, 0 ..< 1; 0 holds out nothing.
package func splitByHash(
  _ examples: [LabelledText], validationFraction fraction: Double, seed: UInt64 = 0
) throws(DataFailure) -> DataSplit {
  precondition(fraction >= 0 && fraction < 1, "a held-out share of \(fraction) is outside 0 ..< 1")
  var split = DataSplit(training: [], validation: [])
  for example in examples {
    // 53 bits are what a Double holds exactly.
    let place = Double(splitHash(of: example, seed: seed) >> 11) * 0x1p-53
    if place < fraction { split.validation.append(example) } else { split.training.append(example) }
  }
  if split.training.isEmpty || (fraction > 0 && split.validation.isEmpty) {
    throw .emptySplit(rows: examples.count, fraction: fraction)
  }
  return split
}

/// `count` of the rows drawn without replacement, in the order of the file; all of them when there are no more.
package func subset(of examples: [LabelledText], count: Int, seed: UInt64) -> [LabelledText] {
  precondition(count >= 0, "a subset of \(count) rows")
  guard count < examples.count else { return examples }
  var generator = SeededGenerator(seed: seed)
  var places = Array(examples.indices)
  generator.shuffle(&places)
  return places.prefix(count).sorted().map { examples[$0] }
}

/// At most `count` rows, those whose hashes come first, in the order of the file.
///
/// The choice depends on the rows' texts alone: a larger `count` only adds rows.
package func firstByHash(_ examples: [LabelledText], count: Int) -> [LabelledText] {
  precondition(count > 0, "a choice of \(count) rows")
  guard count < examples.count else { return examples }
  let order = examples.indices.map { (splitHash(of: examples[$0], seed: rowOrderSeed), $0) }.sorted {
    $0 < $1
  }
  return order.prefix(count).map(\.1).sorted().map { examples[$0] }
}

/// Another seed than a split's, so that a choice does not take one side of it first.
private let rowOrderSeed: UInt64 = 0x726F_7773

/// The first 8 bytes of BLAKE2b over seed, text and pair, each with its length so that no two rows run together.
private func splitHash(of example: LabelledText, seed: UInt64) -> UInt64 {
  var hasher = ContentHasher()
  hasher.update(seed)
  hasher.update(example.text)
  if let pair = example.pair { hasher.update(pair) }
  return hasher.finalize().bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
}
