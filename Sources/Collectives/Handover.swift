/// Who gives what to whom when a plan epoch begins: the same on every device, from what all of them bring along.
///
/// Training goes on from the newest step whose every leaf somebody has. A step's content depends on its number alone, so a
/// device that is ahead takes the older state and computes the steps between again, to the same bits. Step 0 is always
/// possible: everybody has the initial values.
package struct Handover: Sendable, Equatable {
  /// The most devices.
  package static let placeLimit = RingPiece.memberLimit
  /// The most states that a device may list.
  package static let stateLimit = 16
  /// Elements that are given to one donor at a time, so that several share a long vector.
  package static let share = 1 << 18

  /// Values and moments on their way.
  package struct StateTransfer: Sendable, Equatable {
    /// Who has them.
    package var from: Int
    /// Who needs them.
    package var to: Int
    /// Where they are in the flat vector, ascending.
    package var ranges: [Range<Int>]

    /// A transfer.
    package init(from: Int, to: Int, ranges: [Range<Int>]) {
      self.from = from
      self.to = to
      self.ranges = ranges
    }
  }

  /// Activations on their way.
  package struct UnitTransfer: Sendable, Equatable {
    /// Who has them.
    package var from: Int
    /// Who needs them.
    package var to: Int
    /// The units, ascending.
    package var units: [Int]

    /// A transfer.
    package init(from: Int, to: Int, units: [Int]) {
      self.from = from
      self.to = to
      self.units = units
    }
  }

  /// Optimizer steps that are not done again.
  package let start: Int
  /// Transfers of state, in the order in which all devices make them.
  package let states: [StateTransfer]
  /// Transfers of activations, in the order in which all devices make them, after those of state.
  package let units: [UnitTransfer]
  /// Units that somebody needs and nobody has: their activations are computed again.
  package let missing: UnitSet

  /// Makes out a handover.
  ///
  /// - Parameters:
  ///   - inventories: by place; an empty one for a device that gives nothing.
  ///   - leaves: everything that is trained, as a part of the flat vector.
  ///   - totalSteps: optimizer steps of the job.
  ///   - needs: by place, what the plan needs there when it goes on after so many steps.
  package init(
    _ inventories: [Inventory], leaves: VectorSelection, totalSteps: Int,
    needs: (_ start: Int) -> [HandoverNeed]
  ) throws(HandoverFailure) {
    let unitCount = inventories.first?.units.count ?? 0
    try Self.check(inventories, leaves: leaves, totalSteps: totalSteps, units: unitCount)
    start = Self.start(inventories, leaves: leaves)
    let needs = needs(start)
    guard needs.count == inventories.count else { throw .needs(needs.count, places: inventories.count) }
    for (place, need) in needs.enumerated() where need.units.count != unitCount {
      throw .foreignUnits(place: place, units: need.units.count, expected: unitCount)
    }
    states = try Self.states(inventories, needs, leaves: leaves, start: start)
    (units, missing) = Self.units(inventories, needs, count: unitCount)
  }

  /// Units that are computed again with a device's help.
  ///
  /// - Parameter computers: the devices that compute a unit, stage by stage.
  package func missing(computedBy place: Int, computers: (_ unit: Int) -> [Int]) -> [Int] {
    missing.units.filter { computers($0).contains(place) }
  }

  // MARK: Rules

  private static func check(
    _ inventories: [Inventory], leaves: VectorSelection, totalSteps: Int, units: Int
  ) throws(HandoverFailure) {
    guard inventories.count <= placeLimit else { throw .manyPlaces(inventories.count) }
    let end = leaves.ranges.last?.upperBound ?? 0
    for (place, inventory) in inventories.enumerated() {
      guard inventory.states.count <= stateLimit else {
        throw .manyStates(place: place, states: inventory.states.count)
      }
      guard inventory.units.count == units else {
        throw .foreignUnits(place: place, units: inventory.units.count, expected: units)
      }
      for state in inventory.states {
        guard 0...totalSteps ~= state.step else { throw .unknownStep(place: place, step: state.step) }
        for range in state.selection.ranges where range.lowerBound < 0 || range.upperBound > end {
          throw .foreignRange(place: place, range)
        }
      }
    }
  }

  /// The newest step whose every leaf somebody has.
  private static func start(_ inventories: [Inventory], leaves: VectorSelection) -> Int {
    let steps = Set(inventories.flatMap { $0.states.map(\.step) }).filter { $0 > 0 }
    for step in steps.sorted(by: >) {
      let held = VectorSelection(
        union: inventories.flatMap { $0.states.filter { $0.step == step }.flatMap(\.selection.ranges) })
      if leaves.subtracting(held).count == 0 { return step }
    }
    return 0
  }

  /// What a device has of the state after a step: several of its states may be parts of it.
  private static func held(_ inventory: Inventory, at step: Int) -> VectorSelection {
    VectorSelection(union: inventory.states.filter { $0.step == step }.flatMap(\.selection.ranges))
  }

  private static func states(
    _ inventories: [Inventory], _ needs: [HandoverNeed], leaves: VectorSelection, start: Int
  ) throws(HandoverFailure) -> [StateTransfer] {
    for (place, need) in needs.enumerated() {
      if let range = need.selection.subtracting(leaves).ranges.first {
        throw .foreignRange(place: place, range)
      }
    }
    guard start > 0 else { return [] }
    let held = inventories.map { Self.held($0, at: start) }
    var load = [Int](repeating: 0, count: inventories.count)
    var transfers: [StateTransfer] = []
    for (place, need) in needs.enumerated() {
      var given = [[Range<Int>]](repeating: [], count: inventories.count)
      for piece in pieces(need.selection.subtracting(held[place]), held) {
        var donor: Int?
        for other in held.indices where other != place && held[other].contains(piece) {
          if load[other] < donor.map({ load[$0] }) ?? .max { donor = other }
        }
        guard let donor else { preconditionFailure("nobody has \(piece) of step \(start)") }
        load[donor] += piece.count
        given[donor].append(piece)
      }
      for (donor, ranges) in given.enumerated() where !ranges.isEmpty {
        transfers.append(StateTransfer(from: donor, to: place, ranges: VectorSelection(ranges).ranges))
      }
    }
    return transfers
  }

  /// Cuts what is wanted so that every piece is wholly held, or not at all, by each device, and none is long.
  private static func pieces(_ wanted: VectorSelection, _ held: [VectorSelection]) -> [Range<Int>] {
    guard wanted.count > 0 else { return [] }
    let cuts = Set(held.flatMap { $0.ranges.flatMap { [$0.lowerBound, $0.upperBound] } }).sorted()
    var pieces: [Range<Int>] = []
    for range in wanted.ranges {
      let inside = cuts.filter { range.lowerBound < $0 && $0 < range.upperBound }
      for (low, high) in zip([range.lowerBound] + inside, inside + [range.upperBound]) {
        for start in stride(from: low, to: high, by: share) {
          pieces.append(start..<min(start + share, high))
        }
      }
    }
    return pieces
  }

  private static func units(
    _ inventories: [Inventory], _ needs: [HandoverNeed], count: Int
  ) -> ([UnitTransfer], UnitSet) {
    var missing = UnitSet(count: count)
    var load = [Int](repeating: 0, count: inventories.count)
    var transfers: [UnitTransfer] = []
    for (place, need) in needs.enumerated() {
      var given = [[Int]](repeating: [], count: inventories.count)
      for unit in need.units.subtracting(inventories[place].units).units {
        var donor: Int?
        for other in inventories.indices where inventories[other].units.contains(unit) {
          if load[other] < donor.map({ load[$0] }) ?? .max { donor = other }
        }
        guard let donor else {
          missing.insert(unit)
          continue
        }
        load[donor] += 1
        given[donor].append(unit)
      }
      for (donor, units) in given.enumerated() where !units.isEmpty {
        transfers.append(UnitTransfer(from: donor, to: place, units: units))
      }
    }
    return (transfers, missing)
  }
}
