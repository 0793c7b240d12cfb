package import Determinism
import Glibc

/// The clocks of this device, read for the pure parts that take time as an argument.
package enum DeviceClocks {
  /// Both clocks at once: the one that stops while the machine sleeps and the one that goes on.
  package static func now() -> ClockReading {
    ClockReading(monotonic: read(CLOCK_MONOTONIC), sinceBoot: read(CLOCK_BOOTTIME))
  }

  /// Seconds since 1970, only to show when something was; never compared between devices.
  package static func wallSeconds() -> UInt64 {
    UInt64(max(0, read(CLOCK_REALTIME).nanoseconds / 1_000_000_000))
  }

  private static func read(_ clock: clockid_t) -> MonotonicInstant {
    var time = timespec()
    clock_gettime(clock, &time)
    return MonotonicInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }
}
