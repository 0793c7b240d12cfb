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
  /// Bytes of taps that wait to be sent before the driver waits.
  static let queueBytes = 64 << 20

  private struct Parcel: Sendable {
    let taps: [UInt8]
    let tag: JobTag
    let device: Int
  }

  private let links: JobLinks
  private let outgoing = BlockingQueue<Parcel>(limit: TapFlow.queueBytes)
  /// What this device computes for itself.
  private let own = BlockingQueue<Parcel>(limit: TapFlow.queueBytes)
  private let failure = Mutex<DistributedRunFailure?>(nil)
  private let threads = Mutex<[OperatingSystemThread]>([])
  private let waited = Mutex<UInt64>(0)

  init(links: JobLinks) { self.links = links }

  /// Starts the threads; `expected` are the units that this device keeps and does not have, in the order of all devices.
  func start(
    expected: [TapUnit], keep: @escaping @Sendable (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  ) {
    let sender = OperatingSystemThread(name: "taps-out") { [self] in guarded(sendAll) }
    let receiver = OperatingSystemThread(name: "taps-in") { [self] in
      guarded { () throws(DistributedRunFailure) in try receiveAll(expected, keep) }
    }
    threads.withLock { $0 = [sender, receiver] }
  }

  /// Sends the taps of one stage of a unit to their owner; waits while too many are on their way.
  func put(_ taps: [UInt8], tag: JobTag, to device: Int) throws(DistributedRunFailure) {
    let start = MonotonicClock.nanoseconds()
    let isTaken = outgoing.push(Parcel(taps: taps, tag: tag, device: device), weight: taps.count)
    waited.withLock { $0 += MonotonicClock.nanoseconds() - start }
    if !isTaken { throw failure.withLock { $0 } ?? .cancelled(step: 0) }
  }

  /// Waits until everything is sent, received and kept.
  func finish() throws(DistributedRunFailure) {
    let start = MonotonicClock.nanoseconds()
    outgoing.end()
    join()
    waited.withLock { $0 += MonotonicClock.nanoseconds() - start }
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Ends both threads after a failure elsewhere; the channel must have been aborted.
  func cancel() {
    outgoing.end(discarding: true)
    own.end(discarding: true)
    join()
  }

  /// Nanoseconds that the driver has waited for the taps' way.
  var waits: UInt64 { waited.withLock { $0 } }

  private func join() {
    let all = threads.withLock { threads in
      defer { threads = [] }
      return threads
    }
    for thread in all { thread.join() }
  }

  private func guarded(_ work: () throws(DistributedRunFailure) -> Void) {
    do throws(DistributedRunFailure) {
      try work()
    } catch {
      failure.withLock { $0 = $0 ?? error }
      outgoing.end(discarding: true)
      own.end(discarding: true)
      // The driver, and every other device, may wait for what will not come any more.
      links.abort(error.description)
    }
  }

  private func sendAll() throws(DistributedRunFailure) {
    while let parcel = outgoing.pop() {
      if parcel.device == links.place {
        guard own.push(parcel, weight: parcel.taps.count) else { return }
      } else {
        try links.send(parcel.taps, parcel.tag, to: parcel.device)
      }
    }
    own.end()
  }

  private func receiveAll(
    _ expected: [TapUnit], _ keep: (TapUnit, [[UInt8]]) throws(TrainingFailure) -> Void
  ) throws(DistributedRunFailure) {
    for unit in expected {
      var parts: [[UInt8]] = []
      for (stage, device) in unit.computers.enumerated() {
        if device == links.place {
          guard let parcel = own.pop() else { return }
          precondition(parcel.tag == unit.tag(stage: stage), "own taps \(parcel.tag) in place of \(unit)")
          parts.append(parcel.taps)
        } else {
          parts.append(try links.receive(unit.tag(stage: stage), from: device, nil))
        }
      }
      do throws(TrainingFailure) {
        try keep(unit, parts)
      } catch {
        throw .training(error)
      }
    }
  }
}
