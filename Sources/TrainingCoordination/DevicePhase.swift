/// What a device of a job is busy with; the raw values are the wire's, the order is that of `rank`.
package enum DevicePhase: UInt8, Hashable, Sendable, CaseIterable, Comparable {
  /// It knows of the job and has not begun.
  case waiting = 0
  /// It fetches the package and measures itself.
  case preparing = 1
  /// It has told the leader what it can do, and waits for a plan that names it.
  case prepared = 2
  /// It leads, and looks for the best plan.
  case planning = 3
  /// It leads, and waits for the others' votes.
  case deciding = 4
  /// It fetches the weights of its layers.
  case fetching = 5
  /// It waits until all devices of the plan have theirs.
  case ready = 6
  /// Forward passes fill the activation cache.
  case filling = 7
  /// An epoch that runs the backbone.
  case live = 8
  /// Parameters and cached activations go to those who need them next.
  case transition = 9
  /// An epoch from the cache.
  case cached = 10
  /// Held-out samples are measured.
  case evaluating = 11
  /// Its part is done.
  case completed = 12
  /// Its run of this plan was broken off; it waits for the next plan.
  case interrupted = 13
  /// It is fed in the background with what its part of the next plan needs.
  case learning = 14
  /// It holds all that its part of the next plan needs.
  case learned = 15
  /// It takes no part, because a person or its battery says so.
  case paused = 16
  /// It has handed over what it held, and takes no part in this plan.
  case handedOver = 17

  /// How far a device in this phase is on its way through a plan.
  package var rank: Int {
    switch self {
    case .waiting: 0
    case .paused: 1
    case .interrupted: 2
    case .preparing: 3
    case .prepared: 4
    case .planning: 5
    case .deciding: 6
    case .fetching: 7
    case .ready: 8
    case .learning: 9
    case .learned: 10
    case .filling: 11
    case .live: 12
    case .transition: 13
    case .cached: 14
    case .evaluating: 15
    case .handedOver: 16
    case .completed: 17
    }
  }

  /// Whether a device in this phase has a run that goes on.
  package var isRunning: Bool { Self.filling.rank...Self.evaluating.rank ~= rank }

  /// Whether `left` comes before `right` in a job without an evaluation between.
  package static func < (left: DevicePhase, right: DevicePhase) -> Bool { left.rank < right.rank }
}
