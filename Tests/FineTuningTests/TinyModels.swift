import Determinism
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TensorKernels

/// The tiny models of Tests/Fixtures as backbones.
enum TinyModels {
  /// Tests/Fixtures, next to this target's directory.
  static let fixtures: String = {
    var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
    parts.removeLast(2)
    return parts.joined(separator: "/") + "/Fixtures"
  }()

  /// The model of a fixture directory with a tokenizer.
  static func load(_ directory: String) throws -> LoadedModel {
    try ModelDirectory.load(ModelFolder(fixtures + "/" + directory))
  }

  /// The backbone of a fixture directory with a tokenizer.
  static func backbone(_ directory: String) throws -> any Backbone {
    let model = try load(directory)
    return try backbone(model.configuration, model.checkpoint)
  }

  /// The backbone of a configuration and its weights.
  static func backbone(
    _ configuration: ModelConfiguration, _ checkpoint: Checkpoint
  ) throws -> any Backbone {
    switch configuration {
    case .bert(let configuration): try BERTBackbone(checkpoint, configuration)
    case .t5(let configuration): try T5Backbone(checkpoint, configuration)
    case .bart(let configuration): try BARTBackbone(checkpoint, configuration)
    }
  }

  /// The whole numbers of an I32 tensor.
  static func integers(_ file: SafetensorsFile, _ name: String) -> [Int32] {
    guard let entry = file.tensor(name), entry.element == .int32 else { return [] }
    let bytes = file.bytes(of: entry)
    return (0..<entry.elementCount).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Int32.self) }
  }

  /// Token ids below `vocabulary`, none of them special.
  static func ids(_ count: Int, seed: UInt64, vocabulary: Int) -> [Int32] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { _ in 4 + Int32(generator.next() % UInt64(vocabulary - 4)) }
  }
}
