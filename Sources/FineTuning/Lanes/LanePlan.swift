import Determinism

/// Names one micro-batch of a job by its lane and its place in it; it means the same on every device.
public struct MicroBatchID: Hashable, Sendable {
  /// The lane that owns the samples.
  public let lane: Int
  /// Position among the lane's micro-batches, before any epoch's permutation.
  public let index: Int
}

/// Which sample is trained with which others, and when, decided once for a whole job.
///
/// Every sample belongs to one lane for the whole job. A lane cuts its samples into fixed micro-batches, each
/// epoch permutes them inside the lane, and a mini-batch takes one micro-batch from every lane. Nothing
/// depends on how many devices or threads there are, so any of them computes the same bits (docs/ARCHITECTURE.md).
public struct LanePlan: Sendable, Equatable {
  /// Most samples that a plan takes.
  public static let maximumSamples = 100_000_000

  /// Seed of the shuffles.
  public let seed: UInt64
  /// For each lane, its micro-batches; each is a list of sample indices.
  public let lanes: [[[Int]]]
  /// Optimizer steps of one epoch: the micro-batch count of the longest lane.
  public let stepsPerEpoch: Int

  /// Deals `sampleCount` samples to `laneCount` lanes and cuts each lane into micro-batches.
  ///
  /// - Parameters:
  ///   - sampleCount: number of training samples, at least 1.
  ///   - laneCount: number of lanes M; lanes that would stay empty are not made.
  ///   - samplesPerMicroBatch: samples of a micro-batch; a lane's last one may hold fewer.
  ///   - seed: decides the deal and every epoch's order.
  public init(sampleCount: Int, laneCount: Int, samplesPerMicroBatch: Int, seed: UInt64) {
    precondition(
      sampleCount > 0 && sampleCount <= Self.maximumSamples && laneCount > 0 && samplesPerMicroBatch > 0,
      "a lane plan needs samples, lanes and a micro-batch: \(sampleCount), \(laneCount), \(samplesPerMicroBatch)"
    )
    self.seed = seed
    var generator = SeededGenerator(seed: seed, Self.dealPurpose)
    var order = Array(0..<sampleCount)
    generator.shuffle(&order)
    let usedLanes = min(laneCount, sampleCount)
    var lanes: [[[Int]]] = []
    for lane in 0..<usedLanes {
      let members = stride(from: lane, to: sampleCount, by: usedLanes).map { order[$0] }
      lanes.append(
        stride(from: 0, to: members.count, by: samplesPerMicroBatch).map { start in
          Array(members[start..<min(start + samplesPerMicroBatch, members.count)])
        })
    }
    self.lanes = lanes
    stepsPerEpoch = lanes.map(\.count).max() ?? 0
  }

  /// The order in which `lane` visits its micro-batches in `epoch`.
  public func order(lane: Int, epoch: Int) -> [Int] {
    var order = Array(0..<lanes[lane].count)
    var generator = SeededGenerator(seed: seed, Self.orderPurpose, UInt64(lane), UInt64(epoch))
    generator.shuffle(&order)
    return order
  }

  /// All mini-batches of an epoch: `stepsPerEpoch` lists, each of one micro-batch a lane, in lane order.
  ///
  /// A lane with fewer micro-batches than the longest one is absent from the last mini-batches.
  public func miniBatches(epoch: Int) -> [[MicroBatchID]] {
    let orders = lanes.indices.map { order(lane: $0, epoch: epoch) }
    return (0..<stepsPerEpoch).map { step in
      lanes.indices.compactMap { lane in
        step < orders[lane].count ? MicroBatchID(lane: lane, index: orders[lane][step]) : nil
      }
    }
  }

  /// The samples of a micro-batch, in the order in which they are packed.
  public func samples(of id: MicroBatchID) -> [Int] { lanes[id.lane][id.index] }

  private static let dealPurpose: UInt64 = 0x6465_616C
  private static let orderPurpose: UInt64 = 0x6F72_6465
}
