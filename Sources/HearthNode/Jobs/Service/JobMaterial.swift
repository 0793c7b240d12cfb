import ActivationCache
import DistributedTraining
import HearthStorage
import LanguageModels

/// What the runs of a job on this device share, whatever the plan epoch: the run as it is laid out, the model, the
/// activations and the states of the training.
///
/// - Safety: used by one run's thread at a time: a plan's run begins after the last one has ended.
final class JobMaterial: CheckpointSink, @unchecked Sendable {
  let package: JobPackage
  let checkpoints: CheckpointWriter
  private let modelDirectory: String
  private let cacheDirectory: String
  /// States of the training that are here, the newest first.
  private(set) var held: [TrainingState]
  private var model: OpenedModel?
  private var packaged: PackagedRun?
  private var cache: ActivationCacheStore?

  /// The material of a job; `found` is what its directory holds from before.
  init(
    _ package: JobPackage, modelDirectory: String, cacheDirectory: String, checkpoints: CheckpointWriter,
    found: [TrainingState]
  ) {
    self.package = package
    self.checkpoints = checkpoints
    self.modelDirectory = modelDirectory
    self.cacheDirectory = cacheDirectory
    held = found
  }

  /// Steps of a training whose result is kept elsewhere.
  private var finishedSteps = 0

  /// Optimizer steps that are in the newest state, or in the job's result.
  var committedStep: UInt64 { UInt64(clamping: held.first?.step ?? finishedSteps) }

  /// Keeps what a run ended with, in memory and, unless the job is at its end, on the disk.
  ///
  /// The end is kept as the job's result; who loses it goes on from the newest state on a disk.
  func keep(_ states: [TrainingState], isEnd: Bool = false) {
    guard let newest = states.first else { return }
    held = states
    if !isEnd { take(newest) }
  }

  /// The job's result is on the disk: states would be three copies of it that nobody needs.
  func end(step: Int) {
    held = []
    finishedSteps = step
  }

  func isDue(bytes: Int) -> Bool { checkpoints.isDue(bytes: bytes) }

  /// Has a state written, after the activations that its steps have left.
  func take(_ state: TrainingState) {
    let cache = cache
    checkpoints.submit(state) { try cache?.flush() }
  }

  /// The run, laid out; the same whoever computes it.
  func laidOut() throws -> PackagedRun {
    if let packaged { return packaged }
    // The shapes decide everything but the values: what a sparse copy lacks is never read.
    let new = try PackagedRun(package, backbone: backbone())
    packaged = new
    return new
  }

  /// The backbone, mapped again when it was released.
  func backbone() throws -> any Backbone {
    if let backbone = model?.backbone { return backbone }
    let new = try OpenedModel(directory: modelDirectory, identity: package.backboneDigest)
    model = new
    guard let backbone = new.backbone else { preconditionFailure("an opened model has its backbone") }
    return backbone
  }

  /// The activations of the job on this device; opened once, so that no run waits for the disk.
  func activations() throws -> ActivationCacheStore {
    if let cache { return cache }
    let identity = try laidOut().cacheIdentity
    try createDirectory(cacheDirectory, isPrivate: true)
    let new = try ActivationCacheStore(DirectoryShardStorage(cacheDirectory), identity: identity)
    cache = new
    return new
  }

  /// Bytes of the activations that are here.
  var cacheBytes: Int { cache?.bytes ?? 0 }

  /// Weights have come into what were holes: what was read of them before is worth nothing.
  func reopen() { model = nil }

  /// Lets go of the backbone until somebody needs it again.
  func release() {
    model?.release()
    model = nil
  }

  /// Tells the system that the pages of the weights may go.
  func releasePages() { model?.releasePages() }
}
