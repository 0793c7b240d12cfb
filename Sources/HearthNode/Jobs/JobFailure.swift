/// Why a command about a job cannot do what it was asked, or how the job that it followed ended.
package enum JobFailure: UserFacingFailure, Equatable {
  /// No job goes by this name or id.
  case unknown(String)
  /// Several jobs go by it.
  case ambiguous(String, [String])
  /// No job was named and none is under way.
  case noneUnderWay
  /// The job is over already.
  case over(job: String, state: String)
  /// The job does not wait for a majority, so there is nothing to adopt.
  case notPaused(job: String, state: String)
  /// An adoption was asked for without the word that says that its danger is known.
  case adoptionNotForced(job: String, state: String)
  /// The person left a job that goes on.
  case detached(job: String)
  /// The person stopped before the job was submitted.
  case notSubmitted
  /// Somebody stopped the job.
  case stopped(job: String, message: String)
  /// The job ended without an adapter.
  case failed(job: String, message: String, reason: ExitReason)
  /// The daemon ended while a job was followed.
  case daemonGone(job: String)
  /// This device's daemon cannot use a path of the submission.
  case notAccessible(path: String, detail: String)

  /// Decides the exit code.
  package var reason: ExitReason {
    switch self {
    case .unknown, .ambiguous, .noneUnderWay, .over, .notPaused, .adoptionNotForced: .usage
    case .detached, .notSubmitted, .stopped: .interrupted
    case .failed(_, _, let reason): reason
    case .daemonGone: .unreachable
    case .notAccessible: .notPermitted
    }
  }

  /// One line: what was wrong and the next step.
  package var description: String {
    switch self {
    case .unknown(let text): "no job of the household is called '\(text)'; 'hearth jobs' lists them"
    case .ambiguous(let text, let choices):
      "'\(text)' may be \(choices.joined(separator: " or ")); type more of the id"
    case .noneUnderWay: "no job is under way; 'hearth jobs' lists those that are over"
    case .over(let job, let state): "job \(job) is \(state) already"
    case .notPaused(let job, let state):
      "job \(job) is \(state) and waits for no majority, so there is nothing to adopt; 'hearth watch \(job)' shows it"
    case .adoptionNotForced(let job, let state):
      "job \(job) is \(state); adopting it lets the devices that are here go on without the others' votes, and what "
        + "the others do for it meanwhile is lost; if they are off or gone for good, repeat with --force"
    case .detached(let job):
      "job \(job) goes on; watch it with 'hearth watch \(job)', stop it with 'hearth stop \(job)'"
    case .notSubmitted: "stopped before the job was submitted; nothing was trained"
    case .stopped(let job, let message):
      "job \(job) was stopped (\(message)); run the same command to train again"
    case .failed(let job, let message, _): "job \(job) failed: \(message)"
    case .daemonGone(let job):
      "this device's daemon ended; job \(job) goes on with the other devices, and with this one after 'hearth up': "
        + "'hearth watch \(job)' shows it, on any of them"
    case .notAccessible(let path, let detail):
      "this device's daemon cannot use '\(path)' (\(detail)); run 'hearth up' as the same user, or train with --alone"
    }
  }
}

/// Which job a person means.
package enum JobSelection {
  /// The job that `text` names: an id, the start of one, or a name; without one the only job under way.
  package static func resolve(_ text: String?, among jobs: [JobReport]) throws(JobFailure) -> JobReport {
    guard let text else {
      let running = jobs.filter { !$0.state.isOver }
      guard let first = running.first else { throw .noneUnderWay }
      guard running.count == 1 else { throw .ambiguous("the job", running.map(shown)) }
      return first
    }
    if let exact = jobs.first(where: { $0.id == text.lowercased() }) { return exact }
    let digits = text.lowercased()
    var found = text.isEmpty ? [] : jobs.filter { $0.id.hasPrefix(digits) }
    if found.isEmpty { found = jobs.filter { $0.name == text } }
    guard let first = found.first else { throw .unknown(text) }
    // Of several jobs with one name, the one under way is meant.
    let running = found.filter { !$0.state.isOver }
    if running.count == 1, let only = running.first { return only }
    guard found.count == 1 else { throw .ambiguous(text, found.map(shown)) }
    return first
  }

  private static func shown(_ job: JobReport) -> String {
    "\(job.short) (\(job.name), \(job.state.rawValue))"
  }
}
