import ComputeRuntime
import HearthStorage
import ParallelPlanner

/// How a job is to be planned.
package struct JobWishes: Sendable, Equatable {
  /// Which plans are looked at; a name of `PlanRequest.planners`.
  package var planner = PlannerKind.pac.rawValue
  /// How the first epoch may run; a name of `PlanRequest.firstEpochs`.
  package var firstEpoch = FirstEpochPolicy.auto.rawValue
  /// Which devices read the cache; a name of `PlanRequest.cachedEpochs`.
  package var cachedEpochs = CachedEpochsPolicy.auto.rawValue

  /// The defaults.
  package init() {}
}

/// `hearth train` on the household: lays the run out, hands it to the daemon, and follows the job.
package struct HouseholdTraining {
  private let place: HouseholdPlace
  private let client: JobClient
  private let wishes: JobWishes
  private let cancellation: CancellationFlag

  /// A training on the household of `place`.
  package init(_ place: HouseholdPlace, wishes: JobWishes, cancellation: CancellationFlag) {
    self.place = place
    client = JobClient(place)
    self.wishes = wishes
    self.cancellation = cancellation
  }

  /// The file of the job's package in the output directory, until the daemon has taken it.
  package static let packageName = "job.package"
  /// The file of the held-out texts, which the owner's daemon reads and removes.
  package static let textsName = "job.texts"

  /// Trains as `request` says; the last report says how it ended.
  ///
  /// - Throws: `JobFailure.detached` when the person left the job, which goes on.
  package func run(_ request: TrainRequest, show: (JobReport) throws -> Void) throws -> JobReport {
    var request = request
    request.output = absolutePath(request.output)
    let directory = RunDirectory(request.output)
    let job = try submitted(request, directory)
    guard let last = try client.follow(job, isCancelled: { cancellation.isCancelled }, show: show) else {
      throw JobFailure.detached(job: String(job.prefix(8)))
    }
    if last.state != .finished { Self.clear(directory) }
    return last
  }

  private func submitted(_ request: TrainRequest, _ directory: RunDirectory) throws -> String {
    let (package, texts) = try packed(request)
    guard !cancellation.isCancelled else { throw JobFailure.notSubmitted }
    try directory.create(request.recorded(package.content.technique))
    var submission = JobSubmission(
      packagePath: directory.path + "/" + Self.packageName, modelDirectory: request.modelDirectory,
      outputDirectory: directory.path, name: package.name, planner: wishes.planner,
      firstEpoch: wishes.firstEpoch)
    do {
      try package.write(to: submission.packagePath)
      if let texts {
        let path = directory.path + "/" + Self.textsName
        try texts.write(to: path)
        submission.validationTextsPath = path
      }
      return try client.submit(submission)
    } catch {
      Self.clear(directory)
      throw error
    }
  }

  /// Takes away what a job without an adapter left.
  ///
  /// Best effort: what the person has to hear about is why there is no adapter.
  static func clear(_ directory: RunDirectory) {
    for name in [packageName, textsName] { _ = try? removeFile(directory.path + "/" + name) }
    directory.removeIfUnused()
  }

  private func packed(_ request: TrainRequest) throws -> (package: JobPackage, texts: HeldOutTexts?) {
    try RunPreflight.check(request)
    let model = try OpenedModel(
      directory: request.modelDirectory, memoryBudget: MemoryBudget.bytes(nil), weights: .float32)
    defer { model.release() }
    guard let backbone = model.backbone else { preconditionFailure("a model opens with its backbone") }
    let content = try RunContent(request, model: model)
    let run = try PreparedRun(request, content: content, backbone: backbone)
    try run.checkDisk(request.output)
    try run.checkResultDisk(place.stateDirectory)
    let package = JobPackage(
      run, content: content, model: model, name: Self.name(request.output),
      planning: try planning(run, model: model))
    return (package, content.heldOutTexts.isEmpty ? nil : HeldOutTexts(content.heldOutTexts))
  }

  private func planning(_ run: PreparedRun, model: OpenedModel) throws -> [UInt8] {
    let path = model.directory + "/config.json"
    let text = String(decoding: try readWholeFile(path, limit: Self.configurationBytes), as: UTF8.self)
    return try JobPlanningSettings(
      run: run, modelName: Self.name(model.directory), configurationText: text,
      planner: PlannerKind(rawValue: wishes.planner) ?? .pac,
      firstEpoch: FirstEpochPolicy(rawValue: wishes.firstEpoch) ?? .auto,
      cachedEpochs: CachedEpochsPolicy(rawValue: wishes.cachedEpochs) ?? .auto
    ).encoded()
  }

  /// Most bytes of a config.json.
  private static let configurationBytes = 1 << 20

  /// The last part of a path.
  private static func name(_ path: String) -> String {
    path.split(separator: "/").last.map(String.init) ?? "job"
  }
}
