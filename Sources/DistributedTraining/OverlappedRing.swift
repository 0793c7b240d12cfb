import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import Synchronization

/// Rings that begin while the backward passes of the last units still run: leaves are grouped to buckets, and a bucket is
/// reduced, by a thread of its own, as soon as all of this device's units have finished its leaves.
///
/// A step whose values did not fit is reduced for nothing; it is computed again on all devices, and so are its rings.
///
/// - Safety: `rings` and their counters belong to the thread while a step is under way, and to the driver between steps.
final class OverlappedRing: GradientObserver, @unchecked Sendable {
  /// Most buckets: each has the latency of a ring of its own.
  static let mostBuckets = 4

  private enum Command: Sendable {
    case begin(round: UInt64, sums: any GradientSums)
    case reduce(Range<Int>)
  }

  private let links: JobLinks
  private let rings: [GradientRing]
  private let plan: BucketPlan
  /// First index of every leaf in the flat vector, ascending, with the number of its floats.
  private let leaves: [(offset: Int, count: Int)]
  /// The step's buckets, and which leaves each unit has not finished, unit by unit.
  private let readiness = Mutex<(state: BucketReadiness, unfinished: [Bool])?>(nil)
  private let commands = BlockingQueue<Command>(limit: .max)
  private let outcomes = BlockingQueue<DistributedRunFailure?>(limit: .max)
  private let thread = Mutex<OperatingSystemThread?>(nil)
  private var round: UInt64

  init(
    members: [Int], tree: ParameterTree, bytesPerSum: Int, leastBytes: Int, links: JobLinks,
    firstRound: UInt64
  ) {
    self.links = links
    round = firstRound
    let leaves = tree.parameters.compactMap { leaf in
      leaf.gradientOffset.map { (offset: $0, count: leaf.count) }
    }
    self.leaves = leaves
    let all = leaves.reduce(0) { $0 + $1.count } * bytesPerSum
    // A backward pass goes from the last leaves to the first.
    plan = BucketPlan(
      leaves: leaves.indices.reversed().map {
        (leaf: $0, range: leaves[$0].offset..<leaves[$0].offset + leaves[$0].count)
      }, bytesPerSum: bytesPerSum, minimumBytes: max(leastBytes, all / Self.mostBuckets))
    rings = plan.buckets.enumerated().map { number, bucket in
      GradientRing(
        members: members, selection: bucket.selection, links: links, bucket: number, waits: nil)
    }
    let started = OperatingSystemThread(name: "ring") { [self] in serve() }
    thread.withLock { $0 = started }
  }

  /// Nanoseconds in rings so far, whatever was computed meanwhile; between steps only.
  var nanoseconds: UInt64 { rings.reduce(0) { $0 + $1.nanoseconds } }

  // MARK: GradientObserver

  /// The step's first command to the thread.
  func begin(units: Int, sums: any GradientSums) {
    round += 1
    _ = commands.push(.begin(round: round, sums: sums))
    readiness.withLock { readiness in
      var state = BucketReadiness(plan, units: units)
      reduce(state.start())
      readiness = (state, Array(repeating: true, count: units * leaves.count))
    }
  }

  /// The sums, watched for that unit.
  func sink(unit: Int, sums: any GradientSums) -> any GradientSink {
    ObservedSink(self, unit: unit, sums: sums)
  }

  /// Leaves that the unit has added to in parts, or not at all, are finished with it.
  func finished(unit: Int) {
    readiness.withLock { readiness in
      for leaf in leaves.indices { note(leaf, unit, &readiness) }
    }
  }

  /// A unit has added to a leaf; only a whole gradient finishes it before the unit's end.
  fileprivate func added(_ parameter: Parameter, unit: Int) {
    guard let offset = parameter.gradientOffset, let leaf = leaf(at: offset),
      leaves[leaf].count == parameter.count
    else { return }
    readiness.withLock { note(leaf, unit, &$0) }
  }

  private func note(
    _ leaf: Int, _ unit: Int, _ readiness: inout (state: BucketReadiness, unfinished: [Bool])?
  ) {
    let place = unit * leaves.count + leaf
    guard readiness?.unfinished[place] == true else { return }
    readiness?.unfinished[place] = false
    do throws(BucketReadiness.Failure) {
      // In the lock, so that buckets are handed over in their order.
      reduce(try readiness?.state.leafFinished(leaf, unit: unit) ?? 0..<0)
    } catch {
      preconditionFailure("\(error)")
    }
  }

  private func leaf(at offset: Int) -> Int? {
    var (low, high) = (0, leaves.count)
    while low < high {
      let middle = (low + high) / 2
      if leaves[middle].offset < offset { low = middle + 1 } else { high = middle }
    }
    return low < leaves.count && leaves[low].offset == offset ? low : nil
  }

  private func reduce(_ buckets: Range<Int>) {
    if !buckets.isEmpty { _ = commands.push(.reduce(buckets)) }
  }

  // MARK: The thread

  private func serve() {
    var current: (round: UInt64, sums: any GradientSums)?
    while let command = commands.pop() {
      switch command {
      case .begin(let round, let sums): current = (round, sums)
      case .reduce(let buckets):
        guard let current else { continue }
        do throws(DistributedRunFailure) {
          for bucket in buckets { try rings[bucket].reduce(current.sums, round: current.round) }
          if buckets.upperBound == rings.count { _ = outcomes.push(nil) }
        } catch {
          links.abort(error.description)
          _ = outcomes.push(error)
          return
        }
      }
    }
  }

  /// Whether `wait` would return at once: every bucket is reduced, or the ring has failed.
  var isOver: Bool { outcomes.isReady }

  /// Waits until every bucket of the step is reduced.
  func wait() throws(DistributedRunFailure) {
    let start = MonotonicClock.nanoseconds()
    defer { links.book(.ring, since: start) }
    guard let outcome = outcomes.pop() else {
      throw .channel(.aborted("the run has ended"), during: "waiting for the ring")
    }
    if let outcome { throw outcome }
  }

  /// Ends the thread between steps, or after a failure when the channel has been aborted.
  func end() {
    commands.end(discarding: true)
    thread.withLock { thread in
      defer { thread = nil }
      return thread
    }?.join()
    outcomes.end(discarding: true)
  }
}

/// The sums, watched for one unit.
private final class ObservedSink: GradientSink {
  private let ring: OverlappedRing
  private let unit: Int
  private let sums: any GradientSums

  init(_ ring: OverlappedRing, unit: Int, sums: any GradientSums) {
    self.ring = ring
    self.unit = unit
    self.sums = sums
  }

  func add(_ gradient: UnsafePointer<Float>, of parameter: Parameter) {
    sums.add(gradient, of: parameter)
    ring.added(parameter, unit: unit)
  }
}
