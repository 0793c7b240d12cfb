package import CryptoPrimitives
package import FineTuning
import LanguageModels
package import NeuralNetworks
package import TensorKernels

/// What decides a job's bits beside its samples.
package struct JobSettings: Codable, Sendable, Equatable {
  /// Passes over the training samples.
  package var epochs: Int
  /// Samples of one optimizer step.
  package var batch: Int
  /// Samples of a unit; divides `batch`.
  package var microBatch: Int
  /// Peak learning rate of AdamW.
  package var learningRate: Double
  /// Seed of the split of work, the shuffles and the initial weights.
  package var seed: UInt64
  /// How a cached activation element is stored.
  package var cache: ActivationElement
  /// True computes activations again in the backward in place of keeping them.
  package var checkpointsActivations: Bool
  /// How finely gradients are rounded before they are added up.
  package var gradientPrecision: GradientPrecision

  /// The settings of a request.
  package init(_ request: TrainRequest) {
    epochs = request.epochs
    batch = request.batch
    microBatch = request.microBatch
    learningRate = request.learningRate
    seed = request.seed
    cache = request.cache
    checkpointsActivations = request.checkpointsActivations ?? false
    gradientPrecision = request.gradientPrecision ?? .full
  }

  /// A request of the same settings, for a device that has neither rows nor, perhaps, the whole model.
  package func request(task: RunTask, technique: RunTechnique, maximumLength: Int) -> TrainRequest {
    var request = TrainRequest(modelDirectory: "", dataFile: "", task: task, output: "")
    request.technique = technique
    request.epochs = epochs
    request.batch = batch
    request.microBatch = microBatch
    request.learningRate = learningRate
    request.seed = seed
    request.cache = cache
    request.checkpointsActivations = checkpointsActivations ? true : nil
    request.gradientPrecision = gradientPrecision == .full ? nil : gradientPrecision
    request.maxLength = maximumLength
    return request
  }

  /// What is wrong with the numbers, if anything is.
  var fault: String? {
    guard (1...JobPackageLimits.epochs).contains(epochs) else { return "epochs are \(epochs)" }
    guard (1...JobPackageLimits.batch).contains(batch), (1...batch).contains(microBatch),
      batch % microBatch == 0
    else { return "a batch of \(batch) in units of \(microBatch)" }
    guard learningRate > 0, learningRate <= 1 else { return "a learning rate of \(learningRate)" }
    return nil
  }
}

/// The bounds of a job package; a file beyond them is refused before anything is made of it.
package enum JobPackageLimits {
  /// Bytes of the whole file.
  package static let bytes = 2 << 30
  /// Bytes of the header.
  package static let headerBytes = 4 << 20
  /// Bytes of the settings for planning.
  package static let planningBytes = 64 << 10
  /// Tokens of one text, as `--max-length` and `--max-target-length` have it.
  package static let textTokens = 4096
  /// Passes over the samples.
  package static let epochs = 10_000
  /// Samples of a step.
  package static let batch = 65_536
  /// Bytes of a name.
  package static let nameBytes = 80
}

/// A job as its owner hands it to the other devices: settings, all samples as token ids, and where training starts.
///
/// No text, path or label column of the rows is in it; a classification's label names are, for they are the task.
/// Every device lays out the same run from it.
package struct JobPackage: Sendable, Equatable {
  /// What people call the job.
  package var name: String
  /// The backbone for people, for instance "BERT, 6 layers, width 384".
  package var backboneName: String
  /// Identity of the weights.
  package var backboneDigest: ContentDigest
  /// Identity of the tokenizer.
  package var tokenizerDigest: ContentDigest
  /// What decides the bits beside samples.
  package var settings: JobSettings
  /// What is predicted.
  package var task: AdapterTask
  /// How the backbone is adapted.
  package var technique: TechniqueConfiguration
  /// Tokens of the longest text.
  package var maximumLength: Int
  /// What plans are made from, as the planner's own code reads it.
  package var planning: [UInt8]
  /// Samples that are trained on.
  package var training: [TrainingSample]
  /// Samples that measure the adapter.
  package var heldOut: [TrainingSample]
  /// The flat vector of trained values at the start; nil for full fine-tuning, which starts from the weights.
  package var parameters: [Float]?

  /// The package of a run that was laid out on this device.
  ///
  /// - Parameter content: what `run` was laid out from.
  package init(
    _ run: PreparedRun, content: RunContent, model: OpenedModel, name: String, planning: [UInt8]
  ) {
    guard let backbone = model.backbone else { preconditionFailure("a package is made with its backbone") }
    self.name = JobPackage.cut(name)
    backboneName = model.name
    backboneDigest = model.digest
    tokenizerDigest = model.tokenizer.digest
    settings = JobSettings(run.request)
    task = content.task
    technique = content.technique
    maximumLength = content.maximumLength
    training = content.training
    heldOut = content.heldOut
    self.planning = planning
    if run.technique.replacesBackbone {
      parameters = nil
    } else {
      let tree = run.technique.initialParameters(backbone, seed: run.request.seed)
      parameters = Array(UnsafeBufferPointer(start: tree.vector, count: tree.vectorCount))
    }
  }

  /// The content that every device lays its run out from.
  package var content: RunContent {
    RunContent(
      task: task, technique: technique, maximumLength: maximumLength, training: training, heldOut: heldOut)
  }

  /// The longest beginning of a name that fits.
  private static func cut(_ name: String) -> String {
    var name = name
    while name.utf8.count > JobPackageLimits.nameBytes { name.removeLast() }
    return name
  }
}

/// Why a job package cannot be used.
package enum JobPackageFailure: UserFacingFailure, Equatable {
  /// It is longer than any package may be.
  case tooLarge(bytes: Int)
  /// Another version of Hearth wrote it.
  case version(found: UInt32)
  /// It is no package, or a damaged one.
  case damaged(detail: String)
  /// Its parts do not belong together or to the model.
  case inconsistent(detail: String)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .tooLarge: .insufficientResources
    case .version, .inconsistent: .mismatch
    case .damaged: .badData
    }
  }

  /// One line: what was wrong, where, and the next step.
  package var description: String {
    switch self {
    case .tooLarge(let bytes):
      "the job package has \(ByteCount(bytes)) and may have \(ByteCount(JobPackageLimits.bytes)); train on fewer "
        + "rows with --rows, shorter ones with --max-length, or on this device alone with --alone"
    case .version(let found):
      "the job package has version \(found) and this device reads \(JobPackage.version); "
        + "run the same version of Hearth on all devices"
    case .damaged(let detail): "the job package is damaged (\(detail)); submit the job again"
    case .inconsistent(let detail): "the job package cannot be used: \(detail); submit the job again"
    }
  }
}
