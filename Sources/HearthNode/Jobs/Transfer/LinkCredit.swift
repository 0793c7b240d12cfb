/// What a message counts against the room for it: its bytes, and a little so that empty ones are not without end.
///
/// Both ends of a link count the same.
private func cost(_ length: Int) -> UInt64 { UInt64(length + JobLinkLimits.messageOverhead) }

/// The sender's side of one direction of a link: it begins no message that the receiver has no room for.
///
/// A receiver that only stopped to read would close the connection's window, and a window that stays closed for seconds
/// looks like a device that is gone (TCP_USER_TIMEOUT). So it says how much it takes, as in QUIC (RFC 9000 §4.1): the
/// connection itself is always read.
package struct SendCredit: Sendable {
  private var begun: UInt64 = 0
  private var granted = UInt64(JobLinkLimits.waitingBytes)

  /// The credit of a link that stands now.
  package init() {}

  /// Counts a message that is to be sent now; false when there is no room for it yet.
  package mutating func begin(_ length: Int) -> Bool {
    guard begun + cost(length) <= granted else { return false }
    begun += cost(length)
    return true
  }

  /// The receiver has room for so many mebibytes since the link stands; what is less than before says nothing.
  package mutating func extend(to mebibytes: UInt32) { granted = max(granted, UInt64(mebibytes) << 20) }
}

/// The receiver's side of one direction of a link: what has come, what was read, and what the sender was told.
package struct ReceiveCredit: Sendable {
  private var begun: UInt64 = 0
  private var consumed: UInt64 = 0
  private var granted = UInt64(JobLinkLimits.waitingBytes)

  private static let wholeMebibytes: UInt64 = ~(1 << 20 - 1)
  /// The room that any single message needs.
  private static let message = cost(JobLinkLimits.message)

  /// The credit of a link that stands now.
  package init() {}

  /// Counts a message whose first part has come; false when it is more than the sender was told.
  package mutating func begin(_ length: Int) -> Bool {
    guard begun + cost(length) <= granted else { return false }
    begun += cost(length)
    return true
  }

  /// Counts a message that was read.
  package mutating func consume(_ length: Int) { consumed += cost(length) }

  /// What the sender is to be told now, in mebibytes; nil when that can wait.
  ///
  /// - Parameter isWaitedFor: a reader waits for a message that is not there. It may lie behind what nobody reads yet, which
  ///   then gets more room, up to a limit.
  package mutating func grant(isWaitedFor: Bool) -> UInt32? {
    let window = UInt64(JobLinkLimits.waitingBytes)
    var target = consumed + window
    if isWaitedFor {
      target = max(target, min(begun + window, consumed + UInt64(JobLinkLimits.mostWaitingBytes)))
    }
    target &= Self.wholeMebibytes
    guard target >= granted + window / 4 || isWaitedFor && isShort && target > granted else { return nil }
    granted = target
    return UInt32(clamping: target >> 20)
  }

  /// Whether the sender may be waiting: the room that is left is less than what a message may need.
  package var isShort: Bool { granted < begun + Self.message }

  /// Whether the sender may be waiting for room that it cannot be given although a reader waits for it.
  package var isExhausted: Bool {
    begun + Self.message > (consumed + UInt64(JobLinkLimits.mostWaitingBytes)) & Self.wholeMebibytes
  }
}
