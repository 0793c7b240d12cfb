import Glibc

/// A named POSIX thread that takes no signals and is joined by its owner.
///
/// - Safety: the handle is set once in `init` and only read afterwards.
package final class OperatingSystemThread: @unchecked Sendable {
  /// OpenBLAS and the kernels keep tiles on the stack; 8 MiB is what Linux gives a main thread.
  private static let stackBytes = 8 << 20

  private let handle: pthread_t

  /// Starts a thread that runs `body` once.
  package init(name: String, _ body: @escaping @Sendable () -> Void) {
    handle = Self.start(name: name, detached: false, body)
  }

  /// Waits until the body has returned.
  package func join() {
    check(pthread_join(handle, nil), "pthread_join")
  }

  /// Starts a thread that nobody joins.
  package static func detached(name: String, _ body: @escaping @Sendable () -> Void) {
    _ = start(name: name, detached: true, body)
  }

  /// Lets the calling thread have only the time that others leave: for work that nobody waits for.
  package static func yieldToOthers() {
    // On Linux a nice value is a thread's own; 0 names the calling one. Without it the work is done all the same.
    _ = setpriority(Int32(PRIO_PROCESS.rawValue), 0, 19)
  }

  private static func start(
    name: String, detached: Bool, _ body: @escaping @Sendable () -> Void
  ) -> pthread_t {
    var attributes = pthread_attr_t()
    check(pthread_attr_init(&attributes), "pthread_attr_init")
    defer { pthread_attr_destroy(&attributes) }
    check(pthread_attr_setstacksize(&attributes, stackBytes), "pthread_attr_setstacksize")
    let state = detached ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE
    check(pthread_attr_setdetachstate(&attributes, Int32(state)), "pthread_attr_setdetachstate")
    // A new thread inherits the signal mask: signals stay with the threads that know what to do.
    var all = sigset_t()
    var previous = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &previous)
    defer { pthread_sigmask(SIG_SETMASK, &previous, nil) }
    let start = Unmanaged.passRetained(ThreadStart(name: name, body: body))
    var handle = pthread_t()
    check(pthread_create(&handle, &attributes, threadMain, start.toOpaque()), "pthread_create")
    return handle
  }
}

private final class ThreadStart: Sendable {
  let name: String
  let body: @Sendable () -> Void

  init(name: String, body: @escaping @Sendable () -> Void) {
    self.name = name
    self.body = body
  }
}

private func threadMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  guard let argument else { return nil }
  let start = Unmanaged<ThreadStart>.fromOpaque(argument).takeRetainedValue()
  name(start.name)
  start.body()
  return nil
}

/// Names the calling thread for `top` and debuggers; a name that the kernel refuses does no harm.
///
/// glibc's pthread_setname_np is a GNU extension that Swift's Glibc module does not show.
private func name(_ name: String) {
  let descriptor = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return }
  defer { close(descriptor) }
  _ = name.withCString { write(descriptor, $0, strlen($0)) }
}

/// Traps when a pthread call that can only fail for lack of resources or by our own mistake failed.
func check(_ code: Int32, _ call: StaticString) {
  precondition(code == 0, "\(call) failed: \(String(cString: strerror(code)))")
}
