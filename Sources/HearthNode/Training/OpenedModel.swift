package import CryptoPrimitives
import HearthStorage
package import LanguageModels
import NeuralNetworks
import TensorKernels

/// A model directory opened for a run: tokenizer and frozen backbone, until the backbone is released.
package final class OpenedModel {
  /// Where it was found.
  package let directory: String
  /// Shapes of the backbone.
  package let architecture: BackboneArchitecture
  /// Text to token ids.
  package let tokenizer: any Tokenizer
  /// Content digest of the weights.
  package let digest: ContentDigest
  /// Parameters of the checkpoint.
  package let parameterCount: Int
  /// Mapped bytes of the checkpoint.
  package let byteCount: Int
  /// The backbone; nil once it was released.
  package private(set) var backbone: (any Backbone)?
  private var checkpoint: Checkpoint?

  /// Maps and checks the weights, configuration and tokenizer of `directory`.
  package init(directory: String) throws {
    let loaded = try ModelDirectory.load(ModelFolder(directory))
    self.directory = directory
    tokenizer = loaded.tokenizer
    parameterCount = loaded.checkpoint.parameterCount
    byteCount = loaded.checkpoint.byteCount
    digest = loaded.checkpoint.digest
    let backbone: any Backbone =
      switch loaded.configuration {
      case .bert(let configuration): try BERTBackbone(loaded.checkpoint, configuration)
      case .t5(let configuration): try T5Backbone(loaded.checkpoint, configuration)
      case .bart(let configuration): try BARTBackbone(loaded.checkpoint, configuration)
      }
    self.backbone = backbone
    architecture = backbone.architecture
    checkpoint = loaded.checkpoint
  }

  /// "BERT, 6 layers, width 384".
  package var name: String {
    let layers = architecture.stacks.map { String($0.layers) }.joined(separator: " + ")
    return "\(architecture.name), \(layers) layers, width \(architecture.width)"
  }

  /// Input of the decoder for a task that reads its first step: its start token, or nothing without a decoder.
  package var decoderIDs: [Int32] {
    architecture.decoderStartID.map { [$0] } ?? []
  }

  /// Tells the system that the pages of the weights may go; they come back when somebody reads them.
  package func releasePages() { checkpoint?.releaseResidentPages() }

  /// The checkpoint that the backbone borrows; nil once it was released.
  var weights: Checkpoint? { checkpoint }

  /// Lets go of the backbone: its pages leave memory and its mapping ends with the last reference.
  package func release() {
    checkpoint?.releaseResidentPages()
    backbone = nil
    checkpoint = nil
  }
}
