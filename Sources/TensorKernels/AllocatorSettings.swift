import CKernels

/// How the C library treats memory that was freed; for processes that pass many messages on.
package enum AllocatorSettings {
  /// Blocks from this size on come from the kernel and go back to it when they are freed.
  private static let mappedBytes: Int32 = 2 << 20
  /// Free bytes at the end of a heap that are kept.
  private static let keptBytes: Int32 = 16 << 20

  /// Heaps among which the threads are spread.
  private static let heaps: Int32 = 2

  /// Keeps some freed memory instead of giving it back at once; called once, before other threads start.
  ///
  /// Messages of some hundred KiB are over the C library's limits: each would be mapped, zeroed page by page and unmapped,
  /// which was 30 % of the processor time of a ring. What is kept is kept in each heap, and by itself the library makes
  /// eight heaps a core: three daemons on two cores had 37, 50 and 65 MiB of private pages after eight small jobs, 4 of them in
  /// use, and grew; with two heaps 16 to 37 after ten. A ring of two on loopback took as much processor time with two (1.46 s
  /// a GB, median of five) as with all (1.52).
  package static func keepFreedMemory() { hearth_allocator_limits(mappedBytes, keptBytes, heaps) }

  /// Gives the free pages between what stays in the heaps back to the system; for moments when nobody computes.
  package static func giveFreedMemoryBack() { hearth_allocator_trim() }
}
