import ComputeRuntime
import Glibc

/// Turns Ctrl-C and a polite kill into a request to stop, and a second one into an end at once.
///
/// The signals are blocked in every thread and one thread waits for them, so nothing here has to be
/// async-signal-safe. Must be started before the process has other threads, which inherit the mask.
package enum InterruptWatch {
  /// Starts to watch SIGINT, SIGTERM and SIGHUP; the first one sets `flag` and calls `notice`.
  package static func start(_ flag: CancellationFlag, notice: @escaping @Sendable () -> Void) {
    var watched = sigset_t()
    sigemptyset(&watched)
    for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&watched, signal) }
    pthread_sigmask(SIG_BLOCK, &watched, nil)
    let signals = watched
    OperatingSystemThread.detached(name: "interrupts") {
      var watched = signals
      var received: Int32 = 0
      guard sigwait(&watched, &received) == 0 else { return }
      flag.cancel()
      notice()
      guard sigwait(&watched, &received) == 0 else { return }
      _exit(ExitReason.interrupted.rawValue)
    }
  }
}
