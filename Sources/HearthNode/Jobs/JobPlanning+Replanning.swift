package import ParallelPlanner

/// A device that is there while a job runs, with all that a new plan needs to know of it.
package struct DeviceThere: Sendable, Equatable {
  /// What it measured and may use.
  package var report: DeviceReport
  /// Its place in the present plan's household; nil for one that has come since.
  package var place: Int?
  /// Whether it computes nothing more, and only hands over what others lack.
  package var isLeaving: Bool
  /// What it computes of each step now, its waits excluded; nil when that is not known.
  package var secondsPerStep: Double?
  /// Whether it has all of the model's files, as the owner has.
  package var holdsModel: Bool

  /// A device that is there.
  package init(
    report: DeviceReport, place: Int?, isLeaving: Bool = false, secondsPerStep: Double? = nil,
    holdsModel: Bool = false
  ) {
    self.report = report
    self.place = place
    self.isLeaving = isLeaving
    self.secondsPerStep = secondsPerStep
    self.holdsModel = holdsModel
  }
}

extension JobPlanning {
  /// Longest time of a step that is believed: an hour.
  private static let longestStep = 3600.0

  /// Plans what is left of a running job, and says whether that pays.
  ///
  /// Deterministic: equal inputs give the same decision on every machine. The new plan's places are those of its
  /// `household`, whose elements are numbers in `devices`; devices without a part in it hand over and are done.
  ///
  /// - Parameters:
  ///   - settings: the job's.
  ///   - present: the plan that it runs by.
  ///   - devices: everybody who is there: those of the present plan, those that leave and those that have come.
  ///   - links: measured between devices, by their numbers in `devices`.
  ///   - committedStep: optimizer steps that are done.
  ///   - cachedMiniBatches: mini-batches of a filling pass that are done; nil when nothing is known of one.
  ///   - cause: why it is planned again.
  ///   - mayLearn: whether a plan may be prepared while the present one runs.
  package static func replan(
    _ settings: JobPlanningSettings, present: Plan, devices: [DeviceThere], links: [MeasuredLink],
    committedStep: UInt64, cachedMiniBatches: Int? = nil, cause: ReplanCause, mayLearn: Bool = true
  ) throws(JobPlanningFailure) -> ReplanDecision {
    let model = try planningModel(settings, reports: devices.map(\.report))
    let there = zip(devices, AlikeDevices.pooled(devices.map(\.report))).map { device, report in
      ReplanDevice(
        profile: report.profile(model.work, units: settings.lanes, devices: devices.count),
        place: device.place, isLeaving: device.isLeaving,
        measuredStep: device.secondsPerStep.flatMap(nanoseconds), holdsModel: device.holdsModel)
    }
    let filled = cachedMiniBatches ?? (committedStep > 0 ? settings.stepsPerEpoch : 0)
    let request = ReplanRequest(
      costs: model.costs, job: settings.planningJob, present: present, devices: there,
      links: try linkTable(links, devices: devices.count), committedStep: Int(clamping: committedStep),
      cachedMiniBatches: min(max(0, filled), settings.stepsPerEpoch), cause: cause,
      mayLearn: mayLearn)
    do {
      return try Replanning(request).decide()
    } catch {
      throw JobPlanningFailure(error)
    }
  }

  /// A measured time as the planner counts it; nil when it cannot be one.
  private static func nanoseconds(_ seconds: Double) -> Int64? {
    guard seconds.isFinite, seconds > 0, seconds <= longestStep else { return nil }
    return Int64(seconds * 1e9)
  }

  /// Training samples a second when a step takes so many nanoseconds.
  package static func samplesPerSecond(_ settings: JobPlanningSettings, stepNanoseconds: Int64) -> Double {
    let perStep = Double(settings.samples) / Double(max(1, settings.stepsPerEpoch))
    return perStep * 1e9 / Double(max(1, stepNanoseconds))
  }
}
