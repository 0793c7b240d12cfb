import Glibc

/// An open file with positioned reads and writes; it closes when the last reference goes.
///
/// Positions are explicit, so any number of threads may read one file at once.
package final class OpenFile: Sendable {
  /// How a file is opened.
  package enum Mode: Sendable {
    /// It must exist and is only read.
    case reading
    /// It is read and written, and made when it does not exist.
    case updating
    /// It must not exist yet.
    case creating
  }

  /// Where the file was when it was opened.
  package let path: String
  let descriptor: Int32

  /// Opens the regular file at `path`.
  ///
  /// A file that is made gets `permissions` less the umask; by default only its owner may read it, because
  /// activations reveal text.
  package init(_ path: String, _ mode: Mode, permissions: UInt32 = 0o600) throws(FileFailure) {
    self.path = path
    let flags =
      switch mode {
      case .reading: O_RDONLY
      case .updating: O_RDWR | O_CREAT
      case .creating: O_RDWR | O_CREAT | O_EXCL
      }
    descriptor = try call(mode == .creating ? "create" : "open", path) {
      open(path, flags | O_CLOEXEC, permissions)
    }
    guard try status().st_mode & S_IFMT == S_IFREG else {
      throw .wrongKind(path: path, expected: "regular file")
    }
  }

  deinit { close(descriptor) }

  /// The file's length in bytes.
  package func byteCount() throws(FileFailure) -> Int { Int(try status().st_size) }

  /// What tells whether the file is still the same as at another time.
  package func stamp() throws(FileFailure) -> FileStamp {
    let status = try status()
    return FileStamp(
      byteCount: Int(status.st_size), inode: UInt64(status.st_ino),
      modified: Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec))
  }

  /// Whether the name `path` still leads to this very file.
  func isStill(at path: String) throws(FileFailure) -> Bool {
    let own = try status()
    var named = stat()
    guard stat(path, &named) == 0 else { return false }
    return named.st_ino == own.st_ino && named.st_dev == own.st_dev
  }

  private func status() throws(FileFailure) -> stat {
    var status = stat()
    _ = try call("examine", path) { fstat(descriptor, &status) }
    return status
  }

  /// Reads from `offset` until `buffer` is full or the file ends; returns the bytes read.
  package func read(
    at offset: Int, into buffer: UnsafeMutableRawBufferPointer
  ) throws(FileFailure) -> Int {
    var done = 0
    while done < buffer.count {
      let count = try call("read", path) {
        pread(descriptor, buffer.baseAddress! + done, buffer.count - done, offset + done)
      }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Writes all of `bytes` at `offset`.
  package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(FileFailure) {
    var done = 0
    while done < bytes.count {
      done += try call("write", path) {
        pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, offset + done)
      }
    }
  }

  /// Reads consecutive bytes from `offset` into the segments, in order, until they are full or the file ends.
  ///
  /// Returns the bytes read. Allocates nothing.
  package func read(
    at offset: Int, scatteredInto segments: UnsafeBufferPointer<UnsafeMutableRawBufferPointer>
  ) throws(FileFailure) -> Int {
    var progress = SegmentProgress()
    while progress.segment < segments.count {
      let count = try call("read", path) {
        withVectors(progress, segments.count, { (segments[$0].baseAddress, segments[$0].count) }) {
          preadv(descriptor, $0, $1, offset + progress.total)
        }
      }
      if count == 0, progress.hasBytesLeft(segments.count, { segments[$0].count }) { break }
      progress.advance(by: count, segments.count) { segments[$0].count }
    }
    return progress.total
  }

  /// Writes the segments one after another from `offset`.
  ///
  /// Allocates nothing.
  package func write(
    _ segments: UnsafeBufferPointer<UnsafeRawBufferPointer>, at offset: Int
  ) throws(FileFailure) {
    var progress = SegmentProgress()
    while progress.segment < segments.count {
      let count = try call("write", path) {
        withVectors(
          progress, segments.count,
          { (UnsafeMutableRawPointer(mutating: segments[$0].baseAddress), segments[$0].count) }
        ) {
          pwritev(descriptor, $0, $1, offset + progress.total)
        }
      }
      progress.advance(by: count, segments.count) { segments[$0].count }
    }
  }

  /// Tells the system that these bytes are read soon, so that it starts fetching them now.
  package func willNeed(_ range: Range<Int>) {
    // Only advice: a system that cannot follow it still reads correctly, just later.
    _ = posix_fadvise(descriptor, range.lowerBound, range.count, POSIX_FADV_WILLNEED)
  }

  /// Tells the system that these bytes are not read soon: its clean copies of them go, and changed ones start on
  /// their way to the disk.
  package func release(_ range: Range<Int>) {
    // Only advice, as above.
    _ = posix_fadvise(descriptor, range.lowerBound, range.count, POSIX_FADV_DONTNEED)
  }

  /// Cuts or extends the file to `byteCount` bytes.
  package func truncate(to byteCount: Int) throws(FileFailure) {
    _ = try call("truncate", path) { ftruncate(descriptor, byteCount) }
  }

  /// Extends the file to `byteCount` bytes, with room on the disk for all of them.
  func reserve(_ byteCount: Int) throws(FileFailure) {
    // It gives the error instead of leaving it in errno.
    var code = EINTR
    while code == EINTR { code = posix_fallocate(descriptor, 0, byteCount) }
    guard code == 0 else { throw .system(operation: "reserve room for", path: path, code: code) }
  }

  /// Returns once the file's bytes and length are on the disk.
  package func synchronize() throws(FileFailure) {
    _ = try call("flush", path) { fdatasync(descriptor) }
  }
}

/// Length, number and time of the last change of a file: equal as long as nobody wrote to it or replaced it.
package struct FileStamp: Equatable, Sendable {
  /// Bytes of the file.
  package let byteCount: Int
  /// Its number in its file system.
  package let inode: UInt64
  /// When it was last written, in nanoseconds since 1970.
  package let modified: Int64
}

/// How far a scattered transfer has come.
private struct SegmentProgress {
  var segment = 0
  var offset = 0
  var total = 0

  mutating func advance(by count: Int, _ segments: Int, _ size: (Int) -> Int) {
    total += count
    offset += count
    while segment < segments, offset >= size(segment) {
      offset -= size(segment)
      segment += 1
    }
  }

  func hasBytesLeft(_ segments: Int, _ size: (Int) -> Int) -> Bool {
    var left = -offset
    for index in segment..<segments { left += size(index) }
    return left > 0
  }
}

/// Segments handed to one system call; 64 vectors are the 1,024 bytes that Swift still takes from the stack.
private let vectorsPerCall = 64

/// Calls `body` with the vectors of the next segments that are not done.
private func withVectors(
  _ progress: SegmentProgress, _ count: Int, _ segment: (Int) -> (UnsafeMutableRawPointer?, Int),
  _ body: (UnsafePointer<iovec>, Int32) -> Int
) -> Int {
  withUnsafeTemporaryAllocation(of: iovec.self, capacity: vectorsPerCall) { vectors in
    let used = min(vectorsPerCall, count - progress.segment)
    for index in 0..<used {
      let (base, size) = segment(progress.segment + index)
      let skip = index == 0 ? progress.offset : 0
      vectors[index] = iovec(iov_base: base.map { $0 + skip }, iov_len: size - skip)
    }
    return body(vectors.baseAddress!, Int32(used))
  }
}
