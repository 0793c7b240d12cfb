import Determinism

/// Names one micro-batch of a job by its lane and its place in it; it means the same on every device.
public struct MicroBatchID: Hashable, Sendable {
  /// The lane that owns the samples.
  public let lane: Int
  /// Position among the lane's micro-batches, before any epoch's permutation: its round.
  public let index: Int
}

/// Which sample is trained with which others, and when, decided once for a whole job.
///
/// Every sample belongs to one lane for the whole job. A lane has one fixed micro-batch a round; a mini-batch takes one
/// micro-batch from every lane. A step lasts as long as its longest micro-batch, so micro-batches are made nearly
/// equally long, and an epoch mixes only rounds that are. Nothing depends on how many devices or threads there
/// are, so any of them computes the same bits (docs/ARCHITECTURE.md).
public struct LanePlan: Sendable, Equatable {
  /// Most samples that a plan takes.
  public static let maximumSamples = 100_000_000
  /// Lengths that count as this: longer samples are cut to it, so that sums never overflow.
  static let longestSample = 1 << 24

  /// Seed of the shuffles.
  public let seed: UInt64
  /// For each lane, its micro-batches; each is a list of sample indices.
  public let lanes: [[[Int]]]
  /// Rounds whose micro-batches are about equally long; every epoch permutes a lane's micro-batches inside each.
  public let bands: [Range<Int>]
  /// Optimizer steps of one epoch: one a round.
  public let stepsPerEpoch: Int

  /// Deals samples of equal length; see `init(lengths:laneCount:samplesPerMicroBatch:seed:)`.
  public init(sampleCount: Int, laneCount: Int, samplesPerMicroBatch: Int, seed: UInt64) {
    self.init(
      lengths: Array(repeating: 1, count: max(0, sampleCount)), laneCount: laneCount,
      samplesPerMicroBatch: samplesPerMicroBatch, seed: seed)
  }

  /// Deals samples to lanes and cuts the lanes into micro-batches.
  ///
  /// - Parameters:
  ///   - lengths: tokens of every training sample, at least one sample; what its work is measured in.
  ///   - laneCount: number of lanes M; lanes that would stay empty are not made.
  ///   - samplesPerMicroBatch: most samples of a micro-batch. An epoch has as many steps as that takes; when the
  ///     samples do not fill them, some micro-batches have fewer.
  ///   - seed: decides the deal and every epoch's order.
  public init(lengths: [Int], laneCount: Int, samplesPerMicroBatch: Int, seed: UInt64) {
    let sampleCount = lengths.count
    precondition(
      sampleCount > 0 && sampleCount <= Self.maximumSamples && laneCount > 0 && samplesPerMicroBatch > 0,
      "a lane plan needs samples, lanes and a micro-batch: \(sampleCount), \(laneCount), \(samplesPerMicroBatch)"
    )
    self.seed = seed
    let usedLanes = min(laneCount, sampleCount)
    let fullRound = usedLanes.multipliedReportingOverflow(by: samplesPerMicroBatch)
    let rounds = fullRound.overflow ? 1 : (sampleCount - 1) / fullRound.partialValue + 1
    var generator = SeededGenerator(seed: seed, Self.dealPurpose)
    let units = Self.cut(
      lengths.map { min(max($0, 1), Self.longestSample) }, into: min(sampleCount, rounds * usedLanes),
      &generator)
    var lanes = Array(repeating: [[Int]](), count: usedLanes)
    for start in stride(from: 0, to: units.count, by: usedLanes) {
      let round = units[start..<min(start + usedLanes, units.count)]
      var order = Array(0..<usedLanes)
      generator.shuffle(&order)
      for (lane, unit) in zip(order, round) { lanes[lane].append(unit.samples) }
    }
    self.lanes = lanes
    stepsPerEpoch = rounds
    bands = Self.bands(units, lanes: usedLanes)
  }

  /// All mini-batches of an epoch: `stepsPerEpoch` lists, each of one micro-batch a lane, in lane order.
  ///
  /// A lane without a micro-batch in the last round is absent from one of the mini-batches.
  public func miniBatches(epoch: Int) -> [[MicroBatchID]] {
    let orders = lanes.indices.map { order(lane: $0, epoch: epoch) }
    var rounds = Array(0..<stepsPerEpoch)
    var generator = SeededGenerator(seed: seed, Self.stepPurpose, UInt64(epoch))
    generator.shuffle(&rounds)
    return rounds.map { round in
      lanes.indices.compactMap { lane in
        round < orders[lane].count ? MicroBatchID(lane: lane, index: orders[lane][round]) : nil
      }
    }
  }

  /// The samples of a micro-batch, in the order in which they are packed.
  public func samples(of id: MicroBatchID) -> [Int] { lanes[id.lane][id.index] }

  /// Which micro-batch a lane gives in place of each round's in an epoch: another one of the same band.
  private func order(lane: Int, epoch: Int) -> [Int] {
    var generator = SeededGenerator(seed: seed, Self.orderPurpose, UInt64(lane), UInt64(epoch))
    return bands.flatMap { band in
      var order = Array(band.clamped(to: 0..<lanes[lane].count))
      generator.shuffle(&order)
      return order
    }
  }

  // MARK: Length

  /// Samples that are computed together, and their length in all.
  private struct Unit {
    var samples: [Int] = []
    var length = 0
  }

  /// Deals samples into `count` units of about equal length and nearly equal numbers of samples, the longest unit first.
  ///
  /// The longest samples get a unit each; each further row of samples, the longest of them first, goes to the units
  /// that are shortest so far (Graham's longest processing time, with the number of samples held equal). Where
  /// lengths are equal, chance decides.
  private static func cut(_ lengths: [Int], into count: Int, _ generator: inout SeededGenerator) -> [Unit] {
    let samples = descending(lengths, &generator)
    var units = Array(repeating: Unit(), count: count)
    for start in stride(from: 0, to: samples.count, by: count) {
      let places = units.indices.sorted { (units[$0].length, $0) < (units[$1].length, $1) }
      for (place, sample) in zip(places, samples[start..<min(start + count, samples.count)]) {
        units[place].samples.append(sample)
        units[place].length += lengths[sample]
      }
    }
    return descending(units.map(\.length), &generator).map { units[$0] }
  }

  /// Indices by length, the longest first; those of equal length in the order of a shuffle.
  private static func descending(_ lengths: [Int], _ generator: inout SeededGenerator) -> [Int] {
    var order = Array(lengths.indices)
    generator.shuffle(&order)
    // Only a stable order is the same everywhere, and `sort` does not promise to be one.
    return order.enumerated().sorted { (lengths[$1.element], $0.offset) < (lengths[$0.element], $1.offset) }
      .map(\.element)
  }

  /// Cuts rounds of units, the longest first, so that no unit of a band is over 1/16 longer than another.
  ///
  /// A round that is wider by itself is a band alone.
  private static func bands(_ units: [Unit], lanes: Int) -> [Range<Int>] {
    let rounds = (units.count + lanes - 1) / lanes
    var bands: [Range<Int>] = []
    var start = 0
    for round in 0..<rounds {
      let shortest = units[min((round + 1) * lanes, units.count) - 1].length
      if round > start, 16 * units[start * lanes].length > 17 * shortest {
        bands.append(start..<round)
        start = round
      }
    }
    bands.append(start..<rounds)
    return bands
  }

  private static let dealPurpose: UInt64 = 0x6465_616C
  private static let orderPurpose: UInt64 = 0x6F72_6465
  private static let stepPurpose: UInt64 = 0x7374_6570
}
