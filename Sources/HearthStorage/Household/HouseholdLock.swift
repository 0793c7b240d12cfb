import Glibc

/// The sole use of the household's state among processes, held until the object goes or the process ends.
///
/// An advisory `flock` on a file that holds the holder's process number, so that whoever is refused can say whom to
/// stop. The system releases the lock when the process ends in whatever way; a number that stays behind means nothing.
final class HouseholdLock: Sendable {
  static let fileName = "lock"
  private static let byteLimit = 16

  private let file: OpenFile

  init(directory: String) throws(HouseholdStorageFailure) {
    let path = "\(directory)/\(Self.fileName)"
    while true {
      let candidate = try inHousehold { () throws(FileFailure) in try OpenFile(path, .updating) }
      if flock(candidate.descriptor, LOCK_EX | LOCK_NB) != 0 {
        let code = errno
        if code == EINTR { continue }
        guard code == EWOULDBLOCK else { throw .file(.system(operation: "lock", path: path, code: code)) }
        throw .inUse(path: directory, process: Self.process(in: candidate))
      }
      // A former holder may have removed the file between our open and our lock.
      guard try inHousehold({ () throws(FileFailure) in try candidate.isStill(at: path) }) else { continue }
      file = candidate
      try writeProcess()
      return
    }
  }

  private func writeProcess() throws(HouseholdStorageFailure) {
    let text = Array("\(getpid())\n".utf8)
    let (file) = file
    try inHousehold { () throws(FileFailure) in
      try file.truncate(to: 0)
      try text.withUnsafeBufferPointer { buffer throws(FileFailure) in
        try file.write(UnsafeRawBufferPointer(buffer), at: 0)
      }
    }
  }

  /// The number that a holder has written; nil when there is none.
  private static func process(in file: OpenFile) -> Int32? {
    var bytes = [UInt8](repeating: 0, count: byteLimit)
    let count = bytes.withUnsafeMutableBytes { buffer in (try? file.read(at: 0, into: buffer)) ?? 0 }
    guard let end = bytes[..<count].firstIndex(of: UInt8(ascii: "\n")) else { return nil }
    return Int32(String(decoding: bytes[..<end], as: UTF8.self))
  }
}
