/// A published model's shape, for costs and for random weights: nobody needs its files to plan or to measure.
package enum ModelShape: String, Codable, Sendable, CaseIterable {
  /// T5 v1.0 Small: 6 + 6 blocks of width 512.
  case t5Small = "t5-small"
  /// T5 v1.0 Base: 12 + 12 blocks of width 768.
  case t5Base = "t5-base"
  /// T5 v1.0 Large: 24 + 24 blocks of width 1,024.
  case t5Large = "t5-large"
  /// BART Base: 6 + 6 blocks of width 768.
  case bartBase = "bart-base"
  /// BART Large: 12 + 12 blocks of width 1,024.
  case bartLarge = "bart-large"
  /// MiniLM-L6: 6 BERT blocks of width 384.
  case miniLM = "minilm"

  /// The text of `config.json`, in Hugging Face's keys.
  package var configurationText: String {
    switch self {
    case .t5Small: Self.t5(width: 512, hidden: 2048, layers: 6, heads: 8)
    case .t5Base: Self.t5(width: 768, hidden: 3072, layers: 12, heads: 12)
    case .t5Large: Self.t5(width: 1024, hidden: 4096, layers: 24, heads: 16)
    case .bartBase: Self.bart(width: 768, hidden: 3072, layers: 6, heads: 12)
    case .bartLarge: Self.bart(width: 1024, hidden: 4096, layers: 12, heads: 16)
    case .miniLM: Self.bert(width: 384, hidden: 1536, layers: 6, heads: 12)
    }
  }

  /// The configuration that the text describes.
  package var configuration: ModelConfiguration {
    do throws(ConfigurationFailure) {
      return try ModelConfiguration(
        region: MemoryRegion(name: "\(rawValue)/config.json", bytes: Array(configurationText.utf8)))
    } catch {
      preconditionFailure("the built-in shape \(rawValue): \(error)")
    }
  }

  /// The stacks of the model.
  package var architecture: BackboneArchitecture { configuration.architecture }

  private static func bert(width: Int, hidden: Int, layers: Int, heads: Int) -> String {
    """
    {
      "architectures": ["BertModel"],
      "model_type": "bert",
      "hidden_size": \(width),
      "intermediate_size": \(hidden),
      "num_hidden_layers": \(layers),
      "num_attention_heads": \(heads),
      "hidden_act": "gelu",
      "layer_norm_eps": 1e-12,
      "max_position_embeddings": 512,
      "type_vocab_size": 2,
      "vocab_size": 30522,
      "pad_token_id": 0
    }

    """
  }

  private static func t5(width: Int, hidden: Int, layers: Int, heads: Int) -> String {
    """
    {
      "architectures": ["T5ForConditionalGeneration"],
      "model_type": "t5",
      "d_model": \(width),
      "d_ff": \(hidden),
      "d_kv": 64,
      "num_layers": \(layers),
      "num_decoder_layers": \(layers),
      "num_heads": \(heads),
      "relative_attention_num_buckets": 32,
      "relative_attention_max_distance": 128,
      "feed_forward_proj": "relu",
      "layer_norm_epsilon": 1e-06,
      "vocab_size": 32128,
      "tie_word_embeddings": true,
      "decoder_start_token_id": 0,
      "pad_token_id": 0,
      "eos_token_id": 1
    }

    """
  }

  private static func bart(width: Int, hidden: Int, layers: Int, heads: Int) -> String {
    """
    {
      "architectures": ["BartForConditionalGeneration"],
      "model_type": "bart",
      "d_model": \(width),
      "encoder_layers": \(layers),
      "encoder_attention_heads": \(heads),
      "encoder_ffn_dim": \(hidden),
      "decoder_layers": \(layers),
      "decoder_attention_heads": \(heads),
      "decoder_ffn_dim": \(hidden),
      "activation_function": "gelu",
      "max_position_embeddings": 1024,
      "vocab_size": 50265,
      "bos_token_id": 0,
      "pad_token_id": 1,
      "eos_token_id": 2,
      "decoder_start_token_id": 2
    }

    """
  }
}
