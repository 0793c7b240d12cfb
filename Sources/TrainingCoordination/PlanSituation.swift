import Determinism
import MeshModel

/// A run on this device, as long as its end has not been told.
struct RunSlot: Hashable, Sendable {
  enum Wish: Hashable, Sendable {
    case goOn
    case drain
    case breakOff
  }

  /// The plan that it runs.
  let stamp: JobStamp
  /// The devices that compute under that plan.
  let participants: [DeviceID]
  /// What it was asked for last.
  var wish = Wish.goOn
}

/// What a device knows of the present plan epoch alone; begun anew with each certificate and term.
struct PlanSituation: Sendable {
  struct Interruption: Sendable {
    let since: MonotonicInstant
    let reason: String
    let culprit: DeviceID?
  }

  let since: MonotonicInstant
  /// Whether this device has still to be told to fetch what its role needs.
  var needsFetch = false
  var startedAt: MonotonicInstant?
  /// When a device of the run said last that it had come further.
  var movedAt: MonotonicInstant?
  /// Whether a device has said that it applied a step under this plan.
  var hasStepped = false
  /// Which kind of steps this device's run makes: epochs with the backbone, from the cache, or what fills the cache.
  var timedPhase: DevicePhase?
  /// Since when it makes them.
  var phaseSince: MonotonicInstant?
  /// Since when all participants have been ready.
  var readySince: MonotonicInstant?
  /// Set once this device's run of this plan cannot go on.
  var interruption: Interruption?
  /// Whether this device's daemon was restarted under this plan.
  var isRestored = false
  /// Devices that have said that their run of this plan is over before its end.
  var stopped: Set<DeviceID> = []
  /// When this device's run stopped at a boundary for a plan that had not come yet.
  var boundarySince: MonotonicInstant?
  /// The interruption that led to this plan, until a step is committed again.
  var recovering: Interruption?
  /// Whether the devices that broke this plan's run off have been counted.
  var hasAccused = false
  /// Since when the voters that are there are no majority.
  var minoritySince: MonotonicInstant?
  /// Whether it stands still because of that.
  var isMinority = false
  /// Why the job stands still until something changes.
  var pausedReason: String?
  /// The whole job's rate under this plan, as it was told last.
  var samplesPerSecond: Double?

  init(since: MonotonicInstant) { self.since = since }
}

/// What a device does because it leads.
struct LeaderWork: Sendable {
  /// A request for a plan that has not been answered.
  struct Request: Sendable {
    let number: UInt64
    let cause: PlanCause
    let candidates: [DeviceID]
  }

  /// An answer that the present plan stays.
  struct Refusal: Sendable {
    var count: Int
    let until: MonotonicInstant
  }

  var number: UInt64 = 0
  var request: Request?
  var since: MonotonicInstant?
  var majoritySince: MonotonicInstant?
  var proposedSince: MonotonicInstant?
  /// Devices that a plan did without, and until when they are not put forward again.
  var refused: [DeviceID: Refusal] = [:]
  /// The same for other shares.
  var rebalancing: Refusal?
  /// Why no plan was found, and for which devices.
  var unplanned: (reason: String, candidates: [DeviceID], until: MonotonicInstant)?
  var nextAsk: MonotonicInstant?

  /// A refusal that lasts twice as long as the one before.
  static func refusal(after last: Refusal?, at now: MonotonicInstant) -> Refusal {
    let count = (last?.count ?? 0) + 1
    let wait = min(JobLimits.replanInterval * (1 << min(count - 1, 10)), JobLimits.longestRetry)
    return Refusal(count: count, until: now.advanced(by: wait))
  }
}

/// How far the owner is with the adapter.
struct Delivery: Sendable {
  var isUnderWay = false
  var failures = 0
  var resultSince: MonotonicInstant?
  var retryAt: MonotonicInstant?
}

/// This device's wish to leave the job.
struct Leave: Sendable {
  let reason: String
  let since: MonotonicInstant
}

/// How this device's preparation goes.
struct Preparation: Sendable {
  var retryAt: MonotonicInstant?
  var failures = 0
}

/// Which devices broke runs off again and again, and until when plans do without them.
struct RunCooldown: Sendable {
  private struct Entry {
    var count: Int
    var last: MonotonicInstant
    var until: MonotonicInstant
  }

  private var entries: [DeviceID: Entry] = [:]

  /// A device broke a run off; from the second time on it is left out for a time that doubles.
  mutating func note(_ device: DeviceID, at now: MonotonicInstant) {
    guard entries[device] != nil || entries.count < JobLimits.known else { return }
    var entry = entries[device] ?? Entry(count: 0, last: now, until: now)
    if entry.last.duration(to: now) >= JobLimits.longestRetry { entry.count = 0 }
    entry.count += 1
    entry.last = now
    if entry.count > 1 {
      let wait = min(JobLimits.cooldown * (1 << min(entry.count - 2, 10)), JobLimits.longestRetry)
      entry.until = now.advanced(by: wait)
    }
    entries[device] = entry
  }

  /// Until when a device is left out; nil when it is not.
  func end(for device: DeviceID, at now: MonotonicInstant) -> MonotonicInstant? {
    entries[device].flatMap { $0.until > now ? $0.until : nil }
  }
}
