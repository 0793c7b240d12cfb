package import NeuralNetworks
package import TensorKernels

/// The part of a model that a stack is.
package enum StackKind: String, Sendable, Equatable, CaseIterable {
  /// Reads the input text, every token seeing every other.
  case encoder
  /// Reads the target text from the left and the encoder's states.
  case decoder
}

/// The size and the rule of a stack's relative position biases.
package struct RelativeBiasShape: Sendable, Equatable {
  /// Rows of the learned table.
  package var buckets: Int
  /// Distances from here on share the last bucket.
  package var maximumDistance: Int
  /// True when keys after the query have buckets of their own.
  package var bidirectional: Bool

  /// Describes a table of `buckets` rows.
  package init(buckets: Int, maximumDistance: Int, bidirectional: Bool) {
    self.buckets = buckets
    self.maximumDistance = maximumDistance
    self.bidirectional = bidirectional
  }
}

/// One stack of equal blocks.
package struct StackShape: Sendable, Equatable {
  /// Encoder or decoder.
  package var kind: StackKind
  /// Number of blocks.
  package var layers: Int
  /// Shape of each block.
  package var block: BlockConfiguration
  /// Relative position biases, if the stack has them.
  package var relativeBias: RelativeBiasShape?
  /// True when a norm follows the last block.
  package var hasFinalNorm: Bool

  /// Describes a stack.
  package init(
    kind: StackKind, layers: Int, block: BlockConfiguration, relativeBias: RelativeBiasShape?,
    hasFinalNorm: Bool
  ) {
    self.kind = kind
    self.layers = layers
    self.block = block
    self.relativeBias = relativeBias
    self.hasFinalNorm = hasFinalNorm
  }

  /// Taps of the stack: what enters the first block, and what leaves each.
  package var tapCount: Int { layers + 1 }
}

/// What a side network, a cache and a planner need to know of a backbone.
package struct BackboneArchitecture: Sendable, Equatable {
  /// `bert` or `t5`.
  package var name: String
  /// Width of every stack's residual stream.
  package var width: Int
  /// The stacks in the order in which they run.
  package var stacks: [StackShape]
  /// Rows of the word embedding; every token id is below it.
  package var vocabulary: Int
  /// First id of every decoder input; nil without a decoder.
  package var decoderStartID: Int32?
  /// The longest sequence, where positions are learned; nil where any length will do.
  package var maximumLength: Int?

  /// Describes a backbone.
  package init(
    name: String, width: Int, stacks: [StackShape], vocabulary: Int, decoderStartID: Int32?,
    maximumLength: Int?
  ) {
    self.name = name
    self.width = width
    self.stacks = stacks
    self.vocabulary = vocabulary
    self.decoderStartID = decoderStartID
    self.maximumLength = maximumLength
  }
}

/// The token ids of one micro-batch, packed without padding.
package struct BackboneBatch: Sendable, Equatable {
  /// Ids of the input texts, one after the other.
  package var encoderIDs: [Int32]
  /// Segment of each input token (BERT); empty means segment 0.
  package var encoderTypes: [Int32]
  /// Extents of the input texts.
  package var encoder: PackedSequences
  /// Ids of the target texts as the decoder reads them; empty without a decoder.
  package var decoderIDs: [Int32]
  /// Extents of the target texts, one for each input text; nil runs the encoder alone.
  package var decoder: PackedSequences?

  /// A micro-batch; the numbers of ids must be those of the extents.
  package init(
    encoderIDs: [Int32], encoderTypes: [Int32] = [], encoder: PackedSequences, decoderIDs: [Int32] = [],
    decoder: PackedSequences? = nil
  ) {
    precondition(
      encoderIDs.count == encoder.tokens && (encoderTypes.isEmpty || encoderTypes.count == encoder.tokens),
      "\(encoderIDs.count) ids and \(encoderTypes.count) types for \(encoder.tokens) encoder tokens")
    precondition(
      decoderIDs.count == decoder?.tokens ?? 0 && decoder.map { $0.count == encoder.count } ?? true,
      "\(decoderIDs.count) ids for \(decoder?.tokens ?? 0) decoder tokens, "
        + "\(decoder?.count ?? 0) targets for \(encoder.count) inputs")
    self.encoderIDs = encoderIDs
    self.encoderTypes = encoderTypes
    self.encoder = encoder
    self.decoderIDs = decoderIDs
    self.decoder = decoder
  }
}

/// The largest micro-batch that a workspace serves.
package struct BackboneCapacity: Sendable, Equatable {
  /// Tokens of all input texts.
  package var encoderTokens: Int
  /// Tokens of the longest input text.
  package var longestEncoder: Int
  /// Tokens of all target texts; 0 without a decoder.
  package var decoderTokens: Int
  /// Tokens of the longest target text; 0 without a decoder.
  package var longestDecoder: Int

  /// A capacity; encoder sizes must be positive.
  package init(encoderTokens: Int, longestEncoder: Int, decoderTokens: Int = 0, longestDecoder: Int = 0) {
    precondition(
      longestEncoder > 0 && encoderTokens >= longestEncoder && longestDecoder >= 0
        && decoderTokens >= longestDecoder,
      "capacity \(encoderTokens) (\(longestEncoder)) + \(decoderTokens) (\(longestDecoder)) tokens")
    self.encoderTokens = encoderTokens
    self.longestEncoder = longestEncoder
    self.decoderTokens = decoderTokens
    self.longestDecoder = longestDecoder
  }

  /// What `batch` needs.
  package init(of batch: BackboneBatch) {
    self.init(
      encoderTokens: batch.encoder.tokens, longestEncoder: batch.encoder.longest,
      decoderTokens: batch.decoder?.tokens ?? 0, longestDecoder: batch.decoder?.longest ?? 0)
  }
}

/// A pretrained model that is only ever read: a pure function from token ids to activations.
///
/// There is no training mode, no dropout and no backward: a tap depends on the weights and the sequence
/// alone, which is what makes a cached activation equal to a live one (PAC §4.2). All leaves are frozen, so
/// no gradient sink can reach them.
package protocol Backbone: Sendable {
  /// Shapes of the stacks.
  var architecture: BackboneArchitecture { get }
  /// The blocks, in the order of the architecture's stacks.
  var stacks: [FrozenStack] { get }
  /// Writes what enters a stack's first block, [tokens × width]: words, and positions where they are learned.
  func embedTokens(of batch: BackboneBatch, stack: Int, into stream: Matrix)
  /// The frozen leaves of one block.
  func block(stack: Int, layer: Int) -> BlockParameters
  /// The frozen table of relative position biases, [buckets × heads], if the stack has one.
  func relativeBias(stack: Int) -> Parameter?
  /// The frozen norm behind the last block, if the stack has one.
  func finalNorm(stack: Int) -> NormParameters?
  /// The word embedding, [vocabulary × width].
  var embedding: Parameter { get }
  /// Every leaf that the forward reads.
  var parameters: [Parameter] { get }
  /// Every leaf, by place.
  var leaves: BackboneLeaves { get }
  /// The same model over other leaves of the same shapes, whose memory `owner` keeps alive.
  func replacing(_ leaves: BackboneLeaves, keepingAlive owner: (any AnyObject & Sendable)?) -> Self
}
