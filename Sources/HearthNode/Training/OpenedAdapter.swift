import CryptoPrimitives
import FineTuning
import LanguageModels
import NeuralNetworks
import TensorKernels

/// An adapter with the backbone that it belongs to, read and checked.
final class OpenedAdapter {
  /// What the adapter predicts and was trained on.
  let description: AdapterDescription
  /// The backbone and its tokenizer.
  let model: OpenedModel
  /// The technique with its settings.
  let technique: TrainedTechnique
  /// The trained values.
  let parameters: ParameterTree
  /// Tensors of a foreign adapter that are not used.
  let unusedTensors: [String]

  /// What a person should know before the adapter is used.
  var warnings: [String] {
    guard let first = unusedTensors.first else { return [] }
    return ["\(unusedTensors.count) tensors of the adapter are not used; the first: \(first)"]
  }

  /// The backbone, which stays open as long as the adapter.
  var backbone: any Backbone {
    guard let backbone = model.backbone else { preconditionFailure("a model opens with its backbone") }
    return backbone
  }

  /// Opens an adapter and the backbone that it was trained on, and checks that they belong together.
  ///
  /// A directory that PEFT wrote names neither its weights' digest nor a task: it needs `modelDirectory`, and is
  /// taken for an adapter that writes text.
  init(_ adapter: String, modelDirectory: String?, memoryBudget: Int? = nil) throws {
    try RunPreflight.checkInputDirectory(adapter, role: "adapter")
    guard let found = try AdapterDirectory.descriptionIfPresent(adapter) else {
      guard try AdapterDirectory.holdsPEFT(adapter) else {
        _ = try AdapterDirectory.description(adapter)
        preconditionFailure("an adapter without adapter.json was read")
      }
      let opened = try Self.foreign(adapter, modelDirectory: modelDirectory)
      (description, model, technique, parameters, unusedTensors) = opened
      return
    }
    description = found
    unusedTensors = []
    let directory = modelDirectory ?? found.modelDirectory
    try RunPreflight.checkModelDirectory(directory)
    model = try OpenedModel(
      directory: directory, memoryBudget: memoryBudget, weights: .recorded(found.weights ?? .float32))
    guard model.digest.description == found.backboneDigest else {
      throw RunFailure.backboneMismatch(
        adapter: adapter, expected: found.backboneDigest, found: model.digest.description, model: directory)
    }
    guard model.tokenizer.digest.description == found.tokenizerDigest else {
      throw RunFailure.backboneMismatch(
        adapter: adapter, expected: found.tokenizerDigest, found: model.tokenizer.digest.description,
        model: directory + " (tokenizer)")
    }
    guard let backbone = model.backbone else { preconditionFailure("a model opens with its backbone") }
    // Activations are rounded as they were in training: a side network adapted to those values.
    technique = try TrainedTechnique(
      found.technique, head: found.task.head, backbone: backbone,
      element: found.activationElement.flatMap(ActivationElement.init) ?? .float32)
    parameters = technique.emptyParameters(backbone)
    try AdapterDirectory.read(adapter, description: found, into: parameters)
  }

  private static func foreign(
    _ adapter: String, modelDirectory: String?
  ) throws -> (AdapterDescription, OpenedModel, TrainedTechnique, ParameterTree, [String]) {
    guard let directory = modelDirectory else {
      throw RunFailure.missingInput(
        role: "adapter", path: adapter,
        detail: "is in PEFT's layout, which names no weights; give its model with --model")
    }
    try RunPreflight.checkModelDirectory(directory)
    let model = try OpenedModel(directory: directory)
    guard let backbone = model.backbone as? any EncoderDecoderBackbone else {
      throw RunFailure.badInput(
        role: "adapter", path: adapter,
        detail: "is in PEFT's layout, which holds no task head that Hearth knows, and "
          + "\(model.architecture.name.uppercased()) writes no text; only text-to-text adapters can be used")
    }
    let peft = try AdapterDirectory.peft(adapter, backbone: backbone)
    let configuration = TechniqueConfiguration.lora(peft.configuration)
    let technique = try TrainedTechnique(
      configuration, head: .languageModel, backbone: backbone, element: .float32)
    let parameters = technique.emptyParameters(backbone)
    try peft.fill(parameters)
    let description = AdapterDescription(
      technique: configuration, task: .seq2seq(maximumTargetLength: TrainRequest.defaultTargetLength),
      backboneDigest: model.digest.description, tokenizerDigest: model.tokenizer.digest.description,
      backboneName: model.name, modelDirectory: directory, maximumLength: TrainRequest.defaultForeignLength,
      activationElement: nil, adapterDigest: "")
    return (description, model, technique, parameters, peft.unusedTensors)
  }
}
