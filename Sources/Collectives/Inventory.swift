/// The state of training after an optimizer step, as far as a device has it.
package struct HeldState: Sendable, Hashable {
  /// Optimizer steps that are in it.
  package var step: Int
  /// Where its values and moments are in the flat vector.
  package var selection: VectorSelection

  /// The state after `step` steps, of a part of the flat vector.
  package init(step: Int, selection: VectorSelection) {
    self.step = step
    self.selection = selection
  }
}

/// What a device brings along when a plan epoch begins.
package struct Inventory: Sendable, Hashable {
  /// The states that it has; several may be of one step.
  package var states: [HeldState]
  /// The units whose activations it has, by number: training units, then held-out units.
  package var units: UnitSet

  /// An inventory.
  package init(states: [HeldState], units: UnitSet) {
    self.states = states
    self.units = units
  }

  /// Nothing, of a job of so many units.
  package init(units count: Int) { self.init(states: [], units: UnitSet(count: count)) }
}

/// What a device has to have before it can do its part.
package struct HandoverNeed: Sendable, Equatable {
  /// The part of the flat vector whose state it trains.
  package var selection: VectorSelection
  /// The units whose activations it will read and nobody computes meanwhile.
  package var units: UnitSet

  /// A need.
  package init(selection: VectorSelection, units: UnitSet) {
    self.selection = selection
    self.units = units
  }
}

/// Why a handover cannot be made out.
package enum HandoverFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// More devices than a plan can have.
  case manyPlaces(Int)
  /// A device lists more states than it may.
  case manyStates(place: Int, states: Int)
  /// A device lists a state after a step that the job does not have.
  case unknownStep(place: Int, step: Int)
  /// A device lists a part of the vector that does not exist.
  case foreignRange(place: Int, Range<Int>)
  /// A device's list is about another number of units.
  case foreignUnits(place: Int, units: Int, expected: Int)
  /// There is a need for every device, or not.
  case needs(Int, places: Int)

  /// What was wrong, where, and what follows.
  package var description: String {
    let fault =
      switch self {
      case .manyPlaces(let places): "\(places) devices; \(Handover.placeLimit) is the most"
      case .manyStates(let place, let states):
        "device \(place) lists \(states) states; \(Handover.stateLimit) is the most"
      case .unknownStep(let place, let step):
        "device \(place) lists step \(step), which the job does not have"
      case .foreignRange(let place, let range):
        "device \(place) names the values \(range), which the job does not train"
      case .foreignUnits(let place, let units, let expected):
        "device \(place) lists \(units) units of a job of \(expected)"
      case .needs(let needs, let places): "\(needs) needs of \(places) devices"
      }
    return "what the devices of the plan bring along does not fit the job: \(fault); "
      + "bring all devices to one version of hearth"
  }
}
