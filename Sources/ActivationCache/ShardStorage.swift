/// A directory of files that belongs to one cache.
///
/// The cache's logic only sees this, so that the same code runs over a file system and over a simulated disk
/// that fills up, loses power or flips bits.
package protocol ShardStorage: Sendable {
  /// What to call the place in an error: the directory's path.
  var name: String { get }
  /// Takes the sole use of the directory; fails with `.locked` when another process has it.
  func lock() throws(ShardStorageFailure)
  /// Gives the sole use back.
  func unlock()
  /// The names of all files, sorted.
  func names() throws(ShardStorageFailure) -> [String]
  /// Opens a file for reading and writing; one that is missing is made empty.
  func open(_ file: String) throws(ShardStorageFailure) -> any ShardFile
  /// The whole content of a file, or nil when there is none; a file above `limit` bytes is a failure.
  func contents(_ file: String, limit: Int) throws(ShardStorageFailure) -> [UInt8]?
  /// Puts a file in place whole, or leaves the old one; it survives a power cut when this returns.
  func replace(_ file: String, with bytes: [UInt8]) throws(ShardStorageFailure)
  /// Removes a file; one that is missing is fine.
  func remove(_ file: String) throws(ShardStorageFailure)
  /// Returns once the names of files made so far survive a power cut.
  func synchronizeNames() throws(ShardStorageFailure)
  /// Removes the directory itself when it is empty.
  func removeIfEmpty() throws(ShardStorageFailure)
}

/// One open file of a cache; positions are explicit, so reads need no lock.
package protocol ShardFile: AnyObject, Sendable {
  /// The file's length in bytes.
  func byteCount() throws(ShardStorageFailure) -> Int
  /// Writes the segments one after another from `offset`; after a failure some of the bytes may be there.
  func write(
    _ segments: UnsafeBufferPointer<UnsafeRawBufferPointer>, at offset: Int
  ) throws(ShardStorageFailure)
  /// Reads from `offset` into the segments in order and returns the bytes read: fewer only at the file's end.
  ///
  /// Allocates nothing.
  func read(
    at offset: Int, into segments: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  ) throws(ShardStorageFailure) -> Int
  /// Advises that these bytes are read soon.
  func willNeed(_ range: Range<Int>)
  /// Advises that these bytes are not read soon: the system's copies of them may leave memory.
  func release(_ range: Range<Int>)
  /// Cuts the file to `byteCount` bytes.
  func truncate(to byteCount: Int) throws(ShardStorageFailure)
  /// Returns once the file's bytes and length survive a power cut.
  func synchronize() throws(ShardStorageFailure)
}

/// Why a storage operation failed; `reason` is one line for people with path, cause and next step.
package enum ShardStorageFailure: Error, Equatable {
  /// The disk, the quota or the file size limit is exhausted.
  case full(reason: String)
  /// Another process uses the directory.
  case locked(reason: String)
  /// Anything else.
  case inputOutput(reason: String)
}
