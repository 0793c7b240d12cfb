import CKernels

// Dropout (Srivastava et al., JMLR 2014) whose mask is a function of names, not of a stream's position: the backward
// pass recomputes it, and neither the micro-batch nor the worker that a sample falls to can change it.

/// Philox4x32-10's key of one optimizer step.
///
/// Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
package struct DropoutKey: Sendable, Equatable {
  /// The generator's two key words.
  package let pair: (UInt32, UInt32)

  /// The key of step `step` of the run with that seed.
  ///
  /// The generator itself mixes the two, so that the steps of two seeds have nothing in common.
  package init(seed: UInt64, step: Int) {
    let step = UInt64(bitPattern: Int64(step))
    let mixed = philox4x32(
      counter: (UInt32(truncatingIfNeeded: step), UInt32(truncatingIfNeeded: step >> 32), 0, 0),
      key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
    pair = (mixed.0, mixed.1)
  }

  /// A key given by its words, for published vectors.
  package init(words: (UInt32, UInt32)) {
    pair = words
  }

  /// Same words.
  package static func == (a: DropoutKey, b: DropoutKey) -> Bool { a.pair == b.pair }
}

/// One block of Philox4x32-10 by its definition; the kernels compute the same for many counters at once.
package func philox4x32(
  counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)
) -> (UInt32, UInt32, UInt32, UInt32) {
  var (c, k) = (counter, key)
  for _ in 0..<10 {
    let first = c.0.multipliedFullWidth(by: 0xD251_1F53)
    let second = c.2.multipliedFullWidth(by: 0xCD9E_8D57)
    c = (second.high ^ c.1 ^ k.0, second.low, first.high ^ c.3 ^ k.1, first.low)
    k = (k.0 &+ 0x9E37_79B9, k.1 &+ 0xBB67_AE85)
  }
  return c
}

/// Dropout at one place of a model in one step.
package struct Dropout: Sendable, Equatable {
  /// The step's key.
  package let key: DropoutKey
  /// The place: two places of a model have different numbers.
  package let site: UInt32
  /// Elements whose 16 bits are under it are kept.
  package let threshold: UInt32

  /// Drops elements with probability `rate`, rounded to a multiple of 2^-16.
  ///
  /// What is kept is divided by the probability in use, so the expectation is exactly the input.
  package init(key: DropoutKey, site: UInt32, rate: Float) {
    precondition(rate >= 0 && rate < 1, "dropout with the rate \(rate)")
    self.key = key
    self.site = site
    threshold = UInt32(max(1, (65536 * (1 - rate)).rounded()))
  }

  /// The factor of a kept element.
  package var scale: Float { 65536 / Float(threshold) }

  var kernelOperand: hearth_dropout {
    hearth_dropout(key: key.pair, site: site, threshold: threshold, scale: scale)
  }
}

/// Dropout with the samples that the sequences of a micro-batch belong to.
///
/// - Safety: the creator keeps a number for each sequence at `samples` while the value is in use.
package struct SampleDropout: @unchecked Sendable {
  /// Which elements are dropped.
  package var dropout: Dropout
  /// The sample's number of each sequence.
  package var samples: UnsafePointer<Int>

  /// `dropout` over sequences that belong to `samples`.
  package init(_ dropout: Dropout, samples: UnsafePointer<Int>) {
    self.dropout = dropout
    self.samples = samples
  }
}

/// Writes `y = dropout(x)`, or adds it to `y`; `y` may be `x`.
///
/// The mask of row `i` of sample `s` depends on the key, the site, `s`, `i` and the column alone. The same call over
/// the gradient is the backward pass: the mask is computed again.
///
/// - Parameters:
///   - x: packed rows.
///   - dropout: which elements, and the sample's number of each sequence.
///   - sequences: extents of the rows.
///   - y: as many rows and columns as `x`.
///   - accumulate: adds to `y` instead of writing it.
///   - set: kernel set; every one gives the same bits.
package func applyDropout(
  _ x: Matrix, _ dropout: SampleDropout, sequences: PackedSequences, into y: Matrix, accumulate: Bool = false,
  using set: KernelSet = .best
) {
  checkSameShape(x, y)
  precondition(x.rows == sequences.tokens, "dropout of \(x.rows) rows over \(sequences.tokens) tokens")
  var operand = dropout.dropout.kernelOperand
  for sequence in 0..<sequences.count {
    let sample = UInt32(truncatingIfNeeded: dropout.samples[sequence])
    let first = sequences.offsets[sequence]
    for row in 0..<sequences.length(sequence) {
      set.kernels.pointee.dropout(
        &operand, sample, UInt32(row), x.base + (first + row) * x.stride, y.base + (first + row) * y.stride,
        x.columns, accumulate)
    }
  }
}

/// The 16 bits that decide each of 64 neighbouring elements of a row, for tests against published vectors.
package func dropoutBits(
  _ dropout: Dropout, sample: UInt32, row: UInt32, block: UInt32, using set: KernelSet = .best
) -> [UInt16] {
  var operand = dropout.kernelOperand
  return [UInt16](unsafeUninitializedCapacity: 64) { bits, count in
    if let base = bits.baseAddress { set.kernels.pointee.dropout_bits(&operand, sample, row, block, base) }
    count = 64
  }
}
