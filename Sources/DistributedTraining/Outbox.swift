import ComputeRuntime
import Synchronization

/// The moment at which an outbox has sent everything that it had been handed until now.
struct SentMoment: Sendable {
  fileprivate let gate: ProgressGate
  fileprivate let count: Int

  /// Waits for it; false when it will not come.
  func wait() -> Bool { gate.wait(for: count) }
}

/// Messages that a thread of its own sends in order, so that computing never waits for a link.
final class Outbox: Sendable {
  /// Bytes that wait to be sent before `put` waits.
  static let defaultLimit = 256 << 20

  private struct Letter: Sendable {
    let message: [UInt8]
    let tag: JobTag
    let device: Int
    let moment: SentMoment?
  }

  private let links: JobLinks
  private let letters: BlockingQueue<Letter>
  private let failure = Mutex<DistributedRunFailure?>(nil)
  private let thread = Mutex<OperatingSystemThread?>(nil)
  private let sent = ProgressGate()
  private let handed = Atomic(0)

  /// Starts the thread; it ends with `finish` or `cancel`, and one of them must be called.
  ///
  /// - Parameter deliver: takes the messages for this device itself; false ends the sending.
  init(
    links: JobLinks, name: String, limit: Int = defaultLimit,
    deliver: @escaping @Sendable (_ message: [UInt8], JobTag) -> Bool = { _, _ in false },
    ended: @escaping @Sendable () -> Void = {}
  ) {
    self.links = links
    letters = BlockingQueue(limit: limit)
    let started = OperatingSystemThread(name: name) { [self] in
      send(deliver)
      ended()
    }
    thread.withLock { $0 = started }
  }

  private func send(_ deliver: (_ message: [UInt8], JobTag) -> Bool) {
    defer { sent.end() }
    do throws(DistributedRunFailure) {
      while let letter = letters.pop() {
        if let moment = letter.moment, !moment.wait() { return }
        if letter.device == links.place {
          guard deliver(letter.message, letter.tag) else { return }
        } else {
          try links.send(letter.message, letter.tag, to: letter.device)
        }
        sent.advance()
      }
    } catch {
      failure.withLock { $0 = error }
      letters.end(discarding: true)
      // The driver, and every other device, may wait for what will not come any more.
      links.abort(error.description)
    }
  }

  /// Hands a message to the thread; waits while too many bytes are on their way, unless they are `urgent`.
  ///
  /// What a schedule bounds by itself is urgent: waiting for room could close a circle.
  ///
  /// - Parameter moment: the message, and those behind it, are not sent before.
  func put(
    _ message: [UInt8], _ tag: JobTag, to device: Int, urgent: Bool = false, after moment: SentMoment? = nil
  ) throws(DistributedRunFailure) {
    let letter = Letter(message: message, tag: tag, device: device, moment: moment)
    guard letters.push(letter, weight: urgent ? 0 : message.count) else {
      throw failure.withLock { $0 } ?? .channel(.aborted("the run has ended"), during: "sending \(tag.kind)")
    }
    handed.add(1, ordering: .relaxed)
  }

  /// When everything will be sent that was handed over until now, by the thread that calls.
  var moment: SentMoment { SentMoment(gate: sent, count: handed.load(ordering: .relaxed)) }

  /// Waits until everything is sent.
  func finish() throws(DistributedRunFailure) {
    letters.end()
    join()
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Ends the thread after a failure elsewhere; the channel must have been aborted.
  func cancel() {
    letters.end(discarding: true)
    join()
  }

  private func join() {
    thread.withLock { thread in
      defer { thread = nil }
      return thread
    }?.join()
  }
}
