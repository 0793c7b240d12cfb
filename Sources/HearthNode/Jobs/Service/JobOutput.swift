import ComputeRuntime
import CryptoPrimitives
import FineTuning
import HearthStorage
import LanguageModels
import NeuralNetworks
import TrainingCoordination

/// The last act of a job on its owner: the adapter directory that a run on one device would have written.
///
/// The trained values, of all of T5-Base 850 MiB, are read from the file that has them and are never in memory as a whole.
struct JobOutput: Sendable {
  /// Bytes of trained values that an owner takes from another device.
  static let resultLimit = 16 << 30

  let submission: JobSubmission
  let package: JobPackage
  /// Whether the model's directory still holds the very files that the job was submitted with.
  let hasSubmittedModel: @Sendable () -> Bool
  /// How many trained values there are, with the gaps between leaves.
  let count: Int
  /// The file that has their bytes, verified.
  let path: @Sendable () throws -> String
  /// What the values' digest must be.
  let digest: ContentDigest?
  let results: RunPosition
  let cacheBytes: Int
  /// Threads that write held-out texts.
  let threads: Int

  func write() throws -> TrainSummary {
    let directory = RunDirectory(submission.outputDirectory)
    let request = try directory.record()
    let model = try OpenedModel(
      directory: submission.modelDirectory, memoryBudget: MemoryBudget.bytes(request.memoryBudget),
      weights: request.requestedWeights, identity: hasSubmittedModel() ? package.backboneDigest : nil)
    guard model.digest == package.backboneDigest, let backbone = model.backbone else {
      throw JobServiceFailure.otherModel(directory: submission.modelDirectory)
    }
    let run = try PreparedRun(request, content: package.content, backbone: backbone)
    let tree = try trained(run.technique.emptyParameters(backbone))
    let output = AdapterOutput(
      run: run, model: model, results: try measured(run, model: model, backbone: backbone, result: tree),
      steps: run.totalSteps, cacheBytes: cacheBytes, fill: results.fill)
    let summary = try output.write(tree, to: directory)
    try directory.removeState()
    if let path = submission.validationTextsPath { _ = try removeFile(path) }
    return summary
  }

  /// The tree, whose values are those of the file.
  private func trained(_ tree: ParameterTree) throws -> ParameterTree {
    guard tree.vectorCount == count else {
      throw JobServiceFailure.unfitResult(found: count, expected: tree.vectorCount)
    }
    let path = try path()
    try tree.back { try BackingFile(path, inPlaceOf: $0).release }
    var hasher = ContentHasher()
    tree.forEachPiece { hasher.update($0) }
    let found = hasher.finalize()
    guard digest == nil || found == digest else { throw JobServiceFailure.noResult }
    return tree
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
