import Collectives
import ComputeRuntime
import FineTuning
import NeuralNetworks
import Synchronization

/// Rings that begin while the backward passes of the last units still run: leaves are grouped to buckets, and a bucket is
/// reduced, by a thread of its own, as soon as all of this device's units have finished its leaves.
///
/// The rings of several buckets are under way at once: a ring is as slow as its hops, and a device that waits for one hop
/// can do its part of another.
///
/// A step whose values did not fit is reduced for nothing; it is computed again on all devices, and so are its rings.
///
/// - Safety: each of `rings` belongs to its thread while a step is under way, and to the driver between steps.
final class OverlappedRing: GradientObserver, @unchecked Sendable {
  /// Most buckets: each has a thread and the latency of a ring of its own.
  static let mostBuckets = 4

  /// A step whose sums are reduced.
  private struct Step: Sendable {
    var round: UInt64
    var sums: any GradientSums
  }

  /// The step's buckets, and which leaves each unit has not finished, unit by unit.
  private struct Readiness {
    var step: Step
    var state: BucketReadiness
    var unfinished: [Bool]
  }

  /// How far the rings of a step are.
  private struct Progress {
    var running = 0
    var over = 0
    /// When the first of those that run began.
    var began: UInt64 = 0
    var nanoseconds: UInt64 = 0
  }

  private let links: JobLinks
  private let rings: [GradientRing]
  private let plan: BucketPlan
  /// First index of every leaf in the flat vector, ascending, with the number of its floats.
  private let leaves: [(offset: Int, count: Int)]
  private let readiness = Mutex<Readiness?>(nil)
  /// For each ring, the steps whose sums are ready for it.
  private let ready: [BlockingQueue<Step>]
  private let progress = Mutex(Progress())
  /// One for each step: nil when all its rings are over.
  private let outcomes = BlockingQueue<DistributedRunFailure?>(limit: .max)
  private let threads = Mutex<[OperatingSystemThread]>([])
  private var round: UInt64

  /// - Parameters:
  ///   - own: the leaves that the members sum, by place in the tree; at least one.
  init(
    members: [Int], tree: ParameterTree, own: [Int], bytesPerSum: Int, leastBytes: Int, links: JobLinks,
    firstRound: UInt64
  ) {
    precondition(!own.isEmpty, "a ring without sums would never be over")
    self.links = links
    round = firstRound
    let leaves = own.sorted().compactMap { place in
      tree.parameters[place].gradientOffset.map { (offset: $0, count: tree.parameters[place].count) }
    }
    self.leaves = leaves
    let all = leaves.reduce(0) { $0 + $1.count } * bytesPerSum
    // A backward pass goes from the last leaves to the first. The gaps between leaves go round with them, so that the sums of
    // nearly every message lie in one place.
    plan = BucketPlan(
      leaves: leaves.indices.reversed().map {
        (leaf: $0, range: leaves[$0].offset..<leaves[$0].offset + ParameterTree.room(for: leaves[$0].count))
      }, bytesPerSum: bytesPerSum, minimumBytes: max(leastBytes, all / Self.mostBuckets))
    rings = plan.buckets.enumerated().map { number, bucket in
      GradientRing(
        members: members, selection: bucket.selection, links: links, bucket: number, waits: nil)
    }
    ready = rings.map { _ in BlockingQueue(limit: .max) }
    let started = rings.indices.map { bucket in
      OperatingSystemThread(name: "ring") { [self] in serve(bucket) }
    }
    threads.withLock { $0 = started }
  }

  /// Nanoseconds in which any ring was under way so far, whatever was computed meanwhile; between steps only.
  var nanoseconds: UInt64 { progress.withLock { $0.nanoseconds } }

  /// What this device has sent so far; between steps only.
  var traffic: SumTraffic { rings.reduce(SumTraffic()) { $0 + $1.traffic } }

  // MARK: GradientObserver

  func begin(units: Int, sums: any GradientSums) {
    round += 1
    progress.withLock { $0.over = 0 }
    let step = Step(round: round, sums: sums)
    readiness.withLock { readiness in
      var state = BucketReadiness(plan, units: units)
      reduce(state.start(), step)
      readiness = Readiness(
        step: step, state: state, unfinished: Array(repeating: true, count: units * leaves.count))
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

  private func note(_ leaf: Int, _ unit: Int, _ readiness: inout Readiness?) {
    let place = unit * leaves.count + leaf
    guard let step = readiness?.step, readiness?.unfinished[place] == true else { return }
    readiness?.unfinished[place] = false
    do throws(BucketReadiness.Failure) {
      // In the lock, so that buckets are handed over in their order.
      reduce(try readiness?.state.leafFinished(leaf, unit: unit) ?? 0..<0, step)
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

  private func reduce(_ buckets: Range<Int>, _ step: Step) {
    for bucket in buckets { _ = ready[bucket].push(step) }
  }

  // MARK: The threads

  private func serve(_ bucket: Int) {
    while let step = ready[bucket].pop() {
      progress.withLock { progress in
        if progress.running == 0 { progress.began = MonotonicClock.nanoseconds() }
        progress.running += 1
      }
      do throws(DistributedRunFailure) {
        try rings[bucket].reduce(step.sums, round: step.round)
      } catch {
        links.abort(error.description)
        _ = outcomes.push(error)
        return
      }
      let isLast = progress.withLock { progress in
        progress.running -= 1
        progress.over += 1
        if progress.running == 0 { progress.nanoseconds += MonotonicClock.nanoseconds() - progress.began }
        return progress.over == rings.count
      }
      if isLast { _ = outcomes.push(nil) }
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

  /// Ends the threads between steps, or after a failure when the channel has been aborted.
  func end() {
    for queue in ready { queue.end(discarding: true) }
    let ended = threads.withLock { threads in
      defer { threads = [] }
      return threads
    }
    for thread in ended { thread.join() }
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
