import PipelineSchedules

/// What a stage takes of time under one division of its units.
struct StageSplit: Equatable {
  var forward: Int64
  var backward: Int64
  /// Forward and backward pass together.
  var work: Int64 { forward + backward }
}

/// The least that a device takes for one unit through one layer.
struct LeastUnitTime {
  var work: Double
  var forward: Double
}

/// Memory that a group lacks for a stage.
struct MissingMemory {
  /// Bytes, over all devices.
  var total: Int64 = 0
  /// The device that lacks most.
  var device: Int
  /// Bytes that it lacks.
  var deviceBytes: Int64 = 0
}

/// What the layers `lower ..< upper` cost together.
struct RangeCosts {
  var lower = 0
  var upper = 0
  var fixedBytes: Int64 = 0
  /// Memory of the states that a stage of several keeps, after its first step.
  var stateBytes: Int64 = 0
  /// The part of `fixedBytes` that is never written.
  var frozenBytes: Int64 = 0
  var retainedBytes: Int64 = 0
  var cacheBytes: Int64 = 0
  var trainableBytes: Int64 = 0
  /// What of one unit goes over the stage's two boundaries in a forward pass, sent and received.
  var forwardExchange: Int64 = 0
  /// The same of the backward pass.
  var backwardExchange: Int64 = 0
  /// What of one unit's activations goes to those who will read them, with as much that comes; nothing of a whole model.
  var tapExchange: Int64 = 0
  /// How many layers of each kind there are, kinds without layers left out.
  var kinds: [(kind: Int, count: Int64)] = []
}

/// Times and memory of stages: the one place that knows what a stage on a group of devices costs.
///
/// A group's forward pass lasts as long as its slowest member's, and so does its backward pass. The division of
/// units is found here; every division that no other one beats in both passes is a choice of the search.
final class StageCosting {
  let costs: ModelCosts
  let household: HouseholdProfile
  let job: PlanningJob
  let deviceCount: Int
  let layerCount: Int

  /// The mode whose times and memory are asked for.
  private(set) var mode = PlanMode.live
  /// Pipeline micro-batches of a mini-batch.
  private(set) var microBatches = 1
  /// Units of one pipeline micro-batch.
  private(set) var units = 1

  private let prefixes: LayerPrefixes
  private let forwardTable: [Int64]
  private let backwardTable: [Int64]
  private let fillTable: [Int64]
  /// Costs of ranges of layers that were asked for before, at `lower · (layers + 1) + upper`.
  private var trainingRanges: [RangeCosts?]
  private var fillRanges: [RangeCosts?]
  /// Members of the group in question, their limits and their units.
  private var members: [Int] = []
  private var limits: [Int] = []
  private(set) var shares: [Int] = []

  init(costs: ModelCosts, household: HouseholdProfile, job: PlanningJob) {
    self.costs = costs
    self.household = household
    self.job = job
    deviceCount = household.devices.count
    layerCount = costs.layers.count
    prefixes = LayerPrefixes(costs)
    let units = job.unitsPerMiniBatch
    func table(_ times: (UnitTimes) -> [Int64]) -> [Int64] {
      household.devices.flatMap { device in
        device.times.flatMap { kind in (1...units).map { UnitTimes.time(times(kind), units: $0) } }
      }
    }
    forwardTable = table(\.forward)
    backwardTable = table(\.backward)
    fillTable = table(\.fill)
    trainingRanges = Array(repeating: nil, count: layerCount * (layerCount + 1))
    fillRanges = trainingRanges
  }

  /// Chooses the mode and the number of micro-batches of the questions that follow.
  func prepare(mode: PlanMode, microBatches: Int) {
    self.mode = mode
    self.microBatches = microBatches
    units = job.unitsPerMiniBatch / microBatches
  }

  /// What a range of layers costs in the present mode.
  func range(_ lower: Int, _ upper: Int) -> RangeCosts {
    let place = lower * (layerCount + 1) + upper
    if mode == .fill {
      if let known = fillRanges[place] { return known }
      let range = measuredRange(lower, upper)
      fillRanges[place] = range
      return range
    }
    if let known = trainingRanges[place] { return known }
    let range = measuredRange(lower, upper)
    trainingRanges[place] = range
    return range
  }

  private func measuredRange(_ lower: Int, _ upper: Int) -> RangeCosts {
    var range = RangeCosts(lower: lower, upper: upper)
    let trainable =
      prefixes.trainable[upper] - prefixes.trainable[lower] + (costs.tied?.copiedBytes(lower..<upper) ?? 0)
    range.frozenBytes = prefixes.frozen[upper] - prefixes.frozen[lower] + prefixes.sharedBytes(lower, upper)
    range.fixedBytes = range.frozenBytes
    if mode == .fill {
      // A model that cannot be cached is never filled, so its trained weights are the technique's alone.
      range.trainableBytes = 0
    } else {
      range.trainableBytes = trainable
      range.fixedBytes += trainable * costs.trainableCopies
      if upper - lower < layerCount { range.stateBytes = trainable * costs.stageStateCopies }
    }
    range.retainedBytes = prefixes.retained[upper] - prefixes.retained[lower]
    range.cacheBytes = prefixes.cache[upper] - prefixes.cache[lower]
    range.kinds = prefixes.kinds(lower, upper)
    for layer in [lower - 1, upper - 1] where layer >= 0 && layer < layerCount - 1 {
      let costs = costs.layers[layer]
      range.forwardExchange += mode == .fill ? costs.fillBoundaryBytes : costs.forwardBoundaryBytes
      range.backwardExchange += mode == .fill ? 0 : costs.backwardBoundaryBytes
    }
    range.tapExchange = upper - lower < layerCount ? 2 * range.cacheBytes : 0
    return range
  }

  /// Cached bytes of one unit of some layers.
  func cacheBytes(_ layers: Range<Int>) -> Int64 {
    prefixes.cache[layers.upperBound] - prefixes.cache[layers.lowerBound]
  }

  /// How many layers of each kind the model has.
  var allKinds: [(kind: Int, count: Int64)] { prefixes.kinds(0, layerCount) }

  // MARK: Memory

  /// Memory that a device needs for its part of a stage.
  func memory(_ range: RangeCosts, device: Int, units: Int, fromEnd: Int) -> Int64 {
    let atOnce = Int64(min(units, household.devices[device].workers))
    let transient = atOnce * costs.transientBytes
    if mode == .fill { return range.fixedBytes + transient }
    if fromEnd == 0 {
      // The last stage turns back at once: unit by unit, forward and backward.
      return range.fixedBytes + range.stateBytes + transient + atOnce * range.retainedBytes
    }
    return range.fixedBytes + range.stateBytes + transient
      + Int64(held(range, fromEnd: fromEnd) * units) * range.retainedBytes
  }

  /// Micro-batches whose activations a stage that is not the last holds: in flight, and run ahead by a first stage.
  private func held(_ range: RangeCosts, fromEnd: Int) -> Int {
    let inFlight = PipelineSchedule.inFlight(fromEnd: fromEnd, microBatches: microBatches)
    return costs.runsAhead && range.lower == 0 ? 2 * inFlight : inFlight
  }

  /// The most units of a micro-batch that fit into a device's memory; 0 when none does.
  func unitLimit(_ range: RangeCosts, device: Int, fromEnd: Int) -> Int {
    let budget = household.devices[device].memoryBudget
    if memory(range, device: device, units: units, fromEnd: fromEnd) <= budget { return units }
    var low = 0
    var high = units
    while high - low > 1 {
      let middle = (low + high) / 2
      if memory(range, device: device, units: middle, fromEnd: fromEnd) <= budget {
        low = middle
      } else {
        high = middle
      }
    }
    return low
  }

  /// Memory that is missing before a group can compute a stage at all; none when it can.
  func missingMemory(_ range: RangeCosts, group: UInt64, fromEnd: Int) -> MissingMemory {
    var missing = MissingMemory(device: group.trailingZeroBitCount)
    var room = 0
    for device in DeviceSet(group) {
      let lacks =
        memory(range, device: device, units: 1, fromEnd: fromEnd) - household.devices[device].memoryBudget
      if lacks > 0 {
        missing.total += lacks
        if lacks > missing.deviceBytes { (missing.device, missing.deviceBytes) = (device, lacks) }
      } else {
        room += unitLimit(range, device: device, fromEnd: fromEnd)
      }
    }
    if missing.total == 0 && room < units {
      let inFlight =
        mode == .fill || fromEnd == 0 ? 1 : held(range, fromEnd: fromEnd)
      let perUnit = max(1, Int64(inFlight) * range.retainedBytes + costs.transientBytes)
      missing.deviceBytes = Int64(units - room) * perUnit
      missing.total = missing.deviceBytes
    }
    return missing
  }

  // MARK: Time

  /// How long a device's processor is busy with bytes that it sends and receives.
  func exchangeTime(_ device: Int, bytes: Int64) -> Int64 {
    // An exchange is one byte out and one in.
    time(bytes: bytes / 2 + bytes % 2, bytesPerSecond: household.devices[device].exchangeBytesPerSecond)
  }

  /// The same of both passes of some units through a stage.
  func exchangeTime(_ range: RangeCosts, _ device: Int, units: Int) -> Int64 {
    exchangeTime(device, bytes: Int64(units) * forwardExchange(range))
      + exchangeTime(device, bytes: Int64(units) * range.backwardExchange)
  }

  private func forwardExchange(_ range: RangeCosts) -> Int64 {
    range.forwardExchange + (mode == .live ? 0 : range.tapExchange)
  }

  /// The time of some bytes at a device's rate; nothing when it has none, where rounding up would make a nanosecond of it.
  private func time(bytes: Int64, bytesPerSecond: Int64) -> Int64 {
    guard bytes > 0, bytesPerSecond < PlanningLimits.bytes else { return 0 }
    return transferTime(bytes: bytes, bytesPerSecond: bytesPerSecond)
  }

  /// What a device does once for a stage of a new job: its part of the weights and of the memory that training writes to is
  /// touched for the first time.
  func firstTouch(_ range: RangeCosts, group: UInt64) -> Int64 {
    guard job.remaining == nil else { return 0 }
    let fresh =
      range.fixedBytes - range.frozenBytes + costs.transientBytes + (mode == .fill ? 0 : range.retainedBytes)
    return DeviceSet(group).reduce(0) { slowest, device in
      let profile = household.devices[device]
      return max(
        slowest,
        time(bytes: range.frozenBytes, bytesPerSecond: profile.mappedBytesPerSecond)
          + time(bytes: fresh, bytesPerSecond: profile.freshBytesPerSecond))
    }
  }

  /// The forward time of some units on a device, with what its processor has to do to hand them on; filling a cache takes
  /// at least as long as writing it.
  func forwardTime(_ range: RangeCosts, _ device: Int, _ units: Int) -> Int64 {
    let table = mode == .fill ? fillTable : forwardTable
    let row = device * costs.kinds.count
    var time: Int64 = 0
    for (kind, count) in range.kinds {
      time += count * table[(row + kind) * job.unitsPerMiniBatch + units - 1]
    }
    time += exchangeTime(device, bytes: Int64(units) * forwardExchange(range))
    guard mode != .live, range.cacheBytes > 0 else { return time }
    let writing = transferTime(
      bytes: Int64(units) * range.cacheBytes,
      bytesPerSecond: household.devices[device].diskWriteBytesPerSecond)
    return max(time, writing)
  }

  /// The part of a training forward pass that is the same whatever has been trained: the frozen layers'.
  func frozenTime(_ range: RangeCosts, _ device: Int, _ units: Int) -> Int64 {
    let row = device * costs.kinds.count
    return range.kinds.reduce(0) { time, kind in
      time + kind.count * fillTable[(row + kind.kind) * job.unitsPerMiniBatch + units - 1]
    }
  }

  func backwardTime(_ range: RangeCosts, _ device: Int, _ units: Int) -> Int64 {
    guard mode != .fill else { return 0 }
    let row = device * costs.kinds.count
    var time: Int64 = 0
    for (kind, count) in range.kinds {
      time += count * backwardTable[(row + kind) * job.unitsPerMiniBatch + units - 1]
    }
    return time + exchangeTime(device, bytes: Int64(units) * range.backwardExchange)
  }

  /// The least times of one unit of a micro-batch by device and kind, whichever number of units is computed together.
  func leastUnitTimes() -> [LeastUnitTime] {
    let table = mode == .fill ? fillTable : forwardTable
    return (0..<deviceCount * costs.kinds.count).map { row in
      var least = LeastUnitTime(work: .infinity, forward: .infinity)
      for count in 1...units {
        let place = row * job.unitsPerMiniBatch + count - 1
        let backward = mode == .fill ? 0 : backwardTable[place]
        least.forward = min(least.forward, Double(table[place]) / Double(count))
        least.work = min(least.work, Double(table[place] + backward) / Double(count))
      }
      return least
    }
  }

  private enum Criterion { case work, forward, backward }

  private func time(_ range: RangeCosts, _ device: Int, _ units: Int, _ criterion: Criterion) -> Int64 {
    switch criterion {
    case .work: forwardTime(range, device, units) + backwardTime(range, device, units)
    case .forward: forwardTime(range, device, units)
    case .backward: backwardTime(range, device, units)
    }
  }

  /// Sets the members and their limits; false when the group cannot take the micro-batch.
  private func load(_ range: RangeCosts, _ group: UInt64, _ fromEnd: Int) -> Bool {
    members.removeAll(keepingCapacity: true)
    limits.removeAll(keepingCapacity: true)
    guard group.nonzeroBitCount <= units else { return false }
    var room = 0
    for device in DeviceSet(group) {
      let limit = unitLimit(range, device: device, fromEnd: fromEnd)
      if limit == 0 { return false }
      members.append(device)
      limits.append(limit)
      room += limit
    }
    return room >= units
  }

  /// Divides the units so that the slowest member is as fast as can be, and leaves them in `shares`.
  ///
  /// Giving each further unit to the member that would then be fastest is optimal for times that never fall
  /// with more units: the last unit given is the smallest possible maximum. Every member gets at least one
  /// unit.
  private func divide(_ range: RangeCosts, _ criterion: Criterion) {
    shares.removeAll(keepingCapacity: true)
    shares.append(contentsOf: repeatElement(1, count: members.count))
    if members.count == 1 {
      shares[0] = units
      return
    }
    var next = members.indices.map { member in
      limits[member] > 1 ? time(range, members[member], 2, criterion) : Int64.max
    }
    for _ in 0..<units - members.count {
      var best = 0
      for member in next.indices where next[member] < next[best] { best = member }
      shares[best] += 1
      next[best] =
        shares[best] < limits[best] ? time(range, members[best], shares[best] + 1, criterion) : Int64.max
    }
  }

  private func split(_ range: RangeCosts) -> StageSplit {
    var split = StageSplit(forward: 0, backward: 0)
    for (device, units) in zip(members, shares) {
      split.forward = max(split.forward, forwardTime(range, device, units))
      split.backward = max(split.backward, backwardTime(range, device, units))
    }
    return split
  }

  /// The division with the least slowest member, both passes together; nil when the group cannot.
  func balancedSplit(_ range: RangeCosts, group: UInt64, fromEnd: Int) -> StageSplit? {
    guard load(range, group, fromEnd) else { return nil }
    divide(range, .work)
    return split(range)
  }

  /// All pairs of forward and backward times that no other division beats in both, by rising forward time.
  func undominatedSplits(_ range: RangeCosts, group: UInt64, fromEnd: Int) -> [StageSplit] {
    guard load(range, group, fromEnd) else { return [] }
    let memoryLimits = limits
    var found: [StageSplit] = []
    var forwardBelow = Int64.max
    while true {
      // The least backward time among divisions whose forward pass is below the last one found, ...
      limits = memoryLimits
      guard narrow(range, .forward, below: forwardBelow) else { break }
      divide(range, .backward)
      let backward = split(range).backward
      // ... and the least forward time among those with that backward time.
      let narrowed = narrow(range, .backward, below: backward + 1)
      precondition(narrowed, "a division with backward time \(backward) was there a moment ago")
      divide(range, .forward)
      let choice = split(range)
      found.append(choice)
      forwardBelow = choice.forward
      if members.count == 1 { break }
    }
    return found.reversed()
  }

  /// The units of the division that has these times.
  func shares(_ range: RangeCosts, group: UInt64, fromEnd: Int, split target: StageSplit) -> [Int] {
    let isLoaded = load(range, group, fromEnd)
    precondition(isLoaded, "a stage of the plan does not fit its group")
    let fits =
      narrow(range, .forward, below: target.forward + 1)
      && narrow(range, .backward, below: target.backward + 1)
    precondition(fits, "no division has the times \(target)")
    divide(range, .work)
    return shares
  }

  /// The times of a given division; nil when it does not fit.
  func split(_ range: RangeCosts, group: UInt64, fromEnd: Int, shares given: [Int]) -> StageSplit? {
    guard load(range, group, fromEnd), given.count == members.count, given.reduce(0, +) == units,
      zip(given, limits).allSatisfy({ $0 >= 1 && $0 <= $1 })
    else { return nil }
    shares = given
    return split(range)
  }

  /// Lowers the limits to what stays below a time; false when the micro-batch no longer fits.
  private func narrow(_ range: RangeCosts, _ criterion: Criterion, below bound: Int64) -> Bool {
    var room = 0
    for member in members.indices {
      while limits[member] > 0 && time(range, members[member], limits[member], criterion) >= bound {
        limits[member] -= 1
      }
      if limits[member] == 0 { return false }
      room += limits[member]
    }
    return room >= units
  }

  // MARK: Communication

  /// What one micro-batch takes between two groups, when the upper one starts at layer `layer`.
  ///
  /// The units spread evenly over as many streams as the smaller group has members, at the slowest link between
  /// them.
  func boundary(from lower: UInt64, to upper: UInt64, layer: Int) -> BoundaryTimes {
    var rate = Int64.max
    var latency: Int64 = 0
    for sender in DeviceSet(lower) {
      for receiver in DeviceSet(upper) {
        let link = household.link(sender, receiver)
        rate = min(rate, link.bytesPerSecond)
        latency = max(latency, link.latency)
      }
    }
    let streams = Int64(min(lower.nonzeroBitCount, upper.nonzeroBitCount))
    let below = costs.layers[layer - 1]
    func time(_ bytes: Int64) -> Int64 {
      guard bytes > 0 else { return 0 }
      return latency
        + transferTime(bytes: (bytes * Int64(units) + streams - 1) / streams, bytesPerSecond: rate)
    }
    if mode == .fill { return BoundaryTimes(forward: time(below.fillBoundaryBytes), backward: 0) }
    return BoundaryTimes(
      forward: time(below.forwardBoundaryBytes), backward: time(below.backwardBoundaryBytes))
  }

  /// What follows a stage's last backward pass: the ring sum of its gradients over its group, and the update of its
  /// weights on each member.
  func reduction(_ range: RangeCosts, group: UInt64) -> Int64 {
    mode == .fill ? 0 : stepEnd(bytes: range.trainableBytes, group: group)
  }

  /// What follows a step from the cache.
  func cachedStepEnd(_ group: UInt64) -> Int64 {
    stepEnd(bytes: costs.trainableBytes, group: group)
  }

  /// The ring over a group, and the slowest member's update.
  func stepEnd(bytes: Int64, group: UInt64) -> Int64 {
    guard bytes > 0 else { return 0 }
    var update: Int64 = 0
    for device in DeviceSet(group) {
      update = max(
        update, time(bytes: bytes, bytesPerSecond: household.devices[device].updateBytesPerSecond))
    }
    return ringTime(bytes: bytes, group: group) + update
  }

  /// A ring of reduce-scatter and all-gather of the gradients of `bytes` of trained weights over a group, in the order of its
  /// members: as fast as its slowest link, or the member whose processor is slowest with it.
  ///
  /// Its buckets go round at once, so that they wait for the same hops. Half of what hops stand still counts: meanwhile other
  /// buckets are packed and frozen layers run ahead (docs/PLANNING.md, "Limits").
  func ringTime(bytes: Int64, group: UInt64) -> Int64 {
    let count = Int64(group.nonzeroBitCount)
    guard count > 1, bytes > 0 else { return 0 }
    let sums = costs.sumBytes(of: bytes)
    var rate = Int64.max
    var (latency, standstill): (Int64, Int64) = (0, 0)
    var previous = 63 - group.leadingZeroBitCount
    for device in DeviceSet(group) {
      let link = household.link(previous, device)
      rate = min(rate, link.bytesPerSecond, household.devices[device].exchangeBytesPerSecond)
      latency = max(latency, link.latency)
      standstill = max(standstill, household.devices[device].standstill)
      previous = device
    }
    let rounds = 2 * (count - 1)
    return rounds
      * (latency + standstill / 2 + transferTime(bytes: (sums + count - 1) / count, bytesPerSecond: rate))
  }
}

/// Sums over the first layers, so that a range's costs are differences.
private struct LayerPrefixes {
  var frozen: [Int64] = [0]
  var trainable: [Int64] = [0]
  var retained: [Int64] = [0]
  var cache: [Int64] = [0]
  /// Layers of each kind among the first `l`, at `kind · (layers + 1) + l`.
  private var counts: [Int64]
  private let kindCount: Int
  private let layerCount: Int
  private let shared: [SharedWeights]

  init(_ costs: ModelCosts) {
    kindCount = costs.kinds.count
    layerCount = costs.layers.count
    shared = costs.shared.map { SharedWeights(bytes: $0.bytes, layers: $0.layers.sorted()) }
    counts = Array(repeating: 0, count: kindCount * (layerCount + 1))
    for (index, layer) in costs.layers.enumerated() {
      frozen.append(frozen[index] + layer.frozenBytes)
      trainable.append(trainable[index] + layer.trainableBytes)
      retained.append(retained[index] + layer.retainedBytes)
      cache.append(cache[index] + layer.cacheBytes)
      for kind in 0..<kindCount {
        let place = kind * (layerCount + 1) + index
        counts[place + 1] = counts[place] + (layer.kind == kind ? 1 : 0)
      }
    }
  }

  func kinds(_ lower: Int, _ upper: Int) -> [(kind: Int, count: Int64)] {
    var kinds: [(kind: Int, count: Int64)] = []
    for kind in 0..<kindCount {
      let count = counts[kind * (layerCount + 1) + upper] - counts[kind * (layerCount + 1) + lower]
      if count > 0 { kinds.append((kind, count)) }
    }
    return kinds
  }

  func sharedBytes(_ lower: Int, _ upper: Int) -> Int64 {
    shared.reduce(0) { sum, weights in
      weights.layers.contains { $0 >= lower && $0 < upper } ? sum + weights.bytes : sum
    }
  }
}
