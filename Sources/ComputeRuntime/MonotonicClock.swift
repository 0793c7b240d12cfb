import Glibc

/// Time that only goes forward, for shells that measure durations.
package enum MonotonicClock {
  /// Nanoseconds since some fixed moment of this boot.
  package static func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// Seconds since some fixed moment of this boot.
  package static func seconds() -> Double { Double(nanoseconds()) * 1e-9 }
}
