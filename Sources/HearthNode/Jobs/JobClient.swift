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
  package func follow(
    _ job: String, isCancelled: () -> Bool, show: (JobReport) throws -> Void
  ) throws -> JobReport? {
    var request = ControlRequest(.watchJob)
    request.job = job
    var last: JobReport?
    let end = try HouseholdClient.follow(request, place: place, isCancelled: isCancelled) { event in
      guard let report = event.report else { return true }
      last = report
      try show(report)
      return !report.state.isOver
    }
    switch end {
    case .complete: return last
    case .cancelled: return nil
    case .daemonGone: throw JobFailure.daemonGone(job: String(job.prefix(8)))
    }
  }

  /// How long a daemon may take to accept a job.
  private static let submissionTime: Duration = .seconds(600)
}
