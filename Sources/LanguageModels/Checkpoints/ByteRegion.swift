/// Bytes that stay at one address for the life of the object: a mapped file, or memory.
///
/// Models borrow weights from a region in place, so whoever keeps the borrowed pointer also keeps the
/// region. File access itself is the storage shell's; this target only reads bytes that it is given.
package protocol ByteRegion: AnyObject, Sendable {
  /// The bytes; the address and the length never change.
  var bytes: UnsafeRawBufferPointer { get }
  /// What to call the region in an error, for instance a file's path.
  var name: String { get }
  /// Tells the system that the resident pages may go; reading them again brings them back.
  func releaseResidentPages()
  /// Asks the system to fetch these bytes now, because they are read soon.
  func willNeed(_ range: Range<Int>)
  /// Lets these bytes leave memory, the system's own copy of the file included.
  func release(_ range: Range<Int>)
}

extension ByteRegion {
  /// Nothing to fetch: the bytes are in memory.
  package func willNeed(_ range: Range<Int>) {}
  /// Nothing to let go: the bytes are the program's own memory.
  package func release(_ range: Range<Int>) {}

  /// Calls `body` with the bytes and keeps the region alive until it returns.
  ///
  /// Swift may free an object after its last use even while a pointer from it is in use, so a reader that
  /// does not store the region reads through this.
  package func withBytes<Result, Failure: Error>(
    _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    defer { withExtendedLifetime(self) {} }
    return try body(bytes)
  }
}

/// A region whose bytes are held in memory.
///
/// - Safety: the buffer is written once, in `init`, and only read afterwards.
package final class MemoryRegion: ByteRegion, @unchecked Sendable {
  /// What to call the bytes in an error.
  package let name: String
  private let storage: UnsafeMutableRawBufferPointer
  private let count: Int

  /// A region that holds a copy of `bytes`, aligned to 64 bytes.
  package init(name: String, bytes: some Collection<UInt8>) {
    self.name = name
    storage = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 64)
    _ = storage.initializeMemory(as: UInt8.self, from: bytes)
    count = bytes.count
  }

  deinit { storage.deallocate() }

  /// The copied bytes.
  package var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[0..<count]) }

  /// Nothing to release: memory that the program owns has no file behind it.
  package func releaseResidentPages() {}
}
