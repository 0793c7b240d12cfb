/// Profiles as fast as the devices have shown to be.
///
/// What a device computes of a step now, without what it does whatever its share, against what its profile says of the
/// same part, is the factor of all its times. Devices that have not worked yet get the median of the others' factors: what slows a whole household
/// down, such as a job's own overhead, would otherwise make every newcomer look fast.
struct MeasuredSpeeds {
  /// A factor of one.
  static let one: Int64 = 1024
  /// Factors beyond these are taken for errors of measurement.
  static let factors: ClosedRange<Int64> = one / 16...64 * one

  private(set) var profiles: [DeviceProfile]

  init(_ request: ReplanRequest, _ household: HouseholdProfile) {
    profiles = household.devices
    let costing = StageCosting(costs: request.costs, household: household, job: request.job)
    let factors = request.devices.indices.map { Self.factor($0, request, costing) }
    let known = factors.compactMap { $0 }.sorted()
    guard !known.isEmpty else { return }
    let usual = known[(known.count - 1) / 2]
    for device in profiles.indices {
      Self.scale(&profiles[device], by: factors[device] ?? usual)
    }
  }

  /// Measured against predicted time of a step's part; nil when one of them is not known.
  private static func factor(_ device: Int, _ request: ReplanRequest, _ costing: StageCosting) -> Int64? {
    guard let place = request.devices[device].place, let measured = request.devices[device].measuredStep,
      measured > 0
    else { return nil }
    let present = request.present
    var predicted: Int64 = 0
    var fixed: Int64 = 0
    if request.isCached {
      guard let member = present.cached.first(where: { $0.device == place }) else { return nil }
      predicted = CachedPhase.computeTime(costing, device, member.units)
      fixed = stepEnd(device, costing, request.costs.trainableBytes, members: present.cached.count)
    } else if present.mode != .fill {
      for stage in present.stages {
        guard let member = stage.members.first(where: { $0.device == place }) else { continue }
        guard 1...request.job.unitsPerMiniBatch ~= member.units else { return nil }
        costing.prepare(mode: present.mode, microBatches: 1)
        let range = costing.range(stage.layers.lowerBound, stage.layers.upperBound)
        predicted = repeated(
          costing.forwardTime(range, device, member.units)
            + costing.backwardTime(range, device, member.units),
          present.microBatches)
      }
    }
    guard predicted > 0 else { return nil }
    // What does not depend on the units must not make a device with few of them look slow.
    let ofUnits = max(measured - fixed, min(measured, predicted) / 2)
    let factor = Int128(ofUnits) * Int128(one) / Int128(predicted)
    return min(max(Int64(clamping: factor), factors.lowerBound), factors.upperBound)
  }

  /// What a device itself does at the end of a step: its update, and its part of the ring's sums and encryption.
  private static func stepEnd(_ device: Int, _ costing: StageCosting, _ bytes: Int64, members: Int) -> Int64 {
    let profile = costing.household.devices[device]
    guard bytes > 0 else { return 0 }
    var time: Int64 = 0
    if profile.updateBytesPerSecond < PlanningLimits.bytes {
      time += transferTime(bytes: bytes, bytesPerSecond: profile.updateBytesPerSecond)
    }
    if members > 1, profile.exchangeBytesPerSecond < PlanningLimits.bytes {
      let sums = costing.costs.sumBytes(of: bytes) * 2 * Int64(members - 1) / Int64(members)
      time += transferTime(bytes: sums, bytesPerSecond: profile.exchangeBytesPerSecond)
    }
    return time
  }

  private static func scale(_ profile: inout DeviceProfile, by factor: Int64) {
    func scaled(_ table: [Int64]) -> [Int64] {
      table.enumerated().map { index, time in
        let limit = PlanningLimits.layerNanoseconds * Int64(index + 1)
        return min(limit, Int64(clamping: Int128(time) * Int128(factor) / Int128(one)))
      }
    }
    for kind in profile.times.indices {
      let times = profile.times[kind]
      profile.times[kind] = UnitTimes(
        forward: scaled(times.forward), backward: scaled(times.backward), fill: scaled(times.fill),
        cached: scaled(times.cached))
    }
  }
}
