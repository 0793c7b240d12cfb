/// Which of the last 2,048 counters of a datagram stream have been seen.
///
/// A counter is fresh when it is newer than all, or among the last 2,048 and not seen yet (RFC 6479, with the
/// window as a ring of bits). Ask `isFresh` before opening and `insert` after: only authentic counters move it.
package struct ReplayWindow: Hashable, Sendable {
  /// Counters that are remembered.
  package static let size = 2_048

  // The counter after the newest one; 0 when none was seen.
  private var end: UInt64 = 0
  private var words = [UInt64](repeating: 0, count: size / 64)

  /// A window that has seen nothing.
  package init() {}

  /// Whether the counter may be accepted.
  package func isFresh(_ counter: UInt64) -> Bool {
    // The last counter is never sent, so that `end` does not overflow.
    guard counter < .max else { return false }
    if counter >= end { return true }
    return end - counter <= UInt64(Self.size) && !isSet(counter)
  }

  /// Remembers a counter; false when it was not fresh.
  package mutating func insert(_ counter: UInt64) -> Bool {
    guard isFresh(counter) else { return false }
    if counter >= end {
      // Forget the counters that the ring's places between the old and the new end stood for.
      if counter - end >= UInt64(Self.size) {
        for index in words.indices { words[index] = 0 }
      } else {
        var passed = end
        while passed <= counter {
          words[Self.word(passed)] &= ~Self.bit(passed)
          passed += 1
        }
      }
      end = counter + 1
    }
    words[Self.word(counter)] |= Self.bit(counter)
    return true
  }

  private func isSet(_ counter: UInt64) -> Bool { words[Self.word(counter)] & Self.bit(counter) != 0 }

  private static func word(_ counter: UInt64) -> Int { Int(counter / 64 % UInt64(size / 64)) }
  private static func bit(_ counter: UInt64) -> UInt64 { 1 << (counter % 64) }
}
