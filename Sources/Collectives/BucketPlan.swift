/// Which leaves are reduced together while the backward pass of other leaves still runs.
///
/// Leaves are grouped in the order in which the backward pass finishes them, to buckets of at least so many bytes: small
/// enough that the first ring begins early, large enough that the latency of its hops does not count.
package struct BucketPlan: Sendable, Equatable {
  /// Leaves that are reduced together.
  package struct Bucket: Sendable, Equatable {
    /// Numbers of the leaves, in the order in which they are finished.
    package var leaves: [Int]
    /// Where their sums are in the flat vector.
    package var selection: VectorSelection
  }

  /// The buckets, in the order in which their rings begin on every member.
  package let buckets: [Bucket]
  /// The bucket of each leaf; nil for one that has no sums here.
  private let holders: [Int?]

  /// Groups leaves to buckets.
  ///
  /// - Parameters:
  ///   - leaves: the number of each leaf and where its sums are in the flat vector, in the order in which the backward
  ///     pass finishes them.
  ///   - bytesPerSum: bytes of one sum.
  ///   - minimumBytes: a bucket is closed when it has at least as many; the last may have fewer.
  package init(leaves: [(leaf: Int, range: Range<Int>)], bytesPerSum: Int, minimumBytes: Int) {
    precondition(
      bytesPerSum > 0 && minimumBytes > 0, "buckets of \(minimumBytes) bytes with sums of \(bytesPerSum)")
    var groups: [[(leaf: Int, range: Range<Int>)]] = []
    var open: [(leaf: Int, range: Range<Int>)] = []
    var bytes = 0
    for entry in leaves {
      open.append(entry)
      bytes += entry.range.count * bytesPerSum
      if bytes >= minimumBytes {
        groups.append(open)
        open = []
        bytes = 0
      }
    }
    if !open.isEmpty { groups.append(open) }
    buckets = groups.map { group in
      Bucket(
        leaves: group.map(\.leaf),
        selection: VectorSelection(group.map(\.range).sorted { $0.lowerBound < $1.lowerBound }))
    }
    var holders = [Int?](repeating: nil, count: (leaves.map(\.leaf).max() ?? -1) + 1)
    for (bucket, group) in groups.enumerated() {
      for entry in group {
        precondition(holders[entry.leaf] == nil, "leaf \(entry.leaf) is finished twice")
        holders[entry.leaf] = bucket
      }
    }
    self.holders = holders
  }

  /// The bucket of a leaf; nil when it has no sums here.
  package func bucket(of leaf: Int) -> Int? { holders.indices.contains(leaf) ? holders[leaf] : nil }
}

/// Which buckets of a step have all of this device's gradients, so that their rings may begin.
///
/// A leaf may be used by several layers; it counts as finished by a unit once its whole gradient was added. Buckets are
/// released in their order in the plan, which is the same on all members: a ring that waits for one member's bucket never
/// waits for a later one.
package struct BucketReadiness: Sendable, Equatable {
  /// Why a report does not fit the step.
  package enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
    /// The leaf is in no bucket.
    case unknownLeaf(Int)
    /// This device does not compute the unit.
    case unknownUnit(Int, units: Int)
    /// The unit has finished the leaf before.
    case repeated(leaf: Int, unit: Int)

    /// What was reported.
    package var description: String {
      switch self {
      case .unknownLeaf(let leaf): "leaf \(leaf) is finished, but it is in no bucket of the reduction"
      case .unknownUnit(let unit, let units):
        "unit \(unit) finished a leaf, but this device computes \(units) units of the step"
      case .repeated(let leaf, let unit):
        "unit \(unit) finished leaf \(leaf) twice; the step has to be computed again"
      }
    }
  }

  private let plan: BucketPlan
  private let units: Int
  /// Reports of each bucket that have not come.
  private var missing: [Int]
  /// Whether a unit has finished a leaf, by leaf and unit.
  private var finished: [Int: [Bool]] = [:]
  private var released = 0

  /// A step in which this device computes `units` units.
  package init(_ plan: BucketPlan, units: Int) {
    precondition(units >= 0, "\(units) units")
    self.plan = plan
    self.units = units
    missing = plan.buckets.map { $0.leaves.count * units }
  }

  /// The buckets whose rings may begin before any gradient: all of them on a device that computes nothing in this step.
  package mutating func start() -> Range<Int> { release() }

  /// One unit's whole gradient of a leaf is in the sums; the buckets whose rings may begin now, in order.
  package mutating func leafFinished(_ leaf: Int, unit: Int) throws(Failure) -> Range<Int> {
    guard let bucket = plan.bucket(of: leaf) else { throw .unknownLeaf(leaf) }
    guard 0..<units ~= unit else { throw .unknownUnit(unit, units: units) }
    var reports = finished[leaf] ?? [Bool](repeating: false, count: units)
    guard !reports[unit] else { throw .repeated(leaf: leaf, unit: unit) }
    reports[unit] = true
    finished[leaf] = reports
    missing[bucket] -= 1
    return release()
  }

  /// Whether the rings of all buckets may have begun.
  package var isComplete: Bool { released == missing.count }

  private mutating func release() -> Range<Int> {
    let first = released
    while released < missing.count, missing[released] == 0 { released += 1 }
    return first..<released
  }
}
