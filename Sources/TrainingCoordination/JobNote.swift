package import MeshModel

/// Something that happened to a job's devices, for people.
package struct JobNote: Hashable, Sendable {
  /// What happened.
  package enum Event: Hashable, Sendable {
    /// A device dropped out of the plan, and why.
    case lost(DeviceID, reason: String)
    /// A device left with notice, and why.
    case left(DeviceID, reason: String)
    /// A device has a role that had none.
    case joined(DeviceID)
    /// A device could take part and is not used, and why.
    case declined(DeviceID, reason: String)
    /// Another plan is in force; the job's rate before, nil when it was not running.
    case replanned(from: UInt64, to: UInt64, cause: PlanCause, samplesPerSecond: Double?)
    /// This device has committed a step again, this many seconds after its run was broken off.
    case recovered(step: UInt64, seconds: Double)
    /// The job stands still, and why.
    case paused(reason: String)
    /// An admin let the job go on without a majority of its devices.
    case adopted(by: DeviceID)
  }

  /// Counts the notes of this device; a restarted daemon begins anew.
  package var ordinal: UInt32
  /// Seconds since the job became known to this device, or since its daemon was restarted.
  package var seconds: Double
  /// The plan epoch in which it happened.
  package var epoch: UInt64
  /// What happened.
  package var event: Event

  /// A note.
  package init(ordinal: UInt32, seconds: Double, epoch: UInt64, event: Event) {
    self.ordinal = ordinal
    self.seconds = seconds
    self.epoch = epoch
    self.event = event
  }
}

/// What the voters that are there weigh, against what a decision needs.
package struct JobQuorum: Hashable, Sendable {
  /// Weight of the voters that are there.
  package var present: Int
  /// The smallest weight that decides.
  package var needed: Int
  /// Weight of all voters.
  package var total: Int

  /// A quorum.
  package init(present: Int, needed: Int, total: Int) {
    self.present = present
    self.needed = needed
    self.total = total
  }

  /// Whether those that are there can decide.
  package var isEnough: Bool { present >= needed }
}
