import Synchronization

/// Locks over a flat vector, by chunk: threads that add to different chunks do not wait for each other, however the
/// leaves are cut.
struct ChunkLocks: Sendable {
  /// Floats of a chunk: its addition takes some ten microseconds, far longer than a lock.
  static let chunk = 1 << 16
  private static let lockCount = 64

  private final class Lock: Sendable {
    let mutex = Mutex(())
  }

  private let locks: [Lock] = (0..<lockCount).map { _ in Lock() }

  /// Calls `body` with each chunk's part of `range`, under its lock.
  func forEachChunk(of range: Range<Int>, _ body: (Range<Int>) -> Void) {
    var start = range.lowerBound
    while start < range.upperBound {
      let end = min(range.upperBound, (start / Self.chunk + 1) * Self.chunk)
      locks[start / Self.chunk % Self.lockCount].mutex.withLock { _ in body(start..<end) }
      start = end
    }
  }
}
