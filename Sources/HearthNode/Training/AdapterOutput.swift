import ComputeRuntime
import CryptoPrimitives
import FineTuning
import LanguageModels
package import NeuralNetworks
import TensorKernels

/// The last act of a run, wherever it was computed: the adapter directory and the summary that a person reads.
package struct AdapterOutput {
  /// The run; its request names the model's directory.
  package var run: PreparedRun
  /// The whole model, for the adapter's description.
  package var model: OpenedModel
  /// What was measured.
  package var results: RunPosition
  /// Optimizer steps.
  package var steps: Int
  /// Bytes of the complete activation cache of all devices.
  package var cacheBytes: Int
  /// What the cache was filled with before the first epoch.
  package var fill: FillSummary?

  /// What came of a run.
  package init(
    run: PreparedRun, model: OpenedModel, results: RunPosition, steps: Int, cacheBytes: Int,
    fill: FillSummary? = nil
  ) {
    self.run = run
    self.model = model
    self.results = results
    self.steps = steps
    self.cacheBytes = cacheBytes
    self.fill = fill
  }

  /// Writes tensors, description and card; the summary has the digest of what lies on the disk.
  package func write(_ parameters: ParameterTree, to directory: RunDirectory) throws -> TrainSummary {
    let digest = try AdapterDirectory.writeTensors(parameters, to: directory.path)
    let technique = run.technique
    var description = AdapterDescription(
      technique: technique.configuration, task: run.task, backboneDigest: model.digest.description,
      tokenizerDigest: model.tokenizer.digest.description, backboneName: model.name,
      modelDirectory: run.request.modelDirectory, maximumLength: run.maximumLength,
      activationElement: technique.readsCachedActivations ? technique.element.rawValue : nil,
      adapterDigest: digest.description)
    if model.weightDecision != .float32 { description.weights = model.weightDecision }
    if technique.gradientPrecision != .full { description.gradientPrecision = technique.gradientPrecision }
    let card = ModelCard.text(run, model: model, description: description, results: results)
    try AdapterDirectory.write(
      description: description, card: card, peft: peftFiles(parameters), to: directory.path)
    let name = Measurement.mainMetric(run.task)
    return TrainSummary(
      metric: MetricChange(
        name: name, before: results.before.first { $0.name == name }?.value,
        after: results.after.first { $0.name == name }?.value),
      technique: technique.configuration.name, trainableParameters: run.parameterCount,
      epochs: results.epochs, cacheBytes: cacheBytes,
      peakResidentBytes: ProcessMemory.current()?.peak ?? 0, adapterDigest: digest.description,
      adapterDirectory: directory.path, steps: steps, metrics: results.after, fill: fill)
  }

  /// A LoRA adapter as PEFT lays it out; nil for other techniques.
  private func peftFiles(_ parameters: ParameterTree) -> (configuration: [UInt8], tensors: [UInt8])? {
    guard case .lora(let lora) = run.technique.configuration, let backbone = model.backbone else {
      return nil
    }
    return PEFTAdapter.files(
      parameters, configuration: lora, backbone: backbone, model: run.request.modelDirectory,
      writesText: run.technique.head == .languageModel)
  }
}
