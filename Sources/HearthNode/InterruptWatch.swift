import ComputeRuntime
import Glibc
import Synchronization

/// Turns Ctrl-C and a polite kill into a request to stop, and a second one into an end at once.
///
/// The handler only writes a byte to a pipe, which is async-signal-safe; a thread reads the pipe and does the
/// rest. Blocking the signals and waiting for them would not do: OpenBLAS starts threads before `main`, which
/// block nothing and would take the signal with its default action.
package enum InterruptWatch {
  /// Starts to watch SIGINT, SIGTERM and SIGHUP; the first one sets `flag` and calls `notice`.
  ///
  /// SIGHUP stays ignored when the parent ignores it (nohup). The others are always taken: a stop keeps all
  /// work, and build tools start programs with SIGINT ignored. Called once.
  package static func start(_ flag: CancellationFlag, notice: @escaping @Sendable () -> Void) {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return }
    let reader = ends[0]
    interruptPipe.store(ends[1], ordering: .sequentiallyConsistent)
    OperatingSystemThread.detached(name: "interrupts") {
      guard awaitByte(reader) else { return }
      flag.cancel()
      notice()
      guard awaitByte(reader) else { return }
      _exit(ExitReason.interrupted.rawValue)
    }
    signal(SIGINT, writeByte)
    signal(SIGTERM, writeByte)
    var hangUp = sigaction()
    sigaction(SIGHUP, nil, &hangUp)
    if unsafeBitCast(hangUp.__sigaction_handler.sa_handler, to: Int.self) != ignoredHandler {
      signal(SIGHUP, writeByte)
    }
    unblock()
  }

  /// Lets the signals that stop a program reach the calling thread: a parent's thread may have blocked them, and a mask
  /// is inherited.
  package static func unblock() {
    var watched = sigset_t()
    sigemptyset(&watched)
    for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&watched, number) }
    pthread_sigmask(SIG_UNBLOCK, &watched, nil)
  }

  /// SIG_IGN, which Swift cannot compare as a function.
  private static let ignoredHandler = 1

  private static func awaitByte(_ descriptor: Int32) -> Bool {
    var byte: UInt8 = 0
    while true {
      let count = read(descriptor, &byte, 1)
      if count < 0 && errno == EINTR { continue }
      return count == 1
    }
  }
}

/// The writing end of the pipe; a handler has no other way to reach it.
private let interruptPipe = Atomic<Int32>(-1)

/// The signal handler: touches nothing but an atomic, `write` and `errno`.
private func writeByte(_ signal: Int32) {
  let saved = errno
  var byte: UInt8 = 1
  _ = write(interruptPipe.load(ordering: .relaxed), &byte, 1)
  errno = saved
}

/// Keeps SIGHUP from ending the process, also for what it starts: a daemon has no terminal to lose.
package func ignoreHangUp() { signal(SIGHUP, SIG_IGN) }
