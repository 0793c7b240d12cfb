import ActivationCache
import Collectives
import FineTuning

/// All units of a job by number: lane after lane in the order of the lanes' micro-batches, then the held-out units.
struct JobUnits: Sendable {
  /// Where a unit comes from.
  enum Place: Equatable, Sendable {
    case training(lane: Int, miniBatch: Int)
    case validation(Int)
  }

  /// Micro-batches by number.
  let batches: [PackedMicroBatch]
  /// Where each belongs; a training unit's mini-batch is that of the first epoch.
  let places: [Place]
  /// Number of each lane's first unit, and of the first held-out unit.
  private let starts: [Int]

  init(_ job: DistributedJob) {
    batches = job.batches.flatMap { $0 } + job.validation
    starts = job.batches.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1.count) }
    var places = job.batches.enumerated().flatMap { lane, batches in
      batches.map { _ in Place.training(lane: lane, miniBatch: 0) }
    }
    for (miniBatch, ids) in job.lanePlan.miniBatches(epoch: 0).enumerated() {
      for id in ids { places[starts[id.lane] + id.index] = .training(lane: id.lane, miniBatch: miniBatch) }
    }
    self.places = places + job.validation.indices.map { .validation($0) }
  }

  var count: Int { batches.count }

  /// The number of a held-out unit.
  func number(validation unit: Int) -> Int { starts[starts.count - 1] + unit }

  /// The device that keeps a unit's activations.
  func owner(_ number: Int, _ division: WorkDivision) -> Int {
    switch places[number] {
    case .training(let lane, _): division.owner(lane: lane)
    case .validation(let unit): division.owner(validation: unit)
    }
  }

  /// The devices that compute a unit in the first phase, stage by stage.
  func computers(_ number: Int, _ division: WorkDivision) -> [Int] {
    (0..<division.stages).map { stage in
      switch places[number] {
      case .training(let lane, _): division.computer(lane: lane, stage: stage)
      case .validation(let unit): division.computer(validation: unit, stage: stage)
      }
    }
  }

  /// Those whose samples are all in a cache.
  func held(in cache: ActivationCacheStore?) -> UnitSet {
    guard let cache else { return UnitSet(count: count) }
    return UnitSet(count: count, batches.indices.filter { cache.resolve(batches[$0].keys).isComplete })
  }

  /// The units of each mini-batch of the first epoch that are in a set, by lane.
  func byMiniBatch(_ set: UnitSet, stepsPerEpoch: Int) -> [[(lane: Int, number: Int)]] {
    var lists = [[(lane: Int, number: Int)]](repeating: [], count: stepsPerEpoch)
    for number in set.units {
      if case .training(let lane, let miniBatch) = places[number] { lists[miniBatch].append((lane, number)) }
    }
    return lists
  }

  /// The held-out units that are in a set.
  func validation(_ set: UnitSet) -> [Int] {
    (starts[starts.count - 1]..<count).filter(set.contains).map { $0 - starts[starts.count - 1] }
  }
}
