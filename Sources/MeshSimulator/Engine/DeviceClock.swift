package import Determinism

/// The two clocks of one simulated device as functions of the simulation's time.
///
/// Both run too fast or too slow by a constant drift; while the device is suspended the monotonic one stands still.
package struct DeviceClock: Sendable, Equatable {
  /// The largest drift that is simulated, in parts per million: what cheap quartz does between cold and hot.
  package static let driftLimit: Int64 = 200

  private static let million: Int64 = 1_000_000

  /// How much too fast the clocks run, in parts per million.
  package let drift: Int64
  private let start: MonotonicInstant
  private let base: Int64
  private var slept: Int64 = 0
  private var suspendedAt: MonotonicInstant?

  /// The clocks of a machine that was switched on at `start` and already shows `base`.
  package init(start: MonotonicInstant, base: Duration = .zero, drift: Int64) {
    precondition(abs(drift) <= Self.driftLimit, "a drift of \(drift) ppm")
    self.start = start
    self.base = base.wholeNanoseconds
    self.drift = drift
  }

  /// What the clocks show at a time of the simulation.
  package func reading(at time: MonotonicInstant) -> ClockReading {
    let elapsed = time.nanoseconds - start.nanoseconds
    let asleep = slept + (suspendedAt.map { time.nanoseconds - $0.nanoseconds } ?? 0)
    return ClockReading(
      monotonic: MonotonicInstant(nanoseconds: base + drifted(elapsed - asleep)),
      sinceBoot: MonotonicInstant(nanoseconds: base + drifted(elapsed)))
  }

  /// The first time of the simulation at which the monotonic clock shows `deadline`, if the device sleeps no more.
  package func time(ofMonotonic deadline: MonotonicInstant) -> MonotonicInstant {
    let local = deadline.nanoseconds - base
    // One division is exact to a nanosecond or two; the loop finds the first that is not too early.
    let seconds = local / (Self.million + drift)
    let rest = local % (Self.million + drift)
    var elapsed = seconds * Self.million + rest * Self.million / (Self.million + drift) - 2
    while drifted(elapsed) < local { elapsed += 1 }
    return MonotonicInstant(nanoseconds: start.nanoseconds + elapsed + slept)
  }

  /// The machine falls asleep.
  package mutating func suspend(at time: MonotonicInstant) {
    if suspendedAt == nil { suspendedAt = time }
  }

  /// The machine wakes up.
  package mutating func resume(at time: MonotonicInstant) {
    guard let began = suspendedAt else { return }
    slept += time.nanoseconds - began.nanoseconds
    suspendedAt = nil
  }

  private func drifted(_ elapsed: Int64) -> Int64 {
    let (whole, rest) = elapsed.quotientAndRemainder(dividingBy: Self.million)
    return elapsed + whole * drift + rest * drift / Self.million
  }
}
