import Collectives
import ParallelPlanner

/// What a run knows before its first step.
struct StandInEntry: Sendable {
  /// What the device brings along, newest first.
  let held: [StandInState]
  /// By place, as they come.
  var inventories: [Inventory?]
  /// Places that bring nothing: their link is gone.
  var gone: Set<Int> = []
  var handover: Handover?
  /// Which of the handover's transfers of state have been taken in.
  var received: [StandInState] = []
  /// Their numbers.
  var taken: Set<Int> = []
  /// Units whose activations come from others before the first step.
  var awaitedUnits: [Int] = []
  /// Units that are computed again.
  var missing: [Int] = []
  /// Units that come in the background, for the next plan.
  var lessons: [Int]?
  var hasLearned = false

  init(held: [StandInState], places: Int) {
    self.held = held
    inventories = Array(repeating: nil, count: places)
  }
}

extension StandInRun {
  /// The participant that hears all inventories first and tells them to everybody, so that all count with the same.
  private var collectorOfInventories: Int { division.devices[0] }

  private static func inventoryTag(of place: Int) -> StandInTag {
    StandInTag(kind: .state, unit: 0, part: UInt32(place))
  }
  private static let agreedTag = StandInTag(kind: .state, unit: 1)
  private static func leavesTag(_ transfer: Int) -> StandInTag {
    StandInTag(kind: .leaves, unit: 2, part: UInt32(transfer))
  }

  /// Everything that is trained.
  private var leaves: VectorSelection { VectorSelection(whole: job.valueCount) }

  private func selection(_ state: StandInState) -> VectorSelection {
    VectorSelection(
      state.layers.indices.filter { state.layers[$0] }.map { job.values(ofLayers: $0..<$0 + 1) })
  }

  // MARK: - Telling

  mutating func tell(_ cache: StandInCache) {
    let own = Inventory(
      states: entry.held.filter { $0.step > 0 }.prefix(Handover.stateLimit).map {
        HeldState(step: $0.step, selection: selection($0))
      },
      units: UnitSet(count: job.unitCount, (0..<job.unitCount).filter { cache.contains($0) }))
    if place == collectorOfInventories {
      entry.inventories[place] = own
    } else {
      send(.inventories([own]), Self.inventoryTag(of: place), to: collectorOfInventories)
    }
  }

  /// Nothing more comes from a place.
  mutating func forgo(
    _ other: Int, isOrderly: Bool, _ cache: inout StandInCache
  ) -> [StandInEffect] {
    guard phase != .over else { return [] }
    if !isOrderly || phase == .telling { entry.gone.insert(other) }
    let isTold = division.devices.contains(place) || collectorOfInventories != other
    if phase == .telling, !isTold { effects.append(.missed(other)) }
    if phase == .handingOver || phase == .waiting, awaitsAnything(from: other, cache) {
      effects.append(.missed(other))
    }
    return advance(&cache)
  }

  /// Whether something that the handover promises has not come from a place.
  private func awaitsAnything(from other: Int, _ cache: StandInCache) -> Bool {
    guard let handover = entry.handover else { return false }
    if handover.units.contains(where: {
      $0.from == other && $0.to == place && $0.units.contains { !cache.contains($0) }
    }) {
      return true
    }
    return handover.states.enumerated().contains { number, transfer in
      transfer.from == other && transfer.to == place && !entry.taken.contains(number)
        && !has(Self.leavesTag(number), from: other)
    }
  }

  mutating func endTelling(_ cache: StandInCache) -> Bool {
    if place == collectorOfInventories {
      for other in 0..<places where entry.inventories[other] == nil {
        if case .inventories(let told)? = take(Self.inventoryTag(of: other), from: other),
          let first = told.first
        {
          entry.inventories[other] = first
        } else if entry.gone.contains(other) {
          entry.inventories[other] = Inventory(units: job.unitCount)
        }
      }
      let all = entry.inventories.compactMap { $0 }
      guard all.count == places else { return false }
      for other in 0..<places where other != place && !entry.gone.contains(other) {
        send(.inventories(all), Self.agreedTag, to: other)
      }
      return makeHandover(all, cache)
    }
    guard case .inventories(let all)? = take(Self.agreedTag, from: collectorOfInventories) else {
      return false
    }
    return makeHandover(all, cache)
  }

  private mutating func makeHandover(_ inventories: [Inventory], _ cache: StandInCache) -> Bool {
    do throws(HandoverFailure) {
      let handover = try Handover(inventories, leaves: leaves, totalSteps: job.totalSteps) { start in
        (0..<places).map { need(of: $0, division, after: start) }
      }
      entry.handover = handover
      entry.missing = handover.missing.units
      entry.awaitedUnits = handover.units.filter { $0.to == place }.flatMap(\.units)
      give(handover, cache)
      if let next { try prepareLessons(inventories, next, handover, cache) }
      phase = .handingOver
      return true
    } catch {
      fail("\(error)")
      return false
    }
  }

  /// What a device has to have when a plan goes on after so many steps.
  private func need(of place: Int, _ division: StandInDivision, after start: Int) -> HandoverNeed {
    let isCached = division.cachedDevices.contains(place)
    var layers = 0..<0
    if start < division.liveSteps || division.plan.mode == .live {
      if let stage = division.stage(of: place) { layers = division.plan.stages[stage].layers }
    } else if isCached {
      layers = 0..<job.layers
    }
    var units = UnitSet(count: job.unitCount)
    if isCached {
      var laterLive = UnitSet(count: job.unitCount)
      for step in start..<max(start, division.liveSteps) {
        for unit in model.units(ofStep: step) { laterLive.insert(unit) }
      }
      for unit in 0..<job.unitCount where division.owner(of: unit) == place && !laterLive.contains(unit) {
        units.insert(unit)
      }
    }
    return HandoverNeed(selection: VectorSelection([job.values(ofLayers: layers)]), units: units)
  }

  // MARK: - Handing over

  /// What is held of the state after `step` steps, put together.
  private func held(at step: Int) -> StandInState? {
    let parts = entry.held.filter { $0.step == step }
    guard var whole = parts.first else { return nil }
    for part in parts.dropFirst() { whole.merge(part) }
    return whole
  }

  private mutating func give(_ handover: Handover, _ cache: StandInCache) {
    for (number, transfer) in handover.states.enumerated() where transfer.from == place {
      guard let state = held(at: handover.start) else {
        return fail("device \(place) has no state of step \(handover.start) to give")
      }
      let chosen = VectorSelection(transfer.ranges)
      let layers = (0..<job.layers).map { layer in
        chosen.flatRanges(0..<chosen.count).contains { $0.overlaps(job.values(ofLayers: layer..<layer + 1)) }
      }
      send(.state(state.keeping(layers)), Self.leavesTag(number), to: transfer.to)
    }
    give(handover.units.filter { $0.from == place }, cache)
  }

  private mutating func give(_ transfers: [Handover.UnitTransfer], _ cache: StandInCache) {
    for transfer in transfers {
      for unit in transfer.units {
        guard let words = cache.entries[unit] else { return fail("unit \(unit) is not here any more") }
        send(.words(words), StandInTag(kind: .activations, unit: unit), to: transfer.to)
      }
    }
  }

  mutating func endHandingOver(_ cache: inout StandInCache) -> Bool {
    guard let handover = entry.handover else { return false }
    for (number, transfer) in handover.states.enumerated() where transfer.to == place {
      if case .state(let part)? = take(Self.leavesTag(number), from: transfer.from) {
        entry.received.append(part)
        entry.taken.insert(number)
      }
    }
    let expected = handover.states.count { $0.to == place }
    guard entry.received.count == expected, entry.awaitedUnits.allSatisfy({ cache.contains($0) }) else {
      return false
    }
    guard division.devices.contains(place) else {
      return learn(cache)
    }
    let need = need(of: place, division, after: handover.start).selection
    let needed = (0..<job.layers).map { need.contains(job.values(ofLayers: $0..<$0 + 1)) }
    var begun =
      handover.start == 0 ? model.initial : held(at: handover.start) ?? model.nothing(after: handover.start)
    for part in entry.received { begun.merge(part) }
    state = begun.keeping(needed)
    guard zip(needed, state.layers).allSatisfy({ !$0 || $1 }) else {
      fail("device \(place) begins after step \(handover.start) without some of its values")
      return false
    }
    beginWork(&cache)
    return true
  }

  // MARK: - The next plan

  /// What learners need for the next plan comes to them while the others train.
  private mutating func prepareLessons(
    _ inventories: [Inventory], _ next: StandInDivision, _ handover: Handover, _ cache: StandInCache
  ) throws(HandoverFailure) {
    let lessons = try Handover(inventories, leaves: leaves, totalSteps: job.totalSteps) { start in
      (0..<places).map { other in
        HandoverNeed(selection: VectorSelection([]), units: need(of: other, next, after: start).units)
      }
    }
    entry.lessons = lessons.units.filter { $0.to == place }.flatMap(\.units)
    give(lessons.units.filter { $0.from == place }, cache)
  }

  /// A device without a role in the plan: it has given what it had, and perhaps learns for the next plan.
  private mutating func learn(_ cache: StandInCache) -> Bool {
    guard next?.devices.contains(place) == true else {
      end(.handedOver)
      return false
    }
    phase = .waiting
    if isStopping { end(.stopped(state.step)) }
    return false
  }

  /// Says once that everything has come that the next plan wants here.
  mutating func tellLearned(_ cache: StandInCache) {
    guard !entry.hasLearned, let lessons = entry.lessons, lessons.allSatisfy({ cache.contains($0) }) else {
      return
    }
    entry.hasLearned = true
    effects.append(.learned)
  }
}

extension StandInModel {
  /// A device that holds no values after so many steps.
  func nothing(after step: Int) -> StandInState {
    var state = initial
    state.step = step
    state.layers = Array(repeating: false, count: job.layers)
    return state
  }
}
