import Glibc

/// Why a file or directory could not be used.
///
/// `description` is one line: what failed, on which path, the system's reason and the next step.
package enum FileFailure: Error, Equatable, CustomStringConvertible {
  /// A system call failed with `code` (an errno value) while doing `operation`, for instance "read".
  case system(operation: String, path: String, code: Int32)
  /// The path is there but is not a regular file or not a directory, as `expected` says.
  case wrongKind(path: String, expected: String)
  /// The file is longer than the caller accepts. Both values are bytes.
  case tooLarge(path: String, byteCount: Int, limit: Int)
  /// The file got shorter while it was read. Both values are bytes.
  case shortened(path: String, expected: Int, found: Int)
  /// Another process holds the lock of this directory.
  case locked(path: String)

  /// Whether the disk (or the quota, or the file size limit) is exhausted.
  package var isDiskFull: Bool {
    guard case .system(_, _, let code) = self else { return false }
    return [ENOSPC, EDQUOT, EFBIG].contains(code)
  }

  /// Whether the path does not exist.
  package var isMissing: Bool {
    guard case .system(_, _, let code) = self else { return false }
    return code == ENOENT || code == ENOTDIR
  }

  /// One line for people: what, where, why and the next step.
  package var description: String {
    switch self {
    case .system(let operation, let path, let code):
      "cannot \(operation) '\(path)': \(systemMessage(code)); \(nextStep(code))"
    case .wrongKind(let path, let expected):
      "'\(path)' is not a \(expected); check the path"
    case .tooLarge(let path, let byteCount, let limit):
      "'\(path)' has \(byteCount) bytes, the limit is \(limit); check that it is the right file"
    case .shortened(let path, let expected, let found):
      "'\(path)' ended after \(found) of \(expected) bytes while it was read; let its writer finish and try again"
    case .locked(let path):
      "'\(path)' is in use by another hearth process; wait for it to end or choose another directory"
    }
  }

  private func nextStep(_ code: Int32) -> String {
    switch code {
    case ENOENT, ENOTDIR: "check the path"
    case EACCES, EPERM: "check its owner and permissions"
    case EROFS: "choose a directory on a writable disk"
    case ENOSPC, EFBIG: "make room or choose another disk"
    case EDQUOT: "make room within the quota or choose another disk"
    case EIO: "check the disk for errors (dmesg)"
    case EISDIR: "give the path of a file"
    case EMFILE, ENFILE: "raise the limit of open files (ulimit -n)"
    case ENAMETOOLONG: "choose a shorter path"
    case ENOTEMPTY, EEXIST: "choose another name or remove what is there"
    default: "check the disk and the path"
    }
  }
}

/// The system's text for an errno value.
private func systemMessage(_ code: Int32) -> String {
  // strerror_r is the thread-safe form; Glibc exports the one that returns its own or the buffer's text.
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
    guard let base = buffer.baseAddress, strerror_r(code, base, buffer.count) == 0 else {
      return "system error \(code)"
    }
    return String(cString: base)
  }
}

/// Runs a system call that returns −1 on failure, again when a signal interrupted it.
func call<Result: SignedInteger>(
  _ operation: String, _ path: String, _ body: () -> Result
) throws(FileFailure) -> Result {
  while true {
    let result = body()
    if result >= 0 { return result }
    let code = errno
    if code != EINTR { throw .system(operation: operation, path: path, code: code) }
  }
}
