/// A reading of some clock that never goes back, in nanoseconds since that clock's own zero.
///
/// Pure cores get instants as arguments and only compare and subtract them; two machines' instants are never
/// compared.
public struct MonotonicInstant: InstantProtocol, Hashable, Sendable, CustomStringConvertible {
  /// Nanoseconds since the clock's zero.
  public let nanoseconds: Int64

  /// The instant that many nanoseconds after the clock's zero.
  public init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// The clock's zero.
  public static let zero = MonotonicInstant(nanoseconds: 0)

  /// The instant `duration` later (earlier when it is negative), to the nanosecond; stays at the clock's ends.
  public func advanced(by duration: Duration) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(clamping: Int128(nanoseconds) + duration.nanosecondsInFull))
  }

  /// The time from this instant to `other`; negative when `other` is earlier.
  public func duration(to other: MonotonicInstant) -> Duration {
    // Durations have 128 bits: the distance of the clock's two ends fits.
    .nanoseconds(other.nanoseconds) - .nanoseconds(nanoseconds)
  }

  /// Whether `left` is earlier than `right`.
  public static func < (left: MonotonicInstant, right: MonotonicInstant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }

  /// Seconds with nine decimals, for logs of the simulator.
  public var description: String {
    let magnitude = nanoseconds.magnitude
    let fraction = String(magnitude % 1_000_000_000)
    let zeros = String(repeating: "0", count: 9 - fraction.count)
    return "\(nanoseconds < 0 ? "-" : "")\(magnitude / 1_000_000_000).\(zeros)\(fraction)s"
  }
}

/// One reading of the two clocks of a device, taken together.
///
/// `monotonic` stops while the machine sleeps (CLOCK_MONOTONIC) and is what time-outs are measured with;
/// `sinceBoot` goes on (CLOCK_BOOTTIME) and is what leases are measured with. A growing difference means that
/// the machine was asleep.
public struct ClockReading: Hashable, Sendable {
  /// The clock that stops while the machine sleeps.
  public var monotonic: MonotonicInstant
  /// The clock that goes on while the machine sleeps.
  public var sinceBoot: MonotonicInstant

  /// A reading of both clocks.
  public init(monotonic: MonotonicInstant, sinceBoot: MonotonicInstant) {
    self.monotonic = monotonic
    self.sinceBoot = sinceBoot
  }

  /// The time that the machine has spent asleep since boot.
  public var asleep: Duration { monotonic.duration(to: sinceBoot) }
}

extension Duration {
  /// The duration in whole nanoseconds, towards zero; stays at the ends of the range (292 years).
  public var wholeNanoseconds: Int64 { Int64(clamping: nanosecondsInFull) }

  /// The duration in whole nanoseconds, towards zero; any duration fits.
  fileprivate var nanosecondsInFull: Int128 {
    let (seconds, attoseconds) = components
    return Int128(seconds) * 1_000_000_000 + Int128(attoseconds / 1_000_000_000)
  }

  /// The duration in seconds.
  public var inSeconds: Double {
    let (seconds, attoseconds) = components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }
}
