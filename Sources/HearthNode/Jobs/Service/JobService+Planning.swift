import Determinism
import Logging
import MeshModel
import MeshPeer
import MeshTransport
import ParallelPlanner
import TrainingCoordination

/// What a leader does when its job wants a plan.
extension JobService {
  /// Measures the links, looks for a plan, and answers the request.
  func plan(_ id: JobID, _ request: TrainingCoordination.PlanRequest) {
    work(id, .planning) { service in
      do {
        service.take(try await service.answer(request, of: id), id)
      } catch {
        if Task.isCancelled { return }
        service.take(.unplanned(request: request.number, reason: "\(error)"), id)
      }
    }
  }

  private func answer(
    _ request: TrainingCoordination.PlanRequest, of id: JobID
  ) async throws -> JobInput {
    let package = try await material(id).package
    let settings = try JobPlanningSettings(decoding: package.planning)
    let (devices, reports) = usable(request.reports)
    let links = try await links(id, of: devices, isUrgent: request.cause == .lost)
    guard let present = request.plan else {
      let result = try await onOwnThread("job-plan") {
        try JobPlanning.plan(settings, reports: reports, links: links)
      }
      let (household, plan) = result.plan.withoutIdleDevices(of: devices)
      return .planned(request: request.number, household: household, plan: plan, next: nil)
    }
    let owner = jobs[id]?.specification.owner
    let there = zip(devices, reports).map { device, report in
      DeviceThere(
        report: report, place: request.household.firstIndex(of: device),
        secondsPerStep: request.secondsPerStep[device], holdsModel: device == owner)
    }
    let decision = try await onOwnThread("job-plan") {
      try JobPlanning.replan(
        settings, present: present, devices: there, links: links, committedStep: request.committedStep,
        cause: ReplanCause(request.cause), mayLearn: request.learning)
    }
    switch decision {
    case .keep(let reason): return .kept(request: request.number, reason: "\(reason)")
    case .switch(let new):
      return .planned(
        request: request.number, household: new.household.map { devices[$0] }, plan: new.plan,
        next: new.next)
    }
  }

  /// Measures the links of the device that would plan next, before it has to: a job that stands still would wait for it.
  func surveyIfDeputy(_ id: JobID) {
    guard let job = jobs[id], job.links.isEmpty, !job.isSurveying, job.coordinator.committedStep > 0,
      job.coordinator.state == .running, job.coordinator.deputy(at: DeviceClocks.now().monotonic) == own
    else { return }
    jobs[id]?.isSurveying = true
    work(id, .survey) { service in
      guard let measured = await service.doors.measureLinks(), !Task.isCancelled else { return }
      service.jobs[id]?.isSurveying = false
      service.jobs[id]?.links = measured
    }
  }

  /// The reports that can be read, and whose they are.
  private func usable(_ reports: [JobDeviceReport]) -> ([DeviceID], [DeviceReport]) {
    var devices: [DeviceID] = []
    var usable: [DeviceReport] = []
    for entry in reports {
      do throws(JobPlanningFailure) {
        var report = try DeviceReport(decoding: entry.report)
        // Whatever it calls itself: people know it by its certificate's name.
        report.name = name(of: entry.device)
        usable.append(report)
        devices.append(entry.device)
      } catch {
        log.warning(
          "job-report-dropped", metadata: ["peer": "\(name(of: entry.device))", "error": "\(error)"])
      }
    }
    return (devices, usable)
  }

  /// The links to these devices, measured now unless the job stands still and they have been.
  private func links(
    _ id: JobID, of devices: [DeviceID], isUrgent: Bool
  ) async throws -> [MeasuredLink] {
    // A leader that takes no part knows nothing of the links between the others.
    guard let place = devices.firstIndex(of: own) else { return [] }
    if devices.count > 1, !isUrgent || jobs[id]?.links.isEmpty ?? true {
      guard let measured = await doors.measureLinks() else { throw JobServiceFailure.stopping }
      jobs[id]?.links = measured
    }
    return (jobs[id]?.links ?? []).compactMap { link in
      devices.firstIndex(of: link.device).map {
        MeasuredLink(
          from: place, to: $0, bytesPerSecond: link.bytesPerSecond,
          roundTripSeconds: link.roundTrip?.inSeconds)
      }
    }
  }
}

extension ReplanCause {
  /// The cause as the planner knows it.
  init(_ cause: PlanCause) {
    switch cause {
    case .first, .lost: self = .lost
    case .left: self = .left
    case .joined: self = .joined
    case .straggler: self = .straggler
    }
  }
}
