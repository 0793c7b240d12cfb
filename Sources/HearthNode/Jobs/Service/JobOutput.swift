import ComputeRuntime
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TrainingCoordination

/// The last act of a job on its owner: the adapter directory that a run on one device would have written.
struct JobOutput: Sendable {
  /// Bytes of trained values that an owner takes from another device.
  static let resultLimit = 16 << 30

  let submission: JobSubmission
  let package: JobPackage
  let parameters: [Float]
  /// What the values' digest must be.
  let digest: ContentDigest?
  let results: RunPosition
  let cacheBytes: Int
  /// Threads that write held-out texts.
  let threads: Int

  func write() throws -> TrainSummary {
    var hasher = ContentHasher()
    parameters.withUnsafeBytes { hasher.update($0) }
    let found = hasher.finalize()
    guard digest == nil || found == digest else { throw JobServiceFailure.noResult }
    let directory = RunDirectory(submission.outputDirectory)
    let request = try directory.record()
    let model = try OpenedModel(
      directory: submission.modelDirectory, memoryBudget: MemoryBudget.bytes(request.memoryBudget),
      weights: request.requestedWeights)
    guard model.digest == package.backboneDigest, let backbone = model.backbone else {
      throw JobServiceFailure.otherModel(directory: submission.modelDirectory)
    }
    let run = try PreparedRun(request, content: package.content, backbone: backbone)
    let tree = run.technique.emptyParameters(backbone)
    guard tree.vectorCount == parameters.count else {
      throw JobServiceFailure.unfitResult(found: parameters.count, expected: tree.vectorCount)
    }
    for (index, value) in parameters.enumerated() { tree.vector[index] = value }
    let output = AdapterOutput(
      run: run, model: model, results: try measured(run, model: model, backbone: backbone, result: tree),
      steps: run.totalSteps, cacheBytes: cacheBytes, fill: results.fill)
    let summary = try output.write(tree, to: directory)
    try directory.removeState()
    if let path = submission.validationTextsPath { _ = try removeFile(path) }
    return summary
  }

  /// Adds what the owner alone can measure: whether the held-out texts are written as the rows have them.
  private func measured(
    _ run: PreparedRun, model: OpenedModel, backbone: any Backbone, result: ParameterTree
  ) throws -> RunPosition {
    guard case .seq2seq = run.task, let path = submission.validationTextsPath, run.writerSettings != nil
    else {
      return results
    }
    let texts = try HeldOutTexts(contentsOf: path)
    guard texts.texts.count == run.validationSamples.count else { throw JobServiceFailure.noResult }
    let team = ComputeTeam(width: threads)
    let start = try PackagedRun(package, backbone: backbone).initialParameters(backbone)
    var position = results
    let name = Measurement.mainMetric(run.task)
    if let match = try texts.exactMatch(run, model: model, parameters: start, team: team) {
      position.before.insert(MetricValue(name: name, value: match), at: 0)
    }
    if let match = try texts.exactMatch(run, model: model, parameters: result, team: team) {
      position.after.insert(MetricValue(name: name, value: match), at: 0)
    }
    return position
  }
}
