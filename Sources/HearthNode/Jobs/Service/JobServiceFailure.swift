/// Why a job could not be taken, found or carried on.
package enum JobServiceFailure: UserFacingFailure, Equatable {
  /// This device works on another job.
  case busy(name: String)
  /// The package was made for another model than the directory holds.
  case otherModel(directory: String)
  /// This device takes no part in jobs for a while.
  case paused(reason: String)
  /// The daemon stops.
  case stopping
  /// What the owner asked for cannot be read any more.
  case noSubmission
  /// No device holds the result, or the one that did is gone.
  case noResult
  /// The result has another length than the technique's parameters.
  case unfitResult(found: Int, expected: Int)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .busy, .paused: .insufficientResources
    case .otherModel, .unfitResult, .noSubmission: .mismatch
    case .stopping, .noResult: .unreachable
    }
  }

  /// What is wrong, where, and the next step.
  package var description: String {
    switch self {
    case .busy(let name):
      "this device works on job '\(name)'; wait for its end with 'hearth watch', or end it with 'hearth stop'"
    case .otherModel(let directory):
      "the job was prepared for another model than '\(directory)' holds now; run the same command again"
    case .paused(let reason): "it is paused: \(reason)"
    case .noSubmission:
      "the daemon's record of where the adapter goes cannot be read; run the same command again"
    case .stopping: "the daemon stops; run 'hearth up' and then the same command again"
    case .noResult: "no device that can be reached has the trained parameters; run the same command again"
    case .unfitResult(let found, let expected):
      "the trained parameters that came have \(found) values and \(expected) are expected; bring all devices to one "
        + "version of Hearth and run the same command again"
    }
  }
}
