package import ActivationCache
package import TensorKernels

/// What a sample is trained towards.
package enum TrainingTarget: Sendable, Equatable {
  /// Index of the class.
  case label(Int32)
  /// Value of the regression.
  case value(Float)
  /// Token ids that the decoder has to produce, in order.
  case tokens([Int32])
  /// Nothing: the sample is only predicted.
  case none
}

/// One text as token ids, with its target.
package struct TrainingSample: Sendable, Equatable {
  /// Token ids of the encoder's input.
  package var encoderIDs: [Int32]
  /// Segment of each encoder token (BERT), or zeros.
  package var encoderTypes: [Int32]
  /// Token ids of the decoder's input; empty for an encoder-only backbone.
  package var decoderIDs: [Int32]
  /// What it is trained towards.
  package var target: TrainingTarget

  /// A sample from its ids.
  package init(encoderIDs: [Int32], encoderTypes: [Int32], decoderIDs: [Int32], target: TrainingTarget) {
    self.encoderIDs = encoderIDs
    self.encoderTypes = encoderTypes
    self.decoderIDs = decoderIDs
    self.target = target
  }

  /// Tokens of all stacks, the measure of its work.
  package var tokens: Int { encoderIDs.count + decoderIDs.count }
}

/// A micro-batch ready to compute: token-packed ids, targets and cache keys, built once for a whole run.
package struct PackedMicroBatch: Sendable {
  /// Number of the micro-batch among all of a run, for tables made once; −1 when it is in none.
  package let ordinal: Int
  /// The samples, as indices into the data set, in packing order.
  package let samples: [Int]
  /// Encoder token ids of all samples, one after another.
  package let encoderIDs: [Int32]
  /// Segment of each encoder token.
  package let encoderTypes: [Int32]
  /// Where each sample's encoder tokens are.
  package let encoder: PackedSequences
  /// Decoder token ids, empty for an encoder-only backbone.
  package let decoderIDs: [Int32]
  /// Where each sample's decoder tokens are; nil for an encoder-only backbone.
  package let decoder: PackedSequences?
  /// Class or token targets: one a sample, or one a decoder token; −1 where there is none.
  package let labels: [Int32]
  /// Regression targets, one a sample; 0 where there is none.
  package let values: [Float]
  /// Cache key of each sample.
  package let keys: [SampleKey]

  /// Packs the given samples of `dataset`.
  package init(samples: [Int], of dataset: [TrainingSample], ordinal: Int = -1) {
    precondition(!samples.isEmpty, "a micro-batch needs a sample")
    self.ordinal = ordinal
    let chosen = samples.map { dataset[$0] }
    self.samples = samples
    encoderIDs = chosen.flatMap(\.encoderIDs)
    encoderTypes = chosen.flatMap(\.encoderTypes)
    encoder = PackedSequences(lengths: chosen.map(\.encoderIDs.count))
    decoderIDs = chosen.flatMap(\.decoderIDs)
    decoder = decoderIDs.isEmpty ? nil : PackedSequences(lengths: chosen.map(\.decoderIDs.count))
    labels = chosen.flatMap { sample -> [Int32] in
      switch sample.target {
      case .label(let label): [label]
      case .tokens(let tokens): tokens
      case .value, .none: [-1]
      }
    }
    units = chosen.reduce(0) { sum, sample in
      if case .tokens(let tokens) = sample.target { sum + tokens.count } else { sum + 1 }
    }
    values = chosen.map { sample in
      if case .value(let value) = sample.target { value } else { 0 }
    }
    keys = chosen.map {
      SampleKey(encoderIDs: $0.encoderIDs, types: $0.encoderTypes, decoderIDs: $0.decoderIDs)
    }
  }

  /// Number of losses that the micro-batch sums over: its samples, or its decoder tokens when those are the targets.
  package let units: Int

  /// Tokens of all stacks, the measure of a micro-batch's work.
  package var tokens: Int { encoder.tokens + (decoder?.tokens ?? 0) }
}

/// The largest micro-batch of a run: what buffers are sized for, before the run.
package struct MicroBatchCapacity: Sendable, Equatable {
  /// Most sequences.
  package var sequences = 0
  /// Most encoder tokens.
  package var encoderTokens = 0
  /// Longest encoder sequence.
  package var longestEncoder = 0
  /// Most decoder tokens; 0 for an encoder-only backbone.
  package var decoderTokens = 0
  /// Longest decoder sequence.
  package var longestDecoder = 0

  /// The capacity that fits every given micro-batch.
  package init(_ batches: [PackedMicroBatch]) {
    for batch in batches {
      sequences = max(sequences, batch.encoder.count)
      encoderTokens = max(encoderTokens, batch.encoder.tokens)
      longestEncoder = max(longestEncoder, batch.encoder.longest)
      decoderTokens = max(decoderTokens, batch.decoder?.tokens ?? 0)
      longestDecoder = max(longestDecoder, batch.decoder?.longest ?? 0)
    }
  }

  /// A capacity given by its numbers.
  package init(
    sequences: Int, encoderTokens: Int, longestEncoder: Int, decoderTokens: Int = 0, longestDecoder: Int = 0
  ) {
    self.sequences = sequences
    self.encoderTokens = encoderTokens
    self.longestEncoder = longestEncoder
    self.decoderTokens = decoderTokens
    self.longestDecoder = longestDecoder
  }
}
