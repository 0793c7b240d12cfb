import Determinism
import ParallelPlanner

/// A model, a household and a job made from a seed.
struct PlanningInstance {
  var costs: ModelCosts
  var household: HouseholdProfile
  var job: PlanningJob
}

/// Makes instances of every character: even and uneven layers, fast and slow devices and links, tight and wide
/// memory.
struct InstanceMaker {
  private var generator: SeededGenerator

  init(seed: UInt64) { generator = SeededGenerator(seed: seed) }

  private mutating func number(_ range: ClosedRange<Int>) -> Int64 {
    Int64(range.lowerBound + generator.uniform(below: range.count))
  }

  mutating func instance(devices: Int, layers: Int, units: Int) -> PlanningInstance {
    let kinds = 1 + generator.uniform(below: min(3, layers))
    let canCache = generator.uniform(below: 4) > 0
    var costs = ModelCosts(
      name: "seeded", kinds: (0..<kinds).map { "kind \($0)" },
      layers: (0..<layers).map { layer in
        LayerCosts(
          kind: generator.uniform(below: kinds), frozenBytes: number(0...1000),
          trainableBytes: number(0...100),
          retainedBytes: number(0...200), cacheBytes: canCache ? number(0...400) : 0,
          forwardBoundaryBytes: number(0...3000), backwardBoundaryBytes: number(0...600),
          fillBoundaryBytes: number(0...2500))
      },
      shared: generator.uniform(below: 2) == 0
        ? [] : [SharedWeights(bytes: number(1...800), layers: [0, generator.uniform(below: layers)])],
      sumBits: [7, 32, 41][generator.uniform(below: 3)], transientBytes: number(0...100),
      cachedUnitBytes: number(0...300), canCache: canCache)
    // Not drawn, so that seeds make the instances that they have always made.
    costs.runsAhead = canCache && costs.cachedUnitBytes % 2 == 0
    costs.stageStateCopies = [0, 6, 2][Int(costs.transientBytes % 3)]
    if costs.layers[0].trainableBytes % 2 == 1, layers > 1 {
      costs.tied = TiedWeights(
        bytes: costs.layers[0].trainableBytes, home: 0, layers: [1 + units % (layers - 1)])
    }
    let whole = costs.layers.reduce(Int64(0)) {
      $0 + $1.frozenBytes + $1.trainableBytes * costs.trainableCopies + $1.retainedBytes * Int64(units)
    }
    // From far too little, through just enough for a part, to plenty.
    let tightness = [15, 40, 70, 400][generator.uniform(below: 4)]
    let profiles = (0..<devices).map {
      device(index: $0, kinds: kinds, memory: whole * Int64(tightness) / 100)
    }
    return PlanningInstance(
      costs: costs, household: HouseholdProfile(devices: profiles, links: links(devices)),
      job: PlanningJob(
        epochs: 1 + generator.uniform(below: 4), stepsPerEpoch: 1 + generator.uniform(below: 5),
        unitsPerMiniBatch: units,
        planner: generator.uniform(below: 6) > 1
          ? .pac : [.eddl, .ecofl][generator.uniform(below: 2)],
        firstEpoch: [.auto, .auto, .hybrid, .fill][generator.uniform(below: 4)]))
  }

  mutating func device(index: Int, kinds: Int, memory: Int64) -> DeviceProfile {
    let slowness = number(1...8)
    return DeviceProfile(
      name: "device \(index)", memoryBudget: memory * number(30...130) / 100,
      workers: 1 + generator.uniform(below: 2), cacheBudget: number(500...30_000),
      diskWriteBytesPerSecond: number(2_000_000...50_000_000),
      diskReadBytesPerSecond: number(2_000_000...50_000_000),
      updateBytesPerSecond: number(1_000_000...60_000_000),
      exchangeBytesPerSecond: number(1_000_000...60_000_000),
      freshBytesPerSecond: number(1_000_000...60_000_000),
      mappedBytesPerSecond: number(1_000_000...60_000_000),
      standstill: slowness > 6 ? 4_000 * slowness : 0,
      times: (0..<kinds).map { _ in
        UnitTimes(
          forward: table(slowness), backward: table(slowness), fill: table(slowness), cached: table(slowness))
      })
  }

  /// Times that rise with the units, not in proportion.
  private mutating func table(_ slowness: Int64) -> [Int64] {
    var times: [Int64] = []
    for _ in 0..<3 { times.append((times.last ?? 0) + slowness * number(10_000...60_000)) }
    return times
  }

  private mutating func links(_ devices: Int) -> [LinkProfile] {
    var links = Array(repeating: LinkProfile(bytesPerSecond: 1_000_000, latency: 0), count: devices * devices)
    for row in 0..<devices {
      for column in row + 1..<max(row + 1, devices) {
        let link = LinkProfile(
          bytesPerSecond: number(5_000_000...200_000_000), latency: number(0...20_000))
        links[row * devices + column] = link
        links[column * devices + row] = link
      }
    }
    return links
  }

  mutating func below(_ bound: Int) -> Int { generator.uniform(below: bound) }
}
