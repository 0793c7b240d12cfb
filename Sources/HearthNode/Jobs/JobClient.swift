import MeshTransport

/// What commands ask of this device's daemon about the household's jobs.
package struct JobClient: Sendable {
  private let place: HouseholdPlace

  /// The client of a place's daemon.
  package init(_ place: HouseholdPlace) { self.place = place }

  /// The jobs that the daemon knows.
  package func jobs() throws -> [JobReport] {
    var client = try HouseholdClient(ControlRequest(.jobs), place: place)
    return try client.answer().jobs ?? []
  }

  /// Hands a job over and returns its id.
  package func submit(_ submission: JobSubmission) throws -> String {
    var request = ControlRequest(.submit)
    request.submission = submission
    var client = try HouseholdClient(request, place: place)
    // The daemon hashes the model's weights first, which takes its time on a slow disk.
    guard let event = try client.next(timeout: JobClient.submissionTime), let job = event.job else {
      throw HouseholdFailure.refused("the daemon ended without an answer; see its log")
    }
    return job
  }

  /// Ends a job everywhere.
  package func stop(_ job: String) throws {
    var request = ControlRequest(.stopJob)
    request.job = job
    var client = try HouseholdClient(request, place: place)
    _ = try client.answer()
  }

  /// Lets a job that waits for a majority go on with the devices that are here.
  package func adopt(_ job: String) throws {
    var request = ControlRequest(.adoptJob)
    request.job = job
    var client = try HouseholdClient(request, place: place)
    _ = try client.answer()
  }

  /// Follows a job to its end, or until `isCancelled`; the last report is returned, nil when it was cancelled.
  ///
  /// The daemon leaves a command that takes no report for a while, as one whose output a person pages through, so it is
  /// asked again until it is gone. Reports say all there is, so nothing was missed.
  package func follow(
    _ job: String, isCancelled: () -> Bool, show: (JobReport) throws -> Void
  ) throws -> JobReport? {
    var wasHeard = false
    while true {
      var last: JobReport?
      do {
        let wasLeft = try converse(about: job, isCancelled: isCancelled) { report in
          last = report
          try show(report)
        }
        if wasLeft { return nil }
      } catch is LocalControlUnavailable where wasHeard {
        throw JobFailure.daemonGone(job: String(job.prefix(8)))
      } catch let refusal as DaemonRefusal where wasHeard && refusal.reason == .unreachable {
        throw JobFailure.daemonGone(job: String(job.prefix(8)))
      } catch LocalControlFailure.disconnected {
        // It was closed within a line.
      }
      guard let last else { throw JobFailure.daemonGone(job: String(job.prefix(8))) }
      if last.state.isOver { return last }
      wasHeard = true
    }
  }

  /// One conversation with the daemon about a job, until it or the job ends; says whether the person left it.
  private func converse(
    about job: String, isCancelled: () -> Bool, show: (JobReport) throws -> Void
  ) throws -> Bool {
    var request = ControlRequest(.watchJob)
    request.job = job
    var client = try HouseholdClient(request, place: place)
    while !isCancelled() {
      do {
        guard let event = try client.next(timeout: JobClient.glance) else { return false }
        guard let report = event.report else { continue }
        try show(report)
        if report.state.isOver { return false }
      } catch LocalControlFailure.timedOut {
        continue
      }
    }
    return true
  }

  /// How long a daemon may take to accept a job.
  private static let submissionTime: Duration = .seconds(600)
  /// How often a follower looks whether the person wants to leave.
  private static let glance: Duration = .milliseconds(200)
}
