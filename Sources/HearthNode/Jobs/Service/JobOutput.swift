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
      run: run, model: model, results: results, steps: run.totalSteps, cacheBytes: cacheBytes)
    let summary = try output.write(tree, to: directory)
    try directory.removeState()
    return summary
  }
}
