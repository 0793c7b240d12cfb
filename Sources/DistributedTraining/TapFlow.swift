import ActivationCache
import ComputeRuntime
import FineTuning
import Synchronization
import TensorKernels

/// A unit whose activations one device keeps and others compute.
struct TapUnit: Sendable {
  /// Names the unit in tags: 0 and the number of a validation unit, or a mini-batch from 1 on and its lane.
  let step: UInt64
  let unit: UInt32
  let batch: PackedMicroBatch
  /// The device that computes each stage of it.
  let computers: [Int]

  func tag(stage: Int) -> JobTag { JobTag(.taps, step: step, unit: unit, part: UInt32(stage)) }
}

/// Taps on their way to the devices that will read them, while the epoch goes on: a thread that sends and a thread that
/// receives.
///
/// All devices send and receive units in one order (validation units, then mini-batch by mini-batch), so queues that are
/// full only ever wait for earlier units and nothing waits in a circle. A full queue makes the driver wait.
final class TapFlow: Sendable {
  /// In place of a unit's first taps: the devices that compute have stopped, and no more will come.
  static let stopMark: [UInt8] = [0]
  /// Bytes of taps that wait to be sent before the driver waits.
  static let queueBytes = 64 << 20

  private let links: JobLinks
  private let outbox: Outbox
  /// What this device computes for itself.
  private let own: BlockingQueue<[UInt8]>
  private let failure = Mutex<DistributedRunFailure?>(nil)
  private let receiver = Mutex<OperatingSystemThread?>(nil)
  private let waited = Mutex<UInt64>(0)

  init(links: JobLinks) {
    self.links = links
    let own = BlockingQueue<[UInt8]>(limit: Self.queueBytes)
    self.own = own
    outbox = Outbox(links: links, name: "taps-out", limit: Self.queueBytes) { taps, _ in
      own.push(taps, weight: taps.count)
    } ended: {
      own.end()
    }
  }

  /// Starts to receive; `expected` are the units that this device keeps and does not have, in the order of all devices.
  func start(
    expected: [TapUnit], keep: @escaping @Sendable (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  ) {
    let thread = OperatingSystemThread(name: "taps-in") { [self] in
      do throws(DistributedRunFailure) {
        try receiveAll(expected, keep)
      } catch {
        failure.withLock { $0 = error }
        own.end(discarding: true)
        links.abort(error.description)
      }
    }
    receiver.withLock { $0 = thread }
  }

  /// Sends the taps of one stage of a unit to their owner; waits while too many are on their way.
  ///
  /// - Parameter moment: when the boundaries of the unit, and of those before it, are sent. Taps never overtake them: a full
  ///   link would keep boundaries back without which nobody can take the taps.
  func put(
    _ taps: [UInt8], tag: JobTag, to device: Int, after moment: SentMoment?
  ) throws(DistributedRunFailure) {
    let start = MonotonicClock.nanoseconds()
    defer { book(start) }
    do throws(DistributedRunFailure) {
      try outbox.put(taps, tag, to: device, after: moment)
    } catch {
      throw failure.withLock { $0 } ?? error
    }
  }

  /// Waits until everything is sent, received and kept.
  func finish() throws(DistributedRunFailure) {
    let start = MonotonicClock.nanoseconds()
    defer { book(start) }
    try outbox.finish()
    join()
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Ends both threads after a failure elsewhere; the channel must have been aborted.
  func cancel() {
    own.end(discarding: true)
    outbox.cancel()
    join()
  }

  /// Nanoseconds that the driver has waited for the taps' way.
  var waits: UInt64 { waited.withLock { $0 } }

  private func book(_ start: UInt64) {
    let time = MonotonicClock.nanoseconds() - start
    waited.withLock { $0 += time }
  }

  private func join() {
    receiver.withLock { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }

  private func receive(_ tag: JobTag, from device: Int) throws(DistributedRunFailure) -> [UInt8] {
    guard device == links.place else { return try links.receive(tag, from: device, nil) }
    guard let taps = own.pop() else {
      throw .channel(.aborted("the taps of this device ended early"), during: "keeping taps")
    }
    return taps
  }

  private func receiveAll(
    _ expected: [TapUnit], _ keep: (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  ) throws(DistributedRunFailure) {
    for unit in expected {
      var parts: [[UInt8]] = []
      for (stage, device) in unit.computers.enumerated() {
        let taps = try receive(unit.tag(stage: stage), from: device)
        if stage == 0, taps == Self.stopMark { return }
        parts.append(taps)
      }
      do throws(TrainingFailure) {
        try keep(unit, parts)
      } catch {
        throw .training(error)
      }
    }
  }
}
