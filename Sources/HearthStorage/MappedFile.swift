import Glibc
import LanguageModels

/// A whole file mapped read-only: the bytes are pages of the file, loaded when they are touched.
///
/// - Safety: the mapping never moves and is only read. The file must not be shortened meanwhile; the system
///   then kills the process (SIGBUS), as for every program that maps its model.
package final class MappedFile: ByteRegion, @unchecked Sendable {
  /// The whole content.
  package let bytes: UnsafeRawBufferPointer
  /// The path, for messages.
  package let name: String
  // Kept open for advice about the system's copy of the file.
  private let file: OpenFile

  /// Maps the regular file at `path`; an empty file gives no bytes.
  package init(_ path: String) throws(FileFailure) {
    name = path
    file = try OpenFile(path, .reading)
    let byteCount = try file.byteCount()
    guard byteCount > 0 else {
      bytes = UnsafeRawBufferPointer(start: nil, count: 0)
      return
    }
    guard let base = mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, file.descriptor, 0), base != MAP_FAILED
    else { throw .system(operation: "map", path: path, code: errno) }
    bytes = UnsafeRawBufferPointer(start: base, count: byteCount)
  }

  deinit {
    if let base = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: base), bytes.count) }
  }

  /// Lets the resident pages go (MADV_DONTNEED); reading them again brings them back from the file.
  package func releaseResidentPages() {
    guard let base = bytes.baseAddress else { return }
    // Advice on a valid mapping cannot fail in a way that changes what is read.
    _ = madvise(UnsafeMutableRawPointer(mutating: base), bytes.count, MADV_DONTNEED)
  }

  /// Starts reading the pages of `range` from the file.
  package func willNeed(_ range: Range<Int>) {
    let range = range.clamped(to: 0..<bytes.count)
    guard let base = bytes.baseAddress, !range.isEmpty else { return }
    let first = range.lowerBound / pageBytes * pageBytes
    // Advice: where it is not followed, the pages come when they are touched.
    _ = madvise(UnsafeMutableRawPointer(mutating: base + first), range.upperBound - first, MADV_WILLNEED)
  }

  /// Lets the pages of `range` go from the process and from the system's cache of the file.
  ///
  /// Pages that belong to the range only in part stay: their neighbours may be in use.
  package func release(_ range: Range<Int>) {
    guard let base = bytes.baseAddress, let pages = wholePages(of: range, in: bytes.count) else { return }
    _ = madvise(UnsafeMutableRawPointer(mutating: base + pages.lowerBound), pages.count, MADV_DONTNEED)
    file.release(pages)
  }
}

/// Bytes of a page of memory.
let pageBytes = Int(sysconf(Int32(_SC_PAGESIZE)))

/// The pages of a mapping of `count` bytes that lie wholly in a range of it, the last one as far as it goes; nil when none do.
func wholePages(of range: Range<Int>, in count: Int) -> Range<Int>? {
  let range = range.clamped(to: 0..<count)
  let first = (range.lowerBound + pageBytes - 1) / pageBytes * pageBytes
  let end = range.upperBound == count ? count : range.upperBound / pageBytes * pageBytes
  return first < end ? first..<end : nil
}
