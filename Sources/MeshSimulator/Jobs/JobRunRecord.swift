/// The rules that hold in every run of a job, whatever happens to devices and network.
package enum JobRule: String, Hashable, Sendable, CaseIterable {
  /// A job, term and plan epoch never have two plans.
  case onePlanPerEpoch = "one-plan-per-epoch"
  /// After a step all devices have the values that one device alone would have.
  case sameValues = "same-values"
  /// Every sample is in exactly one committed step of each training epoch; a run breaks no rule of its own.
  case runFits = "run-fits"
  /// The adapter is the one that one device alone would make.
  case sameAdapter = "same-adapter"
  /// Within 30 s after the last fault the job advances.
  case advances = "advances"
  /// The job comes to its end, and not by failing.
  case ends = "ends"
  /// Nobody says more than a bounded number of things.
  case boundedMessages = "bounded-messages"
  /// Nobody remembers more than a bounded number of things.
  case boundedMemory = "bounded-memory"
  /// What a disk says of terms, plan epochs and promises never goes back.
  case recordsGrow = "records-grow"
  /// No coordinator wants what contradicts what was agreed on.
  case effectsFit = "effects-fit"
  /// What is sent can be read, and is the same then.
  case messagesFit = "messages-fit"
}

/// What a job's run found and measured.
package struct JobRunRecord: Sendable {
  /// Most violations that are kept.
  package static let violationLimit = 20
  /// Events after which a run is given up: ten times what the longest one needs; time may stand still.
  package static let eventLimit = 300_000

  /// Broken rules, in their order.
  package internal(set) var violations: [Violation<JobRule>] = []
  /// Events that happened.
  package internal(set) var eventCount = 0
  /// Messages on control sessions.
  package internal(set) var controlMessages = 0
  /// Messages on streams.
  package internal(set) var bulkMessages = 0
  /// Messages on streams that came under another plan epoch or stream than they were sent under.
  package internal(set) var fenced = 0
  /// The same while a run was under way in which the sender has a place: what only the fence keeps out of it.
  package internal(set) var fencedInRun = 0
  /// Plan epochs that were agreed on.
  package internal(set) var planEpochs = 0
  /// Steps that a device applied.
  package internal(set) var commits = 0
  /// Steps that were computed again, by all devices together.
  package internal(set) var repeated = 0
  /// Seconds until the owner had the adapter; nil when it never had.
  package internal(set) var finished: Double?
  /// Seconds from the last fault to the next step.
  package internal(set) var recovery: Double?

  /// Whether every rule held.
  package var hasPassed: Bool { violations.isEmpty }
}
