import ComputeRuntime
import Glibc
import HearthStorage

/// Measures what the first touch of memory costs: a job does it once, with all that it has.
struct TouchProbe {
  private static let freshBytes = 32 << 20
  private static let mappedBytes = 16 << 20
  private static let rounds = 3

  let clock: WorkClock
  /// Takes a file for a moment.
  let directory: String

  /// Nanoseconds of a mebibyte, the least of some rounds.
  func measure() throws -> (fresh: Int64, mapped: Int64) {
    let page = max(4096, sysconf(Int32(_SC_PAGESIZE)))
    try createDirectory(directory, isPrivate: true)
    let path = directory + "/touch"
    defer { unlink(path) }
    try makeFile(path)
    var (fresh, mapped) = (Double.infinity, Double.infinity)
    for _ in 0..<Self.rounds {
      fresh = min(fresh, try touchMemory(page))
      mapped = min(mapped, try touchFile(path, page))
    }
    func ofMebibyte(_ seconds: Double, _ bytes: Int) -> Int64 {
      Int64(seconds * 1e9 * Double(1 << 20) / Double(bytes))
    }
    return (ofMebibyte(fresh, Self.freshBytes), ofMebibyte(mapped, Self.mappedBytes))
  }

  /// A file written as weights are that come from other devices: how large the system's pieces of it are depends on that.
  private func makeFile(_ path: String) throws {
    // What an interrupted measurement left goes first.
    unlink(path)
    let file = try OpenFile(path, .creating)
    // Not zeros: some file systems do not store them.
    let chunk = [UInt8](repeating: 63, count: BlobLimits.chunk)
    for offset in stride(from: 0, to: Self.mappedBytes, by: chunk.count) {
      try chunk.withUnsafeBytes { try file.write($0, at: offset) }
    }
  }

  /// Seconds that the system takes to give pages which were asked for and never used.
  private func touchMemory(_ page: Int) throws(JobPlanningFailure) -> Double {
    guard
      let base = mmap(
        nil, Self.freshBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | Int32(MAP_ANONYMOUS), -1, 0),
      base != MAP_FAILED
    else {
      throw .settings(
        detail: "this device could not be measured: no memory of \(Self.freshBytes) bytes (error \(errno))")
    }
    defer { munmap(base, Self.freshBytes) }
    let start = clock.now
    for offset in stride(from: 0, to: Self.freshBytes, by: page) {
      base.storeBytes(of: 1, toByteOffset: offset, as: UInt8.self)
    }
    return clock.seconds(since: start, threads: 1)
  }

  /// Seconds that a new mapping's pages take until they are read.
  private func touchFile(_ path: String, _ page: Int) throws -> Double {
    let file = try MappedFile(path)
    var sum: UInt64 = 0
    let start = clock.now
    for offset in stride(from: 0, to: file.bytes.count, by: page) { sum &+= UInt64(file.bytes[offset]) }
    let seconds = clock.seconds(since: start, threads: 1)
    // Nothing is read that nobody wants the value of.
    guard sum > 0 else {
      throw JobPlanningFailure.settings(detail: "this device could not be measured: '\(path)' is empty")
    }
    return seconds
  }
}
