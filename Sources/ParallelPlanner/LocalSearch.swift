import PipelineSchedules

/// How good a candidate is: first what is missing of memory, then time.
struct CandidateRank: Comparable {
  /// Bytes of memory that are missing; 0 when the plan fits.
  var missingBytes: Int64
  /// The whole job, or `Int64.max` while memory is missing.
  var total: Int64

  static let none = CandidateRank(missingBytes: .max, total: .max)

  static func < (left: CandidateRank, right: CandidateRank) -> Bool {
    (left.missingBytes, left.total) < (right.missingBytes, right.total)
  }
}

/// A candidate with its rank.
struct RankedCandidate {
  var candidate: CandidatePlan
  var rank: CandidateRank
}

/// Improves good first guesses step by step: the search for large households, and the first answer for small
/// ones.
///
/// For every mode, number of micro-batches and number of stages, devices in several orders are cut into groups
/// of like speed and layers in proportion. Then layers move over boundaries, and devices between groups, as
/// long as that helps. The number of candidates looked at is limited by the size of the task and not by a
/// clock, so every machine ends at the same plan.
struct LocalSearch {
  private let costing: StageCosting
  private var scorer: PlanScorer
  private let layerCount: Int
  private let deviceCount: Int
  /// The best candidate of each mode and number of stages, for explanations.
  private(set) var bestByShape: [(mode: PlanMode, stages: Int, best: RankedCandidate)] = []
  private(set) var evaluations = 0
  private let evaluationLimit: Int
  /// The least total of any candidate so far.
  private var bestTotal = Int64.max

  /// How often the best candidate is tried in all other modes.
  private static let variations = 1
  /// Starts that are improved with all moves.
  private static let refinedStarts = 3
  /// Of them, those of one mode.
  private static let refinedStartsOfAMode = 2
  /// Most stages, and most steps in all, of the paper's dynamic program.
  private static let paperStages = 8
  private static let paperEffort = 1_500_000
  /// Modes with numbers of micro-batches that the program runs for.
  private static let paperCombinations = 4
  /// Stages (stages × layer ranges) of the largest dynamic program over cuts.
  private static let mostCuts = 20_000

  init(_ costing: StageCosting, scorer: PlanScorer) {
    self.costing = costing
    self.scorer = scorer
    layerCount = costing.layerCount
    deviceCount = costing.deviceCount
    evaluationLimit = 1500 + 40 * costing.deviceCount * costing.deviceCount / 2
  }

  /// The best plan found; its memory may be missing when none fits.
  mutating func run(earlier: CandidatePlan?) -> RankedCandidate? {
    var starts: [RankedCandidate] = []
    for mode in costing.job.modes(canCache: costing.costs.canCache) {
      guard scorer.cachedPhase.leastTime(mode) != nil else { continue }
      for microBatches in costing.job.allowedMicroBatchCounts {
        costing.prepare(mode: mode, microBatches: microBatches)
        starts += guesses(mode, microBatches)
      }
    }
    if let earlier, let ranked = fitted(earlier) { starts.append(ranked) }
    starts.sort { $0.rank < $1.rank }
    starts += paperStarts(after: starts)
    starts.sort { $0.rank < $1.rank }
    var best = starts.first
    for start in diverse(starts) {
      costing.prepare(mode: start.candidate.mode, microBatches: start.candidate.microBatches)
      let improved = refine(start, limit: evaluations + evaluationLimit)
      note(improved)
      if improved.rank < best!.rank { best = improved }
    }
    if let found = best { best = varied(found) }
    return best
  }

  /// The best candidate with its groups in every other mode and number of micro-batches, as long as one is better.
  private mutating func varied(_ start: RankedCandidate) -> RankedCandidate {
    var best = start
    for _ in 0..<LocalSearch.variations {
      var better: RankedCandidate?
      for mode in costing.job.modes(canCache: costing.costs.canCache)
      where scorer.cachedPhase.leastTime(mode) != nil {
        for microBatches in costing.job.allowedMicroBatchCounts {
          if mode == best.candidate.mode && microBatches == best.candidate.microBatches { continue }
          costing.prepare(mode: mode, microBatches: microBatches)
          var candidate = best.candidate
          (candidate.mode, candidate.microBatches) = (mode, microBatches)
          let ranked = moveBoundaries(
            evaluate(candidate), limit: evaluations + 6 * candidate.stages.count)
          note(ranked)
          if ranked.rank < better?.rank ?? best.rank { better = ranked }
        }
      }
      guard let better else { break }
      costing.prepare(mode: better.candidate.mode, microBatches: better.candidate.microBatches)
      best = refine(better, limit: evaluations + evaluationLimit)
      note(best)
    }
    return best
  }

  /// Starts of the paper's dynamic program for the most promising modes and numbers of micro-batches.
  private mutating func paperStarts(after starts: [RankedCandidate]) -> [RankedCandidate] {
    guard costing.job.planner == .pac else { return [] }
    var found: [RankedCandidate] = []
    var effort = 0
    var done: [(PlanMode, Int)] = []
    for start in starts {
      let (mode, microBatches) = (start.candidate.mode, start.candidate.microBatches)
      if done.contains(where: { $0 == (mode, microBatches) }) { continue }
      guard done.count < LocalSearch.paperCombinations else { return found }
      done.append((mode, microBatches))
      costing.prepare(mode: mode, microBatches: microBatches)
      let speeds = (0..<deviceCount).map(speed)
      let works = layerWorks()
      for order in orders(speeds) {
        let able = order.filter(holdsALayer)
        var most = min(able.count, layerCount, LocalSearch.paperStages)
        let (layers, devices) = (layerCount, able.count)
        func steps(_ stages: Int) -> Int {
          PaperProgram.effort(layers: layers, devices: devices, stages: stages)
        }
        while most > 1 && effort + steps(most) > LocalSearch.paperEffort { most -= 1 }
        guard most > 0, effort + steps(most) <= LocalSearch.paperEffort else { return found }
        effort += steps(most)
        let program = PaperProgram(costing, order: able, speeds: speeds, works: works, most: most)
        for candidate in program.candidates(mode: mode, microBatches: microBatches) {
          let stages = candidate.stages.count
          let ranked = moveBoundaries(evaluate(candidate), limit: evaluations + 6 * stages)
          note(ranked)
          found.append(ranked)
        }
      }
    }
    return found
  }

  /// Devices by memory and by speed, largest first: the orders in which groups are cut.
  private func orders(_ speeds: [Int64]) -> [[Int]] {
    let bySpeed = (0..<deviceCount).sorted { (-speeds[$0], $0) < (-speeds[$1], $1) }
    let byMemory = (0..<deviceCount).sorted {
      (-costing.household.devices[$0].memoryBudget, -speeds[$0], $0)
        < (-costing.household.devices[$1].memoryBudget, -speeds[$1], $1)
    }
    return bySpeed == byMemory ? [byMemory] : [byMemory, bySpeed]
  }

  /// The best starts, not all of one mode.
  private func diverse(_ starts: [RankedCandidate]) -> [RankedCandidate] {
    var chosen: [RankedCandidate] = []
    for start in starts where chosen.count < LocalSearch.refinedStarts {
      let alike = chosen.count { $0.candidate.mode == start.candidate.mode }
      if alike < LocalSearch.refinedStartsOfAMode { chosen.append(start) }
    }
    return chosen
  }

  /// An earlier plan under the present profiles.
  private mutating func fitted(_ earlier: CandidatePlan) -> RankedCandidate? {
    let modes = costing.job.modes(canCache: costing.costs.canCache)
    guard modes.contains(earlier.mode), scorer.cachedPhase.leastTime(earlier.mode) != nil,
      costing.job.allowedMicroBatchCounts.contains(earlier.microBatches),
      earlier.stages.last?.upper == layerCount
    else { return nil }
    costing.prepare(mode: earlier.mode, microBatches: earlier.microBatches)
    return evaluate(earlier)
  }

  private mutating func note(_ ranked: RankedCandidate) {
    let mode = ranked.candidate.mode
    let stages = ranked.candidate.stages.count
    if let place = bestByShape.firstIndex(where: { $0.mode == mode && $0.stages == stages }) {
      if ranked.rank < bestByShape[place].best.rank { bestByShape[place].best = ranked }
    } else {
      bestByShape.append((mode, stages, ranked))
    }
  }

  // MARK: First guesses

  private mutating func guesses(_ mode: PlanMode, _ microBatches: Int) -> [RankedCandidate] {
    var found: [RankedCandidate] = []
    let speeds = (0..<deviceCount).map(speed)
    let bySpeed = (0..<deviceCount).sorted { (-speeds[$0], $0) < (-speeds[$1], $1) }
    let orders = orders(speeds)
    // Where no device holds a layer, the guesses serve to say what is missing.
    let able = bySpeed.filter(holdsALayer)
    let usable = able.isEmpty ? bySpeed : able
    for stages in stageCounts where stages <= usable.count && isWorthwhile(stages, microBatches) {
      var best: RankedCandidate?
      // A group is no larger than a micro-batch, and the slowest devices may be better idle.
      let most = min(usable.count, costing.job.planner == .ecofl ? stages : stages * costing.units)
      var counts = [most]
      for share in [3, 2, 1] where max(stages, most * share / 4) < counts[counts.count - 1] {
        counts.append(max(stages, most * share / 4))
      }
      for count in counts {
        let fastest = usable.prefix(count).reduce(UInt64(0)) { $0 | .device($1) }
        for order in orders {
          let devices = order.filter { fastest & .device($0) != 0 }
          let candidate = guess(mode, microBatches, stages, devices, speeds)
          var ranked = evaluate(candidate, known: best)
          if ranked.rank.missingBytes > 0 || ranked.rank.total / 3 * 2 < bestTotal {
            ranked = moveBoundaries(ranked, limit: evaluations + 6 * stages)
          }
          bestTotal = min(bestTotal, ranked.rank.total)
          if best == nil || ranked.rank < best!.rank { best = ranked }
        }
      }
      guard let best else { continue }
      note(best)
      found.append(best)
    }
    return found
  }

  /// Whether a device has memory for any layer at all.
  private func holdsALayer(_ device: Int) -> Bool {
    let budget = costing.household.devices[device].memoryBudget
    return (0..<layerCount).contains { layer in
      costing.memory(costing.range(layer, layer + 1), device: device, units: 1, fromEnd: 0) <= budget
    }
  }

  /// More stages than micro-batches leave stages idle; they are tried only where no more micro-batches can be
  /// had.
  private func isWorthwhile(_ stages: Int, _ microBatches: Int) -> Bool {
    stages <= microBatches || microBatches == costing.job.allowedMicroBatchCounts.last
  }

  /// The numbers of stages to try: all small ones, and ever fewer of the large ones.
  private var stageCounts: [Int] {
    guard costing.job.planner != .eddl else { return [1] }
    let most = min(deviceCount, layerCount)
    var counts: [Int] = []
    var count = 1
    while count <= most {
      counts.append(count)
      count += max(1, count / 4)
    }
    if counts.last != most { counts.append(most) }
    return counts
  }

  /// Layers a second of a device, in a unit in which integers are exact enough.
  private func speed(_ device: Int) -> Int64 {
    guard let split = splitIgnoringMemory(device) else { return 1 }
    return max(1, 1_000_000_000_000_000 / max(1, split))
  }

  private func splitIgnoringMemory(_ device: Int) -> Int64? {
    let times = costing.household.devices[device].times
    var sum: Int64 = 0
    for (kind, count) in costing.allKinds {
      let table = times[kind]
      sum +=
        count
        * (costing.mode == .fill
          ? UnitTimes.time(table.fill, units: 1)
          : UnitTimes.time(table.forward, units: 1) + UnitTimes.time(table.backward, units: 1))
    }
    return sum
  }

  /// Groups of like speed in an order, and layers in proportion to the groups' speeds.
  private func guess(
    _ mode: PlanMode, _ microBatches: Int, _ count: Int, _ devices: [Int], _ speeds: [Int64]
  ) -> CandidatePlan {
    let total = devices.reduce(Int64(0)) { $0 + speeds[$1] }
    var groups: [UInt64] = []
    var groupSpeeds: [Int64] = []
    var place = 0
    var passed: Int64 = 0
    for stage in 0..<count {
      var group: UInt64 = 0
      var speed: Int64 = 0
      // Up to the point where the sum of speeds passes this stage's part; one device is left for each later
      // stage.
      while devices.count - place > count - 1 - stage {
        let next = speeds[devices[place]]
        let target = total / Int64(count) * Int64(stage + 1)
        if group != 0 && stage < count - 1 && passed + next / 2 > target { break }
        if group.nonzeroBitCount >= costing.units { break }
        if costing.job.planner == .ecofl && group != 0 { break }
        group |= .device(devices[place])
        speed += next
        passed += next
        place += 1
      }
      groups.append(group)
      groupSpeeds.append(speed)
    }
    let ends = layerEnds(groupSpeeds)
    var stages: [CandidateStage] = []
    for (index, group) in groups.enumerated() {
      stages.append(CandidateStage(lower: index == 0 ? 0 : ends[index - 1], upper: ends[index], group: group))
    }
    return CandidatePlan(mode: mode, microBatches: microBatches, stages: stages)
  }

  /// The mean time of each layer over the devices, for one unit.
  private func layerWorks() -> [Int64] {
    let kinds = costing.costs.kinds.indices.map { kind in
      costing.household.devices.reduce(Int64(0)) { sum, device in
        sum
          + (costing.mode == .fill
            ? UnitTimes.time(device.times[kind].fill, units: 1)
            : UnitTimes.time(device.times[kind].forward, units: 1)
              + UnitTimes.time(device.times[kind].backward, units: 1)) / Int64(deviceCount)
      }
    }
    return costing.costs.layers.map { max(1, kinds[$0.kind]) }
  }

  /// Where each stage's layers end when work is in proportion to speeds; every stage has a layer.
  private func layerEnds(_ speeds: [Int64]) -> [Int] {
    let works = layerWorks()
    let total = Int128(works.reduce(0, +))
    let allSpeeds = Int128(max(1, speeds.reduce(0, +)))
    var ends: [Int] = []
    var layer = 0
    var done: Int128 = 0
    var reached: Int128 = 0
    for (stage, speed) in speeds.enumerated() {
      reached += Int128(speed)
      let later = speeds.count - 1 - stage
      let first = layer
      while layer < layerCount - later {
        let middle = done + Int128(works[layer]) / 2
        if layer > first && later > 0 && middle * allSpeeds > total * reached { break }
        done += Int128(works[layer])
        layer += 1
      }
      ends.append(layer)
    }
    ends[ends.count - 1] = layerCount
    return ends
  }

  // MARK: Moves

  /// The rank of a candidate; stages that `known` has too are not computed again.
  ///
  /// A candidate that cannot be better than `known`, or than `limit`, is ranked by its lower bound, without a simulation.
  private mutating func evaluate(
    _ candidate: CandidatePlan, known: RankedCandidate? = nil, below limit: Int64? = nil
  ) -> RankedCandidate {
    evaluations += 1
    var candidate = candidate
    var missing: Int64 = 0
    let last = candidate.stages.count - 1
    let before = known?.rank.missingBytes == 0 ? known?.candidate.stages ?? [] : []
    func isKnown(_ index: Int) -> Bool {
      guard before.count == last + 1 else { return false }
      let (old, new) = (before[index], candidate.stages[index])
      return old.lower == new.lower && old.upper == new.upper && old.group == new.group
    }
    for index in candidate.stages.indices {
      let stage = candidate.stages[index]
      let known = isKnown(index)
      if known {
        candidate.stages[index] = before[index]
      } else {
        let range = costing.range(stage.lower, stage.upper)
        if let split = costing.balancedSplit(range, group: stage.group, fromEnd: last - index) {
          candidate.stages[index].split = split
          candidate.stages[index].reduction = costing.reduction(range, group: stage.group)
        } else {
          missing += max(1, costing.missingMemory(range, group: stage.group, fromEnd: last - index).total)
        }
      }
      if index < last && !(known && isKnown(index + 1)) {
        candidate.stages[index].boundary = costing.boundary(
          from: stage.group, to: candidate.stages[index + 1].group, layer: stage.upper)
      }
    }
    guard missing == 0 else {
      return RankedCandidate(candidate: candidate, rank: CandidateRank(missingBytes: missing, total: .max))
    }
    if let most = limit ?? known.flatMap({ $0.rank.missingBytes == 0 ? $0.rank.total : nil }) {
      let least = scorer.leastTotal(candidate)
      if least >= most {
        return RankedCandidate(candidate: candidate, rank: CandidateRank(missingBytes: 0, total: least))
      }
    }
    let total = scorer.score(candidate)?.total ?? .max
    return RankedCandidate(candidate: candidate, rank: CandidateRank(missingBytes: 0, total: total))
  }

  /// Moves single layers over boundaries while that helps.
  ///
  /// With `most`, candidates that do not beat it go by their lower bounds.
  private mutating func moveBoundaries(
    _ start: RankedCandidate, limit: Int, below most: Int64? = nil
  ) -> RankedCandidate {
    var best = start
    var improves = true
    while improves && evaluations < limit {
      improves = false
      for boundary in 1..<max(1, best.candidate.stages.count) {
        for step in [1, -1, 3, -3] {
          guard let moved = movingLayers(best.candidate, boundary, by: step) else { continue }
          let ranked = evaluate(moved, known: best, below: most)
          if ranked.rank < best.rank {
            best = ranked
            improves = true
          }
        }
      }
    }
    return best
  }

  private func movingLayers(_ candidate: CandidatePlan, _ boundary: Int, by step: Int) -> CandidatePlan? {
    let cut = candidate.stages[boundary].lower + step
    guard cut > candidate.stages[boundary - 1].lower, cut < candidate.stages[boundary].upper else {
      return nil
    }
    var moved = candidate
    moved.stages[boundary - 1].upper = cut
    moved.stages[boundary].lower = cut
    return moved
  }

  /// Moves layers and devices while that helps, up to a number of candidates.
  private mutating func refine(_ start: RankedCandidate, limit: Int) -> RankedCandidate {
    var best = moveBoundaries(recut(start), limit: limit)
    var improves = true
    while improves && evaluations < limit {
      improves = false
      for candidate in swappingGroups(best.candidate) where evaluations < limit {
        let ranked = evaluate(candidate, known: best)
        if ranked.rank < best.rank {
          best = ranked
          improves = true
          break
        }
      }
      for device in 0..<deviceCount where evaluations < limit {
        for candidate in movingDevice(best.candidate, device) {
          let ranked = evaluate(candidate, known: best)
          if ranked.rank < best.rank {
            best = ranked
            improves = true
            break
          }
        }
      }
      if improves { best = recut(best) }
      let settled = moveBoundaries(best, limit: limit)
      if settled.rank < best.rank {
        best = settled
        improves = true
      }
      if !improves, let other = restructured(best, limit: limit) {
        best = recut(other)
        improves = true
      }
    }
    return best
  }

  /// The first better candidate with other stages: two merged, one divided, left out, added or put elsewhere.
  private mutating func restructured(_ best: RankedCandidate, limit: Int) -> RankedCandidate? {
    let groups = best.candidate.stages.map(\.group)
    let speeds = (0..<deviceCount).map(speed)
    for other in restructurings(groups) {
      guard evaluations < limit else { return nil }
      guard other.count <= layerCount, other.allSatisfy({ $0.nonzeroBitCount <= costing.units }) else {
        continue
      }
      let ends = layerEnds(other.map { DeviceSet($0).reduce(Int64(0)) { $0 + speeds[$1] } })
      var candidate = best.candidate
      candidate.stages = other.indices.map {
        CandidateStage(lower: $0 == 0 ? 0 : ends[$0 - 1], upper: ends[$0], group: other[$0])
      }
      let total = best.rank.total
      var ranked = evaluate(candidate, below: total)
      if ranked.rank >= best.rank, ranked.rank.missingBytes > 0 || ranked.rank.total / 2 < total {
        ranked = moveBoundaries(
          ranked, limit: min(limit, evaluations + 8 * other.count), below: total)
      }
      if ranked.rank < best.rank { return ranked }
    }
    return nil
  }

  /// Groups of stages that differ from others by one stage.
  private func restructurings(_ groups: [UInt64]) -> [[UInt64]] {
    var found: [[UInt64]] = []
    let planner = costing.job.planner
    if planner == .eddl { return [] }
    for place in groups.indices where groups.count > 1 {
      var other = groups
      let group = other.remove(at: place)
      found.append(other)
      for target in 0...other.count where target != place {
        var moved = other
        moved.insert(group, at: target)
        found.append(moved)
      }
      guard planner != .ecofl, place + 1 < groups.count else { continue }
      other[place] |= group
      found.append(other)
    }
    let used = groups.reduce(UInt64(0)) { $0 | $1 }
    for device in 0..<deviceCount {
      let bit = UInt64.device(device)
      var without = groups
      if used & bit != 0 {
        // A device out of its group becomes a stage; one that is a stage already was moved above.
        guard planner != .ecofl, let home = groups.firstIndex(where: { $0 & bit != 0 }),
          groups[home] != bit
        else { continue }
        without[home] &= ~bit
      }
      for target in 0...without.count {
        var other = without
        other.insert(bit, at: target)
        found.append(other)
      }
    }
    return found
  }

  /// The candidate with two stages' groups exchanged.
  private func swappingGroups(_ candidate: CandidatePlan) -> [CandidatePlan] {
    var swapped: [CandidatePlan] = []
    for first in candidate.stages.indices {
      for second in candidate.stages.indices where second > first {
        var other = candidate
        other.stages[first].group = candidate.stages[second].group
        other.stages[second].group = candidate.stages[first].group
        swapped.append(other)
      }
    }
    return swapped
  }

  /// The same groups with their layers cut anew, if that is better: a dynamic program over the ends of stages.
  ///
  /// Of equal ends it keeps the one with the least bound, which is nearly always the right one and never a
  /// wrong plan.
  private mutating func recut(_ ranked: RankedCandidate) -> RankedCandidate {
    let groups = ranked.candidate.stages.map(\.group)
    let count = groups.count
    guard count > 1, count * layerCount * layerCount / 2 <= LocalSearch.mostCuts else { return ranked }
    let microBatches = ranked.candidate.microBatches
    var next: [(bound: StepBound, stages: [CandidateStage])?] = Array(repeating: nil, count: layerCount + 1)
    for stage in stride(from: count - 1, through: 0, by: -1) {
      var reached: [(bound: StepBound, stages: [CandidateStage])?] = Array(
        repeating: nil, count: layerCount + 1)
      let uppers = stage == count - 1 ? layerCount...layerCount : stage + 1...layerCount - (count - 1 - stage)
      for upper in uppers where stage == count - 1 || next[upper] != nil {
        let boundary =
          stage == count - 1
          ? nil : costing.boundary(from: groups[stage], to: groups[stage + 1], layer: upper)
        for lower in stage == 0 ? 0...0 : stage...upper - 1 {
          let range = costing.range(lower, upper)
          guard let split = costing.balancedSplit(range, group: groups[stage], fromEnd: count - 1 - stage)
          else {
            continue
          }
          let reduction = costing.reduction(range, group: groups[stage])
          var placed = CandidateStage(
            lower: lower, upper: upper, group: groups[stage], split: split, reduction: reduction)
          let bound: StepBound
          if let boundary, let after = next[upper] {
            placed.boundary = boundary
            bound = after.bound.preceded(
              by: split, reduction: reduction, boundary: boundary, fromEnd: count - 1 - stage,
              microBatches: microBatches)
          } else {
            bound = StepBound(last: split, reduction: reduction, microBatches: microBatches)
          }
          if let known = reached[lower], measure(known.bound) <= measure(bound) { continue }
          reached[lower] = (bound, [placed] + (next[upper]?.stages ?? []))
        }
      }
      next = reached
    }
    evaluations += count * layerCount * layerCount / 16
    guard let found = next[0] else { return ranked }
    let candidate = CandidatePlan(
      mode: ranked.candidate.mode, microBatches: microBatches, stages: found.stages)
    let again = evaluate(candidate, known: ranked)
    return again.rank < ranked.rank ? again : ranked
  }

  /// What a bound says of a mini-batch, or of the stream of a fill.
  private func measure(_ bound: StepBound) -> Int64 {
    guard costing.mode == .fill else { return bound.end }
    return bound.way + repeated(bound.slowest, costing.microBatches * costing.job.firstPassSteps - 1)
  }

  /// The candidate with a device in another group, idle, or in the place of another device.
  private func movingDevice(_ candidate: CandidatePlan, _ device: Int) -> [CandidatePlan] {
    let bit = UInt64.device(device)
    let home = candidate.stages.firstIndex { $0.group & bit != 0 }
    var moved: [CandidatePlan] = []
    let mayLeave = home.map { candidate.stages[$0].group != bit } ?? true
    if mayLeave {
      var without = candidate
      if let home { without.stages[home].group &= ~bit }
      if home != nil { moved.append(without) }
      for stage in candidate.stages.indices where stage != home {
        guard costing.job.planner != .ecofl, candidate.stages[stage].group.nonzeroBitCount < costing.units
        else {
          continue
        }
        var with = without
        with.stages[stage].group |= bit
        moved.append(with)
      }
    }
    for other in device + 1..<max(device + 1, deviceCount) {
      let otherBit = UInt64.device(other)
      let otherHome = candidate.stages.firstIndex { $0.group & otherBit != 0 }
      guard otherHome != home else { continue }
      var swapped = candidate
      if let home { swapped.stages[home].group = swapped.stages[home].group & ~bit | otherBit }
      if let otherHome { swapped.stages[otherHome].group = swapped.stages[otherHome].group & ~otherBit | bit }
      moved.append(swapped)
    }
    return moved
  }
}
