package import TensorKernels

/// The shape of a T5 encoder-decoder (Raffel et al., 2020; v1.1: gated GELU, untied head), as `config.json`
/// gives it.
package struct T5Configuration: Sendable, Equatable {
  /// Width of the residual stream (`d_model`).
  package let width: Int
  /// Width of one attention head (`d_kv`); `heads * headSize` need not equal the width.
  package let headSize: Int
  /// Width of the feed-forward layer (`d_ff`).
  package let hidden: Int
  /// Blocks of the encoder (`num_layers`).
  package let encoderLayers: Int
  /// Blocks of the decoder (`num_decoder_layers`, the encoder's number when absent).
  package let decoderLayers: Int
  /// Attention heads a block (`num_heads`).
  package let heads: Int
  /// Buckets of the relative position bias (`relative_attention_num_buckets`).
  package let buckets: Int
  /// Distance from which all positions share the last bucket (`relative_attention_max_distance`).
  package let bucketDistance: Int
  /// Activation of the feed-forward layer (from `feed_forward_proj`).
  package let activation: Activation
  /// True when the feed-forward layer multiplies an activated and a linear projection (v1.1).
  package let isGated: Bool
  /// Epsilon of every RMSNorm (`layer_norm_epsilon`).
  package let epsilon: Float
  /// Rows of the word embedding (`vocab_size`).
  package let vocabulary: Int
  /// True when the head is the word embedding, its input scaled by width^(−1/2) (`tie_word_embeddings`).
  package let isTied: Bool
  /// First id of every decoder input (`decoder_start_token_id`, the padding id when absent).
  package let decoderStartID: Int32
  /// Id of the padding token (`pad_token_id`).
  package let padID: Int32
  /// Id that ends a sequence (`eos_token_id`).
  package let endID: Int32

  /// Width of all attention heads together.
  package var attentionWidth: Int { heads * headSize }

  init(_ json: JSONObject) throws(ConfigurationFailure) {
    width = try json.integer("d_model", in: ModelLimits.width)
    headSize = try json.integer("d_kv", in: ModelLimits.headSize)
    hidden = try json.integer("d_ff", in: ModelLimits.hidden)
    encoderLayers = try json.integer("num_layers", in: ModelLimits.layers)
    decoderLayers = try json.integer("num_decoder_layers", in: ModelLimits.layers, default: encoderLayers)
    heads = try json.integer("num_heads", in: ModelLimits.heads)
    buckets = try json.integer("relative_attention_num_buckets", in: ModelLimits.buckets, default: 32)
    bucketDistance = try json.integer(
      "relative_attention_max_distance", in: ModelLimits.bucketDistance, default: 128)
    // transformers reads "gated-gelu" as the tanh approximation, for compatibility with the first
    // checkpoints of v1.1; both spellings therefore mean the same function.
    let projection = try json.choice(
      "feed_forward_proj",
      [
        "relu": (Activation.relu, false), "gated-gelu": (Activation.geluTanh, true),
        "gated-gelu_new": (Activation.geluTanh, true), "gated-relu": (Activation.relu, true),
      ],
      default: (Activation.relu, false))
    (activation, isGated) = projection
    epsilon = Float(try json.real("layer_norm_epsilon", in: ModelLimits.epsilon, default: 1e-6))
    vocabulary = try json.integer("vocab_size", in: ModelLimits.vocabulary)
    isTied = try json.bool("tie_word_embeddings", default: true)
    let ids = 0...vocabulary - 1
    let pad = try json.integer("pad_token_id", in: ids, default: 0)
    padID = Int32(pad)
    endID = Int32(try json.integer("eos_token_id", in: ids, default: min(1, vocabulary - 1)))
    decoderStartID = Int32(try json.integer("decoder_start_token_id", in: ids, default: pad))
    _ = try json.choice("model_type", ["t5": true], default: true)
    if try json.bool("is_gated_act", default: isGated) != isGated {
      throw .inconsistent(
        file: json.file,
        reason: "is_gated_act is \(!isGated), which feed_forward_proj contradicts")
    }
    // Half of the buckets serve each direction and half of those are exact, so the logarithmic part
    // needs a distance beyond them.
    guard buckets % 4 == 0 || buckets == 2, bucketDistance > buckets / 2 else {
      throw .inconsistent(
        file: json.file,
        reason: "relative_attention_num_buckets \(buckets) with relative_attention_max_distance "
          + "\(bucketDistance) leaves no logarithmic buckets")
    }
  }
}
