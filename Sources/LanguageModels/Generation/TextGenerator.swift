import NeuralNetworks
package import TensorKernels

/// How a text is written.
package struct GenerationSettings: Sendable, Equatable {
  /// Hypotheses that are kept; 1 is greedy search.
  package var beams: Int
  /// The most tokens that are written, the end included.
  package var maximumTokens: Int
  /// Finished texts are compared by log-probability / length^penalty; above 1 favours long ones.
  package var lengthPenalty: Double

  /// The most hypotheses.
  package static let maximumBeams = 64

  /// Settings; the defaults are greedy search and transformers' penalty of 1.
  package init(beams: Int = 1, maximumTokens: Int = 64, lengthPenalty: Double = 1) {
    precondition(
      (1...Self.maximumBeams).contains(beams) && maximumTokens > 0, "\(beams) beams, \(maximumTokens) tokens")
    self.beams = beams
    self.maximumTokens = maximumTokens
    self.lengthPenalty = lengthPenalty
  }
}

/// What a model wrote.
package struct WrittenIDs: Sendable, Equatable {
  /// The ids, without the start and the end.
  package var ids: [Int32]
  /// True when the text did not end within the most tokens.
  package var isCut: Bool

  /// Ids that a model wrote.
  package init(ids: [Int32], isCut: Bool) {
    self.ids = ids
    self.isCut = isCut
  }
}

/// Writes texts with an encoder-decoder backbone, one at a time, on the calling thread.
///
/// - Safety: one thread uses a generator at a time; the backbone that several share is only read.
package final class TextGenerator: @unchecked Sendable {
  private let backbone: any EncoderDecoderBackbone
  private let settings: GenerationSettings
  private let maximumSource: Int
  private let workspace: Arena
  private let states: Arena
  private let decoder: DecoderState
  private let startID: Int32

  /// A generator for input texts of at most `maximumSource` tokens.
  ///
  /// A backbone with learned positions writes no more tokens than it has positions for.
  package init(_ backbone: any EncoderDecoderBackbone, settings: GenerationSettings, maximumSource: Int) {
    guard let startID = backbone.architecture.decoderStartID else {
      preconditionFailure("\(backbone.architecture.name) has no decoder")
    }
    self.backbone = backbone
    self.startID = startID
    let settings = settings.limited(by: backbone)
    self.settings = settings
    self.maximumSource = maximumSource
    workspace = Arena(floatCount: Self.encoderFloats(backbone, maximumSource: maximumSource))
    states = Arena(floatCount: maximumSource * backbone.architecture.width)
    decoder = DecoderState(backbone, capacity: settings.capacity(maximumSource: maximumSource))
  }

  /// Bytes of the buffers that a generator with these settings plans.
  package static func byteCount(
    _ backbone: any EncoderDecoderBackbone, settings: GenerationSettings, maximumSource: Int
  ) -> Int {
    let decoder = DecoderState.floatCount(
      backbone, capacity: settings.limited(by: backbone).capacity(maximumSource: maximumSource))
    let states = maximumSource * backbone.architecture.width
    return (encoderFloats(backbone, maximumSource: maximumSource) + states + decoder)
      * MemoryLayout<Float>.stride
  }

  private static func encoderFloats(_ backbone: any EncoderDecoderBackbone, maximumSource: Int) -> Int {
    backbone.workspaceFloats(
      capacity: BackboneCapacity(encoderTokens: maximumSource, longestEncoder: maximumSource))
  }

  /// What the model writes for an input text.
  package func generate(_ encoderIDs: [Int32], types: [Int32] = []) -> WrittenIDs {
    precondition(
      !encoderIDs.isEmpty && encoderIDs.count <= maximumSource,
      "\(encoderIDs.count) tokens, planned \(maximumSource)")
    let sequences = PackedSequences(lengths: [encoderIDs.count])
    let encoded = states.matrix(0, rows: encoderIDs.count, columns: backbone.architecture.width)
    let last = backbone.architecture.stacks[0].layers
    backbone.forward(
      BackboneBatch(encoderIDs: encoderIDs, encoderTypes: types, encoder: sequences), workspace: workspace
    ) { stack, index, rows in
      guard stack == 0, index == last else { return }
      for row in 0..<rows.rows {
        (encoded.base + row * encoded.stride).update(from: rows.base + row * rows.stride, count: rows.columns)
      }
    }
    backbone.finalNorm(stack: 0)?.forward(encoded, into: encoded, statistics: nil)
    decoder.begin(encoded)
    return searchText(decoder, settings: settings, startID: startID, endID: backbone.endID)
  }
}

/// What scores the next token of each of several hypotheses of one text, token by token.
package protocol TokenScoring: AnyObject {
  /// Why a step cannot be done.
  associatedtype Failure: Error
  /// Reads one token of each hypothesis and returns the logits of the next, one row a hypothesis.
  func step(_ tokens: [Int32]) throws(Failure) -> Matrix
  /// Hypothesis `i` goes on from what hypothesis `parents[i]` has written.
  func reorder(_ parents: [Int])
}

/// The text that a search finds, from the decoder's first token on.
package func searchText<Scorer: TokenScoring>(
  _ scorer: Scorer, settings: GenerationSettings, startID: Int32, endID: Int32
) throws(Scorer.Failure) -> WrittenIDs {
  var search = BeamSearch(
    beams: settings.beams, lengthPenalty: settings.lengthPenalty, maximumTokens: settings.maximumTokens,
    endID: endID)
  var tokens = [startID]
  while true {
    let logits = try scorer.step(tokens)
    guard let next = search.advance({ logProbabilities(logits, row: $0) }) else { return search.best }
    scorer.reorder(next.parents)
    tokens = next.tokens
  }
}

private func logProbabilities(_ logits: Matrix, row: Int) -> [Float] {
  let scores = logits.rowRange(row, count: 1)
  let total = logSumExp(scores)
  return UnsafeBufferPointer(start: scores.base, count: scores.columns).map { $0 - total }
}

extension GenerationSettings {
  /// The same settings with no more tokens than a backbone has positions for.
  package func limited(by backbone: any EncoderDecoderBackbone) -> GenerationSettings {
    guard let positions = backbone.architecture.maximumLength else { return self }
    var settings = self
    settings.maximumTokens = min(maximumTokens, positions)
    return settings
  }

  /// What a decoder needs for them.
  package func capacity(maximumSource: Int) -> IncrementalStack.Capacity {
    IncrementalStack.Capacity(hypotheses: beams, targetTokens: maximumTokens, sourceTokens: maximumSource)
  }
}
