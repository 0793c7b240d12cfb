import FoundationEssentials
public import LanguageModels
public import NeuralNetworks

/// What an adapter predicts.
public enum AdapterTask: Codable, Sendable, Equatable {
  /// One of these labels, in the order of the scores.
  case classify(labels: [String])
  /// A number: `mean + deviation · output`, because the network is trained on standardised targets.
  case regress(mean: Double, deviation: Double)
  /// A text of at most this many tokens, its end included.
  case seq2seq(maximumTargetLength: Int)

  /// The head that it needs.
  package var head: TaskHead {
    switch self {
    case .classify(let labels): .classes(labels.count)
    case .regress: .value
    case .seq2seq: .languageModel
    }
  }
}

/// Everything beside the tensors that makes an adapter: `adapter.json`.
public struct AdapterDescription: Sendable, Equatable {
  /// Version of the format that this code writes.
  public static let currentVersion = 2
  /// Versions that this code reads: the first knew Parallel Adapters alone.
  public static let readableVersions = 1...2
  /// File name of the description inside an adapter directory.
  public static let fileName = "adapter.json"
  /// File name of the tensors inside an adapter directory.
  public static let tensorsFileName = "adapter.safetensors"
  /// File name of the model card inside an adapter directory.
  public static let cardFileName = "README.md"
  /// Most bytes of a description that are read.
  public static let maximumBytes = 1 << 20

  /// Format version.
  public var version = Self.currentVersion
  /// The technique with its settings.
  public var technique: TechniqueConfiguration
  /// What it predicts.
  public var task: AdapterTask
  /// Content digest of the backbone's tensors, in hexadecimal.
  public var backboneDigest: String
  /// How the backbone's matrices were kept in training, when not in float32; the digest counts it.
  public var weights: WeightDecision?
  /// Digest of the tokenizer, in hexadecimal.
  public var tokenizerDigest: String
  /// Name of the backbone for people, for instance "BERT, 6 layers, width 384".
  public var backboneName: String
  /// Directory where the backbone was found at training time.
  public var modelDirectory: String
  /// Longest text in tokens.
  public var maximumLength: Int
  /// Storage of the activations that a side network was trained on; nil for techniques that read none.
  public var activationElement: String?
  /// How finely gradients were rounded in training; nil in full precision.
  public var gradientPrecision: GradientPrecision?
  /// Content digest of the adapter's tensors, in hexadecimal.
  public var adapterDigest: String

  /// A description from its parts.
  public init(
    technique: TechniqueConfiguration, task: AdapterTask, backboneDigest: String, tokenizerDigest: String,
    backboneName: String, modelDirectory: String, maximumLength: Int, activationElement: String?,
    adapterDigest: String
  ) {
    self.technique = technique
    self.task = task
    self.backboneDigest = backboneDigest
    self.tokenizerDigest = tokenizerDigest
    self.backboneName = backboneName
    self.modelDirectory = modelDirectory
    self.maximumLength = maximumLength
    self.activationElement = activationElement
    self.adapterDigest = adapterDigest
  }

  /// The JSON text of `adapter.json`: sorted keys, two-space indent, final newline.
  public func encoded() throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return Array(try encoder.encode(self)) + [UInt8(ascii: "\n")]
  }

  /// Reads `adapter.json`.
  ///
  /// - Throws: `AdapterFailure.unreadable` naming the file, when it is not such a text or of another version.
  public init(decoding bytes: [UInt8], path: String) throws(AdapterFailure) {
    guard bytes.count <= Self.maximumBytes else {
      throw .unreadable(path: path, detail: "\(bytes.count) bytes are more than \(Self.maximumBytes)")
    }
    do {
      self = try JSONDecoder().decode(Self.self, from: Data(bytes))
    } catch {
      throw .unreadable(path: path, detail: "it is not an adapter description (\(error))")
    }
    guard Self.readableVersions.contains(version) else {
      throw .unreadable(
        path: path,
        detail:
          "format version \(version) is not one of 1 to \(Self.currentVersion), which this program reads")
    }
    if let fault { throw .unreadable(path: path, detail: fault) }
  }

  /// What is wrong with the numbers, if anything is.
  private var fault: String? {
    guard maximumLength > 0 else { return "maximumLength must be positive" }
    switch task {
    case .classify(let labels) where labels.count < 2: return "a classification needs two labels"
    case .seq2seq(let length) where length < 1: return "maximumTargetLength must be positive"
    default: break
    }
    switch technique {
    case .parallel(let configuration) where configuration.reduction < 1: return "reduction must be positive"
    case .houlsby(let configuration) where configuration.reduction < 1: return "reduction must be positive"
    case .lora(let configuration)
    where configuration.rank < 1 || configuration.targets.isEmpty || !configuration.alpha.isFinite:
      return "rank must be positive, alpha finite, and targets not empty"
    case .parallel where activationElement == nil: return "a side network needs an activationElement"
    default: return nil
    }
  }
}

extension AdapterDescription: Codable {
  private enum Keys: String, CodingKey {
    case version, technique, configuration, task, backboneDigest, weights, tokenizerDigest, backboneName
    case modelDirectory, maximumLength, activationElement, gradientPrecision, adapterDigest
  }

  /// The technique is its name beside the object of its settings.
  public func encode(to encoder: any Encoder) throws {
    var keys = encoder.container(keyedBy: Keys.self)
    try keys.encode(version, forKey: .version)
    try keys.encode(technique.name, forKey: .technique)
    switch technique {
    case .parallel(let configuration): try keys.encode(configuration, forKey: .configuration)
    case .full(let configuration): try keys.encode(configuration, forKey: .configuration)
    case .houlsby(let configuration): try keys.encode(configuration, forKey: .configuration)
    case .lora(let configuration): try keys.encode(configuration, forKey: .configuration)
    }
    try keys.encode(task, forKey: .task)
    try keys.encode(backboneDigest, forKey: .backboneDigest)
    try keys.encodeIfPresent(weights, forKey: .weights)
    try keys.encode(tokenizerDigest, forKey: .tokenizerDigest)
    try keys.encode(backboneName, forKey: .backboneName)
    try keys.encode(modelDirectory, forKey: .modelDirectory)
    try keys.encode(maximumLength, forKey: .maximumLength)
    try keys.encodeIfPresent(activationElement, forKey: .activationElement)
    try keys.encodeIfPresent(gradientPrecision, forKey: .gradientPrecision)
    try keys.encode(adapterDigest, forKey: .adapterDigest)
  }

  /// Reads what `encode` writes.
  public init(from decoder: any Decoder) throws {
    let keys = try decoder.container(keyedBy: Keys.self)
    version = try keys.decode(Int.self, forKey: .version)
    let name = try keys.decode(String.self, forKey: .technique)
    switch name {
    case "parallel":
      technique = .parallel(try keys.decode(ParallelAdapterConfiguration.self, forKey: .configuration))
    case "full": technique = .full(try keys.decode(FullConfiguration.self, forKey: .configuration))
    case "houlsby": technique = .houlsby(try keys.decode(HoulsbyConfiguration.self, forKey: .configuration))
    case "lora": technique = .lora(try keys.decode(LoRAConfiguration.self, forKey: .configuration))
    default:
      throw DecodingError.dataCorruptedError(
        forKey: .technique, in: keys, debugDescription: "there is no technique \(name.prefix(40))")
    }
    task = try keys.decode(AdapterTask.self, forKey: .task)
    backboneDigest = try keys.decode(String.self, forKey: .backboneDigest)
    weights = try keys.decodeIfPresent(WeightDecision.self, forKey: .weights)
    tokenizerDigest = try keys.decode(String.self, forKey: .tokenizerDigest)
    backboneName = try keys.decode(String.self, forKey: .backboneName)
    modelDirectory = try keys.decode(String.self, forKey: .modelDirectory)
    maximumLength = try keys.decode(Int.self, forKey: .maximumLength)
    activationElement = try keys.decodeIfPresent(String.self, forKey: .activationElement)
    gradientPrecision = try keys.decodeIfPresent(GradientPrecision.self, forKey: .gradientPrecision)
    adapterDigest = try keys.decode(String.self, forKey: .adapterDigest)
  }
}

/// Why an adapter cannot be used.
public enum AdapterFailure: Error, Equatable, CustomStringConvertible {
  /// The description is damaged or of another version.
  case unreadable(path: String, detail: String)
  /// A tensor is missing, superfluous or of another shape.
  case tensor(name: String, path: String, detail: String)
  /// The tensors are not those that the description was written for.
  case damaged(path: String, expected: String, found: String)

  /// One line: what was wrong, where, and the next step.
  public var description: String {
    switch self {
    case .unreadable(let path, let detail): "'\(path)': \(detail); train again or restore the file"
    case .tensor(let name, let path, let detail):
      "'\(path)': tensor \(name) \(detail); the adapter's two files do not belong together"
    case .damaged(let path, let expected, let found):
      "'\(path)' has digest \(found.prefix(16)) and adapter.json names \(expected.prefix(16)); "
        + "restore the file from a copy or train again"
    }
  }
}
