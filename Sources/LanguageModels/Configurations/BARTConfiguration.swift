package import TensorKernels

/// The shape of a BART encoder-decoder (Lewis et al., ACL 2020), as `config.json` gives it.
package struct BARTConfiguration: Sendable, Equatable {
  /// One of the two stacks.
  package struct Stack: Sendable, Equatable {
    /// Number of blocks (`encoder_layers`, `decoder_layers`).
    package let layers: Int
    /// Attention heads a block (`encoder_attention_heads`, `decoder_attention_heads`).
    package let heads: Int
    /// Width of the feed-forward layer (`encoder_ffn_dim`, `decoder_ffn_dim`).
    package let hidden: Int
  }

  /// Rows of a position table before the first position: fairseq kept them for the padding id.
  package static let positionOffset = 2

  /// Width of the residual stream (`d_model`).
  package let width: Int
  /// The encoder.
  package let encoder: Stack
  /// The decoder.
  package let decoder: Stack
  /// Activation of the feed-forward layers (`activation_function`).
  package let activation: Activation
  /// Epsilon of every LayerNorm (`layer_norm_eps`; BART's own files do not name it and mean 1e-5).
  package let epsilon: Float
  /// Rows of the word embedding (`vocab_size`).
  package let vocabulary: Int
  /// The longest sequence (`max_position_embeddings`).
  package let positions: Int
  /// Whether word embeddings are multiplied by √width (`scale_embedding`).
  package let scalesEmbedding: Bool
  /// First id of every text (`bos_token_id`).
  package let startID: Int32
  /// Id that ends a sequence (`eos_token_id`).
  package let endID: Int32
  /// Id of the padding token (`pad_token_id`); packed batches never hold it.
  package let padID: Int32
  /// First id of every decoder input (`decoder_start_token_id`).
  package let decoderStartID: Int32
  /// The characters of the ids in input texts, where the model reads characters (`grapheme_chars`).
  package let inputCharacters: String?
  /// The characters of the ids in output texts, where the model writes characters (`phoneme_chars`).
  package let outputCharacters: String?

  init(_ json: JSONObject) throws(ConfigurationFailure) {
    width = try json.integer("d_model", in: ModelLimits.width)
    encoder = try Self.stack("encoder", json)
    decoder = try Self.stack("decoder", json)
    activation = try json.choice(
      "activation_function",
      ["gelu": .gelu, "gelu_new": .geluTanh, "gelu_pytorch_tanh": .geluTanh, "relu": .relu], default: .gelu)
    epsilon = Float(try json.real("layer_norm_eps", in: ModelLimits.epsilon, default: 1e-5))
    vocabulary = try json.integer("vocab_size", in: ModelLimits.vocabulary)
    positions = try json.integer("max_position_embeddings", in: ModelLimits.positions)
    scalesEmbedding = try json.bool("scale_embedding", default: false)
    let ids = 0...vocabulary - 1
    startID = Int32(try json.integer("bos_token_id", in: ids, default: 0))
    padID = Int32(try json.integer("pad_token_id", in: ids, default: min(1, vocabulary - 1)))
    let end = try json.integer("eos_token_id", in: ids, default: min(2, vocabulary - 1))
    endID = Int32(end)
    decoderStartID = Int32(try json.integer("decoder_start_token_id", in: ids, default: end))
    inputCharacters = try json.string("grapheme_chars")
    outputCharacters = try json.string("phoneme_chars")
    _ = try json.choice("model_type", ["bart": true], default: true)
    for (name, heads) in [("encoder", encoder.heads), ("decoder", decoder.heads)] where width % heads != 0 {
      throw .inconsistent(
        file: json.file, reason: "d_model \(width) is not a multiple of \(name)_attention_heads \(heads)")
    }
    for (key, shape) in [
      ("normalize_before", false), ("normalize_embedding", true), ("tie_word_embeddings", true),
      ("add_final_layer_norm", false), ("static_position_embeddings", false),
    ] where try json.bool(key, default: shape) != shape {
      throw .unsupported(file: json.file, key: key, found: "\(!shape)", supported: ["\(shape)"])
    }
  }

  private static func stack(_ name: String, _ json: JSONObject) throws(ConfigurationFailure) -> Stack {
    Stack(
      layers: try json.integer("\(name)_layers", in: ModelLimits.layers),
      heads: try json.integer("\(name)_attention_heads", in: ModelLimits.heads),
      hidden: try json.integer("\(name)_ffn_dim", in: ModelLimits.hidden))
  }
}
