import FoundationEssentials

/// What an adapter predicts.
public enum AdapterTask: Codable, Sendable, Equatable {
  /// One of these labels, in the order of the scores.
  case classify(labels: [String])
  /// A number: `mean + deviation · output`, because the network is trained on standardised targets.
  case regress(mean: Double, deviation: Double)

  /// The head that a side network needs for it.
  package var head: TaskHead {
    switch self {
    case .classify(let labels): .classes(labels.count)
    case .regress: .value
    }
  }
}

/// Everything beside the tensors that makes an adapter: `adapter.json`.
public struct AdapterDescription: Codable, Sendable, Equatable {
  /// Version of the format that this code writes and reads.
  public static let currentVersion = 1
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
  /// Technique: "parallel".
  public var technique: String
  /// Shape of the side network.
  public var configuration: ParallelAdapterConfiguration
  /// What it predicts.
  public var task: AdapterTask
  /// Content digest of the backbone's tensors, in hexadecimal.
  public var backboneDigest: String
  /// Digest of the tokenizer, in hexadecimal.
  public var tokenizerDigest: String
  /// Name of the backbone for people, for instance "BERT, 6 layers, width 384".
  public var backboneName: String
  /// Directory where the backbone was found at training time.
  public var modelDirectory: String
  /// Longest text in tokens.
  public var maximumLength: Int
  /// Storage of the activations that the network was trained on.
  public var activationElement: String
  /// Content digest of the adapter's tensors, in hexadecimal.
  public var adapterDigest: String

  /// A description from its parts.
  public init(
    technique: String, configuration: ParallelAdapterConfiguration, task: AdapterTask, backboneDigest: String,
    tokenizerDigest: String, backboneName: String, modelDirectory: String, maximumLength: Int,
    activationElement: String, adapterDigest: String
  ) {
    self.technique = technique
    self.configuration = configuration
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
    guard version == Self.currentVersion else {
      throw .unreadable(
        path: path,
        detail: "format version \(version) is not \(Self.currentVersion), the one this program reads")
    }
    guard configuration.reduction > 0, maximumLength > 0 else {
      throw .unreadable(path: path, detail: "reduction and maximumLength must be positive")
    }
    if case .classify(let labels) = task, labels.count < 2 {
      throw .unreadable(path: path, detail: "a classification needs two labels")
    }
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
