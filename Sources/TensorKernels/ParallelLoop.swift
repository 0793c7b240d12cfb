/// Runs independent pieces of work on a fixed number of compute threads.
///
/// Learning code asks for parallelism through this protocol, so it starts no thread itself. A piece is
/// told which worker runs it, so that it can use that worker's own scratch memory. The result must not
/// depend on the assignment of pieces to workers (docs/ARCHITECTURE.md, "the number of threads changes no bit").
package protocol ParallelLoop: Sendable {
  /// Number of workers; worker indices are `0 ..< width`.
  var width: Int { get }
  /// Calls `body(piece, worker)` once for each piece in `0 ..< count` and returns when all are done.
  ///
  /// The body is escaping so that a caller can make it once: a loop over a kept body allocates nothing.
  func forEach(_ count: Int, _ body: @escaping @Sendable (_ piece: Int, _ worker: Int) -> Void)
}

/// The loop of one worker: pieces run in order on the calling thread.
package struct SequentialLoop: ParallelLoop {
  /// A loop that runs on the caller's thread.
  package init() {}
  /// One worker.
  package var width: Int { 1 }
  /// Runs every piece in ascending order.
  package func forEach(_ count: Int, _ body: @escaping @Sendable (_ piece: Int, _ worker: Int) -> Void) {
    for piece in 0..<count { body(piece, 0) }
  }
}
