import ParallelPlanner

/// Units on their way through this device: whole ones, or through its stage of a pipeline.
struct UnitPass: Sendable {
  enum Task: Hashable, Sendable {
    case whole
    case forward(Int)
    case backward(Int)
  }

  struct Entry: Sendable {
    let key: Int
    let unit: Int
    let lane: Int
    /// What entered each layer of the stage.
    var inputs: [UInt64] = []
    /// What came for its next task.
    var arrived: [UInt64] = []
  }

  /// Names the pass in tags.
  let round: Int
  let trains: Bool
  let isCached: Bool
  let stage: Int
  var entries: [Entry]
  /// Entries that wait for what the stage before gives, and for what the stage after gives.
  var awaitingInput: [Int]
  var awaitingGradient: [Int] = []
  var forwards: [Int] = []
  var backwards: [Int] = []
  var task: Task?
  var unfinished: Int
  /// Losses by lane, where the last layers are.
  var losses: [Int: UInt64] = [:]

  var isFinished: Bool { unfinished == 0 && task == nil }
}

extension StandInRun {
  /// The units of a pass that this device has a part in.
  func makePass(
    _ units: [(key: Int, unit: Int, lane: Int)], trains: Bool, isCached: Bool
  ) -> UnitPass {
    let stage = isCached ? 0 : (self.stage ?? 0)
    let own = units.filter { unit in
      isCached
        ? division.owner(of: unit.unit) == place
        : self.stage != nil && division.computer(lane: unit.lane, stage: stage) == place
    }
    let entries = own.map { UnitPass.Entry(key: $0.key, unit: $0.unit, lane: $0.lane) }
    let isWhole = isCached || !division.isPipeline
    return UnitPass(
      round: round, trains: trains, isCached: isCached, stage: stage, entries: entries,
      awaitingInput: isWhole || stage == 0 ? [] : Array(entries.indices),
      forwards: stage == 0 && !(isWhole && trains) ? Array(entries.indices) : [], unfinished: entries.count)
  }

  private func boundaryTag(_ kind: StandInMessageKind, _ pass: UnitPass, key: Int, stage: Int) -> StandInTag {
    StandInTag(kind: kind, step: pass.round, unit: key, part: UInt32(stage))
  }

  /// Takes in boundaries that have come, and begins the next task.
  mutating func poll(_ cache: inout StandInCache) {
    guard var pass, phase != .over else { return }
    defer { self.pass = pass }
    if pass.trains, pass.isCached || !division.isPipeline {
      guard pass.task == nil, pass.unfinished > 0 else { return }
      pass.task = .whole
      effects.append(.compute(units: Double(pass.entries.count)))
      return
    }
    for index in takeBoundaries(.forward, &pass, awaiting: pass.awaitingInput, from: pass.stage - 1) {
      pass.awaitingInput.removeAll { $0 == index }
      pass.forwards.append(index)
    }
    for index in takeBoundaries(.backward, &pass, awaiting: pass.awaitingGradient, from: pass.stage + 1) {
      pass.awaitingGradient.removeAll { $0 == index }
      pass.backwards.append(index)
    }
    guard pass.task == nil else { return }
    let share = Double(division.plan.stages[pass.stage].layers.count) / Double(job.layers)
    if let index = pass.backwards.first {
      pass.backwards.removeFirst()
      pass.task = .backward(index)
      effects.append(.compute(units: share * 0.6))
    } else if let index = pass.forwards.first {
      pass.forwards.removeFirst()
      pass.task = .forward(index)
      effects.append(.compute(units: share * 0.4))
    }
  }

  /// The entries whose boundary from a neighbouring stage has come.
  private mutating func takeBoundaries(
    _ kind: StandInMessageKind, _ pass: inout UnitPass, awaiting: [Int], from stage: Int
  ) -> [Int] {
    awaiting.filter { index in
      let entry = pass.entries[index]
      let tag = boundaryTag(kind, pass, key: entry.key, stage: pass.stage)
      guard case .words(let words)? = take(tag, from: division.computer(lane: entry.lane, stage: stage))
      else {
        return false
      }
      pass.entries[index].arrived = words
      return true
    }
  }

  /// The task at hand is computed.
  mutating func finishTask(_ cache: inout StandInCache) {
    guard var pass, let task = pass.task else { return }
    pass.task = nil
    switch task {
    case .whole: finishWhole(&pass, &cache)
    case .forward(let index): finishForward(&pass, index, &cache)
    case .backward(let index): finishBackward(&pass, index)
    }
    if phase != .over { self.pass = pass }
  }

  private mutating func finishWhole(_ pass: inout UnitPass, _ cache: inout StandInCache) {
    for (number, entry) in pass.entries.enumerated() {
      let activations = pass.isCached ? cache.entries[entry.unit] : model.activations(of: entry.unit)
      guard let activations else { return fail("unit \(entry.unit) is not in the cache of device \(place)") }
      if pass.trains, misbehaviour != .losesUnit || number > 0 {
        for _ in 0..<(misbehaviour == .doublesUnit && number == 0 ? 2 : 1) {
          pass.losses[entry.lane] = model.compute(
            unit: entry.unit, step: state.step, activations: activations, state, into: &step!.sums)
        }
      }
      if !pass.isCached { giveAway(activations, of: entry.unit, from: 0, &cache) }
    }
    pass.unfinished = 0
  }

  private mutating func finishForward(_ pass: inout UnitPass, _ index: Int, _ cache: inout StandInCache) {
    let entry = pass.entries[index]
    let layers = division.plan.stages[pass.stage].layers
    let isFirst = pass.stage == 0
    guard isFirst || entry.arrived.count == 2 else {
      return fail("a boundary of \(entry.arrived.count) words")
    }
    var frozen = isFirst ? model.input(of: entry.unit) : entry.arrived[0]
    var trained = isFirst ? model.entry(unit: entry.unit, step: state.step) : entry.arrived[1]
    var activations: [UInt64] = []
    var inputs: [UInt64] = []
    for layer in layers {
      frozen = model.activation(layer: layer, after: frozen)
      activations.append(frozen)
      inputs.append(trained)
      if pass.trains { trained = model.forward(layer, input: trained, activation: frozen, state) }
    }
    pass.entries[index].inputs = inputs
    giveAway(activations, of: entry.unit, from: layers.lowerBound, &cache)
    let isLast = pass.stage == division.plan.stages.count - 1
    if !isLast {
      send(
        .words([frozen, trained]), boundaryTag(.forward, pass, key: entry.key, stage: pass.stage + 1),
        to: division.computer(lane: entry.lane, stage: pass.stage + 1))
    }
    guard pass.trains else {
      pass.unfinished -= 1
      effects.append(.filled(entry.unit))
      return
    }
    if isLast {
      let loss = model.loss(of: entry.unit, output: trained)
      pass.losses[entry.lane] = loss
      pass.entries[index].arrived = [loss]
      pass.backwards.append(index)
    } else {
      pass.awaitingGradient.append(index)
    }
  }

  private mutating func finishBackward(_ pass: inout UnitPass, _ index: Int) {
    let entry = pass.entries[index]
    guard entry.arrived.count == 1 else { return fail("a gradient of \(entry.arrived.count) words") }
    let layers = division.plan.stages[pass.stage].layers
    var gradient = entry.arrived[0]
    for layer in layers.reversed() {
      gradient = model.backward(
        layer, gradient: gradient, input: entry.inputs[layer - layers.lowerBound], state, into: &step!.sums)
    }
    pass.unfinished -= 1
    guard pass.stage > 0 else { return }
    send(
      .words([gradient]), boundaryTag(.backward, pass, key: entry.key, stage: pass.stage - 1),
      to: division.computer(lane: entry.lane, stage: pass.stage - 1))
  }
}
