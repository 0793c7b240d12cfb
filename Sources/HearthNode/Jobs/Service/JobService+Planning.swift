import Determinism
import Logging
import MeshModel
import MeshPeer
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

  private func answer(_ request: TrainingCoordination.PlanRequest, of id: JobID) async throws -> JobInput {
    let package = try await material(id).package
    let settings = try JobPlanningSettings(decoding: package.planning)
    let (devices, reports) = usable(request.reports)
    let links = try await links(id, of: devices, isUrgent: request.cause == .lost)
    let result = try await onOwnThread("job-plan") {
      try JobPlanning.plan(settings.after(request.committedStep), reports: reports, links: links)
    }
    let (household, plan) = result.plan.withoutIdleDevices(of: devices)
    if !request.cause.isNeeded, Set(household).isSubset(of: request.household) {
      return .kept(request: request.number, reason: "the plan without it is as good")
    }
    return .planned(request: request.number, household: household, plan: plan, next: nil)
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
    guard let place = devices.firstIndex(of: own) else { throw JobServiceFailure.stopping }
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

extension JobPlanningSettings {
  /// What is left of the job after some optimizer steps.
  func after(_ committedStep: UInt64) -> JobPlanningSettings {
    let finished = Int(clamping: committedStep) / max(1, stepsPerEpoch)
    guard finished > 0 else { return self }
    var rest = self
    rest.epochs = max(1, epochs - finished)
    // Activations are in the caches; only what is lost is computed again.
    if usesCache { rest.firstEpoch = .fill }
    return rest
  }
}
