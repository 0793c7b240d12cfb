package import MeshModel

/// How well a device would lead; the greatest leads.
///
/// In this order: a job's anchor (usually the device that owns the data), mains power, a wired network, more memory
/// (by powers of two, so that a few megabytes decide nothing), and at last the smaller name. Every device computes
/// the same from the same view.
package struct LeaderRank: Hashable, Sendable, Comparable {
  private let isAnchor: Bool
  private let isOnMains: Bool
  private let isWired: Bool
  private let memoryClass: Int
  private let device: DeviceID

  /// The rank of a member; `anchor` is the tie-breaker of a job, if there is one.
  package init(_ record: MemberRecord, anchor: DeviceID? = nil) {
    device = record.device
    isAnchor = anchor == record.device
    isOnMains = record.traits.power == .mains
    isWired = record.traits.attachment == .wired
    memoryClass = UInt32.bitWidth - record.traits.memoryMebibytes.leadingZeroBitCount
  }

  private var key: (Int, Int, Int, Int) {
    (isAnchor ? 1 : 0, isOnMains ? 1 : 0, isWired ? 1 : 0, memoryClass)
  }

  /// Whether `right` would lead better.
  package static func < (left: LeaderRank, right: LeaderRank) -> Bool {
    left.key == right.key ? left.device > right.device : left.key < right.key
  }
}

/// The choice of a leader from a view: a suggestion that saves work, never a safety device.
///
/// Two devices may follow different leaders for a while; what a leader orders is therefore fenced elsewhere, by the
/// plan epochs of the job.
enum LeaderChoice {
  /// The device that the members should follow.
  ///
  /// Whoever most members follow keeps the job while it takes part and is available: a better device that joins
  /// changes nothing. Without such an incumbent the best rank leads. Among equally followed ones rank decides, so
  /// that two halves of a healed partition agree.
  static func leader(of members: [MemberRecord]) -> DeviceID? {
    let candidates = members.filter { $0.state.takesPart && $0.traits.isAvailable }
    let hints = members.filter(\.state.takesPart).compactMap(\.leader)
    let best = candidates.max { left, right in
      let (leftVotes, rightVotes) = (votes(for: left, in: hints), votes(for: right, in: hints))
      return leftVotes == rightVotes
        ? LeaderRank(left) < LeaderRank(right) : leftVotes < rightVotes
    }
    return best?.device
  }

  private static func votes(for record: MemberRecord, in hints: [DeviceID]) -> Int {
    var count = 0
    for hint in hints where hint == record.device { count += 1 }
    return count
  }
}
