import Glibc

/// Measures how long work takes on this device when it goes on and on.
///
/// A control group's quota lets threads run at full speed for some milliseconds and then stops them, so the wall's time of
/// short work says nothing; the processor time that it needs, divided by the quota, is what long work will take.
package struct WorkClock: Sendable {
  /// A moment of the wall's clock and of the process' processor time.
  package struct Mark: Sendable {
    fileprivate var wall: Double
    fileprivate var processor: Double
  }

  private let quota: Double?

  /// A clock under the quota that this process has now.
  package init() { self.init(quota: MachineProfile.current().coreQuota) }

  /// A clock under a quota, in processors; nil for none.
  package init(quota: Double?) { self.quota = quota }

  /// Now.
  package var now: Mark {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Mark(
      wall: MonotonicClock.seconds(), processor: Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9)
  }

  /// Seconds that the process' work since `mark` takes, when `threads` threads did it at once.
  package func seconds(since mark: Mark, threads: Int) -> Double {
    let now = now
    return Self.seconds(
      wall: now.wall - mark.wall, processor: now.processor - mark.processor, threads: threads, quota: quota)
  }

  /// Seconds that the process' work since `mark`, on whichever threads, takes one processor, or the quota if that is less.
  package func processorSeconds(since mark: Mark) -> Double {
    Self.seconds(processor: now.processor - mark.processor, quota: quota)
  }

  /// The same from measured processor time, in seconds.
  package static func seconds(processor: Double, quota: Double?) -> Double {
    guard let quota, quota > 0, quota < 1 else { return processor }
    return processor / quota
  }

  /// Seconds of work from measured times: `wall` and `processor` in seconds, `quota` in processors.
  package static func seconds(wall: Double, processor: Double, threads: Int, quota: Double?) -> Double {
    guard let quota, quota > 0, quota < Double(threads) else { return wall }
    return processor / quota
  }
}
