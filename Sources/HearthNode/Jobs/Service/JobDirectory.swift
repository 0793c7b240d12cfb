import FoundationEssentials
package import HearthStorage
package import TrainingCoordination
import WireCoding

/// What this device keeps of jobs on its disk: a directory each in `jobs/` of the state directory.
///
/// The record says what must survive a restart, the history what devices told only once, the submission what its owner asked
/// for; beside them lie the states of the training, the activation cache and the model's files until the job is over.
package struct JobDirectory: Sendable {
  /// Jobs that are over and still known; the oldest give way.
  package static let keptJobs = 32

  /// Most bytes of a submission, and of a history.
  private static let textLimit = 4 << 20

  private let path: String
  private static let recordName = "record"
  private static let submissionName = "submission"
  private static let historyName = "history"

  /// The jobs of a state directory; makes the place when it is not there.
  package init(stateDirectory: String) throws(FileFailure) {
    path = stateDirectory + "/jobs"
    try createDirectory(path, isPrivate: true)
  }

  /// Where a job's files lie.
  package func path(of job: JobID) -> String { "\(path)/\(job)" }

  /// Where a job's activations lie on this device.
  package func cachePath(of job: JobID) -> String { path(of: job) + "/cache" }

  /// Where the parts of the model lie that this device needs.
  package func modelPath(of job: JobID) -> String { path(of: job) + "/model" }

  /// Keeps a record; it survives a power cut from then on.
  package func store(_ record: StoredJob) throws(FileFailure) {
    let directory = path(of: record.specification.id)
    try createDirectory(directory, isPrivate: true)
    try AtomicFile.write(record.encoded, to: "\(directory)/\(Self.recordName)", permissions: 0o600)
  }

  /// The records that an earlier start left, in the order of the jobs, and the jobs whose record cannot be read.
  package func records() throws(FileFailure) -> (records: [StoredJob], damaged: [JobID]) {
    var records: [StoredJob] = []
    var damaged: [JobID] = []
    for name in try directoryNames(path) {
      guard let job = JobID(name) else { continue }
      guard
        let bytes = try? readWholeFile("\(path)/\(name)/\(Self.recordName)", limit: JobLimits.recordBytes),
        let record = try? StoredJob(decoding: bytes), record.specification.id == job
      else {
        damaged.append(job)
        continue
      }
      records.append(record)
    }
    return (records, damaged)
  }

  /// Keeps what was submitted here, so that the adapter can be written after a restart: paths and names, no text of a row.
  package func store(_ submission: JobSubmission, of job: JobID) throws(FileFailure) {
    try write(submission, Self.submissionName, of: job)
  }

  /// What was submitted here; nil on every device but the owner, and when it cannot be read.
  package func submission(of job: JobID) -> JobSubmission? { read(Self.submissionName, of: job) }

  /// Keeps what devices told of a job only once.
  func store(
    _ history: JobHistory, of job: JobID, by writing: CheckpointFiles.Writing
  ) throws(FileFailure) {
    try write(history, Self.historyName, of: job, by: writing)
  }

  /// What devices told of a job; empty when nothing was kept.
  func history(of job: JobID) -> JobHistory { read(Self.historyName, of: job) ?? JobHistory() }

  private func write(
    _ value: some Encodable, _ name: String, of job: JobID,
    by writing: CheckpointFiles.Writing = CheckpointFiles.writePrivately
  ) throws(FileFailure) {
    guard let bytes = canonicalJSON(value) else { preconditionFailure("\(name) of job \(job) is no JSON") }
    let directory = path(of: job)
    try createDirectory(directory, isPrivate: true)
    try writing(bytes, "\(directory)/\(name)")
  }

  private func read<Value: Decodable>(_ name: String, of job: JobID) -> Value? {
    guard let bytes = try? readWholeFile("\(path(of: job))/\(name)", limit: Self.textLimit) else {
      return nil
    }
    return try? JSONDecoder().decode(Value.self, from: Data(bytes))
  }

  /// Removes what only a job that is not over needs.
  package func removeWork(of job: JobID) {
    // Best effort: what stays is removed with the job.
    try? removeTree(cachePath(of: job))
    try? removeTree(modelPath(of: job))
    CheckpointFiles(directory: path(of: job)).remove()
    _ = try? removeFile("\(path(of: job))/\(Self.submissionName)")
  }

  /// Removes everything of a job.
  package func remove(_ job: JobID) { try? removeTree(path(of: job)) }
}

/// Removes a directory with all that is in it, without following links; one that is not there is fine.
package func removeTree(_ path: String) throws(FileFailure) {
  let names: [String]
  do throws(FileFailure) {
    names = try directoryNames(path)
  } catch {
    if error.isMissing { return }
    // No directory: a file or a link.
    try removeFile(path)
    return
  }
  for name in names {
    let entry = "\(path)/\(name)"
    // A directory cannot be unlinked; a link to one can, and is.
    do throws(FileFailure) { try removeFile(entry) } catch { try removeTree(entry) }
  }
  try removeEmptyDirectory(path)
}
