import ComputeRuntime
import FineTuning
import LanguageModels
import TensorKernels

/// A backbone with an adapter, ready to predict.
final class AdaptedModel {
  /// Samples of one micro-batch; predictions do not depend on it.
  private static let samplesPerMicroBatch = 8

  /// The adapter and its backbone.
  let adapter: OpenedAdapter
  private let team: ComputeTeam
  /// Made when the first sample is predicted: an adapter that writes needs other buffers.
  private var computation: (any TechniqueComputation)?
  private var writers: WritingTeam?
  /// How taps come when the backbone does not fit; nil when it stays in memory whole.
  private var streaming: StreamedTaps?
  private let budget: Int

  /// What the adapter predicts and was trained on.
  var description: AdapterDescription { adapter.description }
  /// The backbone and its tokenizer.
  var model: OpenedModel { adapter.model }

  /// Opens an adapter and the backbone that it was trained on, and checks that they belong together.
  init(adapter path: String, modelDirectory: String?, threads: Int?, memoryBudget: Int? = nil) throws {
    budget = MemoryBudget.bytes(memoryBudget)
    adapter = try OpenedAdapter(path, modelDirectory: modelDirectory, memoryBudget: budget)
    _ = BLASCore.select()
    team = ComputeTeam(width: max(1, threads ?? MachineProfile.current().usableCores))
  }

  /// One row of scores (or one standardised value) for each sample; nil when `finished` returned false.
  func predict(_ samples: [TrainingSample], finished: (Int) -> Bool = { _ in true }) throws -> [Float]? {
    let technique = try started()
    let (batches, outputs) = (batches(samples), adapter.technique.head.outputs)
    if let streaming {
      return try streaming.predict(
        batches, outputs: outputs, sampleCount: samples.count, technique: technique, loop: team,
        finished: finished)
    }
    return try BatchPrediction.run(
      batches, outputs: outputs, sampleCount: samples.count, technique: technique, loop: team,
      finished: finished)
  }

  /// Mean loss of a target's token over all samples; nil when `finished` returned false.
  func tokenLoss(_ samples: [TrainingSample], finished: (Int) -> Bool = { _ in true }) throws -> Double? {
    let technique = try started()
    let batches = batches(samples)
    let units = batches.reduce(0) { $0 + $1.units }
    let sum =
      if let streaming {
        try streaming.loss(batches, technique: technique, loop: team, finished: finished)
      } else {
        try BatchPrediction.loss(batches, technique: technique, loop: team, finished: finished)
      }
    return sum.map { $0 / Double(max(1, units)) }
  }

  /// What the adapted model writes for each sample, by greedy search; nil when `finished` returned false.
  func write(
    _ inputs: [(ids: [Int32], types: [Int32])], finished: (Int) -> Bool = { _ in true }
  ) throws -> [WrittenIDs]? {
    try startedWriters().write(inputs, finished: finished)
  }

  private func batches(_ samples: [TrainingSample]) -> [PackedMicroBatch] {
    TrainingRows.consecutive(samples, size: Self.samplesPerMicroBatch, firstOrdinal: 0)
  }

  private func started() throws(RunFailure) -> any TechniqueComputation {
    if let computation { return computation }
    let size = Self.samplesPerMicroBatch
    let length = description.maximumLength
    var decoder = model.decoderIDs.count
    if case .seq2seq(let most) = description.task { decoder = most }
    let capacity = MicroBatchCapacity(
      sequences: size, encoderTokens: size * length, longestEncoder: length, decoderTokens: size * decoder,
      longestDecoder: decoder)
    streaming = try StreamedTaps(
      adapter.technique, capacity: capacity, model: model, workers: team.width, budget: budget)
    let made = adapter.technique.start(
      adapter.backbone, parameters: adapter.parameters, cache: nil, capacity: capacity, workers: team.width,
      training: false, taps: streaming?.taps
    ).computation
    computation = made
    return made
  }

  private func startedWriters() -> WritingTeam {
    if let writers { return writers }
    guard let backbone = adapter.backbone as? any EncoderDecoderBackbone,
      case .seq2seq(let most) = description.task
    else {
      preconditionFailure("an adapter for \(description.task) writes no text")
    }
    let made = WritingTeam(team) {
      adapter.technique.generator(
        backbone, parameters: adapter.parameters, settings: GenerationSettings(maximumTokens: most),
        maximumSource: description.maximumLength)
    }
    writers = made
    return made
  }
}
