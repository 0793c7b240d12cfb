package import TensorKernels

/// T5's relative position bias: one learned number for each head and bucket of distances, shared by all
/// layers of a stack (Raffel et al., "Exploring the limits of transfer learning", JMLR 2020, §2.1).
///
/// Small distances have a bucket each, larger ones share buckets that grow geometrically up to
/// `maximumDistance`. An encoder splits the buckets between keys before and after the query; a decoder sees
/// no key after the query.
package struct RelativePositionBias: Sendable {
  /// The learned table, [buckets × heads].
  package let table: Parameter
  /// True in an encoder: keys after the query have buckets of their own.
  package let bidirectional: Bool
  /// Distances from here on share the last bucket.
  package let maximumDistance: Int

  /// Reads a table of [buckets × heads].
  package init(table: Parameter, bidirectional: Bool, maximumDistance: Int) {
    self.table = table
    self.bidirectional = bidirectional
    self.maximumDistance = maximumDistance
    let exact = table.rows / (bidirectional ? 4 : 2)
    precondition(
      exact >= 1 && maximumDistance > exact,
      "\(table.name): \(table.rows) buckets up to a distance of \(maximumDistance)")
  }

  /// Number of heads.
  package var heads: Int { table.columns }

  /// Number of floats of the expanded biases, and of their gradient, for sequences of up to `span` tokens.
  package func valueCount(span: Int) -> Int { heads * (2 * span - 1) }

  /// The bucket of a key at `delta` = key position − query position.
  package static func bucket(
    delta: Int, buckets: Int, bidirectional: Bool, maximumDistance: Int
  ) -> Int {
    let side = bidirectional ? buckets / 2 : buckets
    let first = bidirectional && delta > 0 ? side : 0
    let distance = bidirectional ? abs(delta) : max(0, -delta)
    let exact = side / 2
    if distance < exact { return first + distance }
    // The published formula is floor(log(distance/exact) / log(maximum/exact) · (side − exact)): the largest
    // step with (distance/exact)^(side − exact) ≥ (maximum/exact)^step. Powers need no logarithm, and are
    // exact where it matters, at distances that are powers of the ratio.
    let steps = side - exact
    let reached = power(Double(distance) / Double(exact), steps)
    let ratio = Double(maximumDistance) / Double(exact)
    var step = 0
    while step + 1 < steps && reached >= power(ratio, step + 1) { step += 1 }
    return first + exact + step
  }

  private static func power(_ base: Double, _ exponent: Int) -> Double {
    var product = 1.0
    for _ in 0..<exponent { product *= base }
    return product
  }

  /// Writes the bias of every head and distance for sequences of up to `span` tokens.
  package func expand(span: Int, into values: UnsafeMutablePointer<Float>) -> PositionBias {
    precondition(span > 0, "biases for sequences of \(span) tokens")
    let deltas = 2 * span - 1
    for index in 0..<deltas {
      let row = table.values + bucket(index: index, span: span) * heads
      for head in 0..<heads { values[head * deltas + index] = row[head] }
    }
    return PositionBias(values: values, span: span)
  }

  /// Adds the gradient of the expanded biases up into the table's, and hands that to `sink`.
  ///
  /// - Parameters:
  ///   - gradient: `valueCount(span:)` floats, the sum over all layers that share the table.
  ///   - span: as in `expand`.
  ///   - scratch: `table.count` floats.
  ///   - sink: receives the table's gradient, unless the table is frozen.
  package func backward(
    _ gradient: UnsafePointer<Float>, span: Int, scratch: UnsafeMutablePointer<Float>,
    sink: any GradientSink
  ) {
    guard table.isTrainable else { return }
    scratch.update(repeating: 0, count: table.count)
    let deltas = 2 * span - 1
    for index in 0..<deltas {
      let row = scratch + bucket(index: index, span: span) * heads
      for head in 0..<heads { row[head] += gradient[head * deltas + index] }
    }
    sink.add(scratch, of: table)
  }

  private func bucket(index: Int, span: Int) -> Int {
    Self.bucket(
      delta: index - (span - 1), buckets: table.rows, bidirectional: bidirectional,
      maximumDistance: maximumDistance)
  }
}
