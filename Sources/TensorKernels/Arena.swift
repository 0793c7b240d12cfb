import CKernels

/// One zeroed mapping that holds all buffers of a plan; views into it are `Matrix` values.
///
/// Page-aligned (so 64-byte aligned), advised to use huge pages, resident only where touched.
///
/// A view does not keep its arena alive: hold the arena in a property or a variable of its own, not only in
/// an array, whose last mention may end its life.
///
/// - Safety: the mapping is fixed for the arena's life; who writes where is the plan's business.
package final class Arena: @unchecked Sendable {
  /// The first float.
  package let base: UnsafeMutablePointer<Float>
  /// Floats that were asked for.
  package let floatCount: Int
  private let byteCount: Int
  private var letGo: (@Sendable (Range<Int>) -> Void)?

  /// Maps `floatCount` floats; stops the program when the system has no such address space.
  package init(floatCount: Int) {
    precondition(floatCount >= 0 && floatCount < 1 << 44, "an arena of \(floatCount) floats cannot be")
    self.floatCount = floatCount
    byteCount = max(4096, floatCount * MemoryLayout<Float>.stride)
    guard let pages = hearth_map_pages(byteCount) else {
      preconditionFailure("the system gave no \(byteCount) bytes for an arena")
    }
    base = pages.bindMemory(to: Float.self, capacity: byteCount / MemoryLayout<Float>.stride)
  }

  /// Has a file hold the pages in place of memory; nobody writes to the arena meanwhile.
  ///
  /// - Parameter exchange: gets the pages, maps a file in their very place, and returns what lets the pages of a range of
  ///   bytes go until they are touched again.
  package func back(
    by exchange: (UnsafeMutableRawBufferPointer) throws -> @Sendable (Range<Int>) -> Void
  ) rethrows {
    letGo = try exchange(UnsafeMutableRawBufferPointer(start: base, count: byteCount))
  }

  /// Lets pages of some floats leave memory, if a file holds them; the values stay.
  package func releasePages(_ floats: Range<Int>) {
    let stride = MemoryLayout<Float>.stride
    letGo?(floats.lowerBound * stride..<floats.upperBound * stride)
  }

  /// Gives up the memory of floats that nobody reads again; whether they are as before or 0 is open.
  package func discard(_ floats: Range<Int>) {
    hearth_discard_pages(base + floats.lowerBound, floats.count * MemoryLayout<Float>.stride)
  }

  deinit { hearth_unmap_pages(base, byteCount) }
}

/// Plans the offsets of buffers in an arena before the arena exists.
///
/// Buffers that are never alive together share memory: `mark()`, reserve scratch, `rewind(to:)`.
package struct ArenaLayout: Sendable {
  private var top = 0
  /// Floats that an arena needs for every buffer reserved so far: the high-water mark.
  package private(set) var floatCount = 0

  /// An empty layout.
  package init() {}

  /// Reserves `floats` and returns their offset, a multiple of 16 floats (64 bytes).
  package mutating func reserve(_ floats: Int) -> Int {
    precondition(floats >= 0, "a buffer of \(floats) floats cannot be")
    let offset = top
    top += (floats + 15) / 16 * 16
    floatCount = max(floatCount, top)
    return offset
  }

  /// The place to rewind to.
  package func mark() -> Int { top }

  /// Gives up everything reserved since `mark`.
  package mutating func rewind(to mark: Int) {
    precondition(mark >= 0 && mark <= top, "rewinding from \(top) to \(mark)")
    top = mark
  }
}
