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
        let began = DeviceClocks.now().monotonic
        let answer = try await service.answer(request, of: id)
        service.log.debug(
          "job-planned",
          metadata: [
            "job": "\(id.short)", "cause": "\(request.cause)",
            "seconds": "\(began.duration(to: DeviceClocks.now().monotonic).inSeconds)",
          ])
        service.take(answer, id)
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
    let links = try await links(id, of: devices, for: request.cause)
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

  /// Measures the links before a plan is wanted, and answers the request.
  func survey(_ id: JobID, _ request: UInt64) {
    work(id, .survey) { service in
      let began = DeviceClocks.now().monotonic
      let measured = await service.doors.measureLinks()
      service.log.debug(
        "job-links-measured",
        metadata: [
          "job": "\(id.short)",
          "seconds": "\(began.duration(to: DeviceClocks.now().monotonic).inSeconds)",
        ])
      if Task.isCancelled { return }
      guard let measured else { return service.take(.unsurveyed(request: request), id) }
      service.remember(measured, id, request: request)
    }
  }

  /// Hands on what was measured; a link whose other end had no time for it is asked for again.
  private func remember(_ measured: [LinkMeasurement], _ id: JobID, request: UInt64? = nil) {
    jobs[id]?.linksMeasured = DeviceClocks.now().monotonic
    take(.surveyed(request: request, measured.compactMap(DeviceLink.init)), id)
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

  /// The links to these devices: measured now, unless somebody waits and they have been.
  private func links(
    _ id: JobID, of devices: [DeviceID], for cause: PlanCause
  ) async throws -> [MeasuredLink] {
    // A leader that takes no part knows nothing of the links between the others.
    guard let place = devices.firstIndex(of: own) else { return [] }
    if devices.count > 1, !areKnown(id, devices, cause) {
      guard let measured = await doors.measureLinks() else { throw JobServiceFailure.stopping }
      remember(measured, id)
    }
    return (jobs[id]?.coordinator.knownLinks ?? []).compactMap { link in
      devices.firstIndex(of: link.device).map {
        MeasuredLink(
          from: place, to: $0, bytesPerSecond: Double(link.bytesPerSecond),
          roundTripSeconds: link.roundTrip.inSeconds)
      }
    }
  }
}

extension JobService {
  /// How long a measured link serves a plan for which nobody waits.
  private static let linkTime: Duration = .seconds(60)

  /// Whether a plan can do with the links that are known.
  ///
  /// A job that stands still takes what there is, also by the word of the leader before. A device that comes had its link measured while it prepared itself.
  private func areKnown(_ id: JobID, _ devices: [DeviceID], _ cause: PlanCause) -> Bool {
    guard let job = jobs[id] else { return false }
    let known = job.coordinator.knownLinks.map(\.device)
    switch cause {
    case .lost: return !known.isEmpty
    case .joined:
      guard let measured = job.linksMeasured,
        measured.duration(to: DeviceClocks.now().monotonic) < Self.linkTime
      else { return false }
      return devices.allSatisfy { $0 == own || known.contains($0) }
    case .first, .left, .straggler: return false
    }
  }
}

extension DeviceLink {
  /// A measured link; nil when its rate or its round trip is not known.
  fileprivate init?(_ measured: LinkMeasurement) {
    guard let rate = measured.bytesPerSecond, rate.isFinite, let roundTrip = measured.roundTrip else {
      return nil
    }
    self.init(
      to: measured.device, bytesPerSecond: UInt64(min(max(rate, 1), 1e12)), roundTrip: roundTrip)
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
