import Glibc
import HouseholdTrust
import MeshPeer
import MeshTransport
import TrainingCoordination

extension HouseholdDaemon {
  /// Trains the household's jobs with a service from now on.
  package func train(with service: any JobServing) { jobService = service }

  /// Answers a command about jobs.
  func answerJobs(_ request: LocalControlRequest, _ message: ControlRequest) async throws {
    // A command may come as soon as the socket listens.
    await jobsAreStarted()
    guard !isLeaving else { throw JobServiceFailure.stopping }
    guard let service = jobService else {
      throw HouseholdFailure.refused(
        "this daemon trains nothing; see its log, or start it anew with 'hearth up'")
    }
    switch message.command {
    case .submit: try await submit(request, message, to: service)
    case .watchJob: try await follow(request, try Self.job(message), in: service)
    case .stopJob:
      try await service.stop(try Self.job(message))
      try await request.answer(ControlCoding.line(ControlEvent(.done)))
    case .adoptJob:
      guard peer.household.isAdmin else { throw HouseholdFailure.notAdmin("adopting a job") }
      try await service.adopt(try Self.job(message))
      try await request.answer(ControlCoding.line(ControlEvent(.done)))
    default:
      var event = ControlEvent(.jobs)
      event.jobs = await service.jobs()
      try await request.answer(ControlCoding.line(event))
    }
  }

  private func submit(
    _ request: LocalControlRequest, _ message: ControlRequest, to service: any JobServing
  ) async throws {
    guard let submission = message.submission else {
      throw HouseholdFailure.refused("the submission says nothing; use the same version of Hearth for both")
    }
    try Self.checkAccess(submission)
    var event = ControlEvent(.submitted)
    event.job = try await service.submit(submission).description
    try await request.answer(ControlCoding.line(event))
  }

  private func follow(
    _ request: LocalControlRequest, _ job: JobID, in service: any JobServing
  ) async throws {
    let reports = await service.watch(job)
    // A command that has gone must not be kept until something happens.
    let following = Task {
      for await report in reports {
        if Task.isCancelled { return }
        var event = ControlEvent(.job)
        event.report = report
        try await request.answer(ControlCoding.line(event))
        if report.state.isOver { return }
      }
    }
    let closed = Task {
      await request.closed()
      following.cancel()
    }
    defer { closed.cancel() }
    try await following.value
  }

  private static func job(_ message: ControlRequest) throws -> JobID {
    guard let text = message.job, let job = JobID(text) else { throw JobFailure.unknown(message.job ?? "") }
    return job
  }

  /// A service may be shut out of a person's directories: that is to be heard before hours of work.
  private static func checkAccess(_ submission: JobSubmission) throws(JobFailure) {
    for (path, mode) in [
      (submission.packagePath, R_OK), (submission.modelDirectory, R_OK | X_OK),
      (submission.outputDirectory, R_OK | W_OK | X_OK),
    ] where access(path, mode) != 0 {
      throw .notAccessible(path: path, detail: String(cString: strerror(errno)))
    }
  }
}
