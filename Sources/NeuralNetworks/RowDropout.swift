import Determinism
package import TensorKernels

/// Dropout of packed rows whose masks depend on nothing but their keys (Srivastava et al., JMLR 2014).
///
/// A mask is decided by the key of the sample, the layer, the site and the element inside the sample. So it is the
/// same in whatever micro-batch, on whatever thread or device the sample is computed, and the backward makes it
/// again instead of keeping it.
package struct RowDropout: Sendable, Equatable {
  /// Share of the values that become zero; the others grow by 1/(1 − probability).
  package var probability: Float
  /// One key for each sequence, of (seed, step, sample).
  package var keys: [UInt64]

  /// A dropout of `probability`, below 1, with a key for each sequence.
  package init(probability: Float, keys: [UInt64]) {
    precondition(probability >= 0 && probability < 1, "a dropout of \(probability)")
    self.probability = probability
    self.keys = keys
  }

  /// The key of one sequence's mask at a place of the model.
  package func key(sequence: Int, layer: Int, site: DropoutSite) -> UInt64 {
    var generator = SeededGenerator(
      seed: keys[sequence], UInt64(truncatingIfNeeded: layer), UInt64(site.rawValue))
    return generator.next()
  }

  /// Writes (or adds, when `accumulate`) the kept values of `x`, scaled, to `y`; both may be the same memory.
  package func apply(
    _ x: Matrix, into y: Matrix, sequences: PackedSequences, layer: Int, site: DropoutSite,
    accumulate: Bool = false
  ) {
    precondition(
      keys.count == sequences.count && sequences.tokens == x.rows && y.rows == x.rows,
      "\(keys.count) keys and \(x.rows) rows for \(sequences.count) sequences of \(sequences.tokens) tokens")
    for index in 0..<sequences.count {
      let (first, count) = (sequences.offsets[index], sequences.length(index))
      dropRows(
        x.rowRange(first, count: count), into: y.rowRange(first, count: count), probability: probability,
        key: key(sequence: index, layer: layer, site: site), accumulate: accumulate)
    }
  }
}

/// A place inside a layer where values are dropped.
package enum DropoutSite: UInt8, Sendable, Equatable {
  /// The rows that enter a stack's first block.
  case embedding
  /// The rows that leave a stack.
  case final
  /// What a sub-layer adds to the residual stream.
  case selfAttention, crossAttention, feedForward
  /// The activated rows of a feed-forward.
  case hidden
  /// What a low-rank pair reads, by the linear layer that it stands beside.
  case selfQuery, selfKey, selfValue, selfOutput
  case crossQuery, crossKey, crossValue, crossOutput
  case up, gate, down
  /// The weights of attention.
  case selfProbabilities, crossProbabilities
}

/// The dropouts of one block in one step.
package struct BlockDropout: Sendable, Equatable {
  /// Number of the layer, counted over all stacks.
  package var layer: Int
  /// Where a sub-layer meets the residual stream; nil or a probability of 0 drops nothing.
  package var residual: RowDropout?
  /// Behind the feed-forward's activation.
  package var hidden: RowDropout?
  /// Before low-rank pairs.
  package var lowRank: RowDropout?

  /// Dropouts of layer `layer`.
  package init(layer: Int, residual: RowDropout?, hidden: RowDropout?, lowRank: RowDropout?) {
    func used(_ dropout: RowDropout?) -> RowDropout? { dropout.flatMap { $0.probability > 0 ? $0 : nil } }
    self.layer = layer
    self.residual = used(residual)
    self.hidden = used(hidden)
    self.lowRank = used(lowRank)
  }
}

/// The dropout of one low-rank pair's input rows.
package struct LowRankDropout: Sendable {
  let dropout: RowDropout
  let sequences: PackedSequences
  let layer: Int
  let site: DropoutSite

  func key(sequence: Int) -> UInt64 { dropout.key(sequence: sequence, layer: layer, site: site) }
}

/// y (+)= x ∘ mask / (1 − probability).
func dropRows(
  _ x: Matrix, into y: Matrix, probability: Float, key: UInt64, accumulate: Bool
) {
  let threshold = UInt64(probability * 0x1p24)
  let scale = 1 / (1 - probability)
  var generator = SeededGenerator(seed: key)
  for row in 0..<x.rows {
    let source = x.base + row * x.stride
    let target = y.base + row * y.stride
    for column in 0..<x.columns {
      let kept = generator.next() >> 40 >= threshold ? scale * source[column] : 0
      target[column] = accumulate ? target[column] + kept : kept
    }
  }
}
