/// One way to run the cached epochs: which devices, and how many units of a mini-batch each has.
struct CachedOption {
  var group: UInt64
  /// Units by device of the household; 0 for those that do not take part.
  var units: [Int]
  var step: Int64
}

/// Which devices filled the cache: for each, the size of its group and what one unit of its stage's layers occupies.
private struct FillingGroups {
  var stageCount: Int
  var devices: UInt64 = 0
  /// By device of the household; 0 for those that filled nothing.
  var members: [Int64]
  var bytes: [Int64]

  init(_ stages: [CandidateStage], _ costing: StageCosting) {
    stageCount = stages.count
    members = Array(repeating: 0, count: costing.deviceCount)
    bytes = members
    for stage in stages {
      devices |= stage.group
      let cached = costing.cacheBytes(stage.lower..<stage.upper)
      for device in DeviceSet(stage.group) {
        members[device] = Int64(stage.group.nonzeroBitCount)
        bytes[device] = cached
      }
    }
  }
}

/// All ways to run the cached epochs that come into question, fastest first.
///
/// Data parallel with one ring a step. One device may be best: then there is no ring.
struct CachedPhase {
  /// Households up to this size have all subsets looked at; larger ones the fastest `n` devices for each `n`.
  static let exhaustiveDevices = 8
  /// Up to this many divisions of a mini-batch over all groups, all are looked at: a slower division may need
  /// less moving.
  ///
  /// Beyond it, each group has only its fastest.
  static let exhaustiveDivisions = 2000

  let options: [CachedOption]
  /// Whether the options are all divisions of all groups that were looked at, not each group's fastest alone.
  let hasAllDivisions: Bool
  private let costing: StageCosting
  /// Mini-batches of the first pass, which fill the cache.
  private let steps: Int
  /// The slowest links of every device in every set of a small household; empty for a large one.
  private let linkTable: [(rate: Int64, latency: Int64)]

  /// All ways; `earlier` is one that is looked at in any case.
  init(_ costing: StageCosting, earlier: [CachedMember] = [], looksAtAll: Bool) {
    self.costing = costing
    steps = costing.job.firstPassSteps
    let isSmall = costing.deviceCount <= CachedPhase.exhaustiveDevices
    linkTable =
      isSmall
      ? (0..<UInt64(1) << UInt64(costing.deviceCount)).flatMap { involved in
        (0..<costing.deviceCount).map { CachedPhase.slowestLink(costing, $0, involved) }
      } : []
    guard costing.costs.canCache && costing.job.usesCache else {
      options = []
      hasAllDivisions = true
      return
    }
    let count = costing.deviceCount
    var groups: [UInt64] = []
    if looksAtAll && count <= CachedPhase.exhaustiveDevices {
      groups = Array(1..<UInt64(1) << UInt64(count))
    } else {
      groups = CachedPhase.leadingGroups(costing)
    }
    let units = costing.job.unitsPerMiniBatch
    let divisions = groups.reduce(0) { sum, group in
      min(
        CachedPhase.exhaustiveDivisions + 1,
        sum
          + CachedPhase.divisionCount(
            units, group.nonzeroBitCount, atMost: CachedPhase.exhaustiveDivisions + 1))
    }
    let all = divisions <= CachedPhase.exhaustiveDivisions
    hasAllDivisions = all
    var options: [CachedOption] = []
    for group in groups {
      if all {
        options += CachedPhase.allOptions(costing, group)
      } else if let fastest = CachedPhase.fastestOption(costing, group) {
        options.append(fastest)
      }
    }
    if let known = CachedPhase.earlierOption(costing, earlier) { options.append(known) }
    if costing.job.cachedEpochs == .all {
      let most = options.reduce(0) { max($0, $1.group.nonzeroBitCount) }
      options.removeAll { $0.group.nonzeroBitCount < most }
    }
    options.sort {
      ($0.step, $0.group.nonzeroBitCount, $0.group) < ($1.step, $1.group.nonzeroBitCount, $1.group)
    }
    self.options = options
  }

  /// The least time of the cached epochs of a mode; nil when the mode needs a cache and none fits.
  func leastTime(_ mode: PlanMode) -> Int64? {
    guard mode != .live else { return 0 }
    return options.first.map { repeated($0.step, costing.job.cachedSteps(mode)) }
  }

  /// The option with the least redistribution and cached epochs after stages that filled the cache in `firstEpoch`; nil
  /// when none takes less than `limit`.
  func best(
    after stages: [CandidateStage], mode: PlanMode, firstEpoch: Int64, below limit: Int64
  ) -> (option: Int, redistribution: Int64, time: Int64)? {
    var best: (option: Int, redistribution: Int64, time: Int64)?
    let filling = FillingGroups(stages, costing)
    for (index, option) in options.enumerated() {
      let cached = repeated(option.step, costing.job.cachedSteps(mode))
      let most = best?.time ?? limit
      if cached >= most { break }
      guard
        let moving = redistribution(filling, to: option, behind: firstEpoch, below: most - cached)
      else { continue }
      best = (index, moving, moving + cached)
    }
    return best
  }

  /// The redistribution and the cached steps of one option after stages that filled the cache in `firstEpoch`.
  func time(
    of option: CachedOption, after stages: [CandidateStage], mode: PlanMode, firstEpoch: Int64
  ) -> Int64 {
    let moving =
      redistribution(FillingGroups(stages, costing), to: option, behind: firstEpoch, below: .max) ?? 0
    return moving + repeated(option.step, costing.job.cachedSteps(mode))
  }

  /// What is left of a transfer when every step's part starts as soon as the step has made it.
  ///
  /// The last step's part has nothing to hide behind; a link that is slower than the steps goes on without a pause.
  private func exposed(_ transfer: Int64, behind firstEpoch: Int64) -> Int64 {
    let count = Int64(steps)
    let lastStep = (firstEpoch + count - 1) / count
    return max((transfer + count - 1) / count, transfer - (firstEpoch - lastStep))
  }

  /// How long cached activations take to the devices that will read them beyond the first pass; nil when that is
  /// `limit` or more.
  ///
  /// What a transfer takes of a processor is added, since the first pass needs the processor too; in a pipeline it is in
  /// the stages' times already.
  ///
  /// A member of a group of `g` has computed a `g`-th of the units of its stage, and keeps of them what it will
  /// read. Every device sends and receives at once, at the slowest of its links to the others. Devices that
  /// fill as one group and then read as the same group compute from the start the units that they will read.
  private func redistribution(
    _ filling: FillingGroups, to option: CachedOption, behind firstEpoch: Int64, below limit: Int64
  ) -> Int64? {
    if filling.stageCount == 1 && filling.devices == option.group { return 0 }
    let total = costing.costs.cacheBytes
    let all = costing.job.unitsPerMiniBatch
    let involved = filling.devices | option.group
    var slowest: Int64 = 0
    var busiest: Int64 = 0
    for device in DeviceSet(involved) {
      let own = option.units[device]
      var receives = Int64(own) * total
      var sends: Int64 = 0
      let members = filling.members[device]
      if members > 0 {
        let bytes = filling.bytes[device]
        let kept = Int64(min(own * Int(members), all)) * bytes / members
        receives -= kept
        sends = (Int64(all) * bytes + members - 1) / members - kept
      }
      let bytes = max(receives, sends)
      guard bytes > 0 else { continue }
      if filling.stageCount == 1 {
        busiest = max(
          busiest, repeated(costing.exchangeTime(device, bytes: max(0, receives) + max(0, sends)), steps))
      }
      let (rate, latency) = slowestLink(device, involved)
      // The exact product where it fits; a rounded step else.
      let (epoch, overflow) = bytes.multipliedReportingOverflow(by: Int64(steps))
      let whole =
        overflow
        ? repeated(transferTime(bytes: bytes, bytesPerSecond: rate), steps)
        : transferTime(bytes: epoch, bytesPerSecond: rate, atMost: .max / 8)
      slowest = max(slowest, latency + whole)
      if exposed(slowest, behind: firstEpoch) >= limit { return nil }
    }
    guard slowest > 0 else { return 0 }
    let moving = exposed(slowest, behind: firstEpoch) + busiest
    return moving < limit ? moving : nil
  }

  /// The least rate and the greatest latency of a device's links to the others of a set.
  private func slowestLink(_ device: Int, _ involved: UInt64) -> (rate: Int64, latency: Int64) {
    if !linkTable.isEmpty { return linkTable[Int(involved) * costing.deviceCount + device] }
    return CachedPhase.slowestLink(costing, device, involved)
  }

  private static func slowestLink(
    _ costing: StageCosting, _ device: Int, _ involved: UInt64
  ) -> (rate: Int64, latency: Int64) {
    var rate = Int64.max
    var latency: Int64 = 0
    for other in DeviceSet(involved) where other != device {
      rate = min(rate, costing.household.link(device, other).bytesPerSecond)
      latency = max(latency, costing.household.link(device, other).latency)
    }
    return (rate, latency)
  }

  /// Memory of a device in the cached epochs.
  static func memory(_ costing: StageCosting, device: Int, units: Int) -> Int64 {
    costing.costs.trainableBytes * costing.costs.trainableCopies
      + Int64(min(units, costing.household.devices[device].workers)) * costing.costs.cachedUnitBytes
  }

  /// Compute of some units from the cache.
  static func computeTime(_ costing: StageCosting, _ device: Int, _ units: Int) -> Int64 {
    let profile = costing.household.devices[device]
    return costing.allKinds.reduce(0) {
      $0 + $1.count * UnitTimes.time(profile.times[$1.kind].cached, units: units)
    }
  }

  /// Compute of some units, or reading them, whichever is longer: reading runs ahead.
  static func time(_ costing: StageCosting, _ device: Int, _ units: Int) -> Int64 {
    let profile = costing.household.devices[device]
    let time = computeTime(costing, device, units)
    let reading = transferTime(
      bytes: Int64(units) * costing.costs.cacheBytes, bytesPerSecond: profile.diskReadBytesPerSecond)
    return max(time, reading)
  }

  /// The first `n` devices for each `n`, by speed and by what their disks hold, and each device alone.
  private static func leadingGroups(_ costing: StageCosting) -> [UInt64] {
    let able = (0..<costing.deviceCount).filter { fits(costing, $0, 1) }
    let times = (0..<costing.deviceCount).map { time(costing, $0, 1) }
    let space = costing.household.devices.map(\.cacheBudget)
    let rates = able.indices.reduce(into: Array(repeating: Int64(0), count: costing.deviceCount)) {
      rates, place in
      for other in able where other != able[place] {
        rates[able[place]] += costing.household.link(able[place], other).bytesPerSecond / Int64(able.count)
      }
    }
    let orders = [
      able.sorted { (times[$0], $0) < (times[$1], $1) },
      able.sorted { (-space[$0], times[$0], $0) < (-space[$1], times[$1], $1) },
      able.sorted { (-rates[$0], times[$0], $0) < (-rates[$1], times[$1], $1) },
    ]
    var groups: Set<UInt64> = []
    for order in orders {
      var group: UInt64 = 0
      for device in order {
        group |= .device(device)
        groups.insert(group)
        groups.insert(.device(device))
      }
    }
    return groups.sorted()
  }

  /// Ways to give every one of `parts` members at least one of `units`: binomial(units − 1, parts − 1).
  private static func divisionCount(_ units: Int, _ parts: Int, atMost limit: Int) -> Int {
    guard parts <= units else { return 0 }
    var count = 1
    for factor in 1..<max(1, parts) {
      count = count * (units - factor) / factor
      if count > limit { return limit }
    }
    return count
  }

  /// Every division of a mini-batch over a group that fits.
  private static func allOptions(_ costing: StageCosting, _ group: UInt64) -> [CachedOption] {
    let members = Array(DeviceSet(group))
    let stepEnd = costing.cachedStepEnd(group)
    var options: [CachedOption] = []
    var units = Array(repeating: 0, count: costing.deviceCount)
    func give(_ place: Int, _ left: Int, _ slowest: Int64) {
      let later = members.count - 1 - place
      guard left > later else { return }
      let device = members[place]
      for count in later == 0 ? left...left : 1...left - later {
        guard fits(costing, device, count) else { break }
        units[device] = count
        let time = max(slowest, time(costing, device, count))
        if later == 0 {
          options.append(CachedOption(group: group, units: units, step: time + stepEnd))
        } else {
          give(place + 1, left - count, time)
        }
      }
      units[device] = 0
    }
    give(0, costing.job.unitsPerMiniBatch, 0)
    return options
  }

  /// Whether a device has memory and disk for some units.
  static func fits(_ costing: StageCosting, _ device: Int, _ units: Int) -> Bool {
    guard memory(costing, device: device, units: units) <= costing.household.devices[device].memoryBudget
    else {
      return false
    }
    let bytes = Int128(units) * Int128(costing.costs.cacheBytes) * Int128(costing.job.stepsPerEpoch)
    return bytes <= Int128(costing.household.devices[device].cacheBudget)
  }

  /// The cached phase of an earlier plan, if it fits still.
  static func earlierOption(_ costing: StageCosting, _ earlier: [CachedMember]) -> CachedOption? {
    var units = Array(repeating: 0, count: costing.deviceCount)
    var group: UInt64 = 0
    var slowest: Int64 = 0
    for member in earlier {
      guard units.indices.contains(member.device), units[member.device] == 0, member.units > 0,
        fits(costing, member.device, member.units)
      else { return nil }
      units[member.device] = member.units
      group |= .device(member.device)
      slowest = max(slowest, time(costing, member.device, member.units))
    }
    guard units.reduce(0, +) == costing.job.unitsPerMiniBatch else { return nil }
    return CachedOption(
      group: group, units: units,
      step: slowest + costing.cachedStepEnd(group))
  }

  /// The fastest division of a mini-batch over a group.
  private static func fastestOption(_ costing: StageCosting, _ group: UInt64) -> CachedOption? {
    let all = costing.job.unitsPerMiniBatch
    let members = Array(DeviceSet(group))
    guard members.count <= all else { return nil }
    var units = Array(repeating: 0, count: costing.deviceCount)
    for device in members {
      guard fits(costing, device, 1) else { return nil }
      units[device] = 1
    }
    var next = members.map { fits(costing, $0, 2) ? time(costing, $0, 2) : Int64.max }
    for _ in 0..<all - members.count {
      var best = 0
      for member in next.indices where next[member] < next[best] { best = member }
      guard next[best] < .max else { return nil }
      let device = members[best]
      units[device] += 1
      next[best] = fits(costing, device, units[device] + 1) ? time(costing, device, units[device] + 1) : .max
    }
    let slowest = members.reduce(Int64(0)) { max($0, time(costing, $1, units[$1])) }
    let stepEnd = costing.cachedStepEnd(group)
    return CachedOption(group: group, units: units, step: slowest + stepEnd)
  }
}
