import Determinism
import MeshModel

/// The doubt about one member, and how long it has left to refute (Lifeguard §IV-B, LHA-Suspicion).
///
/// With C independent confirmations of the K that are looked for, the time-out is
///
///     max(Min, Max − (Max − Min) · log(C + 1) / log(K + 1))
///
/// (Dadgar, Phillips, Currey: "Lifeguard: Local Health Awareness for More Accurate Failure Detection",
/// arXiv 1707.00788). It starts high and falls as others come to the same conclusion on their own; a device that is
/// slow itself hears no confirmations, and so accuses nobody in haste. K is min(K of the profile, members − 2): with
/// two members there is nobody to confirm, and the time-out stays at its maximum.
package struct Suspicion: Hashable, Sendable {
  /// When this device began to doubt; moved when it was not listening.
  private(set) var start: MonotonicInstant
  /// Who says so from an own failed probe, in ascending order.
  private(set) var accusers: [DeviceID] = []
  /// K: how many confirmations bring the time-out to its minimum.
  let wanted: Int
  /// Whether somebody has already waited in vain, so that the minimum is enough.
  private var isConfirmed = false

  /// A doubt that starts now, in a household of `memberCount` members that take part.
  init(start: MonotonicInstant, memberCount: Int, profile: GossipProfile) {
    self.start = start
    wanted = max(0, min(profile.suspicionConfirmations, memberCount - 2))
  }

  /// C: the accusers beyond the first.
  var confirmations: Int { max(0, accusers.count - 1) }

  /// Takes in an accuser; false when it has spoken before or no more are wanted.
  mutating func confirm(by accuser: DeviceID) -> Bool {
    guard accusers.count <= wanted else { return false }
    let place = accusers.firstIndex { $0 >= accuser } ?? accusers.count
    guard place == accusers.count || accusers[place] != accuser else { return false }
    accusers.insert(accuser, at: place)
    return true
  }

  /// Somebody else has already waited in vain: the minimum is enough.
  mutating func conclude() { isConfirmed = true }

  /// Starts anew: what was heard before this device was away says nothing now.
  mutating func restart(at now: MonotonicInstant) {
    start = now
    accusers = []
    isConfirmed = false
  }

  /// Does not count time in which this device did not listen.
  mutating func postpone(by duration: Duration) { start = start.advanced(by: duration) }

  /// When the member becomes unreachable.
  func deadline(_ profile: GossipProfile) -> MonotonicInstant {
    let timeout =
      isConfirmed
      ? profile.suspicionMinimum
      : Self.timeout(
        confirmations: confirmations, wanted: wanted, minimum: profile.suspicionMinimum,
        maximum: profile.suspicionMaximum)
    return start.advanced(by: timeout)
  }

  /// The formula above; the maximum when no confirmation is possible.
  package static func timeout(
    confirmations: Int, wanted: Int, minimum: Duration, maximum: Duration
  ) -> Duration {
    guard wanted > 0, confirmations > 0 else { return maximum }
    guard confirmations < wanted else { return minimum }
    let share = logarithm(confirmations + 1) / logarithm(wanted + 1)
    return max(minimum, maximum - (maximum - minimum) * share)
  }

  /// The natural logarithm of a small positive integer, by additions and divisions alone: the same bits everywhere.
  private static func logarithm(_ number: Int) -> Double {
    var sum = 0.0
    for step in 1..<number {
      // ln((step + 1) / step) = 2 · artanh(1 / (2 · step + 1))
      let ratio = 1 / Double(2 * step + 1)
      var power = ratio
      for odd in stride(from: 1.0, through: 41, by: 2) {
        sum += 2 * power / odd
        power *= ratio * ratio
      }
    }
    return sum
  }
}

/// Lifeguard's local health multiplier (§IV-A): how much this device should distrust its own haste.
struct LocalHealth: Hashable, Sendable {
  /// 0 when well; at most the profile's maximum.
  private(set) var score = 0
  private let maximum: Int

  /// A device that is well.
  init(maximum: Int) { self.maximum = maximum }

  /// What intervals and time-outs are multiplied by.
  var multiplier: Int { score + 1 }

  /// A probe succeeded.
  mutating func improve() { score = max(0, score - 1) }

  /// This device was late, had to refute, or missed negative answers.
  mutating func worsen(by points: Int = 1) { score = min(maximum, score + points) }
}
