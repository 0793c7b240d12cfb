import Glibc

/// Makes the directory at `path` and its missing parents; one that is there already is fine.
///
/// New directories get mode 0700 when `isPrivate`, else 0755, less the process's umask.
package func createDirectory(_ path: String, isPrivate: Bool = false) throws(FileFailure) {
  var status = stat()
  if stat(path, &status) == 0 {
    guard status.st_mode & S_IFMT == S_IFDIR else { throw .wrongKind(path: path, expected: "directory") }
    return
  }
  if errno != ENOENT { throw .system(operation: "examine", path: path, code: errno) }
  let trimmed = String(path.reversed().drop { $0 == "/" }.reversed())
  let parent = parentDirectory(trimmed)
  if parent != trimmed { try createDirectory(parent, isPrivate: isPrivate) }
  if mkdir(trimmed, isPrivate ? 0o700 : 0o755) != 0, errno != EEXIST {
    throw .system(operation: "create directory", path: path, code: errno)
  }
}

/// The names in a directory, sorted, without "." and "..".
package func directoryNames(_ path: String) throws(FileFailure) -> [String] {
  guard let stream = opendir(path) else {
    throw .system(operation: "list directory", path: path, code: errno)
  }
  defer { closedir(stream) }
  var names: [String] = []
  while true {
    // readdir tells the end from a failure only through errno.
    errno = 0
    guard let entry = readdir(stream) else {
      if errno != 0 { throw .system(operation: "list directory", path: path, code: errno) }
      return names.sorted()
    }
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
    }
    if name != "." && name != ".." { names.append(name) }
  }
}

/// Removes a file; returns false when there was none.
@discardableResult
package func removeFile(_ path: String) throws(FileFailure) -> Bool {
  if unlink(path) == 0 { return true }
  if errno == ENOENT { return false }
  throw .system(operation: "remove", path: path, code: errno)
}

/// Removes a directory if it is empty; returns whether it is gone.
@discardableResult
package func removeEmptyDirectory(_ path: String) throws(FileFailure) -> Bool {
  if rmdir(path) == 0 || errno == ENOENT { return true }
  if errno == ENOTEMPTY || errno == EEXIST { return false }
  throw .system(operation: "remove directory", path: path, code: errno)
}

/// Returns once the names in the directory are on the disk.
package func synchronizeDirectory(_ path: String) throws(FileFailure) {
  let descriptor = try call("open directory", path) { open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
  defer { close(descriptor) }
  _ = try call("flush directory", path) { fsync(descriptor) }
}

/// Bytes that an unprivileged process may still write to the disk of `path`.
package func freeDiskBytes(_ path: String) throws(FileFailure) -> Int {
  var status = statvfs()
  _ = try call("examine the disk of", path) { statvfs(path, &status) }
  return Int(status.f_bavail) * Int(status.f_frsize)
}

/// The whole file at `path`, which may have `limit` bytes at most.
package func readWholeFile(_ path: String, limit: Int) throws(FileFailure) -> [UInt8] {
  let file = try OpenFile(path, .reading)
  let byteCount = try file.byteCount()
  guard byteCount <= limit else { throw .tooLarge(path: path, byteCount: byteCount, limit: limit) }
  var failure: FileFailure?
  let bytes = [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, initialized in
    do throws(FileFailure) {
      initialized = try file.read(at: 0, into: UnsafeMutableRawBufferPointer(buffer))
    } catch {
      failure = error
    }
  }
  if let failure { throw failure }
  guard bytes.count == byteCount else {
    throw .shortened(path: path, expected: byteCount, found: bytes.count)
  }
  return bytes
}
