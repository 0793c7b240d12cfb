package import TensorKernels

/// The shape of a BERT encoder (Devlin et al., 2019), as `config.json` gives it.
package struct BERTConfiguration: Sendable, Equatable {
  /// Width of the residual stream (`hidden_size`).
  package let width: Int
  /// Number of blocks (`num_hidden_layers`).
  package let layers: Int
  /// Attention heads a block (`num_attention_heads`).
  package let heads: Int
  /// Width of the feed-forward layer (`intermediate_size`).
  package let hidden: Int
  /// Activation of the feed-forward layer (`hidden_act`).
  package let activation: Activation
  /// Epsilon of every LayerNorm (`layer_norm_eps`).
  package let epsilon: Float
  /// Rows of the word embedding (`vocab_size`).
  package let vocabulary: Int
  /// The longest sequence (`max_position_embeddings`).
  package let positions: Int
  /// Rows of the segment embedding (`type_vocab_size`).
  package let types: Int
  /// Id of the padding token (`pad_token_id`); packed batches never hold it.
  package let padID: Int32

  /// Width of one attention head.
  package var headSize: Int { width / heads }

  init(_ json: JSONObject) throws(ConfigurationFailure) {
    width = try json.integer("hidden_size", in: ModelLimits.width)
    layers = try json.integer("num_hidden_layers", in: ModelLimits.layers)
    heads = try json.integer("num_attention_heads", in: ModelLimits.heads)
    hidden = try json.integer("intermediate_size", in: ModelLimits.hidden)
    activation = try json.choice(
      "hidden_act", ["gelu": .gelu, "gelu_new": .geluTanh, "gelu_pytorch_tanh": .geluTanh, "relu": .relu],
      default: .gelu)
    epsilon = Float(try json.real("layer_norm_eps", in: ModelLimits.epsilon, default: 1e-12))
    vocabulary = try json.integer("vocab_size", in: ModelLimits.vocabulary)
    positions = try json.integer("max_position_embeddings", in: ModelLimits.positions)
    types = try json.integer("type_vocab_size", in: ModelLimits.types, default: 2)
    padID = Int32(try json.integer("pad_token_id", in: 0...vocabulary - 1, default: 0))
    _ = try json.choice("position_embedding_type", ["absolute": true], default: true)
    _ = try json.choice("model_type", ["bert": true], default: true)
    guard width % heads == 0 else {
      throw .inconsistent(
        file: json.file,
        reason: "hidden_size \(width) is not a multiple of num_attention_heads \(heads)")
    }
    if try json.bool("is_decoder", default: false) {
      throw .unsupported(file: json.file, key: "is_decoder", found: "true", supported: ["false"])
    }
  }
}

/// The range of each number that a model configuration may hold.
package enum ModelLimits {
  /// Width of the residual stream.
  package static let width = 1...16_384
  /// Blocks of one stack.
  package static let layers = 1...256
  /// Attention heads of one block.
  package static let heads = 1...512
  /// Width of one attention head.
  package static let headSize = 1...1024
  /// Width of the feed-forward layer.
  package static let hidden = 1...131_072
  /// Rows of the word embedding.
  package static let vocabulary = 1...2_000_000
  /// Learned positions.
  package static let positions = 1...131_072
  /// Segment types.
  package static let types = 1...16
  /// Buckets of the relative position bias.
  package static let buckets = 2...4096
  /// Distance at which the relative position bias saturates.
  package static let bucketDistance = 2...131_072
  /// Epsilon of a norm.
  package static let epsilon = 0.0...0.1
}
