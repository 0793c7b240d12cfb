import DistributedTraining
import Foundation

/// The channels of all devices of a plan in one process: mailboxes by sender, receiver and tag.
///
/// - Safety: everything is read and written under the condition's lock.
final class InMemoryJobChannels: @unchecked Sendable {
  /// How long a test waits before it calls itself stuck.
  private static let patience = 60.0

  /// What a test lets happen before a message.
  enum Fault: Sendable {
    /// The job is stopped with that reason.
    case abort(String)
    /// The device is gone, and everything that it has not sent yet.
    case lose(Int)
  }

  private struct Address: Hashable {
    var from: Int
    var to: Int
    var tag: JobTag
  }

  private let condition = NSCondition()
  private var mail: [Address: [[UInt8]]] = [:]
  /// Bytes from one device to another that nobody has received yet.
  private var waiting: [[Int]]
  private var failure: JobChannelFailure?
  /// Channels that somebody has.
  private var alive = 0
  private var gone: Set<Int> = []
  /// Devices whose loss is no failure of the others.
  private let optional: Set<Int>
  /// Bytes that a link holds before a sender waits.
  private let linkLimit: Int
  /// Whoever polls finds nothing: every message comes a little later.
  private let isLate: Bool
  /// Called before every message; lets a test break something at an exact point.
  private let watch: (@Sendable (_ from: Int, _ to: Int, JobTag, _ message: inout [UInt8]) -> Fault?)?

  init(
    devices: Int, optional: Set<Int> = [], linkLimit: Int = 8 << 20, isLate: Bool = false,
    watch: (@Sendable (_ from: Int, _ to: Int, JobTag, _ message: inout [UInt8]) -> Fault?)? = nil
  ) {
    self.isLate = isLate
    waiting = Array(repeating: Array(repeating: 0, count: devices), count: devices)
    self.optional = optional
    self.linkLimit = linkLimit
    self.watch = watch
  }

  func channel(_ place: Int) -> any JobChannel {
    condition.withLock { alive += 1 }
    return Channel(all: self, place: place)
  }

  /// Waits until nobody has a channel any more; false when somebody keeps one.
  func areReleased() -> Bool {
    condition.lock()
    defer { condition.unlock() }
    let deadline = Date(timeIntervalSinceNow: Self.patience)
    while alive > 0 {
      guard condition.wait(until: deadline) else { return false }
    }
    return true
  }

  /// Messages that were sent and never received.
  var unread: [JobTag] {
    condition.withLock { mail.filter { !$0.value.isEmpty }.map(\.key.tag) }
  }

  /// Devices that were lost.
  var lost: Set<Int> { condition.withLock { gone } }

  func abort(_ reason: String) {
    condition.withLock {
      failure = failure ?? .aborted(reason)
      condition.broadcast()
    }
  }

  /// The device's connections end.
  func lose(_ place: Int) {
    condition.withLock {
      gone.insert(place)
      if !optional.contains(place) { failure = failure ?? .lost(place: place) }
      condition.broadcast()
    }
  }

  private final class Channel: JobChannel {
    let all: InMemoryJobChannels
    let place: Int

    init(all: InMemoryJobChannels, place: Int) {
      self.all = all
      self.place = place
    }

    deinit {
      all.condition.withLock {
        all.alive -= 1
        all.condition.broadcast()
      }
    }

    func send(_ message: [UInt8], _ tag: JobTag, to place: Int) throws(JobChannelFailure) {
      precondition(place != self.place, "device \(place) sends \(tag) to itself")
      precondition(message.count <= 4 << 20, "a message of \(message.count) bytes")
      var message = message
      switch all.watch?(self.place, place, tag, &message) {
      case .abort(let reason): all.abort(reason)
      case .lose(let device): all.lose(device)
      case nil: break
      }
      try all.put(message, Address(from: self.place, to: place, tag: tag))
    }

    func receive(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8] {
      try all.take(Address(from: place, to: self.place, tag: tag))
    }

    func poll(_ tag: JobTag, from place: Int) throws(JobChannelFailure) -> [UInt8]? {
      let address = Address(from: place, to: self.place, tag: tag)
      let isThere = all.condition.withLock { all.mail[address]?.isEmpty == false }
      return isThere && !all.isLate ? try all.take(address) : nil
    }

    func abort(_ reason: String) { all.abort(reason) }
  }

  /// Why a call fails now.
  private func failure(_ address: Address, of place: Int, other: Int) -> JobChannelFailure? {
    if gone.contains(place) { return .aborted("device \(place) is gone") }
    return failure ?? (gone.contains(other) ? .lost(place: other) : nil)
  }

  private func put(_ message: [UInt8], _ address: Address) throws(JobChannelFailure) {
    condition.lock()
    defer { condition.unlock() }
    let deadline = Date(timeIntervalSinceNow: Self.patience)
    while failure(address, of: address.from, other: address.to) == nil,
      waiting[address.from][address.to] > 0,
      waiting[address.from][address.to] + message.count > linkLimit
    {
      guard condition.wait(until: deadline) else { throw .aborted("stuck sending \(address)") }
    }
    if let failure = failure(address, of: address.from, other: address.to) { throw failure }
    mail[address, default: []].append(message)
    waiting[address.from][address.to] += message.count
    condition.broadcast()
  }

  private func take(_ address: Address) throws(JobChannelFailure) -> [UInt8] {
    condition.lock()
    defer { condition.unlock() }
    let deadline = Date(timeIntervalSinceNow: Self.patience)
    while failure(address, of: address.to, other: address.from) == nil, mail[address, default: []].isEmpty {
      guard condition.wait(until: deadline) else { throw .aborted("stuck waiting for \(address)") }
    }
    if let failure = failure(address, of: address.to, other: address.from) { throw failure }
    var queue = mail[address, default: []]
    let message = queue.removeFirst()
    mail[address] = queue.isEmpty ? nil : queue
    waiting[address.from][address.to] -= message.count
    condition.broadcast()
    return message
  }
}
