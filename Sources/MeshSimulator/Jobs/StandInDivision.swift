import Collectives
import ParallelPlanner
import PipelineSchedules
import TrainingCoordination

/// Which device computes and keeps which units under a plan; the rules of the real run.
struct StandInDivision: Sendable {
  let plan: Plan
  let job: StandInJob
  /// For each lane, its device in a plan of one stage.
  private let contiguous: [Int]
  /// For each lane, its device in the cached epochs.
  private let owners: [Int]
  private let positions: [[Int]]

  init(_ plan: Plan, job: StandInJob) {
    self.plan = plan
    self.job = job
    contiguous = plan.stages[0].members.flatMap {
      Array(repeating: $0.device, count: $0.units * plan.microBatches)
    }
    owners = plan.cached.flatMap { Array(repeating: $0.device, count: $0.units) }
    positions = plan.stages.map { $0.members.flatMap { Array(repeating: $0.device, count: $0.units) } }
  }

  var isPipeline: Bool { plan.stages.count > 1 }
  var stageDevices: [Int] { plan.stages.flatMap { $0.members.map(\.device) } }
  var cachedDevices: [Int] { plan.cached.map(\.device) }
  /// All devices of the plan, ascending.
  var devices: [Int] { plan.places }

  /// Steps at the beginning that run the backbone.
  var liveSteps: Int {
    switch plan.mode {
    case .live: job.totalSteps
    case .hybrid: job.stepsPerEpoch
    case .fill: 0
    }
  }

  func members(stage: Int) -> [Int] { plan.stages[stage].members.map(\.device) }

  func stage(of device: Int) -> Int? {
    plan.stages.firstIndex { $0.members.contains { $0.device == device } }
  }

  /// The device that computes a lane's units in a stage of the first phase.
  func computer(lane: Int, stage: Int) -> Int {
    guard isPipeline else { return contiguous[lane] }
    return positions[stage][lane % positions[stage].count]
  }

  /// The device that keeps a unit's activations; nil in a plan without a cache.
  func owner(of unit: Int) -> Int? { owners.isEmpty ? nil : owners[job.lane(of: unit)] }
}

/// What a message between two devices of a run is about.
enum StandInMessageKind: UInt8, Hashable, Sendable {
  case state, leaves, activations, forward, backward, reduceScatter, allGather, share
}

/// Names one message between two devices of a run.
struct StandInTag: Hashable, Sendable {
  var kind: StandInMessageKind
  var step = 0
  var unit = 0
  var part: UInt32 = 0
}

/// What devices tell each other of a step beside sums.
struct StandInShare: Hashable, Sendable {
  /// Losses of the units that the sender computed, by lane.
  var losses: [Int: UInt64] = [:]
  /// Whether somebody wants to stop after this step.
  var stops = false
}

/// The content of a message between two devices of a run.
enum StandInPayload: Sendable {
  case words([UInt64])
  case state(StandInState)
  case share(StandInShare)
  case inventories([Inventory])
  case flags([Bool])

  /// Roughly what it takes on the wire.
  var byteCount: Int {
    switch self {
    case .words(let words): 60 + 8 * words.count
    case .state(let state): 100 + 16 * state.values.count
    case .share(let share): 70 + 12 * share.losses.count
    case .flags(let flags): 60 + flags.count
    case .inventories(let told): 60 + told.reduce(0) { $0 + 60 + 8 * $1.units.words.count }
    }
  }
}

/// A message between two devices of a run.
struct StandInMessage: Sendable {
  var tag: StandInTag
  var payload: StandInPayload
}

/// How a device's part of a run ended.
enum StandInEnding: Hashable, Sendable {
  /// All steps are done; the device holds all values or not.
  case finished
  /// It stopped after this step, as somebody asked.
  case stopped(Int)
  /// It had no part but to hand over what it had.
  case handedOver
}

/// What a run wants done, or tells, in this order.
enum StandInEffect: Sendable {
  case send(StandInMessage, to: Int)
  /// Compute so many units; answer with `computed`.
  case compute(units: Double)
  /// The run has begun at this step.
  case entered(Int)
  /// The activations of a unit that nobody had were computed.
  case filled(Int)
  /// A step was applied, with the losses of all its units.
  case committed(Int)
  /// All that the next plan wants of this device is here.
  case learned
  /// What the device at this place was to give before the first step will not come.
  case missed(Int)
  case ended(StandInEnding)
  /// Something that a run must never see.
  case broken(String)
}
