import Glibc

/// Heap allocations of this process, as a preloaded library counts them.
///
/// The library (scripts/benchmarks/step_probe.c) replaces the allocator's entry points, so nothing that takes
/// memory escapes it; without it there is no count.
struct AllocationCount {
  private typealias Count = @convention(c) () -> UInt64
  private let count: Count

  /// The count of the preloaded library; nil when there is none.
  init?() {
    guard let symbol = dlsym(nil, "hearth_allocation_count") else { return nil }
    count = unsafeBitCast(symbol, to: Count.self)
  }

  /// Allocations since the process began.
  var total: UInt64 { count() }
}
