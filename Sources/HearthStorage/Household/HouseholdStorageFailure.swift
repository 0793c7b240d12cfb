/// Why the household's state on disk cannot be used.
package enum HouseholdStorageFailure: Error, Equatable, CustomStringConvertible {
  /// The system refused something.
  case file(FileFailure)
  /// This device belongs to no household.
  case noHousehold(path: String)
  /// This device belongs to a household already.
  case alreadyThere(path: String)
  /// The directory is inside a checkout, where keys could be committed.
  case insideGitWorkTree(path: String, workTree: String)
  /// The path belongs to another user.
  case otherOwner(path: String, owner: UInt32, expected: UInt32)
  /// Others than the owner may read or write it; `mode` are the permission bits.
  case openToOthers(path: String, mode: UInt32)
  /// The state was made on another machine.
  case otherMachine(path: String)
  /// Another process uses the state; nil when it has not written its number yet.
  case inUse(path: String, process: Int32?)
  /// A file is not what was written.
  case damaged(path: String, reason: String)
  /// A file was written by a later Hearth.
  case newerFormat(path: String, version: UInt32, known: UInt32)
  /// The boot counter is at its end.
  case bootCounterExhausted(path: String)
  /// The key is one of the public ones that only tests use.
  case testOnlyKey(path: String)
  /// The state was opened for reading only.
  case readingOnly(path: String)

  /// What is wrong, where, and what to do.
  package var description: String {
    switch self {
    case .file(let failure): failure.description
    case .noHousehold(let path):
      "this device belongs to no household yet ('\(path)'); run 'hearth household create' or 'hearth join CODE'"
    case .alreadyThere(let path):
      "this device belongs to a household already ('\(path)'); run 'hearth leave' first, or set HEARTH_HOME"
    case .insideGitWorkTree(let path, let workTree):
      "'\(path)' is inside the git work tree '\(workTree)', where keys could be committed; "
        + "set HEARTH_HOME to a directory outside of it"
    case .otherOwner(let path, let owner, let expected):
      "'\(path)' belongs to user \(owner), and this is user \(expected); run as its owner or set HEARTH_HOME"
    case .openToOthers(let path, let mode):
      "'\(path)' has the mode \(String(mode, radix: 8)), so others may use the keys in it; "
        + "run 'chmod go-rwx \(path)'"
    case .otherMachine(let path):
      "'\(path)' was made on another machine: this looks like a copy; keep the identity on one of them and run "
        + "'hearth leave --local' and then 'hearth join CODE' on the other"
    case .inUse(let path, let process):
      "'\(path)' is in use by \(process.map { "process \($0)" } ?? "another process"); "
        + "stop it, or let it do what you want to do"
    case .damaged(let path, let reason):
      "'\(path)' is damaged: \(reason); put it back from a backup, or run 'hearth leave --local' and join again"
    case .newerFormat(let path, let version, let known):
      "'\(path)' has format \(version), this Hearth knows \(known); update Hearth"
    case .bootCounterExhausted(let path):
      "'\(path)' counts no further; run 'hearth leave' and join again under a new identity"
    case .testOnlyKey(let path):
      "'\(path)' would hold a TEST-ONLY key, which everybody knows; create or join with keys of its own"
    case .readingOnly(let path): "'\(path)' was opened for reading only; stop the daemon and try again"
    }
  }
}

/// Runs file operations and says their failures in the household's words.
func inHousehold<Result>(
  _ body: () throws(FileFailure) -> Result
) throws(HouseholdStorageFailure) -> Result {
  do throws(FileFailure) { return try body() } catch { throw .file(error) }
}
