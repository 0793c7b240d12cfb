import ParallelPlanner

/// What every device of the household list has to do with a plan epoch, from its plans alone.
struct RunRoles: Sendable, Equatable {
  /// What one device does.
  enum Role: Equatable, Sendable {
    /// It has a role in the plan.
    case participant
    /// It has one in the next plan only: it is prepared in the background.
    case learner
    /// It has none: it hands over what it has.
    case donor
  }

  /// By place.
  let roles: [Role]

  init(_ division: WorkDivision, next: WorkDivision?, devices: Int) {
    let now = Set(division.devices)
    let later = Set(next?.devices ?? [])
    roles = (0..<devices).map { place in
      now.contains(place) ? .participant : later.contains(place) ? .learner : .donor
    }
  }

  var participants: [Int] { places(.participant) }
  var learners: [Int] { places(.learner) }
  var donors: [Int] { places(.donor) }

  private func places(_ role: Role) -> [Int] { roles.indices.filter { roles[$0] == role } }
}
