import Collectives

/// The messages of kind `state`: the step of their tag says which.
enum StateMessage: UInt64 {
  /// What a device brings along.
  case inventory = 1
  /// Whose inventories a participant has.
  case present = 2
  /// Values and moments that are handed over.
  case state = 3
  /// A unit's activations that are handed over.
  case unit = 4
  /// What a device lacks of the next plan's units.
  case wanted = 5
  /// Activations for the next plan, in pieces.
  case lesson = 6
  /// That a piece of them has come.
  case lessonTaken = 7
  /// That the first phase is over, for devices that have no part in it.
  case firstPhaseEnded = 8
  /// A stage's state, gathered between two steps.
  case gathered = 9

  func tag(unit: Int = 0, part: Int = 0) -> JobTag {
    JobTag(.state, step: rawValue, unit: UInt32(unit), part: UInt32(part))
  }
}

/// What a device brings along, with what its states have beside their vectors.
struct DeviceInventory: Equatable, Sendable {
  var inventory: Inventory
  /// One a state, in the inventory's order.
  var heads: [StateHead]

  init(_ states: [TrainingState], units: UnitSet) {
    let listed = states.prefix(Handover.stateLimit)
    inventory = Inventory(
      states: listed.map { HeldState(step: $0.step, selection: $0.selection) }, units: units)
    heads = listed.map(\.head)
  }

  /// Nothing.
  init(units count: Int) {
    inventory = Inventory(units: count)
    heads = []
  }

  var message: [UInt8] {
    var writer = MessageWriter()
    writer.word(UInt32(heads.count))
    for (head, state) in zip(heads, inventory.states) {
      writer.long(UInt64(head.step))
      writer.double(head.lossSum)
      writer.long(UInt64(head.lossUnits))
      writer.words(head.exponents.map { UInt32(bitPattern: $0) })
      writer.word(UInt32(state.selection.ranges.count))
      for range in state.selection.ranges {
        writer.long(UInt64(range.lowerBound))
        writer.long(UInt64(range.upperBound))
      }
    }
    writer.set(inventory.units)
    return writer.bytes
  }

  /// - Parameter end: floats of the flat vector.
  init(_ message: [UInt8], from place: Int, units: Int, end: Int) throws(DistributedRunFailure) {
    var reader = MessageReader(message, from: place, "what a device brings along")
    heads = []
    var states: [HeldState] = []
    for _ in 0..<(try reader.count(atMost: Handover.stateLimit)) {
      let step = try reader.number(atMost: TrainingState.stepLimit)
      let lossSum = try reader.double()
      let lossUnits = try reader.number(atMost: TrainingState.stepLimit)
      let exponents = try reader.words(atMost: TrainingState.leafLimit).map { Int32(bitPattern: $0) }
      var ranges: [Range<Int>] = []
      for _ in 0..<(try reader.count(atMost: TrainingState.leafLimit)) {
        let low = try reader.number(atMost: end)
        let high = try reader.number(atMost: end)
        guard ranges.last?.upperBound ?? -1 < low, low < high else {
          throw reader.failure("the ranges of step \(step) are not in order")
        }
        ranges.append(low..<high)
      }
      states.append(HeldState(step: step, selection: VectorSelection(ranges)))
      heads.append(
        StateHead(step: step, exponents: exponents, lossSum: lossSum, lossUnits: lossUnits))
    }
    inventory = Inventory(states: states, units: try reader.set(of: units))
    try reader.finish()
  }
}

extension MessageWriter {
  mutating func set(_ set: UnitSet) {
    word(UInt32(set.count))
    for word in set.words { long(word) }
  }
}

extension MessageReader {
  mutating func number(atMost limit: Int) throws(DistributedRunFailure) -> Int {
    let number = try long()
    guard number <= limit else { throw failure("\(number), and \(limit) is the most") }
    return Int(number)
  }

  /// A set of units of a job of `count` units.
  mutating func set(of count: Int) throws(DistributedRunFailure) -> UnitSet {
    let there = try self.count(atMost: UnitSet.countLimit)
    guard there == count else { throw failure("a set of \(there) units of a job of \(count)") }
    var words: [UInt64] = []
    for _ in 0..<(count + 63) / 64 { words.append(try long()) }
    guard let set = UnitSet(count: count, words: words) else { throw failure("a set of other units") }
    return set
  }
}
