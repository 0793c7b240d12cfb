import Determinism
import TrainingCoordination

/// The activations of units that a device keeps on its disk.
struct StandInCache: Sendable {
  /// One word a layer, for the units that are there whole.
  private(set) var entries: [[UInt64]?]
  private var isSynced: [Bool]

  init(units: Int) {
    entries = Array(repeating: nil, count: units)
    isSynced = Array(repeating: false, count: units)
  }

  func contains(_ unit: Int) -> Bool { entries[unit] != nil }

  mutating func append(_ activations: [UInt64], of unit: Int) {
    guard entries[unit] == nil else { return }
    entries[unit] = activations
    isSynced[unit] = false
  }

  mutating func sync() {
    for unit in entries.indices where entries[unit] != nil { isSynced[unit] = true }
  }

  /// Of what was not synced, a loss of power takes some.
  mutating func losePower(_ dice: inout SeededGenerator) {
    for unit in entries.indices where entries[unit] != nil && !isSynced[unit] {
      if dice.uniform(below: 2) == 0 { entries[unit] = nil } else { isSynced[unit] = true }
    }
  }
}

/// The states of one boundary on a disk: what a device goes on from when its memory is gone.
struct StandInCheckpoint: Sendable {
  var states: [StandInState]
  /// Whether its digest says that it is not what was written.
  var isTorn = false
}

/// The disk of a simulated device, as far as a job uses it.
///
/// A record is written and synced as a whole (aside, synced, renamed). Checkpoints have two generations; a crash may
/// tear the one that is being written, which its digest shows.
struct JobDisk: Sendable {
  /// Checkpoints that are kept.
  static let generations = 2

  private(set) var record: StoredJob?
  private(set) var checkpoints: [StandInCheckpoint] = []
  private var writing: StandInCheckpoint?
  var cache: StandInCache
  var hasPackage = false
  /// All trained values at the end of the job.
  var result: StandInState?
  /// Whether nothing more can be written.
  var isFull = false

  init(units: Int) { cache = StandInCache(units: units) }

  /// Replaces the record; false when the disk is full.
  mutating func store(_ record: StoredJob) -> Bool {
    guard !isFull else { return false }
    self.record = record
    return true
  }

  mutating func remove() {
    record = nil
    checkpoints = []
    writing = nil
  }

  /// Begins to write a checkpoint; false when the disk is full.
  mutating func begin(_ checkpoint: StandInCheckpoint) -> Bool {
    guard !isFull else { return false }
    writing = checkpoint
    return true
  }

  /// The checkpoint is written and synced, and with it the activations before it.
  mutating func finishCheckpoint() {
    guard let done = writing else { return }
    writing = nil
    checkpoints = Array(([done] + checkpoints).prefix(Self.generations))
    cache.sync()
  }

  /// The process ends while something may be half written.
  mutating func crash(_ dice: inout SeededGenerator) {
    guard var torn = writing else { return }
    writing = nil
    // The oldest generation gives its place as soon as the new one is begun.
    guard dice.uniform(below: 2) == 0 else { return }
    torn.isTorn = true
    for index in torn.states.indices { torn.states[index].values[0] ^= dice.next() }
    checkpoints = Array(([torn] + checkpoints).prefix(Self.generations))
  }

  mutating func losePower(_ dice: inout SeededGenerator) {
    crash(&dice)
    cache.losePower(&dice)
  }

  /// What can be gone on from, newest first.
  func held(trustingTorn: Bool) -> [StandInState] {
    checkpoints.flatMap { $0.isTorn && !trustingTorn ? [] : $0.states }
  }
}
