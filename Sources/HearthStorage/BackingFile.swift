import Glibc

/// A file in the place of memory: its pages are in the process while they are used, and may leave at any time.
///
/// - Safety: the memory is whole pages of a mapping that somebody else unmaps; the file goes with its last page.
package final class BackingFile: Sendable {
  private let memory: ByteSpan

  /// The place of the memory; the address is only given to the system.
  private struct ByteSpan: Sendable {
    let address: UInt
    let count: Int
  }

  /// Moves what is in `memory` to a file without a name in `directory`, and maps that file in its place.
  ///
  /// Room for all of it is reserved first, so that a full disk is an error here and not a signal (SIGBUS) later; memory is
  /// as it was then. Pages that only have zeros are not written.
  package init(
    of memory: UnsafeMutableRawBufferPointer, in directory: String
  ) throws(FileFailure) {
    let path = "\(directory)/memory-\(getpid())-\(String(UInt(bitPattern: memory.baseAddress), radix: 16))"
    let file = try OpenFile(path, .updating)
    // A crash after this leaves nothing; one before leaves an empty file.
    try removeFile(path)
    try file.reserve(memory.count)
    for start in stride(from: 0, to: memory.count, by: Self.pieceBytes) {
      let piece = UnsafeRawBufferPointer(
        rebasing: memory[start..<min(start + Self.pieceBytes, memory.count)])
      if !Self.isZero(piece) { try file.write(piece, at: start) }
    }
    self.memory = try Self.map(file, in: memory, writable: true)
  }

  /// Maps the file at `path` in the place of `memory`, to be read: writing to it ends the process.
  ///
  /// The file reaches into the last page, of which the rest is zero, and keeps its content; what was in the memory is gone.
  package init(_ path: String, inPlaceOf memory: UnsafeMutableRawBufferPointer) throws(FileFailure) {
    let file = try OpenFile(path, .reading)
    let found = try file.byteCount()
    guard found > (memory.count - 1) / pageBytes * pageBytes else {
      throw .shortened(path: path, expected: memory.count, found: found)
    }
    self.memory = try Self.map(file, in: memory, writable: false)
  }

  /// Lets the pages that lie wholly in `range` go from the process; they come back from the file when they are touched.
  ///
  /// The system's own copy of them stays as long as nobody needs the room: it is no memory of this process.
  package func release(_ range: Range<Int>) {
    guard let pages = wholePages(of: range, in: memory.count),
      let base = UnsafeMutableRawPointer(bitPattern: memory.address)
    else { return }
    // Advice on a valid mapping of a file; what was written is the file's, whether it is followed or not.
    _ = madvise(base + pages.lowerBound, pages.count, MADV_DONTNEED)
  }

  private static let pieceBytes = 64 << 10

  private static func isZero(_ piece: UnsafeRawBufferPointer) -> Bool {
    guard let base = piece.baseAddress, let first = piece.first else { return true }
    return first == 0 && memcmp(base, base + 1, piece.count - 1) == 0
  }

  private static func map(
    _ file: OpenFile, in memory: UnsafeMutableRawBufferPointer, writable: Bool
  ) throws(FileFailure) -> ByteSpan {
    let place = ByteSpan(address: UInt(bitPattern: memory.baseAddress), count: memory.count)
    precondition(place.count > 0 && place.address % UInt(pageBytes) == 0, "memory that begins within a page")
    let access = writable ? PROT_READ | PROT_WRITE : PROT_READ
    let sharing = writable ? MAP_SHARED : MAP_PRIVATE
    let mapped = mmap(
      memory.baseAddress, memory.count, access, sharing | MAP_FIXED, file.descriptor, 0)
    guard mapped == memory.baseAddress else {
      throw .system(operation: "map", path: file.path, code: errno)
    }
    return place
  }
}
