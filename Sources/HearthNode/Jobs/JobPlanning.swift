import ComputeRuntime
package import ParallelPlanner

/// What was measured of the link between two devices of a plan.
package struct MeasuredLink: Sendable, Codable, Equatable {
  /// Who measured, by place.
  package var from: Int
  /// The other device, by place.
  package var to: Int
  /// Payload that arrives there each second; nil when it was not measured.
  package var bytesPerSecond: Double?
  /// The median round trip; nil when it was not measured.
  package var roundTripSeconds: Double?

  /// A link.
  package init(from: Int, to: Int, bytesPerSecond: Double?, roundTripSeconds: Double?) {
    self.from = from
    self.to = to
    self.bytesPerSecond = bytesPerSecond
    self.roundTripSeconds = roundTripSeconds
  }
}

/// From what the devices of a household measured to the plan of a job.
package enum JobPlanning {
  /// Share of the available memory that a plan may use.
  static let memoryShare = 0.8
  /// Share of the free disk that a cache may use.
  static let diskShare = 0.8
  /// A link of which nothing is known: slow enough that no plan leans on it.
  package static let unknownLink = LinkProfile(bytesPerSecond: 125_000, latency: 20_000_000)

  /// What this device can do for a job, measured now unless an equal shape was measured before.
  ///
  /// Blocks the calling thread, for some seconds the first time, and takes all cores: never while a job trains here.
  ///
  /// - Parameters:
  ///   - settings: the job's.
  ///   - name: this device's name in the household.
  ///   - limits: what a person lets a job use of this device.
  ///   - stateDirectory: where measurements are kept.
  package static func report(
    _ settings: JobPlanningSettings, name: String, limits: DeviceLimits = DeviceLimits(),
    stateDirectory: String
  ) throws -> DeviceReport {
    try report(settings.shape, name: name, limits: limits, stateDirectory: stateDirectory)
  }

  /// The same for a shape alone; `isFresh` measures in any case.
  package static func report(
    _ shape: JobShape, name: String, limits: DeviceLimits = DeviceLimits(), stateDirectory: String,
    isFresh: Bool = false
  ) throws -> DeviceReport {
    let machine = MachineProfile.current()
    let threads = max(
      1, min(limits.threads ?? machine.usableCores, machine.usableCores, ComputeTeam.maximumWidth))
    let available = Int(Double(machine.availableMemory) * memoryShare)
    let memory = min(limits.memoryBytes ?? available, available)
    let kept = MeasuredDevices(stateDirectory: stateDirectory)
    let digest = MeasuredDevices.digest(shape, threads: threads)
    var measured = isFresh ? nil : kept.kept(digest)
    if measured == nil {
      measured = try kept.measure(shape, threads: threads, memory: memory)
      if let measured { kept.keep(measured, as: digest) }
    }
    guard let measured else { preconditionFailure("a device was not measured") }
    let free = MachineProfile.freeDiskBytes(at: stateDirectory).map { Int(Double($0) * diskShare) } ?? 0
    return DeviceReport(
      name: name, shapeDigest: digest, memoryBytes: Int64(memory),
      cacheBytes: Int64(min(limits.cacheBytes ?? free, free)),
      diskWriteBytesPerSecond: measured.diskWriteBytesPerSecond,
      diskReadBytesPerSecond: measured.diskReadBytesPerSecond, productMegaflops: measured.productMegaflops,
      timings: measured.timings, sumBits: LearnedSums(stateDirectory: stateDirectory).bits(of: shape))
  }

  /// Plans a job; a device's place in the plan is that in `reports`.
  ///
  /// Deterministic: equal inputs give the same plan on every machine. `earlier` is the plan that the same devices had
  /// in the same places; the result is never worse.
  package static func plan(
    _ settings: JobPlanningSettings, reports: [DeviceReport], links: [MeasuredLink], earlier: Plan? = nil
  ) throws(JobPlanningFailure) -> PlanningResult {
    let model = try planningModel(settings, reports: reports)
    let household = HouseholdProfile(
      devices: AlikeDevices.pooled(reports).map {
        $0.profile(model.work, units: settings.lanes, devices: reports.count)
      },
      links: try linkTable(links, devices: reports.count))
    do {
      var result = try ParallelPlanner().plan(
        model.costs, household: household, job: settings.planningJob, earlier: earlier)
      result.plan.predicted = result.plan.toldTimes(
        costs: model.costs, household: household, job: settings.planningJob)
      return result
    } catch {
      throw JobPlanningFailure(error)
    }
  }

  /// The model as the planner sees it; its sums travel in as many bits as the middle one of the devices has learned.
  package static func planningModel(
    _ settings: JobPlanningSettings, reports: [DeviceReport]
  ) throws(JobPlanningFailure) -> PlanningModel {
    do {
      var model = try settings.planningModel()
      let learned = reports.compactMap(\.sumBits)
      if !learned.isEmpty { model.costs.sumBits = AlikeDevices.median(learned) }
      return model
    } catch let failure as JobPlanningFailure {
      throw failure
    } catch {
      throw .settings(detail: "\(error)")
    }
  }

  /// Links between all devices from those that were measured.
  ///
  /// A link that was measured from both ends is as slow as the worse of both. What nobody measured goes by way of a
  /// device that measured both: at the slower rate, with both latencies.
  package static func linkTable(_ links: [MeasuredLink], devices: Int) throws(JobPlanningFailure)
    -> [LinkProfile]
  {
    var table: [LinkProfile?] = Array(repeating: nil, count: devices * devices)
    for link in links {
      guard (0..<devices).contains(link.from), (0..<devices).contains(link.to), link.from != link.to else {
        throw .links(detail: "one goes from device \(link.from) to \(link.to) of \(devices)")
      }
      guard let rate = link.bytesPerSecond, let roundTrip = link.roundTripSeconds else { continue }
      guard rate > 0, rate.isFinite, roundTrip >= 0, roundTrip.isFinite else {
        throw .links(
          detail:
            "the one from device \(link.from) to \(link.to) has \(rate) bytes a second and \(roundTrip) s")
      }
      let measured = LinkProfile(
        bytesPerSecond: Int64(min(1e12, max(Double(PlanningLimits.slowestBytesPerSecond), rate))),
        latency: Int64(min(10, roundTrip / 2) * 1e9))
      for place in [link.from * devices + link.to, link.to * devices + link.from] {
        table[place] = table[place].map { slower($0, measured) } ?? measured
      }
    }
    let known = table
    return (0..<devices * devices).map { place in
      let (row, column) = place.quotientAndRemainder(dividingBy: devices)
      if row == column { return unknownLink }
      return known[place] ?? detour(known, row, column, devices) ?? unknownLink
    }
  }

  private static func slower(_ left: LinkProfile, _ right: LinkProfile) -> LinkProfile {
    LinkProfile(
      bytesPerSecond: min(left.bytesPerSecond, right.bytesPerSecond),
      latency: max(left.latency, right.latency))
  }

  /// The best way over one other device; nil when none has both links.
  private static func detour(_ known: [LinkProfile?], _ row: Int, _ column: Int, _ devices: Int)
    -> LinkProfile?
  {
    var best: LinkProfile?
    for middle in 0..<devices {
      guard let first = known[row * devices + middle], let second = known[middle * devices + column] else {
        continue
      }
      let way = LinkProfile(
        bytesPerSecond: min(first.bytesPerSecond, second.bytesPerSecond),
        latency: first.latency + second.latency)
      if let found = best,
        (found.bytesPerSecond, -found.latency) >= (way.bytesPerSecond, -way.latency)
      {
        continue
      }
      best = way
    }
    return best
  }
}
