/// One dimension that a configuration decides: its size and the key of `config.json` behind it.
struct ExpectedDimension: Equatable {
  let size: Int
  let key: String
}

/// A tensor that a configuration asks the weights for.
struct ExpectedTensor: Equatable {
  /// Its name in Hugging Face checkpoints.
  let name: String
  /// Its shape, each dimension with its reason.
  let dimensions: [ExpectedDimension]
  /// The choice of the configuration that makes it necessary.
  let because: String

  var shape: [Int] { dimensions.map(\.size) }
}

/// A block index that must not occur in the weights, because the configuration has fewer blocks.
struct ForbiddenBlock {
  let prefix: String
  let key: String
  let configured: Int
}

extension ModelConfiguration {
  /// Name and shape of every tensor that a checkpoint of this configuration has, saved without a prefix.
  package var tensorShapes: [(name: String, shape: [Int])] {
    let expected =
      switch self {
      case .bert(let bert): bert.expectedTensors(prefix: "")
      case .t5(let t5): t5.expectedTensors()
      case .bart(let bart): bart.expectedTensors(prefix: "model.")
      }
    return expected.map { ($0.name, $0.shape) }
  }

  /// Checks that every tensor that this configuration needs is there in the right shape, and that the weights
  /// have no further blocks; `file` names the configuration in errors.
  package func validate(_ checkpoint: Checkpoint, file: String) throws(ConfigurationFailure) {
    let expected: [ExpectedTensor]
    let forbidden: [ForbiddenBlock]
    switch self {
    case .bert(let bert):
      let prefix = bert.weightPrefix(in: checkpoint)
      (expected, forbidden) = (bert.expectedTensors(prefix: prefix), [bert.blockBeyond(prefix: prefix)])
    case .t5(let t5): (expected, forbidden) = (t5.expectedTensors(), t5.blocksBeyond())
    case .bart(let bart):
      let prefix = bart.weightPrefix(in: checkpoint)
      (expected, forbidden) = (bart.expectedTensors(prefix: prefix), bart.blocksBeyond(prefix: prefix))
    }
    for tensor in expected {
      try Self.check(tensor, in: checkpoint, file: file)
    }
    let names = checkpoint.names
    for block in forbidden {
      if let surplus = names.first(where: { $0.hasPrefix(block.prefix) }) {
        throw .surplusBlock(file: file, key: block.key, configured: block.configured, tensor: surplus)
      }
    }
  }

  private static func check(
    _ expected: ExpectedTensor, in checkpoint: Checkpoint, file: String
  ) throws(ConfigurationFailure) {
    guard let entry = checkpoint.entry(expected.name) else {
      throw .absentTensor(
        file: file, tensor: expected.name, shape: expected.shape, because: expected.because)
    }
    guard entry.shape != expected.shape else { return }
    let differing =
      entry.shape.count == expected.shape.count
      ? zip(expected.dimensions, entry.shape).first { $0.size != $1 }?.0 : nil
    let dimension = differing ?? expected.dimensions[0]
    throw .contradiction(
      file: file, key: dimension.key, configured: dimension.size, tensor: expected.name,
      shape: entry.shape, expected: expected.shape)
  }
}

extension BERTConfiguration {
  /// The prefix of every tensor's name: "bert." when the weights were saved under a head, otherwise empty.
  package func weightPrefix(in checkpoint: Checkpoint) -> String {
    checkpoint.contains("bert.embeddings.word_embeddings.weight") ? "bert." : ""
  }

  func blockBeyond(prefix: String) -> ForbiddenBlock {
    ForbiddenBlock(
      prefix: "\(prefix)encoder.layer.\(layers).", key: "num_hidden_layers", configured: layers)
  }

  func expectedTensors(prefix: String) -> [ExpectedTensor] {
    let width = ExpectedDimension(size: width, key: "hidden_size")
    let hidden = ExpectedDimension(size: hidden, key: "intermediate_size")
    var tensors: [ExpectedTensor] = []
    func expect(_ name: String, _ dimensions: ExpectedDimension..., because: String) {
      tensors.append(ExpectedTensor(name: prefix + name, dimensions: dimensions, because: because))
    }
    let embeddings = [
      ("word", ExpectedDimension(size: vocabulary, key: "vocab_size")),
      ("position", ExpectedDimension(size: positions, key: "max_position_embeddings")),
      ("token_type", ExpectedDimension(size: types, key: "type_vocab_size")),
    ]
    for (kind, rows) in embeddings {
      expect("embeddings.\(kind)_embeddings.weight", rows, width, because: "\(rows.key) is \(rows.size)")
    }
    for part in ["weight", "bias"] {
      expect("embeddings.LayerNorm.\(part)", width, because: "BERT normalises its embeddings")
    }
    let because = "num_hidden_layers is \(layers)"
    for layer in 0..<layers {
      let block = "encoder.layer.\(layer)."
      for projection in ["self.query", "self.key", "self.value", "output.dense"] {
        expect("\(block)attention.\(projection).weight", width, width, because: because)
        expect("\(block)attention.\(projection).bias", width, because: because)
      }
      expect("\(block)intermediate.dense.weight", hidden, width, because: because)
      expect("\(block)intermediate.dense.bias", hidden, because: because)
      expect("\(block)output.dense.weight", width, hidden, because: because)
      expect("\(block)output.dense.bias", width, because: because)
      for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
        expect("\(block)\(norm).weight", width, because: because)
        expect("\(block)\(norm).bias", width, because: because)
      }
    }
    return tensors
  }
}

extension T5Configuration {
  func blocksBeyond() -> [ForbiddenBlock] {
    [
      ForbiddenBlock(
        prefix: "encoder.block.\(encoderLayers).", key: "num_layers", configured: encoderLayers),
      ForbiddenBlock(
        prefix: "decoder.block.\(decoderLayers).", key: "num_decoder_layers", configured: decoderLayers),
    ]
  }

  func expectedTensors() -> [ExpectedTensor] {
    let width = ExpectedDimension(size: width, key: "d_model")
    let rows = ExpectedDimension(size: vocabulary, key: "vocab_size")
    var tensors = [
      ExpectedTensor(
        name: "shared.weight", dimensions: [rows, width], because: "vocab_size is \(vocabulary)")
    ]
    tensors += stackTensors("encoder", layers: encoderLayers, key: "num_layers", crossAttention: false)
    tensors += stackTensors("decoder", layers: decoderLayers, key: "num_decoder_layers", crossAttention: true)
    if !isTied {
      tensors.append(
        ExpectedTensor(
          name: "lm_head.weight", dimensions: [rows, width], because: "tie_word_embeddings is false"))
    }
    return tensors
  }

  private func stackTensors(
    _ stack: String, layers: Int, key: String, crossAttention: Bool
  ) -> [ExpectedTensor] {
    let width = ExpectedDimension(size: width, key: "d_model")
    let attention = ExpectedDimension(size: attentionWidth, key: "num_heads x d_kv")
    let hidden = ExpectedDimension(size: hidden, key: "d_ff")
    var tensors: [ExpectedTensor] = []
    func expect(_ name: String, _ dimensions: ExpectedDimension..., because: String) {
      tensors.append(ExpectedTensor(name: "\(stack).\(name)", dimensions: dimensions, because: because))
    }
    let because = "\(key) is \(layers)"
    let feedForward = "feed_forward_proj is \(isGated ? "gated" : "not gated")"
    for layer in 0..<layers {
      let block = "block.\(layer).layer"
      let attentions = crossAttention ? ["0.SelfAttention", "1.EncDecAttention"] : ["0.SelfAttention"]
      for name in attentions {
        for projection in ["q", "k", "v"] {
          expect("\(block).\(name).\(projection).weight", attention, width, because: because)
        }
        expect("\(block).\(name).o.weight", width, attention, because: because)
      }
      if layer == 0 {
        expect(
          "\(block).0.SelfAttention.relative_attention_bias.weight",
          ExpectedDimension(size: buckets, key: "relative_attention_num_buckets"),
          ExpectedDimension(size: heads, key: "num_heads"),
          because: "relative_attention_num_buckets is \(buckets)")
      }
      for sublayer in 0...attentions.count {
        expect("\(block).\(sublayer).layer_norm.weight", width, because: because)
      }
      let dense = "\(block).\(attentions.count).DenseReluDense"
      for projection in isGated ? ["wi_0", "wi_1"] : ["wi"] {
        expect("\(dense).\(projection).weight", hidden, width, because: feedForward)
      }
      expect("\(dense).wo.weight", width, hidden, because: because)
    }
    expect("final_layer_norm.weight", width, because: "T5 normalises the end of each stack")
    return tensors
  }
}

extension BARTConfiguration {
  /// The prefix of every tensor's name: "model." when the weights were saved under a head, otherwise empty.
  package func weightPrefix(in checkpoint: Checkpoint) -> String {
    checkpoint.contains("model.shared.weight") ? "model." : ""
  }

  func blocksBeyond(prefix: String) -> [ForbiddenBlock] {
    [("encoder", encoder), ("decoder", decoder)].map { name, stack in
      ForbiddenBlock(
        prefix: "\(prefix)\(name).layers.\(stack.layers).", key: "\(name)_layers", configured: stack.layers)
    }
  }

  func expectedTensors(prefix: String) -> [ExpectedTensor] {
    let width = ExpectedDimension(size: width, key: "d_model")
    let rows = ExpectedDimension(size: vocabulary, key: "vocab_size")
    var tensors = [
      ExpectedTensor(
        name: "\(prefix)shared.weight", dimensions: [rows, width], because: "vocab_size is \(vocabulary)")
    ]
    tensors += stackTensors("\(prefix)encoder", encoder, name: "encoder", crossAttention: false)
    tensors += stackTensors("\(prefix)decoder", decoder, name: "decoder", crossAttention: true)
    return tensors
  }

  private func stackTensors(
    _ path: String, _ stack: Stack, name: String, crossAttention: Bool
  ) -> [ExpectedTensor] {
    let width = ExpectedDimension(size: width, key: "d_model")
    let hidden = ExpectedDimension(size: stack.hidden, key: "\(name)_ffn_dim")
    let positions = ExpectedDimension(
      size: positions + Self.positionOffset, key: "max_position_embeddings + \(Self.positionOffset)")
    var tensors: [ExpectedTensor] = []
    func expect(_ name: String, _ dimensions: ExpectedDimension..., because: String) {
      tensors.append(ExpectedTensor(name: "\(path).\(name)", dimensions: dimensions, because: because))
    }
    expect("embed_positions.weight", positions, width, because: "BART learns positions")
    for part in ["weight", "bias"] {
      expect("layernorm_embedding.\(part)", width, because: "BART normalises its embeddings")
    }
    let because = "\(name)_layers is \(stack.layers)"
    for layer in 0..<stack.layers {
      let block = "layers.\(layer)"
      let attentions = crossAttention ? ["self_attn", "encoder_attn"] : ["self_attn"]
      for attention in attentions {
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
          expect("\(block).\(attention).\(projection).weight", width, width, because: because)
          expect("\(block).\(attention).\(projection).bias", width, because: because)
        }
      }
      expect("\(block).fc1.weight", hidden, width, because: because)
      expect("\(block).fc1.bias", hidden, because: because)
      expect("\(block).fc2.weight", width, hidden, because: because)
      expect("\(block).fc2.bias", width, because: because)
      for norm in attentions.map({ "\($0)_layer_norm" }) + ["final_layer_norm"] {
        expect("\(block).\(norm).weight", width, because: because)
        expect("\(block).\(norm).bias", width, because: because)
      }
    }
    return tensors
  }
}
