package import ActivationCache
import Synchronization

/// The files of an activation cache in one directory of the file system.
///
/// New directories and files are readable by their owner only, because activations reveal text.
package final class DirectoryShardStorage: ShardStorage {
  /// The directory's path.
  package let name: String
  private let held = Mutex<DirectoryLock?>(nil)

  /// The cache directory at `path`, made with its parents when it does not exist.
  package init(_ path: String) throws(FileFailure) {
    name = path
    try createDirectory(path, isPrivate: true)
  }

  /// The cache directory at `path`, which must exist: for looking at a cache.
  package init(existing path: String) throws(FileFailure) {
    name = path
    _ = try directoryNames(path)
  }

  /// Takes the sole use of the files.
  package func lock() throws(ShardStorageFailure) {
    try held.withLock { (held) throws(ShardStorageFailure) in
      try translated { () throws(FileFailure) in
        if held != nil { throw .locked(path: name) }
        held = try DirectoryLock(directory: name)
        // What a killed process left half-written is nobody's now.
        for file in try directoryNames(name) where isLeftover(file) { try removeFile(path(file)) }
      }
    }
  }

  /// Gives the sole use back.
  package func unlock() { held.withLock { $0 = nil } }

  /// The names of all files, sorted.
  package func names() throws(ShardStorageFailure) -> [String] {
    try translated { () throws(FileFailure) in try directoryNames(name) }
  }

  /// Opens a file, made empty when it is missing.
  package func open(_ file: String) throws(ShardStorageFailure) -> any ShardFile {
    try translated { () throws(FileFailure) in CacheFile(try OpenFile(path(file), .updating)) }
  }

  /// The whole content of a file, or nil when there is none.
  package func contents(_ file: String, limit: Int) throws(ShardStorageFailure) -> [UInt8]? {
    try translated { () throws(FileFailure) in
      do throws(FileFailure) {
        return try readWholeFile(path(file), limit: limit)
      } catch {
        if error.isMissing { return nil }
        throw error
      }
    }
  }

  /// Puts a file in place whole, or leaves the old one.
  package func replace(_ file: String, with bytes: [UInt8]) throws(ShardStorageFailure) {
    try translated { () throws(FileFailure) in
      try AtomicFile.write(bytes, to: path(file), permissions: 0o600)
    }
  }

  /// Removes a file, if it is there.
  package func remove(_ file: String) throws(ShardStorageFailure) {
    _ = try translated { () throws(FileFailure) in try removeFile(path(file)) }
  }

  /// Makes the names of the files survive a power cut.
  package func synchronizeNames() throws(ShardStorageFailure) {
    try translated { () throws(FileFailure) in try synchronizeDirectory(name) }
  }

  /// Removes the directory itself when it is empty.
  package func removeIfEmpty() throws(ShardStorageFailure) {
    _ = try translated { () throws(FileFailure) in try removeEmptyDirectory(name) }
  }

  private func path(_ file: String) -> String { "\(name)/\(file)" }

  /// Whether this is the hidden, unfinished form of one of the cache's own files: ".NAME.PROCESS.tmp".
  private func isLeftover(_ file: String) -> Bool {
    guard file.hasPrefix("."), file.hasSuffix(AtomicFile.temporarySuffix) else { return false }
    let inner = file.dropFirst().dropLast(AtomicFile.temporarySuffix.count)
    guard let dot = inner.lastIndex(of: ".") else { return false }
    return CacheFormat.isCacheFile(String(inner[..<dot]))
  }
}

/// Runs a file operation and tells its failure in the cache's words.
private func translated<Result>(
  _ operation: () throws(FileFailure) -> Result
) throws(ShardStorageFailure) -> Result {
  do throws(FileFailure) {
    return try operation()
  } catch {
    if case .locked = error { throw .locked(reason: error.description) }
    throw error.isDiskFull ? .full(reason: error.description) : .inputOutput(reason: error.description)
  }
}

/// A file of a cache.
private final class CacheFile: ShardFile {
  private let file: OpenFile

  init(_ file: OpenFile) { self.file = file }

  func byteCount() throws(ShardStorageFailure) -> Int {
    try translated { () throws(FileFailure) in try file.byteCount() }
  }

  func write(
    _ segments: UnsafeBufferPointer<UnsafeRawBufferPointer>, at offset: Int
  ) throws(ShardStorageFailure) {
    try translated { () throws(FileFailure) in try file.write(segments, at: offset) }
  }

  func read(
    at offset: Int, into segments: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  ) throws(ShardStorageFailure) -> Int {
    try translated { () throws(FileFailure) in try file.read(at: offset, scatteredInto: segments) }
  }

  func willNeed(_ range: Range<Int>) { file.willNeed(range) }

  func release(_ range: Range<Int>) { file.release(range) }

  func truncate(to byteCount: Int) throws(ShardStorageFailure) {
    try translated { () throws(FileFailure) in try file.truncate(to: byteCount) }
  }

  func synchronize() throws(ShardStorageFailure) {
    try translated { () throws(FileFailure) in try file.synchronize() }
  }
}
