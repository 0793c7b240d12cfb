import Glibc

/// The sole use of a directory among hearth processes, held until the object goes or the process ends.
///
/// It is an advisory `flock` on a file named `lock` inside the directory. The system releases it when the
/// process ends in whatever way, so no stale lock can remain.
package final class DirectoryLock: Sendable {
  /// Name of the lock file.
  package static let fileName = "lock"

  private let file: OpenFile

  /// Takes the lock of `directory`, which must exist; throws `.locked` when another holder has it.
  package init(directory: String) throws(FileFailure) {
    let path = "\(directory)/\(Self.fileName)"
    while true {
      let candidate = try OpenFile(path, .updating)
      do throws(FileFailure) {
        _ = try call("lock", path) { flock(candidate.descriptor, LOCK_EX | LOCK_NB) }
      } catch {
        if case .system(_, _, EWOULDBLOCK) = error { throw .locked(path: directory) }
        throw error
      }
      // A former holder may have removed the file between our open and our lock: then the lock is on a file
      // that nobody else will find, and we start over with the one that has the name now.
      if try candidate.isStill(at: path) {
        file = candidate
        return
      }
    }
  }

  deinit {
    // Removed while it is still locked; a process that opened it meanwhile sees that in `isStill`.
    unlink(file.path)
  }
}
