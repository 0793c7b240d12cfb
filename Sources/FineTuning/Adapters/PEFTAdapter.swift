import FoundationEssentials
package import LanguageModels
package import NeuralNetworks

/// A LoRA adapter in the layout of Hugging Face's PEFT (0.21): `adapter_config.json` and `adapter_model.safetensors`.
///
/// The tensors are `base_model.model.<module>.lora_A.weight`, [rank × inputs], and `…lora_B.weight`,
/// [outputs × rank]. PEFT has no place for a task head over mean-pooled states, so only the pairs are here.
package struct PEFTAdapter: Sendable {
  /// File name of the settings.
  package static let configurationFileName = "adapter_config.json"
  /// File name of the tensors.
  package static let tensorsFileName = "adapter_model.safetensors"
  /// Most bytes of the settings that are read.
  package static let maximumConfigurationBytes = 1 << 20
  /// Largest rank that is read.
  package static let maximumRank = 4_096

  /// The same adapter in Hearth's terms.
  package let configuration: LoRAConfiguration
  /// Tensors that are no pair of the backbone's layers, such as a saved head: they are not used.
  package let unusedTensors: [String]
  /// The pairs that the file holds, by the name of their layer.
  private let pairs: [(layer: AdaptableLayer, a: String, b: String)]
  private let checkpoint: Checkpoint

  /// Reads the two files for `backbone`.
  ///
  /// A layer without a pair stays as it is. Variants that compute something else than `W·x + α/r·B·A·x` are refused.
  package init(
    configuration bytes: [UInt8], path: String, tensors checkpoint: Checkpoint, backbone: any Backbone
  ) throws(PEFTFailure) {
    let settings = try PEFTSettings(bytes, path: path)
    let layers = backbone.adaptableLayers
    let byModule = Dictionary(
      layers.map { (Self.withoutClassPrefix($0.module), $0) }, uniquingKeysWith: { first, _ in first })
    var unused: [String] = []
    var halves: [String: (a: String?, b: String?)] = [:]
    for tensor in checkpoint.names {
      guard let (module, isFirst) = Self.half(tensor) else {
        if tensor.contains("lora_") {
          throw .unknownTensor(name: tensor, file: checkpoint.name, family: backbone.architecture.name)
        }
        unused.append(tensor)
        continue
      }
      guard let layer = byModule[module] else {
        throw .unknownTensor(name: tensor, file: checkpoint.name, family: backbone.architecture.name)
      }
      if isFirst {
        halves[layer.name, default: (nil, nil)].a = tensor
      } else {
        halves[layer.name, default: (nil, nil)].b = tensor
      }
    }
    var pairs: [(layer: AdaptableLayer, a: String, b: String)] = []
    for layer in layers {
      guard let found = halves[layer.name] else { continue }
      guard let a = found.a, let b = found.b else {
        throw .halfPair(name: found.a ?? found.b ?? layer.name, file: checkpoint.name)
      }
      try Self.check(checkpoint, a, shape: [settings.rank, layer.weight.columns])
      try Self.check(checkpoint, b, shape: [layer.weight.rows, settings.rank])
      pairs.append((layer, a, b))
    }
    guard let first = pairs.first else { throw .noPairs(file: checkpoint.name) }
    guard pairs.allSatisfy({ settings.rank <= min($0.layer.weight.rows, $0.layer.weight.columns) }) else {
      throw .setting(
        key: "r", value: "\(settings.rank)", path: path,
        detail: "is more than the width of a layer such as \(first.layer.module)")
    }
    self.pairs = pairs
    self.checkpoint = checkpoint
    unusedTensors = unused
    configuration = LoRAConfiguration(
      rank: settings.rank, alpha: settings.alpha,
      targets: LoRATarget.allCases.filter { target in pairs.contains { $0.layer.target == target } },
      dropout: settings.dropout)
  }

  /// Copies the pairs into the `loraA` and `loraB` leaves of a tree; leaves without a pair become zero.
  package func fill(_ tree: ParameterTree) throws(CheckpointFailure) {
    for leaf in tree.parameters where leaf.name.hasSuffix(".loraA") || leaf.name.hasSuffix(".loraB") {
      leaf.values.update(repeating: 0, count: leaf.count)
    }
    for pair in pairs {
      try copy(pair.a, into: tree["\(pair.layer.name).loraA"])
      try copy(pair.b, into: tree["\(pair.layer.name).loraB"])
    }
  }

  private func copy(_ tensor: String, into leaf: Parameter) throws(CheckpointFailure) {
    let values = try checkpoint.float32(named: tensor, shape: [leaf.rows, leaf.columns])
    leaf.values.update(from: values, count: leaf.count)
  }

  private static func check(
    _ checkpoint: Checkpoint, _ tensor: String, shape: [Int]
  ) throws(PEFTFailure) {
    let found = checkpoint.entry(tensor)?.shape ?? []
    guard found == shape else {
      throw .wrongShape(name: tensor, file: checkpoint.name, found: found, expected: shape)
    }
  }

  /// The module, without a class's prefix, and the half of the pair that a tensor is; nil for other tensors.
  private static func half(_ tensor: String) -> (module: String, isFirst: Bool)? {
    guard tensor.hasPrefix(tensorPrefix) else { return nil }
    let path = String(tensor.dropFirst(tensorPrefix.count))
    for (suffix, isFirst) in [(firstSuffix, true), (secondSuffix, false)] where path.hasSuffix(suffix) {
      return (withoutClassPrefix(String(path.dropLast(suffix.count))), isFirst)
    }
    return nil
  }

  /// A module's path without the attribute under which a class with a head keeps its encoder and decoder.
  static func withoutClassPrefix(_ path: String) -> String {
    for prefix in ["model.", "bert.", "transformer."] where path.hasPrefix(prefix) {
      return String(path.dropFirst(prefix.count))
    }
    return path
  }

  private static let tensorPrefix = "base_model.model."
  private static let firstSuffix = ".lora_A.weight"
  private static let secondSuffix = ".lora_B.weight"
}

extension PEFTAdapter {
  /// The two files of an adapter, as PEFT reads them.
  ///
  /// - Parameters:
  ///   - parameters: a tree with the `loraA` and `loraB` leaves of every layer that `configuration` names.
  ///   - model: what PEFT is told of the base model; a directory or a name.
  ///   - writesText: true for a text-to-text task, which PEFT knows; other tasks have none of PEFT's names.
  package static func files(
    _ parameters: ParameterTree, configuration: LoRAConfiguration, backbone: any Backbone, model: String,
    writesText: Bool
  ) -> (configuration: [UInt8], tensors: [UInt8]) {
    let layers = backbone.adaptableLayers.filter { configuration.targets.contains($0.target) }
    func tensor(_ layer: AdaptableLayer, _ leaf: String, _ suffix: String) -> NamedTensor {
      let parameter = parameters["\(layer.name).\(leaf)"]
      return NamedTensor(
        name: tensorPrefix + layer.module + suffix, shape: [parameter.rows, parameter.columns],
        values: UnsafeBufferPointer(start: parameter.values, count: parameter.count))
    }
    let tensors = layers.flatMap { layer in
      [tensor(layer, "loraA", firstSuffix), tensor(layer, "loraB", secondSuffix)]
    }
    let settings = PEFTSettings.Written(
      base_model_name_or_path: model, lora_alpha: configuration.alpha, lora_dropout: configuration.dropout,
      r: configuration.rank, target_modules: targetModules(layers, of: backbone),
      task_type: writesText ? "SEQ_2_SEQ_LM" : nil)
    return (settings.encoded, safetensorsBytes(tensors, metadata: ["format": "pt"]))
  }

  /// Linear layers outside of the blocks, which a name must not mean.
  private static let outerModules = ["pooler.dense", "classifier.dense", "classifier.out_proj", "lm_head"]

  /// Names that PEFT matches with the end of a module's path: the shortest that mean these layers and no others.
  private static func targetModules(_ layers: [AdaptableLayer], of backbone: any Backbone) -> [String] {
    let chosen = Set(layers.map(\.module))
    let others = backbone.adaptableLayers.map(\.module).filter { !chosen.contains($0) } + outerModules
    func means(_ name: String, _ module: String) -> Bool { module == name || module.hasSuffix("." + name) }
    var names: [String] = []
    for layer in layers where !names.contains(where: { means($0, layer.module) }) {
      let parts = layer.module.split(separator: ".")
      let candidates = (1...parts.count).map { parts.suffix($0).joined(separator: ".") }
      guard let name = candidates.first(where: { name in !others.contains { means(name, $0) } }) else {
        preconditionFailure("\(layer.module) cannot be told from the layers that have no pair")
      }
      names.append(name)
    }
    return names
  }
}

/// The settings that Hearth reads of an `adapter_config.json`.
struct PEFTSettings {
  var rank: Int
  var alpha: Float
  var dropout: Float

  /// Settings that must be off, because they compute something else than a plain low-rank sum.
  private static let unsupported = [
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
    "bias", "layer_replication", "trainable_token_indices", "target_parameters", "arrow_config",
    "alora_invocation_tokens", "kasa_config", "velora_config", "monteclora_config",
  ]

  init(_ bytes: [UInt8], path: String) throws(PEFTFailure) {
    guard bytes.count <= PEFTAdapter.maximumConfigurationBytes else {
      throw .unreadable(
        path: path, detail: "\(bytes.count) bytes are more than \(PEFTAdapter.maximumConfigurationBytes)")
    }
    let values: [String: Setting]
    do {
      values = try JSONDecoder().decode([String: Setting].self, from: Data(bytes))
    } catch {
      throw .unreadable(path: path, detail: "it is not a JSON object")
    }
    let kind = values["peft_type"]?.text ?? "nothing"
    guard kind == "LORA" else {
      throw .setting(key: "peft_type", value: kind, path: path, detail: "is not LORA")
    }
    for key in Self.unsupported {
      if let value = values[key], !value.isOff {
        throw .setting(key: key, value: value.brief, path: path, detail: "is not supported")
      }
    }
    guard let found = values["r"]?.number, let rank = Int(exactly: found),
      (1...PEFTAdapter.maximumRank).contains(rank)
    else {
      throw .setting(
        key: "r", value: values["r"]?.brief ?? "missing", path: path,
        detail: "is not a whole number from 1 to \(PEFTAdapter.maximumRank)")
    }
    guard let alpha = values["lora_alpha"]?.number, alpha > 0, alpha <= 1e6 else {
      throw .setting(
        key: "lora_alpha", value: values["lora_alpha"]?.brief ?? "missing", path: path,
        detail: "is not a number above 0 and at most 1000000")
    }
    self.rank = rank
    // Rank-stabilised LoRA divides by the root of the rank.
    let isStabilised = values["use_rslora"].map { !$0.isOff } ?? false
    self.alpha = Float(isStabilised ? alpha * Double(rank).squareRoot() : alpha)
    dropout = Float(min(1, max(0, values["lora_dropout"]?.number ?? 0)))
  }

  /// A value of any JSON type.
  private enum Setting: Decodable {
    case null
    case flag(Bool)
    case number(Double)
    case text(String)
    case several(count: Int)

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if container.decodeNil() {
        self = .null
      } else if let value = try? container.decode(Bool.self) {
        self = .flag(value)
      } else if let value = try? container.decode(Double.self) {
        self = .number(value)
      } else if let value = try? container.decode(String.self) {
        self = .text(value)
      } else if let values = try? container.decode([Setting].self) {
        self = .several(count: values.count)
      } else {
        self = .several(count: try container.decode([String: Setting].self).count)
      }
    }

    /// What PEFT takes for "not used".
    var isOff: Bool {
      switch self {
      case .null: true
      case .flag(let flag): !flag
      case .number(let number): number == 0
      case .text(let text): text.isEmpty || text == "none"
      case .several(let count): count == 0
      }
    }
    var text: String? { if case .text(let text) = self { text } else { nil } }
    var number: Double? { if case .number(let number) = self { number } else { nil } }
    var brief: String {
      switch self {
      case .null: "null"
      case .flag(let flag): "\(flag)"
      case .number(let number): "\(number)"
      case .text(let text): String(text.prefix(60))
      case .several(let count): "\(count) values"
      }
    }
  }

  /// What Hearth writes; PEFT fills in its own defaults for the rest.
  struct Written: Encodable {
    var base_model_name_or_path: String
    var bias = "none"
    var fan_in_fan_out = false
    var inference_mode = true
    var init_lora_weights = true
    var lora_alpha: Float
    var lora_dropout: Float
    var peft_type = "LORA"
    var r: Int
    var target_modules: [String]
    var task_type: String?
    var use_dora = false
    var use_rslora = false

    var encoded: [UInt8] {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
      do {
        return Array(try encoder.encode(self)) + [UInt8(ascii: "\n")]
      } catch {
        preconditionFailure("settings of strings and finite numbers did not encode: \(error)")
      }
    }
  }
}

/// Why an adapter in PEFT's layout cannot be used.
package enum PEFTFailure: Error, Equatable, CustomStringConvertible {
  /// The settings are no settings.
  case unreadable(path: String, detail: String)
  /// A setting has a value that Hearth does not implement.
  case setting(key: String, value: String, path: String, detail: String)
  /// A tensor that belongs to no layer of the backbone.
  case unknownTensor(name: String, file: String, family: String)
  /// One matrix of a pair without the other.
  case halfPair(name: String, file: String)
  /// A tensor of another shape than the backbone and the rank ask for.
  case wrongShape(name: String, file: String, found: [Int], expected: [Int])
  /// No pair at all.
  case noPairs(file: String)

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .unreadable(let path, let detail):
      "'\(path)': \(detail); fetch the adapter again"
    case .setting(let key, let value, let path, let detail):
      "'\(path)': \(key) is \(value), which \(detail); Hearth reads plain LoRA adapters of one rank"
    case .unknownTensor(let name, let file, let family):
      "'\(file)': tensor \(name) belongs to no layer of this \(family.uppercased()); "
        + "pass the model that the adapter was trained on with --model"
    case .halfPair(let name, let file):
      "'\(file)': tensor \(name) has no partner; fetch the adapter again"
    case .wrongShape(let name, let file, let found, let expected):
      "'\(file)': tensor \(name) has the shape \(found) in place of \(expected); "
        + "pass the model that the adapter was trained on with --model"
    case .noPairs(let file):
      "'\(file)' holds no low-rank pair; it is no LoRA adapter"
    }
  }
}
