package import HearthStorage
package import TrainingCoordination
import WireCoding

/// What this device keeps of jobs on its disk: a directory each in `jobs/` of the state directory.
///
/// The record says what must survive a restart; beside it lie the activation cache and the model's files while the job
/// runs.
package struct JobDirectory: Sendable {
  /// Jobs that are over and still known; the oldest give way.
  package static let keptJobs = 32

  private let path: String
  private static let recordName = "record"

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

  /// Removes what only a running job needs.
  package func removeWork(of job: JobID) {
    // Best effort: what stays is removed with the job.
    try? removeTree(cachePath(of: job))
    try? removeTree(modelPath(of: job))
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
