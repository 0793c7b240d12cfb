import ArgumentParser

/// A known model shape that random weights can be written for.
enum ModelShape: String, ExpressibleByArgument, CaseIterable {
  /// T5 v1.0 Base: 12 + 12 blocks of width 768.
  case t5Base = "t5-base"
  /// T5 v1.0 Large: 24 + 24 blocks of width 1,024.
  case t5Large = "t5-large"
  /// MiniLM-L6: 6 BERT blocks of width 384.
  case miniLM = "minilm"

  /// The text of `config.json`, in Hugging Face's keys.
  var configuration: String {
    switch self {
    case .t5Base: Self.t5(width: 768, hidden: 3072, layers: 12, heads: 12)
    case .t5Large: Self.t5(width: 1024, hidden: 4096, layers: 24, heads: 16)
    case .miniLM:
      """
      {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "vocab_size": 30522,
        "pad_token_id": 0
      }

      """
    }
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
}
