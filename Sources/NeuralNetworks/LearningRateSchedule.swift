/// Linear warm-up to a peak, then linear decay to zero.
///
/// Step `s` of `1...total` has the rate `peak · s / W` while `s ≤ W`, then
/// `peak · (total − s + 1) / (total − W)`: no step runs at rate zero, and the rate reaches zero after the
/// last one. The warm-up is a fraction of the steps that really happen, since a fixed number of warm-up
/// steps can exceed a short job (the authors' MRPC run stayed in its warm-up to the end).
package struct LearningRateSchedule: Sendable, Equatable {
  /// The highest rate.
  package let peak: Float
  /// Steps of warm-up.
  package let warmupSteps: Int
  /// Steps of the whole run.
  package let totalSteps: Int

  /// A schedule over `totalSteps`, of which the fraction `warmupFraction` in 0...1 warms up.
  package init(peak: Float, warmupFraction: Float, totalSteps: Int) {
    precondition(totalSteps > 0, "a schedule of \(totalSteps) steps")
    precondition((0...1).contains(warmupFraction), "a warm-up of \(warmupFraction) of all steps")
    self.peak = peak
    self.totalSteps = totalSteps
    warmupSteps = Int((warmupFraction * Float(totalSteps)).rounded(.up))
  }

  /// The rate of the 1-based `step`; zero beyond the last.
  package func rate(step: Int) -> Float {
    precondition(step >= 1, "steps count from 1, not \(step)")
    if step <= warmupSteps { return peak * Float(step) / Float(warmupSteps) }
    if step > totalSteps { return 0 }
    return peak * Float(totalSteps - step + 1) / Float(totalSteps - warmupSteps)
  }
}
