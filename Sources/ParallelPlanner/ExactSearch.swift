import PipelineSchedules

/// Branch and bound over every plan of a small household: what it returns is proven to be the best.
///
/// Stages are placed from the model's end to its beginning, because a stage's in-flight memory depends on how
/// many stages follow it. Two dynamic programs over (layers left, devices left) bound what the stages still to
/// come must take.
final class ExactSearch {
  /// Households up to this size are searched completely when there are few enough stages to look at.
  static let mostDevices = 8
  /// Most different stages (groups × layer ranges × modes × micro-batch counts) of a complete search.
  static let mostStages = 60_000
  /// Most partial plans of a complete search; beyond it the best plan so far is not proven.
  static let mostNodes = 2_000_000

  private let costing: StageCosting
  private var scorer: PlanScorer
  private let classes: DeviceClasses
  private let layerCount: Int
  private var incumbent: Incumbent
  private(set) var nodes = 0

  // For the present mode and number of micro-batches:
  private var ranges: [RangeCosts] = []
  private var representatives: [UInt64: Int] = [:]
  private var positions = 1
  /// Where the splits of (group, lower, upper, position) start in `splits`; -1 when not yet asked for.
  private var splitStarts: [Int32] = []
  private var splits: [(split: StageSplit, isLast: Bool)] = []
  /// Slowest stage, total work and total forward time of the first `layers` on the devices `available`, at
  /// least.
  private var prefixBounds: [UInt64: [PrefixBound?]] = [:]
  private var groupLists: [UInt64: [UInt64]] = [:]
  private var stack: [CandidateStage] = []
  private var repeats = 1
  private var cachedTime: Int64 = 0

  private struct PrefixBound {
    var slowest: Int64
    var work: Int64
    var way: Int64
  }

  /// A search that has to beat `incumbent`.
  init(_ costing: StageCosting, scorer: PlanScorer, classes: DeviceClasses, incumbent: Incumbent) {
    self.costing = costing
    self.scorer = scorer
    self.classes = classes
    self.incumbent = incumbent
    layerCount = costing.layerCount
  }

  /// Whether a household and job are small enough for a complete search.
  static func isSmallEnough(_ costing: StageCosting, classes: DeviceClasses) -> Bool {
    guard costing.deviceCount <= mostDevices else { return false }
    let groups = classes.groupCount(atMost: mostStages)
    let ranges = costing.layerCount * (costing.layerCount + 1) / 2
    let variants =
      costing.job.modes(canCache: costing.costs.canCache).count * costing.job.allowedMicroBatchCounts.count
    return groups * ranges * variants <= mostStages
  }

  /// The best plan, and whether the search ended before its limit.
  func run() -> (incumbent: Incumbent, isProven: Bool) {
    for mode in costing.job.modes(canCache: costing.costs.canCache) {
      guard let cachedTime = scorer.cachedPhase.leastTime(mode) else { continue }
      self.cachedTime = cachedTime
      repeats = scorer.repeats(mode)
      for microBatches in costing.job.allowedMicroBatchCounts {
        prepare(mode, microBatches)
        let everyone = (UInt64(1) << UInt64(costing.deviceCount)) - 1
        extend(layerCount, everyone, nil)
        if nodes > ExactSearch.mostNodes { return (incumbent, false) }
      }
    }
    return (incumbent, true)
  }

  private func prepare(_ mode: PlanMode, _ microBatches: Int) {
    costing.prepare(mode: mode, microBatches: microBatches)
    ranges = (0..<layerCount).flatMap { lower in
      (0...layerCount).map { upper in
        upper > lower ? costing.range(lower, upper) : RangeCosts(lower: lower, upper: lower)
      }
    }
    let groups = classes.groups(from: (UInt64(1) << UInt64(costing.deviceCount)) - 1)
    representatives = Dictionary(uniqueKeysWithValues: groups.enumerated().map { ($1, $0) })
    // From its place on, a stage's memory depends on the number of micro-batches alone.
    positions = mode == .fill ? 1 : min(layerCount, costing.deviceCount, max(2, microBatches))
    splitStarts = Array(repeating: -1, count: groups.count * layerCount * (layerCount + 1) * positions)
    splits.removeAll(keepingCapacity: true)
    prefixBounds.removeAll(keepingCapacity: true)
    stack.removeAll(keepingCapacity: true)
  }

  /// Puts every possible stage before the layers that are placed already.
  private func extend(_ upper: Int, _ available: UInt64, _ bound: StepBound?) {
    let fromEnd = stack.count
    for lower in stride(from: upper - 1, through: 0, by: -1) {
      if costing.job.planner == .eddl && lower > 0 { continue }
      for group in groups(available) {
        if costing.job.planner == .ecofl && group.nonzeroBitCount > 1 { continue }
        let rest = available & ~group
        if lower > 0 && rest == 0 { continue }
        let range = ranges[lower * (layerCount + 1) + upper]
        let boundary = stack.last.map { costing.boundary(from: group, to: $0.group, layer: upper) }
        let reduction = costing.reduction(range, group: group)
        var place = firstSplit(range, group, fromEnd)
        while place >= 0 {
          let (split, isLast) = splits[place]
          place = isLast ? -1 : place + 1
          nodes += 1
          if nodes > ExactSearch.mostNodes { return }
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

  private func complete() {
    let candidate = CandidatePlan(
      mode: costing.mode, microBatches: costing.microBatches, stages: stack.reversed())
    if let score = scorer.score(candidate) { incumbent.consider(candidate, total: score.total) }
  }

  /// What a job takes at least when the first `layers` are still to be placed.
  private func leastTotal(_ bound: StepBound, _ layers: Int, _ available: UInt64) -> Int64 {
    var prefix = PrefixBound(slowest: 0, work: 0, way: 0)
    if layers > 0 {
      guard let least = prefixBound(layers, available) else { return .max }
      prefix = least
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

  /// The least that the first `layers` take on some of the devices `available`, each number for itself, or nil
  /// when they do not fit.
  ///
  /// Memory is that of a last stage, which is the least.
  private func prefixBound(_ layers: Int, _ available: UInt64) -> PrefixBound? {
    let key = classes.representative(available)
    if let row = prefixBounds[key] {
      if let known = row[layers] { return known.slowest == .max ? nil : known }
    } else {
      prefixBounds[key] = Array(repeating: nil, count: layerCount + 1)
    }
    var least = PrefixBound(slowest: .max, work: .max, way: .max)
    for lower in 0..<layers {
      let range = ranges[lower * (layerCount + 1) + layers]
      for group in groups(key) {
        let place = firstSplit(range, group, 0)
        if place < 0 { continue }
        var rest = PrefixBound(slowest: 0, work: 0, way: 0)
        if lower > 0 {
          guard key != group, let before = prefixBound(lower, key & ~group) else { continue }
          rest = before
        }
        var index = place
        while true {
          let (split, isLast) = splits[index]
          let pace = costing.mode == .fill ? split.forward : split.work
          least.slowest = min(least.slowest, max(rest.slowest, pace))
          least.work = min(least.work, rest.work + split.work)
          least.way = min(least.way, rest.way + split.forward)
          if isLast { break }
          index += 1
        }
      }
    }
    prefixBounds[key]![layers] = least
    return least.slowest == .max ? nil : least
  }

  /// The place of the first undominated split of a stage in `splits`, or -1 when the group cannot compute it.
  private func firstSplit(_ range: RangeCosts, _ group: UInt64, _ fromEnd: Int) -> Int {
    let representative = classes.representative(group)
    let position = min(fromEnd, positions - 1)
    let row = representatives[representative]! * layerCount + range.lower
    let place = (row * (layerCount + 1) + range.upper) * positions + position
    if splitStarts[place] >= 0 { return Int(splitStarts[place]) }
    if splitStarts[place] == -2 { return -1 }
    let found = costing.undominatedSplits(range, group: representative, fromEnd: fromEnd)
    splitStarts[place] = found.isEmpty ? -2 : Int32(splits.count)
    for (index, split) in found.enumerated() { splits.append((split, index == found.count - 1)) }
    return found.isEmpty ? -1 : Int(splitStarts[place])
  }

  private func groups(_ available: UInt64) -> [UInt64] {
    if let known = groupLists[available] { return known }
    let groups = classes.groups(from: available)
    groupLists[available] = groups
    return groups
  }
}
