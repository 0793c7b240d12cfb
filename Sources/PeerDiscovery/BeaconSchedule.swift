import Determinism
import MeshModel

/// When the next round of beacons is due: often after a start or a change, seldom afterwards.
struct BeaconSchedule: Sendable {
  private var origin: MonotonicInstant
  private var round = 0
  private var lastRound: MonotonicInstant?
  private var lastAnswer: [Beacon.Kind: MonotonicInstant] = [:]
  /// Grows with every round.
  private(set) var counter: UInt64 = 0
  /// When the next round is due.
  private(set) var next: MonotonicInstant
  /// Time between rounds after the first ones.
  var interval = DiscoveryLimits.beaconInterval

  init(at now: MonotonicInstant) {
    origin = now
    next = now
  }

  /// Starts the first rounds again, keeping the least distance to the round before.
  mutating func restart(at now: MonotonicInstant) {
    origin = max(now, lastRound?.advanced(by: DiscoveryLimits.beaconSpacing) ?? now)
    round = 0
    next = origin
  }

  /// Takes a round that is due; overdue ones are not made up for.
  mutating func takeRound(at now: MonotonicInstant) -> Bool {
    guard next <= now else { return false }
    counter += 1
    lastRound = now
    let rounds = DiscoveryLimits.beaconRounds
    repeat { round += 1 } while round < rounds.count && origin.advanced(by: rounds[round]) <= now
    if round < rounds.count {
      next = origin.advanced(by: rounds[round])
    } else {
      next = next.advanced(by: interval)
      if next <= now { next = now.advanced(by: interval) }
    }
    return true
  }

  /// Brings the next round nearer when the interval has become shorter.
  mutating func shorten(to interval: Duration, at now: MonotonicInstant) {
    self.interval = interval
    next = min(next, now.advanced(by: interval))
  }

  /// Whether an answer of this kind may be sent now; counts it if so.
  mutating func takeAnswer(_ kind: Beacon.Kind, at now: MonotonicInstant) -> Bool {
    if let last = lastAnswer[kind], now < last.advanced(by: DiscoveryLimits.beaconAnswer) { return false }
    lastAnswer[kind] = now
    counter += 1
    return true
  }
}

/// The announcing daemons that have been heard of, and which device each turned out to be.
struct InstanceBook: Sendable {
  struct Entry: Sendable {
    let tag: InstanceTag
    var device: DeviceID?
    var counter: UInt64 = 0
    var isAnswered = false
    var lastHeard: MonotonicInstant
  }

  private(set) var entries: [Entry] = []

  /// The device that an instance turned out to be.
  func device(of tag: InstanceTag?) -> DeviceID? {
    guard let tag else { return nil }
    return entries.first { $0.tag == tag }?.device
  }

  /// Where an instance is kept, after making room for it.
  mutating func index(of tag: InstanceTag, at now: MonotonicInstant) -> Int {
    if let known = entries.firstIndex(where: { $0.tag == tag }) {
      entries[known].lastHeard = now
      return known
    }
    if entries.count >= DiscoveryLimits.instances {
      // Who is known to be a device stays longest.
      var oldest = 0
      for index in entries.indices
      where (entries[index].device == nil ? 0 : 1, entries[index].lastHeard)
        < (entries[oldest].device == nil ? 0 : 1, entries[oldest].lastHeard)
      {
        oldest = index
      }
      entries.remove(at: oldest)
    }
    entries.append(Entry(tag: tag, lastHeard: now))
    return entries.count - 1
  }

  /// Notes a beacon's counter; false when it is older than the last one.
  mutating func advance(_ tag: InstanceTag, counter: UInt64, at now: MonotonicInstant) -> Bool {
    let index = index(of: tag, at: now)
    guard counter >= entries[index].counter else { return false }
    entries[index].counter = counter
    return true
  }

  /// Whether a beacon of this instance was answered before.
  func isAnswered(_ tag: InstanceTag) -> Bool { entries.first { $0.tag == tag }?.isAnswered ?? false }

  /// Notes that a beacon of this instance was answered.
  mutating func setAnswered(_ tag: InstanceTag, at now: MonotonicInstant) {
    entries[index(of: tag, at: now)].isAnswered = true
  }

  /// Notes which device an instance is.
  mutating func identify(_ tag: InstanceTag, as device: DeviceID, at now: MonotonicInstant) {
    entries[index(of: tag, at: now)].device = device
  }
}
