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
  /// Of which places each participant has the inventory, by participant.
  var present: [Int: [Bool]] = [:]
  var hasToldPresent = false
  var handover: Handover?
  /// Which of the handover's transfers of state have been taken in.
  var received: [StandInState] = []
  /// Their numbers.
  var taken: Set<Int> = []
  /// Units whose activations come from others before the first step.
  var awaitedUnits: [Int] = []
  /// Units that are computed again.
  var missing: [Int] = []
  /// Who has still to send what the next plan wants here; nil before anybody was asked.
  var teachers: Set<Int>?
  var hasLearned = false

  init(held: [StandInState], places: Int) {
    self.held = held
    inventories = Array(repeating: nil, count: places)
  }
}

extension StandInRun {
  private static let inventoryTag = StandInTag(kind: .state, step: 1)
  private static let presentTag = StandInTag(kind: .state, step: 2)
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

  /// Whether a place learns for the next plan: it brings nothing along that counts.
  private func isLearner(_ other: Int) -> Bool {
    !division.devices.contains(other) && next?.devices.contains(other) == true
  }

  /// Every participant and donor tells what it has to all of them.
  mutating func tell(_ cache: StandInCache) {
    let own = Inventory(
      states: entry.held.filter { $0.step > 0 }.prefix(Handover.stateLimit).map {
        HeldState(step: $0.step, selection: selection($0))
      },
      units: UnitSet(count: job.unitCount, (0..<job.unitCount).filter { cache.contains($0) }))
    entry.inventories[place] = own
    if isLearner(place) {
      phase = .waiting
      return beginLessons(cache)
    }
    for other in 0..<places where other != place && !isLearner(other) {
      send(.inventories([own]), Self.inventoryTag, to: other)
    }
  }

  /// Nothing more comes from a place.
  mutating func forgo(
    _ other: Int, isOrderly: Bool, _ cache: inout StandInCache
  ) -> [StandInEffect] {
    guard phase != .over else { return [] }
    if !isOrderly || phase == .telling || phase == .waiting { entry.gone.insert(other) }
    // A device without a role hears from the participants alone what counts.
    if phase == .telling, !division.devices.contains(place), division.devices.contains(other) {
      effects.append(.missed(other))
    }
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
    for other in 0..<places where entry.inventories[other] == nil && !isLearner(other) {
      guard case .inventories(let told)? = take(Self.inventoryTag, from: other) else { continue }
      entry.inventories[other] = told.first
    }
    let isKnown = (0..<places).map { entry.inventories[$0] != nil && !isLearner($0) }
    let isComplete = (0..<places).allSatisfy { isKnown[$0] || isLearner($0) || entry.gone.contains($0) }
    if isComplete, !entry.hasToldPresent, division.devices.contains(place) {
      entry.hasToldPresent = true
      entry.present[place] = isKnown
      for other in 0..<places where other != place && !isLearner(other) {
        send(.flags(isKnown), Self.presentTag, to: other)
      }
    }
    for other in division.devices where entry.present[other] == nil {
      if case .flags(let flags)? = take(Self.presentTag, from: other), flags.count == places {
        entry.present[other] = flags
      }
    }
    let told = division.devices.compactMap { entry.present[$0] }
    guard told.count == division.devices.count else { return false }
    return agree(on: (0..<places).map { other in told.allSatisfy { $0[other] } }, cache)
  }

  /// What a device without a role has counts only when all participants have heard of it.
  private mutating func agree(on isPresent: [Bool], _ cache: StandInCache) -> Bool {
    if !isPresent[place] {
      // It may have been heard by some only: it is left out everywhere.
      end(.handedOver)
      return false
    }
    let none = Inventory(units: job.unitCount)
    let all = (0..<places).map { isPresent[$0] ? entry.inventories[$0] : none }
    guard all.allSatisfy({ $0 != nil }) else {
      if division.devices.contains(place) {
        // All participants know of a device of which this one has heard nothing: it told so itself.
        fail("device \(place) does not have what it said to have")
        return false
      }
      // A device without a role has not heard what all participants have; it may not hear it any more.
      if let lost = (0..<places).first(where: { all[$0] == nil && entry.gone.contains($0) }) {
        effects.append(.missed(lost))
      }
      return false
    }
    return makeHandover(all.map { $0 ?? none }, cache)
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
      phase = .handingOver
      // Who is gone told what it had, and will not give it any more.
      for other in entry.gone.sorted() where awaitsAnything(from: other, cache) {
        effects.append(.missed(other))
        return false
      }
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
      end(.handedOver)
      return false
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
    beginLessons(cache)
    beginWork(&cache)
    return true
  }

  // MARK: - The next plan

  private static let wantedTag = StandInTag(kind: .state, step: 5)
  private static let lessonsOverTag = StandInTag(kind: .state, step: 6)

  /// The units that one device keeps now and another will keep under the next plan.
  private func lessons(from teacher: Int, to student: Int) -> [Int] {
    guard let next, division.plan.mode != .live, next.plan.mode != .live, teacher != student else {
      return []
    }
    return (0..<job.unitCount).filter {
      division.owner(of: $0) == teacher && next.owner(of: $0) == student
    }
  }

  /// Asks those who keep what the next plan wants here; they send it while they train.
  mutating func beginLessons(_ cache: StandInCache) {
    guard next != nil, entry.teachers == nil else { return }
    var teachers: Set<Int> = []
    for other in division.devices {
      let units = lessons(from: other, to: place)
      guard !units.isEmpty, !entry.gone.contains(other) else { continue }
      teachers.insert(other)
      let wanted = (0..<job.unitCount).map { units.contains($0) && !cache.contains($0) }
      send(.flags(wanted), Self.wantedTag, to: other)
    }
    entry.teachers = teachers
  }

  /// Teaches who asks, and notices that nothing more will come.
  mutating func attendLessons(_ cache: StandInCache) {
    guard next != nil, let teachers = entry.teachers else { return }
    for other in 0..<places {
      guard case .flags(let wanted)? = take(Self.wantedTag, from: other), wanted.count == job.unitCount else {
        continue
      }
      for unit in lessons(from: place, to: other) where wanted[unit] {
        guard let words = cache.entries[unit] else { continue }
        send(.words(words), StandInTag(kind: .activations, unit: unit), to: other)
      }
      send(.flags([]), Self.lessonsOverTag, to: other)
    }
    for other in teachers.sorted() {
      if take(Self.lessonsOverTag, from: other) != nil || entry.gone.contains(other) {
        entry.teachers?.remove(other)
      }
    }
    if entry.teachers?.isEmpty == true, !entry.hasLearned {
      entry.hasLearned = true
      effects.append(.learned)
    }
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
