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
  /// Identity of the weights: their content digest, with how they are kept when that is not float32.
  package let digest: ContentDigest
  /// Parameters of the checkpoint.
  package let parameterCount: Int
  /// Bytes of the backbone in memory.
  package let byteCount: Int
  /// How the matrices are kept.
  package let weightDecision: WeightDecision
  /// What their conversion found; nil in float32.
  package let weightReport: WeightReport?
  /// The backbone; nil once it was released.
  package private(set) var backbone: (any Backbone)?
  private var checkpoint: Checkpoint?

  /// Maps and checks the weights, configuration and tokenizer of `directory`.
  ///
  /// Weights over `memoryBudget` pass through memory piece by piece while they are hashed. With an `identity`, the digest
  /// that a device with all of the weights found, they are not hashed: a part of them has holes in place of the rest.
  package init(
    directory: String, memoryBudget: Int? = nil, weights: RequestedWeights = .float32,
    identity: ContentDigest? = nil
  ) throws {
    let loaded = try ModelDirectory.load(ModelFolder(directory))
    let checkpoint = weights.precision == .float32 ? loaded.checkpoint : loaded.checkpoint.deferringDecoding
    self.directory = directory
    tokenizer = loaded.tokenizer
    parameterCount = loaded.checkpoint.parameterCount
    let backbone: any Backbone =
      switch loaded.configuration {
      case .bert(let configuration): try BERTBackbone(checkpoint, configuration)
      case .t5(let configuration): try T5Backbone(checkpoint, configuration)
      case .bart(let configuration): try BARTBackbone(checkpoint, configuration)
      }
    let converted = try weights.convert(backbone, tokenizer: loaded.tokenizer, checkpoint: checkpoint)
    weightDecision = converted?.decision ?? .float32
    weightReport = converted.map(WeightReport.init)
    // Weights stored in 16 bits and used in float32 take twice their file.
    byteCount = weightReport?.bytes ?? max(checkpoint.byteCount, checkpoint.ownedByteCount)
    digest =
      identity
      ?? weightDecision.identity(
        of: checkpoint.digest(releasing: memoryBudget.map { checkpoint.byteCount > $0 } ?? false))
    if converted != nil { checkpoint.releaseResidentPages() }
    self.backbone = converted?.backbone ?? backbone
    architecture = backbone.architecture
    self.checkpoint = checkpoint
  }

  /// The weights as a layer-by-layer forward reads them; nil once the backbone was released.
  var streamedWeights: StreamedWeights? { checkpoint.map(StreamedWeights.init) }

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
