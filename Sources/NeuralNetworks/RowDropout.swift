package import TensorKernels

/// Dropout of packed rows in one step, for the samples of one micro-batch (Srivastava et al., JMLR 2014).
///
/// A mask is decided by the step, the sample, the layer, the site and the element inside the sample. So it is the
/// same in whatever micro-batch, on whatever thread or device the sample is computed, and the backward makes it
/// again instead of keeping it.
package struct RowDropout: Sendable, Equatable {
  /// Share of the values that become zero; the others grow by 1/(1 − rate).
  package var rate: Float
  /// The step's key.
  package var key: DropoutKey
  /// The sample's number of each sequence.
  package var samples: [Int]

  /// A dropout of `rate`, below 1.
  package init(rate: Float, key: DropoutKey, samples: [Int]) {
    precondition(rate >= 0 && rate < 1, "a dropout of \(rate)")
    self.rate = rate
    self.key = key
    self.samples = samples
  }

  /// The numbers of one place of the model.
  func dropout(layer: Int, site: DropoutSite) -> Dropout {
    Dropout(
      key: key, site: UInt32(truncatingIfNeeded: layer) << 5 | UInt32(site.rawValue), rate: rate)
  }

  /// Writes (or adds, when `accumulate`) the kept values of `x`, scaled, to `y`; both may be the same memory.
  package func apply(
    _ x: Matrix, into y: Matrix, sequences: PackedSequences, layer: Int, site: DropoutSite,
    accumulate: Bool = false
  ) {
    with(layer: layer, site: site, sequences: sequences) {
      applyDropout(x, $0, sequences: sequences, into: y, accumulate: accumulate)
    }
  }

  /// The same for one sequence alone.
  func apply(
    _ x: Matrix, into y: Matrix, sequence: Int, layer: Int, site: DropoutSite, accumulate: Bool
  ) {
    samples.withUnsafeBufferPointer { samples in
      guard let base = samples.baseAddress else { return }
      applyDropout(
        x, SampleDropout(dropout(layer: layer, site: site), samples: base + sequence),
        sequences: PackedSequences(lengths: [x.rows]), into: y, accumulate: accumulate)
    }
  }

  /// Calls `body` with the kernels' form of the dropout at a place.
  func with(layer: Int, site: DropoutSite, sequences: PackedSequences, _ body: (SampleDropout) -> Void) {
    precondition(
      samples.count == sequences.count, "\(samples.count) samples for \(sequences.count) sequences")
    samples.withUnsafeBufferPointer { samples in
      guard let base = samples.baseAddress else { return }
      body(SampleDropout(dropout(layer: layer, site: site), samples: base))
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
  /// Of the weights of attention.
  package var attention: RowDropout?
  /// Before low-rank pairs.
  package var lowRank: RowDropout?

  /// Dropouts of layer `layer`.
  package init(
    layer: Int, residual: RowDropout?, hidden: RowDropout?, attention: RowDropout?, lowRank: RowDropout?
  ) {
    func used(_ dropout: RowDropout?) -> RowDropout? { dropout.flatMap { $0.rate > 0 ? $0 : nil } }
    self.layer = layer
    self.attention = used(attention)
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

  func apply(_ x: Matrix, into y: Matrix, sequence: Int, accumulate: Bool) {
    dropout.apply(x, into: y, sequence: sequence, layer: layer, site: site, accumulate: accumulate)
  }
}
