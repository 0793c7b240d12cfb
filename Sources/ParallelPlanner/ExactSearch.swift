import PipelineSchedules

/// Branch and bound over every plan of a small household: what it returns is proven to be the best.
///
/// Stages are placed from the model's end to its beginning, because a stage's in-flight memory depends on how
/// many stages follow it. Two dynamic programs over (layers left, devices left) bound what the stages still to
/// come must take.
struct ExactSearch {
  /// Households up to this size are searched completely; up to `mostDevices`, those with few enough stages to look at.
  static let fewDevices = 5
  static let mostDevices = 8
  /// Most different stages (groups × layer ranges × modes × micro-batch counts) of a larger household.
  static let mostStages = 60_000
  /// The most effort of a search; beyond it the best plan so far is not proven.
  ///
  /// Effort counts partial plans, bounds and divisions of units that were looked at: about 20 million a second.
  static let mostEffort = 2_000_000

  private let costing: StageCosting
  private var scorer: PlanScorer
  private let classes: DeviceClasses
  private let layerCount: Int
  private var incumbent: Incumbent
  private(set) var effort = 0

  /// For every set of devices, the set of the first of each class, and that one's place among all that differ.
  private let representatives: [UInt64]
  private var representativePlaces: [Int]
  private let representativeCount: Int
  /// For every set of devices, the groups that differ.
  private var groupLists: [[UInt64]?]

  // For the present mode and number of micro-batches:
  private var ranges: [RangeCosts] = []
  private var positions = 1
  /// Where the splits of (group, lower, upper, position) start in `splits`; -1 when not yet asked for, -2 when there are
  /// none.
  private var splitStarts: [Int32] = []
  private var splits: [(split: StageSplit, isLast: Bool)] = []
  /// The least times of a kind for one of the units of a micro-batch, by device and kind.
  private var leastUnitTimes: [LeastUnitTime] = []
  /// The least times of stages (group, lower, upper), where they were asked for.
  private var leastStageTimes: [LeastStageTime] = []
  /// Slowest stage, total work and total forward time of the first `layers` on the devices of a set, at least; by set
  /// and layers.
  private var prefixBounds: [PrefixBound?] = []
  private var stack: [CandidateStage] = []
  private var repeats = 1
  private var cachedTime: Int64 = 0

  private struct PrefixBound {
    var slowest: Int64
    var work: Int64
    var way: Int64

    static let impossible = PrefixBound(slowest: .max, work: .max, way: .max)
  }

  /// A search that has to beat `incumbent`.
  init(_ costing: StageCosting, scorer: PlanScorer, classes: DeviceClasses, incumbent: Incumbent) {
    self.costing = costing
    self.scorer = scorer
    self.classes = classes
    self.incumbent = incumbent
    layerCount = costing.layerCount
    let sets = 1 << costing.deviceCount
    representatives = (0..<sets).map { classes.representative(UInt64($0)) }
    representativePlaces = Array(repeating: -1, count: sets)
    var count = 0
    for group in classes.groups(from: UInt64(sets - 1)) {
      representativePlaces[Int(group)] = count
      count += 1
    }
    representativeCount = count
    groupLists = Array(repeating: nil, count: sets)
  }

  /// Whether a complete search of a household has a chance to end.
  static func isSmallEnough(_ costing: StageCosting, classes: DeviceClasses) -> Bool {
    guard costing.deviceCount > fewDevices else { return true }
    guard costing.deviceCount <= mostDevices else { return false }
    let groups = classes.groupCount(atMost: mostStages)
    let ranges = costing.layerCount * (costing.layerCount + 1) / 2
    let variants =
      costing.job.modes(canCache: costing.costs.canCache).count * costing.job.allowedMicroBatchCounts.count
    return groups * ranges * variants <= mostStages
  }

  private struct Variant {
    var mode: PlanMode
    var microBatches: Int
    var least: Int64
  }

  /// The best plan, and whether the search ended before its limit.
  mutating func run() -> (incumbent: Incumbent, isProven: Bool) {
    var variants: [Variant] = []
    for mode in costing.job.modes(canCache: costing.costs.canCache) {
      guard scorer.cachedPhase.leastTime(mode) != nil else { continue }
      for microBatches in costing.job.allowedMicroBatchCounts {
        prepare(mode, microBatches)
        let everyone = (UInt64(1) << UInt64(costing.deviceCount)) - 1
        variants.append(
          Variant(
            mode: mode, microBatches: microBatches,
            least: leastTotal(pace: spread(ranges[layerCount], everyone).pace)))
      }
    }
    // The most promising first; of equals the order of the modes stays.
    let order = variants.indices.sorted { (variants[$0].least, $0) < (variants[$1].least, $1) }
    for place in order where variants[place].least < incumbent.total {
      prepare(variants[place].mode, variants[place].microBatches)
      extend(layerCount, (UInt64(1) << UInt64(costing.deviceCount)) - 1, nil)
      if effort > Self.mostEffort { return (incumbent, false) }
    }
    return (incumbent, true)
  }

  private mutating func prepare(_ mode: PlanMode, _ microBatches: Int) {
    cachedTime = scorer.cachedPhase.leastTime(mode) ?? 0
    repeats = scorer.repeats(mode)
    costing.prepare(mode: mode, microBatches: microBatches)
    ranges.removeAll(keepingCapacity: true)
    for lower in 0..<layerCount {
      for upper in 0...layerCount {
        ranges.append(
          upper > lower ? costing.range(lower, upper) : RangeCosts(lower: lower, upper: lower))
      }
    }
    // From its place on, a stage's memory depends on the number of micro-batches alone.
    positions = mode == .fill ? 1 : min(layerCount, costing.deviceCount, max(2, microBatches))
    let stages = representativeCount * layerCount * (layerCount + 1) * positions
    splitStarts.removeAll(keepingCapacity: true)
    splitStarts.append(contentsOf: repeatElement(-1, count: stages))
    leastStageTimes.removeAll(keepingCapacity: true)
    leastStageTimes.append(
      contentsOf: repeatElement(.unknown, count: representativeCount * layerCount * (layerCount + 1)))
    splits.removeAll(keepingCapacity: true)
    prefixBounds.removeAll(keepingCapacity: true)
    prefixBounds.append(
      contentsOf: repeatElement(nil, count: representatives.count * (layerCount + 1)))
    stack.removeAll(keepingCapacity: true)
    leastUnitTimes = costing.leastUnitTimes()
  }

  /// Puts every possible stage before the layers that are placed already.
  private mutating func extend(_ upper: Int, _ available: UInt64, _ bound: StepBound?) {
    let fromEnd = stack.count
    let groups = groups(available)
    for lower in stride(from: upper - 1, through: 0, by: -1) {
      if costing.job.planner == .eddl && lower > 0 { continue }
      let range = ranges[lower * (layerCount + 1) + upper]
      for group in groups {
        if costing.job.planner == .ecofl && group.nonzeroBitCount > 1 { continue }
        let rest = available & ~group
        if lower > 0 && rest == 0 { continue }
        var place = firstSplit(range, group, fromEnd)
        if place < 0 { continue }
        let boundary = stack.last.map { costing.boundary(from: group, to: $0.group, layer: upper) }
        let reduction = costing.reduction(range, group: group)
        while place >= 0 {
          let (split, isLast) = splits[place]
          place = isLast ? -1 : place + 1
          effort += 1
          if effort > Self.mostEffort { return }
          let next: StepBound
          if let bound, let boundary {
            next = bound.preceded(
              by: split, reduction: reduction, boundary: boundary, fromEnd: fromEnd,
              microBatches: costing.microBatches)
          } else {
            next = StepBound(last: split, reduction: reduction, microBatches: costing.microBatches)
          }
          guard leastTotal(next, lower, rest) < incumbent.total else { continue }
          stack.append(
            CandidateStage(
              lower: lower, upper: upper, group: group, split: split, reduction: reduction,
              boundary: boundary ?? BoundaryTimes(forward: 0, backward: 0)))
          if lower == 0 { complete() } else { extend(lower, rest, next) }
          stack.removeLast()
        }
      }
    }
  }

  private mutating func complete() {
    let candidate = CandidatePlan(
      mode: costing.mode, microBatches: costing.microBatches, stages: stack.reversed())
    effort += 4 * stack.count
    if let score = scorer.score(candidate, below: incumbent.total) {
      incumbent.consider(candidate, total: score.total)
    }
  }

  /// What one stage's micro-batch takes at least: no device computes a unit faster than with the best number of units.
  private struct LeastStageTime {
    /// Both passes, or the forward pass of a fill.
    var pace: Int64
    var forward: Int64

    static let unknown = LeastStageTime(pace: -1, forward: -1)
    static let impossible = LeastStageTime(pace: .max, forward: .max)
  }

  /// The least times of layers that are spread over devices in any way.
  private func spread(_ range: RangeCosts, _ group: UInt64) -> LeastStageTime {
    var paces = 0.0
    var forwards = 0.0
    for device in DeviceSet(group) {
      let row = device * costing.costs.kinds.count
      var work = 0.0
      var forward = 0.0
      for (kind, count) in range.kinds {
        work += Double(count) * leastUnitTimes[row + kind].work
        forward += Double(count) * leastUnitTimes[row + kind].forward
      }
      paces += 1 / max(work, 1e-3)
      forwards += 1 / max(forward, 1e-3)
    }
    // Below the true values by more than any rounding.
    let units = Double(costing.units) * (1 - 1e-9)
    return LeastStageTime(pace: Int64(units / paces), forward: Int64(units / forwards))
  }

  /// The least times of a stage; impossible when the group cannot compute it, or only in plans that the best one so far
  /// beats.
  private mutating func leastStageTime(_ range: RangeCosts, _ group: UInt64) -> LeastStageTime {
    let representative = representatives[Int(group)]
    let row = representativePlaces[Int(representative)] * layerCount + range.lower
    let place = row * (layerCount + 1) + range.upper
    if leastStageTimes[place].pace >= 0 { return leastStageTimes[place] }
    effort += 1
    var least = spread(range, representative)
    if group.nonzeroBitCount > costing.units || leastTotal(pace: least.pace) >= incumbent.total
      || DeviceSet(representative).contains(where: { device in
        costing.memory(range, device: device, units: 1, fromEnd: 0)
          > costing.household.devices[device].memoryBudget
      })
    {
      least = .impossible
    }
    leastStageTimes[place] = least
    return least
  }

  private func leastTotal(pace: Int64) -> Int64 {
    if costing.mode == .fill {
      return repeated(pace, costing.microBatches * repeats - 1) + cachedTime
    }
    return repeated(Int64(costing.microBatches) * pace, repeats) + cachedTime
  }

  /// What a job takes at least when the first `layers` are still to be placed.
  private mutating func leastTotal(_ bound: StepBound, _ layers: Int, _ available: UInt64) -> Int64 {
    var prefix = PrefixBound(slowest: 0, work: 0, way: 0)
    if layers > 0 {
      prefix = prefixBound(layers, available)
      if prefix.slowest == .max { return .max }
    }
    if costing.mode == .fill {
      let stream = costing.microBatches * repeats
      let slowest = max(bound.slowest, prefix.slowest)
      return bound.way + prefix.way + repeated(slowest, stream - 1) + cachedTime
    }
    let step = max(
      bound.end + prefix.way, bound.work + prefix.work, Int64(costing.microBatches) * prefix.slowest)
    return repeated(step, repeats) + cachedTime
  }

  /// The least that the first `layers` take on some of the devices `available`, each number for itself; impossible
  /// when they do not fit, or only in plans that the best one so far beats.
  ///
  /// Memory is that of a last stage, which is the least.
  private mutating func prefixBound(_ layers: Int, _ available: UInt64) -> PrefixBound {
    let key = representatives[Int(available)]
    let place = Int(key) * (layerCount + 1) + layers
    if let known = prefixBounds[place] { return known }
    var least = PrefixBound.impossible
    let groups = groups(key)
    for lower in 0..<layers {
      let range = ranges[lower * (layerCount + 1) + layers]
      for group in groups {
        let stage = leastStageTime(range, group)
        if stage.pace == .max { continue }
        var rest = PrefixBound(slowest: 0, work: 0, way: 0)
        if lower > 0 {
          guard key != group else { continue }
          rest = prefixBound(lower, key & ~group)
          if rest.slowest == .max { continue }
        }
        effort += 1
        least.slowest = min(least.slowest, max(rest.slowest, stage.pace))
        least.work = min(least.work, rest.work + stage.pace)
        least.way = min(least.way, rest.way + stage.forward)
      }
    }
    prefixBounds[place] = least
    return least
  }

  /// The place of the first undominated split of a stage in `splits`, or -1 when the group cannot compute it, or only in
  /// plans that the best one so far beats.
  private mutating func firstSplit(_ range: RangeCosts, _ group: UInt64, _ fromEnd: Int) -> Int {
    let representative = representatives[Int(group)]
    let position = min(fromEnd, positions - 1)
    let row = representativePlaces[Int(representative)] * layerCount + range.lower
    let place = (row * (layerCount + 1) + range.upper) * positions + position
    let known = splitStarts[place]
    if known >= 0 { return Int(known) }
    if known == -2 { return -1 }
    guard leastStageTime(range, representative).pace < .max else {
      splitStarts[place] = -2
      return -1
    }
    let found = costing.undominatedSplits(range, group: representative, fromEnd: fromEnd)
    effort += 8 * group.nonzeroBitCount
    splitStarts[place] = found.isEmpty ? -2 : Int32(splits.count)
    for (index, split) in found.enumerated() { splits.append((split, index == found.count - 1)) }
    return found.isEmpty ? -1 : Int(splitStarts[place])
  }

  private mutating func groups(_ available: UInt64) -> [UInt64] {
    if let known = groupLists[Int(available)] { return known }
    let groups = classes.groups(from: available)
    groupLists[Int(available)] = groups
    return groups
  }
}
