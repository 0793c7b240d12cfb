import Glibc

/// A pipe that wakes a thread which waits in `poll`; any number of wakes before it looks count as one.
struct WakePipe: ~Copyable {
  /// The end to wait on.
  let readEnd: Int32
  private let writeEnd: Int32

  /// Makes the pipe; nil when the process has no file descriptors left.
  init?() {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { return nil }
    (readEnd, writeEnd) = (ends[0], ends[1])
    for end in ends {
      _ = fcntl(end, F_SETFL, O_NONBLOCK)
      _ = fcntl(end, F_SETFD, FD_CLOEXEC)
    }
  }

  deinit {
    close(readEnd)
    close(writeEnd)
  }

  /// Wakes the waiting thread; a full pipe means that it is awake already.
  borrowing func wake() {
    var byte: UInt8 = 1
    _ = write(writeEnd, &byte, 1)
  }

  /// Takes all wakes back.
  borrowing func drain() {
    var bytes = [UInt8](repeating: 0, count: 64)
    while read(readEnd, &bytes, bytes.count) > 0 {}
  }
}

/// Runs `body` on a thread of its own, for what blocks: never on the threads of Swift's own pool.
///
/// Somebody has to join the thread, unless it is detached. Nil when the system has no thread to spare.
func startThread(isDetached: Bool, _ body: @escaping @Sendable () -> Void) -> pthread_t? {
  final class Box: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  let box = Unmanaged.passRetained(Box(body))
  var thread = pthread_t()
  let status = pthread_create(
    &thread, nil,
    { argument in
      guard let argument else { return nil }
      Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
      return nil
    }, box.toOpaque())
  guard status == 0 else {
    box.release()
    return nil
  }
  if isDetached { pthread_detach(thread) }
  return thread
}
