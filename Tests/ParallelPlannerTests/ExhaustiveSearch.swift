import ParallelPlanner
import PipelineSchedules

/// Looks at every plan there is, with costs written down a second time from docs/PLANNING.md.
///
/// It shares no code with the planner but the input types and the schedule simulator: every set of devices in
/// every order of groups, every cut of the layers, every division of the units, every number of micro-batches,
/// every mode, every set of devices for the cached epochs.
struct ExhaustiveSearch {
  let costs: ModelCosts
  let household: HouseholdProfile
  let job: PlanningJob

  private struct Stage: Hashable {
    var layers: Range<Int>
    var group: [Int]
    var times: StageTimes
  }

  /// The least time of the whole job; nil when nothing fits.
  func best() -> Int64? {
    var best: Int64?
    let canCache = costs.canCache && job.usesCache
    var modes: [PlanMode] = [.live]
    if canCache {
      switch job.firstEpoch {
      case .auto: modes = job.epochs > 1 ? [.hybrid, .fill, .live] : [.live, .fill]
      case .hybrid: modes = job.epochs > 1 ? [.hybrid] : [.live]
      case .fill: modes = [.fill]
      }
    }
    let cached = canCache ? cachedOptions() : []
    for mode in modes {
      for count in 1...job.unitsPerMiniBatch where job.unitsPerMiniBatch % count == 0 {
        if !job.microBatchCounts.isEmpty && !job.microBatchCounts.contains(count) { continue }
        var run = Run(search: self, mode: mode, microBatches: count, cached: cached)
        run.extend(upper: costs.layers.count, free: Array(household.devices.indices), stages: [])
        if let found = run.best { best = min(best ?? .max, found) }
      }
    }
    return best
  }

  /// One mode and number of micro-batches.
  private struct Run {
    let search: ExhaustiveSearch
    let mode: PlanMode
    let microBatches: Int
    let cached: [(units: [Int], step: Int64)]
    var best: Int64?
    var simulator = ScheduleSimulator()
    var known: [Key: [StageTimes]] = [:]

    struct Key: Hashable {
      var lower: Int
      var upper: Int
      var group: [Int]
      var fromEnd: Int
    }

    mutating func extend(upper: Int, free: [Int], stages: [Stage]) {
      if upper == 0 { return finish(stages) }
      for lower in 0..<upper {
        if search.job.planner == .eddl && lower > 0 { continue }
        for bits in 1..<(1 << free.count) {
          let group = free.indices.filter { bits >> $0 & 1 == 1 }.map { free[$0] }
          if search.job.planner == .ecofl && group.count > 1 { continue }
          let rest = free.filter { !group.contains($0) }
          let key = Key(lower: lower, upper: upper, group: group, fromEnd: stages.count)
          let choices: [StageTimes]
          if let again = known[key] {
            choices = again
          } else {
            choices = stageTimes(key)
            known[key] = choices
          }
          for times in choices {
            extend(
              upper: lower, free: rest,
              stages: [Stage(layers: lower..<upper, group: group, times: times)] + stages)
          }
        }
      }
    }

    /// The different times of a stage under all divisions of its units that fit.
    func stageTimes(_ key: Key) -> [StageTimes] {
      let units = search.job.unitsPerMiniBatch / microBatches
      guard key.group.count <= units else { return [] }
      var found: [StageTimes] = []
      for shares in compositions(of: units, into: key.group.count) {
        var times = StageTimes(forward: 0, backward: 0)
        var fits = true
        for (device, share) in zip(key.group, shares) {
          let profile = search.household.devices[device]
          fits = fits && memory(key, device, share) <= profile.memoryBudget
          var forward: Int64 = 0
          var backward: Int64 = 0
          var cache: Int64 = 0
          for layer in search.costs.layers[key.lower..<key.upper] {
            let table = profile.times[layer.kind]
            forward += UnitTimes.time(mode == .fill ? table.fill : table.forward, units: share)
            backward += mode == .fill ? 0 : UnitTimes.time(table.backward, units: share)
            cache += Int64(share) * layer.cacheBytes
          }
          let (forwardBytes, backwardBytes) = exchanged(key.lower..<key.upper)
          forward += search.exchange(Int64(share) * forwardBytes, device)
          backward += search.exchange(Int64(share) * backwardBytes, device)
          if mode != .live { forward = max(forward, nanoseconds(cache, profile.diskWriteBytesPerSecond)) }
          times.forward = max(times.forward, forward)
          times.backward = max(times.backward, backward)
        }
        guard fits else { continue }
        let trainable = search.costs.trained(key.lower..<key.upper)
        times.reduction =
          mode == .fill
          ? 0
          : search.stepEnd(
            trainable, key.group)
        if !found.contains(times) { found.append(times) }
      }
      return found
    }

    /// Bytes of one unit that a stage's device sends and receives in each pass.
    func exchanged(_ layers: Range<Int>) -> (forward: Int64, backward: Int64) {
      var (forward, backward) = (Int64(0), Int64(0))
      let all = search.costs.layers
      var ends: [LayerCosts] = []
      if layers.lowerBound > 0 { ends.append(all[layers.lowerBound - 1]) }
      if layers.upperBound < all.count { ends.append(all[layers.upperBound - 1]) }
      for end in ends {
        forward += mode == .fill ? end.fillBoundaryBytes : end.forwardBoundaryBytes
        backward += mode == .fill ? 0 : end.backwardBoundaryBytes
      }
      if mode != .live, !ends.isEmpty {
        forward += 2 * all[layers].reduce(0) { $0 + $1.cacheBytes }
      }
      return (forward, backward)
    }

    /// The first touch of weights and memory, of the device that is slowest with it.
    func firstTouch(_ stages: [Stage]) -> Int64 {
      stages.map { stage in
        let layers = search.costs.layers[stage.layers]
        var frozen = layers.reduce(0) { $0 + $1.frozenBytes }
        for shared in search.costs.shared where shared.layers.contains(where: stage.layers.contains) {
          frozen += shared.bytes
        }
        var fresh = search.costs.transientBytes
        if mode != .fill {
          fresh += search.costs.trained(stage.layers) * search.costs.trainableCopies
          fresh += layers.reduce(0) { $0 + $1.retainedBytes }
        }
        return stage.group.map { device in
          let profile = search.household.devices[device]
          return nanoseconds(frozen, profile.mappedBytesPerSecond)
            + nanoseconds(fresh, profile.freshBytesPerSecond)
        }.max()!
      }.max()!
    }

    func memory(_ key: Key, _ device: Int, _ share: Int) -> Int64 {
      let layers = search.costs.layers[key.lower..<key.upper]
      let atOnce = Int64(min(share, search.household.devices[device].workers))
      var bytes = layers.reduce(0) { $0 + $1.frozenBytes } + atOnce * search.costs.transientBytes
      for shared in search.costs.shared
      where shared.layers.contains(where: { (key.lower..<key.upper).contains($0) }) {
        bytes += shared.bytes
      }
      if mode == .fill { return bytes }
      let copies = layers.count < search.costs.layers.count ? search.costs.stageStateCopies : 0
      bytes += search.costs.trained(key.lower..<key.upper) * (search.costs.trainableCopies + copies)
      let retained = layers.reduce(0) { $0 + $1.retainedBytes }
      let runsAhead = search.costs.runsAhead && key.lower == 0
      let held = min(microBatches, key.fromEnd + 1) * (runsAhead ? 2 : 1)
      let kept = key.fromEnd == 0 ? atOnce : Int64(held * share)
      return bytes + kept * retained
    }

    mutating func finish(_ stages: [Stage]) {
      let units = Int64(search.job.unitsPerMiniBatch / microBatches)
      var boundaries: [BoundaryTimes] = []
      for (below, above) in zip(stages, stages.dropFirst()) {
        let links = below.group.flatMap { sender in above.group.map { search.household.link(sender, $0) } }
        let rate = links.map(\.bytesPerSecond).min()!
        let latency = links.map(\.latency).max()!
        let streams = Int64(min(below.group.count, above.group.count))
        func time(_ bytes: Int64) -> Int64 {
          bytes == 0 ? 0 : latency + nanoseconds((bytes * units + streams - 1) / streams, rate)
        }
        let layer = search.costs.layers[below.layers.upperBound - 1]
        boundaries.append(
          mode == .fill
            ? BoundaryTimes(forward: time(layer.fillBoundaryBytes), backward: 0)
            : BoundaryTimes(
              forward: time(layer.forwardBoundaryBytes), backward: time(layer.backwardBoundaryBytes)))
      }
      let steps = search.job.stepsPerEpoch
      let schedule = PipelineSchedule(
        mode == .fill ? .fill : .oneForwardOneBackward, stages: stages.count,
        microBatches: mode == .fill ? microBatches * steps : microBatches)
      let once = simulator.duration(schedule, stages: stages.map(\.times), boundaries: boundaries)
      let touch = firstTouch(stages)
      switch mode {
      case .live: note(touch + once * Int64(steps * search.job.epochs))
      case .hybrid: finish(once * Int64(steps), touch, stages, epochs: search.job.epochs - 1)
      case .fill: finish(once, touch, stages, epochs: search.job.epochs)
      }
    }

    mutating func finish(_ first: Int64, _ touch: Int64, _ stages: [Stage], epochs: Int) {
      for option in cached {
        let later = option.step * Int64(search.job.stepsPerEpoch * epochs)
        // Each step's part may start as soon as the step is over.
        let steps = Int64(search.job.stepsPerEpoch)
        let (moving, busy) = redistribution(stages, option.units)
        let left = max((moving + steps - 1) / steps, moving - first * (steps - 1) / steps)
        note(touch + first + later + left + busy)
      }
    }

    mutating func note(_ time: Int64) { best = min(best ?? .max, time) }

    /// What the slowest transfer takes, and what the busiest processor has to do for it beside the stages' own work.
    func redistribution(_ stages: [Stage], _ own: [Int]) -> (moving: Int64, busy: Int64) {
      let readers = own.indices.filter { own[$0] > 0 }
      if stages.count == 1 && stages[0].group == readers { return (0, 0) }
      let involved = Set(readers).union(stages.flatMap(\.group))
      let all = search.job.unitsPerMiniBatch
      var slowest: Int64 = 0
      var busiest: Int64 = 0
      for device in involved {
        var receives = Int64(own[device]) * search.costs.cacheBytes
        var sends: Int64 = 0
        if let stage = stages.first(where: { $0.group.contains(device) }) {
          let bytes = search.costs.layers[stage.layers].reduce(0) { $0 + $1.cacheBytes }
          let members = stage.group.count
          let kept = Int64(min(own[device] * members, all)) * bytes / Int64(members)
          receives -= kept
          sends = (Int64(all) * bytes + Int64(members) - 1) / Int64(members) - kept
        }
        let bytes = max(receives, sends) * Int64(search.job.stepsPerEpoch)
        if bytes == 0 { continue }
        if stages.count == 1 {
          let exchanged = search.exchange(receives + sends, device)
          busiest = max(busiest, exchanged * Int64(search.job.stepsPerEpoch))
        }
        let links = involved.filter { $0 != device }.map { search.household.link(device, $0) }
        slowest = max(
          slowest, links.map(\.latency).max()! + nanoseconds(bytes, links.map(\.bytesPerSecond).min()!))
      }
      return (slowest, busiest)
    }
  }

  /// How long a processor is busy with bytes sent and received; its rate is that of one out and one in.
  fileprivate func exchange(_ bytes: Int64, _ device: Int) -> Int64 {
    nanoseconds((bytes + 1) / 2, household.devices[device].exchangeBytesPerSecond)
  }

  /// The fastest division of every set of devices for cached epochs.
  private func cachedOptions() -> [(units: [Int], step: Int64)] {
    var options: [(units: [Int], step: Int64)] = []
    let trainable = costs.trainableBytes
    for bits in 1..<(1 << household.devices.count) {
      let group = household.devices.indices.filter { bits >> $0 & 1 == 1 }
      guard group.count <= job.unitsPerMiniBatch else { continue }
      for shares in compositions(of: job.unitsPerMiniBatch, into: group.count) {
        var slowest: Int64 = 0
        var fits = true
        var units = Array(repeating: 0, count: household.devices.count)
        for (device, share) in zip(group, shares) {
          let profile = household.devices[device]
          units[device] = share
          fits =
            fits
            && trainable * costs.trainableCopies + Int64(min(share, profile.workers)) * costs.cachedUnitBytes
              <= profile.memoryBudget
            && Int64(share) * costs.cacheBytes * Int64(job.stepsPerEpoch) <= profile.cacheBudget
          let compute = costs.layers.reduce(Int64(0)) {
            $0 + UnitTimes.time(profile.times[$1.kind].cached, units: share)
          }
          slowest = max(
            slowest, compute, nanoseconds(Int64(share) * costs.cacheBytes, profile.diskReadBytesPerSecond))
        }
        if fits { options.append((units, slowest + stepEnd(trainable, group))) }
      }
    }
    return options
  }

  /// The ring, and the slowest member's update of the weights that it summed gradients of.
  fileprivate func stepEnd(_ bytes: Int64, _ group: [Int]) -> Int64 {
    let updates = group.map { nanoseconds(bytes, household.devices[$0].updateBytesPerSecond) }
    return ring((bytes * costs.sumBits + 31) / 32, group)
      + (bytes > 0 ? updates.max()! : 0)
  }

  fileprivate func ring(_ bytes: Int64, _ group: [Int]) -> Int64 {
    guard group.count > 1, bytes > 0 else { return 0 }
    let neighbours = group.indices.map { household.link(group[$0], group[($0 + 1) % group.count]) }
    let part = (bytes + Int64(group.count) - 1) / Int64(group.count)
    let rates = neighbours.map(\.bytesPerSecond) + group.map { household.devices[$0].exchangeBytesPerSecond }
    let standstill = group.map { household.devices[$0].standstill }.max()!
    let hop = neighbours.map(\.latency).max()! + standstill / 2 + nanoseconds(part, rates.min()!)
    return Int64(2 * (group.count - 1)) * hop
  }
}

/// Nanoseconds of a transfer, rounded up.
private func nanoseconds(_ bytes: Int64, _ rate: Int64) -> Int64 { (bytes * 1_000_000_000 + rate - 1) / rate }

/// All ways to write a number as an ordered sum of positive parts.
func compositions(of total: Int, into parts: Int) -> [[Int]] {
  guard parts > 0, total >= parts else { return [] }
  if parts == 1 { return [[total]] }
  return (1...total - parts + 1).flatMap { first in
    compositions(of: total - first, into: parts - 1).map { [first] + $0 }
  }
}

extension ModelCosts {
  /// Trained weights of a stage, one copy: those of its layers, and what they share with layers elsewhere.
  func trained(_ stage: Range<Int>) -> Int64 {
    let own = layers[stage].reduce(0) { $0 + $1.trainableBytes }
    guard let tied, !stage.contains(tied.home), tied.layers.contains(where: stage.contains) else {
      return own
    }
    return own + tied.bytes
  }
}
