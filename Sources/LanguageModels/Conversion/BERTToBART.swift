import FoundationEssentials
import TensorKernels

/// BERT's weights as a BART encoder-decoder: both normalise behind the residual sums and learn positions.
///
/// The encoder computes what BERT computes on one segment: the embedding of segment 0 is added to every position, and
/// the second segment's is lost. The decoder begins from the same weights (Rothe et al., TACL 2020): its
/// cross-attention is a copy of the self-attention, and with fewer layers than BERT has it takes layers as far apart
/// as can be, the first and the last among them (Shleifer and Rush, 2020). It has to be trained before it writes
/// anything sensible.
package struct BERTToBART: Sendable {
  /// What the file of weights will hold.
  package let layout: SafetensorsLayout
  /// The `config.json` that describes it.
  package let configurationJSON: [UInt8]

  private let sourceByName: [String: Source]
  // The sources borrow its memory.
  private let checkpoint: Checkpoint

  /// Where the values of a tensor come from.
  ///
  /// - Safety: the pointers are only read, and valid while the checkpoint beside them lives.
  private enum Source: @unchecked Sendable {
    case copy(UnsafePointer<Float>)
    case positions(UnsafePointer<Float>, segment: UnsafePointer<Float>, width: Int)
  }

  /// Maps the weights of a BERT checkpoint; `decoderLayers` is 1 to BERT's number of layers.
  ///
  /// `startID` and `endID` are those with which the tokenizer begins and ends a text.
  package init(
    _ checkpoint: Checkpoint, _ bert: BERTConfiguration, startID: Int32, endID: Int32, decoderLayers: Int
  ) throws(CheckpointFailure) {
    precondition(
      (1...bert.layers).contains(decoderLayers), "\(decoderLayers) decoder layers of \(bert.layers)")
    self.checkpoint = checkpoint
    var mapping = Mapping(checkpoint: checkpoint, bert: bert)
    try mapping.addEmbeddings()
    for layer in 0..<bert.layers {
      try mapping.addLayer(layer, as: "model.encoder.layers.\(layer)", crossAttention: false)
    }
    for (layer, source) in Self.spread(decoderLayers, of: bert.layers).enumerated() {
      try mapping.addLayer(source, as: "model.decoder.layers.\(layer)", crossAttention: true)
    }
    layout = SafetensorsLayout(mapping.tensors, metadata: ["format": "pt"])
    sourceByName = mapping.sourceByName
    configurationJSON = Self.json(
      Description(bert, startID: startID, endID: endID, decoderLayers: decoderLayers))
  }

  /// `count` of `layers` layers, as far apart as can be; a single one is the first.
  static func spread(_ count: Int, of layers: Int) -> [Int] {
    guard count > 1 else { return [0] }
    // Halves go up, so that two choices never meet.
    return (0..<count).map { (2 * $0 * (layers - 1) + count - 1) / (2 * (count - 1)) }
  }

  /// Writes the elements `range` of a tensor of `layout`.
  package func fill(
    _ entry: SafetensorsEntry, _ range: Range<Int>, _ part: UnsafeMutableBufferPointer<Float>
  ) {
    switch sourceByName[entry.name] {
    case .copy(let values):
      _ = part.update(from: UnsafeBufferPointer(start: values + range.lowerBound, count: range.count))
    case .positions(let positions, let segment, let width):
      let offset = BARTConfiguration.positionOffset * width
      for (place, element) in range.enumerated() {
        part[place] = element < offset ? 0 : positions[element - offset] + segment[element % width]
      }
    case nil: preconditionFailure("\(entry.name) is no tensor of this model")
    }
  }

  // MARK: Names

  /// BART's tensors and BERT's values behind them.
  private struct Mapping {
    let checkpoint: Checkpoint
    let bert: BERTConfiguration
    let prefix: String
    private(set) var tensors: [(name: String, shape: [Int])] = []
    private(set) var sourceByName: [String: Source] = [:]

    init(checkpoint: Checkpoint, bert: BERTConfiguration) {
      self.checkpoint = checkpoint
      self.bert = bert
      prefix = bert.weightPrefix(in: checkpoint)
    }

    mutating func addEmbeddings() throws(CheckpointFailure) {
      let width = bert.width
      let embeddings = "\(prefix)embeddings"
      try copy(
        "\(embeddings).word_embeddings.weight", as: "model.shared.weight", shape: [bert.vocabulary, width])
      let positions = Source.positions(
        try checkpoint.float32(
          named: "\(embeddings).position_embeddings.weight", shape: [bert.positions, width]),
        segment: try checkpoint.float32(
          named: "\(embeddings).token_type_embeddings.weight", shape: [bert.types, width]),
        width: width)
      for stack in ["model.encoder", "model.decoder"] {
        let rows = bert.positions + BARTConfiguration.positionOffset
        add("\(stack).embed_positions.weight", shape: [rows, width], positions)
        try copyNorm("\(embeddings).LayerNorm", as: "\(stack).layernorm_embedding")
      }
    }

    mutating func addLayer(
      _ layer: Int, as name: String, crossAttention: Bool
    ) throws(CheckpointFailure) {
      let source = "\(prefix)encoder.layer.\(layer)"
      let (width, hidden) = (bert.width, bert.hidden)
      for attention in crossAttention ? ["self_attn", "encoder_attn"] : ["self_attn"] {
        let parts: KeyValuePairs = [
          "self.query": "q_proj", "self.key": "k_proj", "self.value": "v_proj", "output.dense": "out_proj",
        ]
        for (part, projection) in parts {
          try copyLinear(
            "\(source).attention.\(part)", as: "\(name).\(attention).\(projection)", outputs: width,
            inputs: width)
        }
        try copyNorm("\(source).attention.output.LayerNorm", as: "\(name).\(attention)_layer_norm")
      }
      try copyLinear("\(source).intermediate.dense", as: "\(name).fc1", outputs: hidden, inputs: width)
      try copyLinear("\(source).output.dense", as: "\(name).fc2", outputs: width, inputs: hidden)
      try copyNorm("\(source).output.LayerNorm", as: "\(name).final_layer_norm")
    }

    private mutating func copyLinear(
      _ source: String, as name: String, outputs: Int, inputs: Int
    ) throws(CheckpointFailure) {
      try copy("\(source).weight", as: "\(name).weight", shape: [outputs, inputs])
      try copy("\(source).bias", as: "\(name).bias", shape: [outputs])
    }

    private mutating func copyNorm(_ source: String, as name: String) throws(CheckpointFailure) {
      for part in ["weight", "bias"] {
        try copy("\(source).\(part)", as: "\(name).\(part)", shape: [bert.width])
      }
    }

    private mutating func copy(
      _ source: String, as name: String, shape: [Int]
    ) throws(CheckpointFailure) {
      add(name, shape: shape, .copy(try checkpoint.float32(named: source, shape: shape)))
    }

    private mutating func add(_ name: String, shape: [Int], _ source: Source) {
      tensors.append((name, shape))
      sourceByName[name] = source
    }
  }

  // MARK: Configuration

  /// The keys of BART's `config.json`; names are those of the file.
  private struct Description: Encodable {
    let architectures = ["BartForConditionalGeneration"]
    let model_type = "bart"
    let is_encoder_decoder = true
    let tie_word_embeddings = true
    let scale_embedding = false
    let activation_function: String
    let d_model: Int
    let encoder_layers, decoder_layers: Int
    let encoder_attention_heads, decoder_attention_heads: Int
    let encoder_ffn_dim, decoder_ffn_dim: Int
    let layer_norm_eps: Double
    let vocab_size, max_position_embeddings: Int
    let bos_token_id, decoder_start_token_id, eos_token_id, forced_eos_token_id, pad_token_id: Int32

    init(_ bert: BERTConfiguration, startID: Int32, endID: Int32, decoderLayers: Int) {
      activation_function =
        switch bert.activation {
        case .relu: "relu"
        case .geluTanh: "gelu_new"
        case .gelu: "gelu"
        case .none: preconditionFailure("BERT without an activation")
        }
      d_model = bert.width
      (encoder_layers, decoder_layers) = (bert.layers, decoderLayers)
      (encoder_attention_heads, decoder_attention_heads) = (bert.heads, bert.heads)
      (encoder_ffn_dim, decoder_ffn_dim) = (bert.hidden, bert.hidden)
      // The shortest decimal of the float, as the file had it: 1e-12, not 9.99…e-13.
      layer_norm_eps = Double("\(bert.epsilon)") ?? Double(bert.epsilon)
      (vocab_size, max_position_embeddings) = (bert.vocabulary, bert.positions)
      (bos_token_id, decoder_start_token_id) = (startID, startID)
      (eos_token_id, forced_eos_token_id, pad_token_id) = (endID, endID, bert.padID)
    }
  }

  private static func json(_ description: Description) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted]
    do {
      return Array(try encoder.encode(description)) + [UInt8(ascii: "\n")]
    } catch {
      preconditionFailure("a configuration of words and finite numbers did not encode: \(error)")
    }
  }
}
