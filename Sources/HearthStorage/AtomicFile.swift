import Glibc

/// A file that appears under its name whole or not at all.
///
/// The bytes go to a hidden file in the same directory; `commit()` puts them on the disk, renames the file over
/// the name and puts the renaming on the disk. Without `commit()` the hidden file is removed and whatever had
/// the name before stays.
package struct AtomicFile: ~Copyable {
  /// The suffix of files that a killed process may leave behind; they are never read.
  package static let temporarySuffix = ".tmp"

  private let path: String
  private let temporaryPath: String
  private let file: OpenFile
  private var length = 0
  private var isCommitted = false

  /// Starts the file that will be at `path`; its directory must exist.
  ///
  /// The file ends with `permissions` less the process's umask.
  package init(_ path: String, permissions: UInt32 = 0o644) throws(FileFailure) {
    self.path = path
    let directory = parentDirectory(path)
    // A name of its own: two processes that write one file must not share the hidden one.
    temporaryPath = "\(directory)/.\(lastComponent(path)).\(getpid())\(Self.temporarySuffix)"
    // A process of the same number may have been killed here before.
    unlink(temporaryPath)
    file = try OpenFile(temporaryPath, .creating, permissions: permissions)
  }

  deinit {
    if !isCommitted { unlink(temporaryPath) }
  }

  /// Adds bytes at the end.
  package mutating func append(_ bytes: UnsafeRawBufferPointer) throws(FileFailure) {
    try file.write(bytes, at: length)
    length += bytes.count
  }

  /// Puts the file in its place; it survives a power cut from then on.
  package consuming func commit() throws(FileFailure) {
    try file.synchronize()
    let (from, to) = (temporaryPath, path)
    _ = try call("put in place", path) { rename(from, to) }
    isCommitted = true
    try synchronizeDirectory(parentDirectory(path))
  }

  /// Writes `bytes` as the whole file at `path`.
  package static func write(
    _ bytes: [UInt8], to path: String, permissions: UInt32 = 0o644
  ) throws(FileFailure) {
    var file = try AtomicFile(path, permissions: permissions)
    try bytes.withUnsafeBufferPointer { buffer throws(FileFailure) in
      try file.append(UnsafeRawBufferPointer(buffer))
    }
    try file.commit()
  }
}

/// The directory part of a path: "." when there is none.
func parentDirectory(_ path: String) -> String {
  guard let slash = path.lastIndex(of: "/") else { return "." }
  return slash == path.startIndex ? "/" : String(path[..<slash])
}

/// What follows the last slash of a path.
func lastComponent(_ path: String) -> String {
  guard let slash = path.lastIndex(of: "/") else { return path }
  return String(path[path.index(after: slash)...])
}
