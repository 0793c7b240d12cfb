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
    try backbone(load(directory))
  }

  /// The backbone of a loaded model.
  static func backbone(_ model: LoadedModel) throws -> any Backbone {
    switch model.configuration {
    case .bert(let configuration): try BERTBackbone(model.checkpoint, configuration)
    case .t5(let configuration): try T5Backbone(model.checkpoint, configuration)
    case .bart(let configuration): try BARTBackbone(model.checkpoint, configuration)
    }
  }

  /// Token ids below `vocabulary`, none of them special.
  static func ids(_ count: Int, seed: UInt64, vocabulary: Int) -> [Int32] {
    var generator = SeededGenerator(seed: seed)
    return (0..<count).map { _ in 4 + Int32(generator.next() % UInt64(vocabulary - 4)) }
  }
}
