import Collectives
import ParallelPlanner

/// One device's part of a stand-in run under one plan epoch: event in, effects out.
///
/// It keeps the protocol of the real run: every device of the household tells what it holds, the plan and these tell
/// who gives what to whom; then steps, each committed when the sums have gone round and every device's share is there.
struct StandInRun: Sendable {
  /// How far the run is.
  enum Phase: Hashable, Sendable {
    case telling, handingOver, waiting, filling, live, transition, cached, collecting, over
  }

  private struct MailKey: Hashable, Sendable {
    let from: Int
    let tag: StandInTag
  }

  /// Values of one piece of a ring: small, so that a ring has several.
  static let ringPiece = 5

  let model: StandInModel
  let division: StandInDivision
  let place: Int
  /// Places of the household.
  let places: Int
  /// Who gets all values at the end of a job without a cache.
  let collector: Int
  let next: StandInDivision?
  var misbehaviour: JobMisbehaviour?

  var phase = Phase.telling
  var state: StandInState
  /// The state before the last step; in a pipeline a neighbour may not have applied it.
  var undo: StandInState?
  /// The last state of which all values were gathered here.
  var gathered: StandInState?
  var gathering: StandInState?
  /// The state right after the last step, for checks.
  var lastCommitted: StandInState?
  var entry: StandInEntry
  var pass: UnitPass?
  var step: StepWork?
  var boundary: StepBoundary
  var isStopping = false
  /// Activations of units of which some layers are missing.
  var parts: [Int: [UInt64?]] = [:]
  var effects: [StandInEffect] = []
  private var mail: [MailKey: [StandInPayload]] = [:]
  /// Messages that came and were not asked for yet.
  private(set) var waitingMail = 0
  /// Which pass is next, for the tags.
  var round = 0
  private var hasBegun = false

  var job: StandInJob { model.job }

  init(
    _ model: StandInModel, plan: Plan, next: Plan?, place: Int, places: Int, collector: Int,
    held: [StandInState]
  ) {
    self.model = model
    division = StandInDivision(plan, job: model.job)
    self.next = next.map { StandInDivision($0, job: model.job) }
    self.place = place
    self.places = places
    self.collector = collector
    state = model.initial
    entry = StandInEntry(held: held, places: places)
    boundary = StepBoundary(stateBytes: 16 * model.job.valueCount)
  }

  /// What may be gone on from after this run, newest first; each is consistent in itself.
  var held: [StandInState] {
    guard hasBegun else { return entry.held }
    let own = [state, undo, gathered].compactMap { $0 }.filter { $0.layers.contains(true) && $0.step > 0 }
    // Until all values of a later step are here, what was brought along stays: the others may not have it any more.
    return gathered == nil && !state.isWhole
      ? own + entry.held.filter { $0.step == entry.handover?.start } : own
  }

  /// The stage of the first phase that this device computes.
  var stage: Int? { division.stage(of: place) }

  // MARK: - Inputs

  mutating func start(_ cache: inout StandInCache) -> [StandInEffect] {
    tell(cache)
    return advance(&cache)
  }

  mutating func receive(
    _ message: StandInMessage, from sender: Int, _ cache: inout StandInCache
  ) -> [StandInEffect] {
    guard phase != .over else { return [] }
    if message.tag.kind == .activations, case .words(let words) = message.payload {
      keep(words, of: message.tag.unit, from: Int(message.tag.part), &cache)
    } else {
      mail[MailKey(from: sender, tag: message.tag), default: []].append(message.payload)
      waitingMail += 1
    }
    return advance(&cache)
  }

  mutating func computed(_ cache: inout StandInCache) -> [StandInEffect] {
    guard phase != .over else { return [] }
    finishTask(&cache)
    return advance(&cache)
  }

  /// Asks all devices to stop after a step; a device without a role stops at once.
  mutating func requestStop(_ cache: inout StandInCache) -> [StandInEffect] {
    isStopping = true
    if phase == .waiting { end(.stopped(state.step)) }
    return advance(&cache)
  }

  /// Goes as far as it can with what is there.
  mutating func advance(_ cache: inout StandInCache) -> [StandInEffect] {
    var moves = true
    while moves {
      switch phase {
      case .telling: moves = endTelling(cache)
      case .handingOver: moves = endHandingOver(&cache)
      case .filling: moves = endFilling(&cache)
      case .live, .cached: moves = advanceStep(&cache)
      case .transition: moves = endTransition(cache)
      case .collecting: moves = endCollecting()
      case .waiting, .over: moves = false
      }
    }
    if phase != .over {
      gather()
      attendLessons(cache)
    }
    defer { effects = [] }
    return effects
  }

  // MARK: - Mail

  /// Takes a message that has come; nil while it has not.
  mutating func take(_ tag: StandInTag, from sender: Int) -> StandInPayload? {
    let key = MailKey(from: sender, tag: tag)
    guard var waiting = mail[key], !waiting.isEmpty else { return nil }
    let first = waiting.removeFirst()
    mail[key] = waiting.isEmpty ? nil : waiting
    waitingMail -= 1
    return first
  }

  func has(_ tag: StandInTag, from sender: Int) -> Bool { mail[MailKey(from: sender, tag: tag)] != nil }

  mutating func send(_ payload: StandInPayload, _ tag: StandInTag, to receiver: Int) {
    effects.append(.send(StandInMessage(tag: tag, payload: payload), to: receiver))
  }

  mutating func fail(_ reason: String) {
    effects.append(.broken(reason))
    phase = .over
  }

  mutating func end(_ ending: StandInEnding) {
    phase = .over
    effects.append(.ended(ending))
  }

  // MARK: - Activations

  /// Gives activations of a unit to the device that keeps them.
  mutating func giveAway(_ words: [UInt64], of unit: Int, from layer: Int, _ cache: inout StandInCache) {
    guard let owner = division.owner(of: unit) else { return }
    if owner == place {
      keep(words, of: unit, from: layer, &cache)
    } else {
      send(.words(words), StandInTag(kind: .activations, unit: unit, part: UInt32(layer)), to: owner)
    }
  }

  private mutating func keep(_ words: [UInt64], of unit: Int, from layer: Int, _ cache: inout StandInCache) {
    guard !cache.contains(unit) else { return }
    guard unit < job.unitCount, layer + words.count <= job.layers else {
      return fail("activations of unit \(unit), layers from \(layer): there are none such")
    }
    var known = parts[unit] ?? Array(repeating: nil, count: job.layers)
    for (index, word) in words.enumerated() { known[layer + index] = word }
    let whole = known.compactMap { $0 }
    if whole.count == job.layers {
      cache.append(whole, of: unit)
      parts[unit] = nil
    } else {
      parts[unit] = known
    }
  }

  /// The units whose activations this device keeps for the cached epochs.
  func ownUnits(_ division: StandInDivision) -> [Int] {
    (0..<job.unitCount).filter { division.owner(of: $0) == place }
  }

  // MARK: - From the entry to the steps

  /// Everything that was handed over is here: what nobody has is computed, then steps begin.
  mutating func beginWork(_ cache: inout StandInCache) {
    effects.append(.entered(state.step))
    hasBegun = true
    phase = .filling
    let missing = entry.missing
    round += 1
    pass =
      missing.isEmpty
      ? nil
      : makePass(missing.map { (key: $0, unit: $0, lane: job.lane(of: $0)) }, trains: false, isCached: false)
  }

  private mutating func endFilling(_ cache: inout StandInCache) -> Bool {
    if pass != nil {
      poll(&cache)
      guard pass?.isFinished == true else { return false }
      pass = nil
    }
    phase = .live
    return beginNextStep()
  }

  /// What comes after the steps that are applied.
  mutating func beginNextStep() -> Bool {
    step = nil
    pass = nil
    if phase == .live, state.step >= division.liveSteps {
      if division.plan.mode == .live {
        beginCollecting()
      } else {
        beginTransition()
      }
      return true
    }
    if phase == .cached, state.step == job.totalSteps {
      end(.finished)
      return false
    }
    beginStep()
    return true
  }

  // MARK: - Moving values

  /// The leaves of a stage, of the state at hand.
  private func leaves(ofStage stage: Int, _ source: StandInState) -> StandInState {
    var part = source
    let layers = division.plan.stages[stage].layers
    for layer in part.layers.indices { part.layers[layer] = part.layers[layer] && layers.contains(layer) }
    return part
  }

  private func leavesTag(_ purpose: Int, stage: Int, step: Int) -> StandInTag {
    StandInTag(kind: .leaves, step: step, unit: purpose, part: UInt32(stage))
  }

  /// Who tells a device the values of a stage that it is not in.
  private func speaker(_ stage: Int, for number: Int) -> Int {
    let members = division.members(stage: stage)
    return members[number % members.count]
  }

  /// Whether the stages train under this plan; else every device has what it needs from the handover.
  private var trainsStages: Bool {
    division.plan.mode == .live || entry.handover?.start ?? 0 < division.liveSteps
  }

  private mutating func tellLeaves(_ purpose: Int, to devices: [Int]) {
    for stage in division.plan.stages.indices where trainsStages {
      for (number, device) in devices.enumerated()
      where !division.members(stage: stage).contains(device) && speaker(stage, for: number) == place {
        send(
          .state(leaves(ofStage: stage, state)), leavesTag(purpose, stage: stage, step: state.step),
          to: device)
      }
    }
  }

  /// Takes the other stages' values, all or nothing.
  private mutating func takeLeaves(_ purpose: Int, of devices: [Int], into target: StandInState)
    -> StandInState?
  {
    guard let number = devices.firstIndex(of: place), trainsStages else { return target }
    let stages = division.plan.stages.indices.filter { !division.members(stage: $0).contains(place) }
    for stage in stages
    where !has(leavesTag(purpose, stage: stage, step: target.step), from: speaker(stage, for: number)) {
      return nil
    }
    var merged = target
    for stage in stages {
      let tag = leavesTag(purpose, stage: stage, step: target.step)
      guard case .state(let part)? = take(tag, from: speaker(stage, for: number)) else { continue }
      merged.merge(part)
    }
    return merged
  }

  private mutating func beginTransition() {
    phase = .transition
    tellLeaves(0, to: division.cachedDevices)
  }

  private mutating func endTransition(_ cache: StandInCache) -> Bool {
    guard division.cachedDevices.contains(place) else {
      end(.finished)
      return false
    }
    let own = ownUnits(division)
    guard own.allSatisfy({ cache.contains($0) }),
      let whole = takeLeaves(0, of: division.cachedDevices, into: state)
    else { return false }
    guard whole.isWhole else {
      fail("the cached epochs begin after step \(whole.step) without all values")
      return false
    }
    state = whole
    (undo, gathering, gathered) = (nil, nil, nil)
    phase = .cached
    return beginNextStep()
  }

  private mutating func beginCollecting() {
    phase = .collecting
    if division.isPipeline { tellLeaves(3, to: [collector]) }
  }

  private mutating func endCollecting() -> Bool {
    if division.isPipeline, place == collector {
      guard let whole = takeLeaves(3, of: [collector], into: state) else { return false }
      state = whole
    }
    end(.finished)
    return false
  }

  /// At some boundaries of a pipeline every device gets all values, so that a lost stage costs only what came after.
  mutating func beginGathering() {
    guard division.isPipeline, phase == .live,
      boundary.gathers(after: state.step, start: entry.handover?.start ?? 0)
    else { return }
    gathering = state
    tellLeaves(1, to: division.devices)
  }

  private mutating func gather() {
    guard let waiting = gathering, let whole = takeLeaves(1, of: division.devices, into: waiting) else {
      return
    }
    gathering = nil
    gathered = whole
  }
}

extension StandInState {
  /// Takes over the layers that another state of the same step has.
  mutating func merge(_ other: StandInState) {
    for layer in layers.indices where other.layers[layer] {
      layers[layer] = true
      let range = layer * width..<(layer + 1) * width
      values.replaceSubrange(range, with: other.values[range])
      moments.replaceSubrange(range, with: other.moments[range])
    }
    lossSum = other.lossSum
  }

  /// The state with only these layers.
  func keeping(_ kept: [Bool]) -> StandInState {
    var part = self
    for layer in layers.indices { part.layers[layer] = layers[layer] && kept[layer] }
    return part
  }
}
