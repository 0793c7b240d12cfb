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

  /// Maps the regular file at `path`; an empty file gives no bytes.
  package init(_ path: String) throws(FileFailure) {
    name = path
    let file = try OpenFile(path, .reading)
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
}
