package import TrainingCoordination

/// What a command hands to this device's daemon to be trained by the household.
package struct JobSubmission: Codable, Sendable, Equatable {
  /// The job package that the command wrote; the daemon takes it over and removes the file.
  package var packagePath: String
  /// The directory of the model.
  package var modelDirectory: String
  /// The file with the held-out texts that a seq2seq adapter is measured on; the owner alone reads it.
  package var validationTextsPath: String?
  /// The directory that receives the adapter; it exists and holds the run's record.
  package var outputDirectory: String
  /// What people call the job.
  package var name: String
  /// Which plans are looked at: `pac`, `eddl` or `ecofl`.
  package var planner: String
  /// How the first epoch may run: `hybrid`, `fill` or `auto`.
  package var firstEpoch: String

  /// A submission.
  package init(
    packagePath: String, modelDirectory: String, outputDirectory: String, name: String, planner: String,
    firstEpoch: String
  ) {
    self.packagePath = packagePath
    self.modelDirectory = modelDirectory
    self.outputDirectory = outputDirectory
    self.name = name
    self.planner = planner
    self.firstEpoch = firstEpoch
    validationTextsPath = nil
  }
}

/// What commands want of the jobs of this device's household.
package protocol JobServing: Sendable {
  /// Takes a job; returns when it is kept and the household is being asked.
  func submit(_ submission: JobSubmission) async throws -> JobID
  /// The jobs that this device knows, the newest first; those that are over are kept for a while.
  func jobs() async -> [JobReport]
  /// Reports of a job, the present one first, then at most a few a second; the last one is over, and the stream ends.
  ///
  /// Every job without `job`, one report at a time; that stream ends with the service.
  func watch(_ job: JobID?) async -> AsyncStream<JobReport>
  /// Ends a job on all devices; returns when this device has told the others.
  func stop(_ job: JobID) async throws
  /// Takes this device out of the household's jobs: its running part is handed over in order, and new jobs are declined.
  ///
  /// Returns when the service has taken it in, not when the hand-over is done; `reason` is for people.
  func pauseDevice(_ reason: String) async
  /// Lets this device take part again.
  func resumeDevice() async
  /// Goes on with a job by the devices that are here, although they are no majority of those that had a vote.
  func adopt(_ job: JobID) async throws
}
