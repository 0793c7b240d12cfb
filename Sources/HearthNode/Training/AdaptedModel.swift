import ComputeRuntime
import CryptoPrimitives
import FineTuning
import LanguageModels
import TensorKernels

/// A backbone with an adapter, ready to predict.
final class AdaptedModel {
  /// Samples of one micro-batch; predictions do not depend on it.
  private static let samplesPerMicroBatch = 8

  /// What the adapter predicts and was trained on.
  let description: AdapterDescription
  /// The backbone and its tokenizer.
  let model: OpenedModel
  private let technique: ParallelAdapters
  private let team: ComputeTeam
  private let outputs: Int
  /// How taps come when the backbone does not fit; nil when it stays in memory whole.
  private let streaming: StreamedTaps?

  /// Opens an adapter and the backbone that it was trained on, and checks that they belong together.
  init(adapter: String, modelDirectory: String?, threads: Int?, memoryBudget: Int? = nil) throws {
    try RunPreflight.checkInputDirectory(adapter, role: "adapter")
    description = try AdapterDirectory.description(adapter)
    let directory = modelDirectory ?? description.modelDirectory
    try RunPreflight.checkModelDirectory(directory)
    let budget = MemoryBudget.bytes(memoryBudget)
    model = try OpenedModel(directory: directory, memoryBudget: budget)
    guard model.digest.description == description.backboneDigest else {
      throw RunFailure.backboneMismatch(
        adapter: adapter, expected: description.backboneDigest, found: model.digest.description,
        model: directory)
    }
    guard model.tokenizer.digest.description == description.tokenizerDigest else {
      throw RunFailure.backboneMismatch(
        adapter: adapter, expected: description.tokenizerDigest,
        found: model.tokenizer.digest.description, model: directory + " (tokenizer)")
    }
    guard let backbone = model.backbone else { preconditionFailure("a model opens with its backbone") }
    let shape = try SideNetworkShape(
      description.configuration, head: description.task.head, backbone: model.architecture)
    let parameters = try AdapterDirectory.parameters(adapter, description: description, shape: shape)
    _ = BLASCore.select()
    team = ComputeTeam(width: max(1, threads ?? MachineProfile.current().usableCores))
    outputs = shape.head.outputs
    let decoder = model.decoderIDs.count
    let capacity = MicroBatchCapacity(
      sequences: Self.samplesPerMicroBatch,
      encoderTokens: Self.samplesPerMicroBatch * description.maximumLength,
      longestEncoder: description.maximumLength, decoderTokens: Self.samplesPerMicroBatch * decoder,
      longestDecoder: decoder)
    // Activations are rounded as they were in training: the side network adapted to those values.
    let element = ActivationElement(rawValue: description.activationElement) ?? .float32
    streaming = try StreamedTaps(
      shape: shape, element: element, capacity: capacity, model: model, workers: team.width, budget: budget)
    technique = ParallelAdapters(
      shape: shape, parameters: parameters, frozen: FrozenOutput(copying: backbone),
      source: streaming?.taps
        ?? BackboneTapSource(
          shape: shape, backbone: backbone, cache: nil, capacity: capacity, workers: team.width),
      element: element, capacity: capacity, workers: team.width, training: false)
  }

  /// One row of scores (or one standardised value) for each sample; nil when `finished` returned false.
  func predict(_ samples: [TrainingSample], finished: (Int) -> Bool = { _ in true }) throws -> [Float]? {
    let batches = TrainingRows.consecutive(samples, size: Self.samplesPerMicroBatch, firstOrdinal: 0)
    if let streaming {
      return try streaming.predict(
        batches, outputs: outputs, sampleCount: samples.count, technique: technique, loop: team,
        finished: finished)
    }
    return try BatchPrediction.run(
      batches, outputs: outputs, sampleCount: samples.count, technique: technique, loop: team,
      finished: finished)
  }
}
