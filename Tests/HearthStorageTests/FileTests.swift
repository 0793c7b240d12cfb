import Glibc
import HearthStorage
import LanguageModels
import Testing

@Suite("Files")
struct FileTests {
  @Test("a written file reads back, and its directory holds nothing else")
  func atomicWrite() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/adapter.json"
    try AtomicFile.write(Array("first".utf8), to: path)
    try AtomicFile.write(Array("second, longer".utf8), to: path)
    #expect(try readWholeFile(path, limit: 100) == Array("second, longer".utf8))
    #expect(try directoryNames(directory.path) == ["adapter.json"])
  }

  @Test("a file that is not committed leaves the old one as it was")
  func abandonedWrite() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/state"
    try AtomicFile.write([1, 2, 3], to: path)
    func abandon() throws {
      var file = try AtomicFile(path)
      try [UInt8](repeating: 9, count: 1000).withUnsafeBytes { try file.append($0) }
      #expect(try directoryNames(directory.path).count == 2)
    }
    try abandon()
    #expect(try readWholeFile(path, limit: 100) == [1, 2, 3])
    #expect(try directoryNames(directory.path) == ["state"])
  }

  @Test(
    "a missing file, a directory and a too large file are refused with the path, the reason and a next step")
  func refusals() throws {
    let directory = try TemporaryDirectory()
    let missing = directory.path + "/none"
    let failure = FileFailure.system(operation: "open", path: missing, code: ENOENT)
    #expect(throws: failure) { try readWholeFile(missing, limit: 1) }
    #expect(failure.description == "cannot open '\(missing)': No such file or directory; check the path")
    #expect(failure.isMissing && !failure.isDiskFull)
    #expect(throws: FileFailure.wrongKind(path: directory.path, expected: "regular file")) {
      try readWholeFile(directory.path, limit: 1)
    }
    let path = directory.path + "/large"
    try AtomicFile.write([UInt8](repeating: 0, count: 11), to: path)
    #expect(throws: FileFailure.tooLarge(path: path, byteCount: 11, limit: 10)) {
      try readWholeFile(path, limit: 10)
    }
    #expect(throws: FileFailure.wrongKind(path: path, expected: "directory")) { try createDirectory(path) }
    #expect(throws: FileFailure.system(operation: "examine", path: path + "/deeper", code: ENOTDIR)) {
      try createDirectory(path + "/deeper")
    }
  }

  @Test("a full device is told apart from other failures")
  func fullDevice() throws {
    // /dev/full is not a regular file, so the system's answer is had through the failure alone.
    let failure = FileFailure.system(operation: "write", path: "/data/x", code: ENOSPC)
    #expect(failure.isDiskFull)
    #expect(
      failure.description
        == "cannot write '/data/x': No space left on device; make room or choose another disk")
    #expect(FileFailure.system(operation: "write", path: "/data/x", code: EDQUOT).isDiskFull)
    #expect(!FileFailure.system(operation: "write", path: "/data/x", code: EIO).isDiskFull)
  }

  @Test(
    "scattered reads and writes keep the order of bytes for any number of segments",
    arguments: [1, 3, 64, 150])
  func scatter(segments: Int) throws {
    let directory = try TemporaryDirectory()
    let file = try OpenFile(directory.path + "/data", .updating)
    // Lengths differ and some segments are empty.
    let lengths = (0..<segments).map { ($0 * 7) % 13 }
    let total = lengths.reduce(0, +)
    let source = (0..<max(1, total)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ 5) }
    var target = [UInt8](repeating: 0, count: max(1, total))
    try source.withUnsafeBytes { bytes in
      var start = 0
      let parts = lengths.map { length in
        defer { start += length }
        return UnsafeRawBufferPointer(rebasing: bytes[start..<start + length])
      }
      try parts.withUnsafeBufferPointer { try file.write($0, at: 10) }
    }
    #expect(try file.byteCount() == (total == 0 ? 0 : 10 + total))
    let read = try target.withUnsafeMutableBytes { bytes in
      var start = 0
      let parts = lengths.map { length in
        defer { start += length }
        return UnsafeMutableRawBufferPointer(rebasing: bytes[start..<start + length])
      }
      return try parts.withUnsafeBufferPointer { try file.read(at: 10, scatteredInto: $0) }
    }
    #expect(read == total)
    #expect(target.prefix(total) == source.prefix(total))
  }

  @Test("a read that meets the end of the file returns what there is")
  func shortRead() throws {
    let directory = try TemporaryDirectory()
    let file = try OpenFile(directory.path + "/data", .updating)
    try [UInt8](1...10).withUnsafeBytes { try file.write($0, at: 0) }
    var bytes = [UInt8](repeating: 0, count: 8)
    let count = try bytes.withUnsafeMutableBytes { try file.read(at: 7, into: $0) }
    #expect(count == 3 && bytes == [8, 9, 10, 0, 0, 0, 0, 0])
    let scattered = try bytes.withUnsafeMutableBytes { buffer in
      let halves = [
        UnsafeMutableRawBufferPointer(rebasing: buffer[0..<4]),
        UnsafeMutableRawBufferPointer(rebasing: buffer[4..<8]),
      ]
      return try halves.withUnsafeBufferPointer { try file.read(at: 5, scatteredInto: $0) }
    }
    #expect(scattered == 5 && bytes == [6, 7, 8, 9, 10, 0, 0, 0])
  }

  @Test("a mapped file shows the file's bytes, also after its resident pages were released")
  func mapping() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/weights"
    let content = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 13) }
    try AtomicFile.write(content, to: path)
    let file = try MappedFile(path)
    #expect(file.name == path)
    file.withBytes { #expect($0.elementsEqual(content)) }
    file.releaseResidentPages()
    file.withBytes { #expect($0.elementsEqual(content)) }
  }

  @Test("released pages leave the resident set")
  func releasedPages() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/weights"
    try AtomicFile.write([UInt8](repeating: 7, count: 1 << 20), to: path)
    let file = try MappedFile(path)
    let sum = file.withBytes { $0.reduce(into: 0) { $0 += Int($1) } }
    #expect(sum == 7 << 20)
    #expect(try residentKilobytes(path) >= 1000)
    file.releaseResidentPages()
    #expect(try residentKilobytes(path) == 0)
    withExtendedLifetime(file) {}
  }

  @Test("a released range leaves the resident set and reads as before; its neighbours stay")
  func releasedRange() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/weights"
    let content = (0..<1 << 20).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ $0 >> 12) }
    try AtomicFile.write(content, to: path)
    let file = try MappedFile(path)
    file.withBytes { #expect($0.elementsEqual(content)) }
    // A range that begins and ends inside pages: 60 to 64 of its pages of 4 KiB are its own.
    file.release(100_001..<100_001 + 256 << 10)
    let left = try residentKilobytes(path)
    #expect((1024 - 256...1024 - 240).contains(left), "\(left) KiB")
    file.willNeed(100_001..<100_001 + 256 << 10)
    file.willNeed(0..<1 << 30)
    file.withBytes { #expect($0.elementsEqual(content)) }
    file.release(0..<1 << 20)
    #expect(try residentKilobytes(path) == 0)
    file.release(1 << 20..<1 << 21)
    withExtendedLifetime(file) {}
  }

  @Test("an empty file maps to no bytes")
  func emptyMapping() throws {
    let directory = try TemporaryDirectory()
    try AtomicFile.write([], to: directory.path + "/empty")
    let file = try MappedFile(directory.path + "/empty")
    #expect(file.bytes.isEmpty)
    file.releaseResidentPages()
  }

  @Test("the lock of a directory has one holder and goes with it")
  func locking() throws {
    let directory = try TemporaryDirectory()
    func hold() throws {
      let lock = try DirectoryLock(directory: directory.path)
      #expect(throws: FileFailure.locked(path: directory.path)) {
        _ = try DirectoryLock(directory: directory.path)
      }
      withExtendedLifetime(lock) {}
    }
    try hold()
    #expect(try directoryNames(directory.path) == [])
    try hold()
  }

  @Test("directories are made with their parents, listed in order and removed when empty")
  func directories() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/a/b/c/"
    try createDirectory(path, isPrivate: true)
    try createDirectory(path)
    for name in ["z", "m", "a"] { try AtomicFile.write([1], to: path + name) }
    #expect(try directoryNames(path) == ["a", "m", "z"])
    #expect(try removeEmptyDirectory(path) == false)
    for name in ["z", "m", "a"] { #expect(try removeFile(path + name)) }
    #expect(try removeFile(path + "a") == false)
    #expect(try removeEmptyDirectory(path))
    #expect(try freeDiskBytes(directory.path) > 0)
  }
}

/// Resident kilobytes of the mapping of the file at `path` in this process.
private func residentKilobytes(_ path: String) throws -> Int {
  // Files of /proc have no length, so they are read through stdio.
  let stream = try #require(fopen("/proc/self/smaps", "r"))
  defer { fclose(stream) }
  var line = [CChar](repeating: 0, count: 4096)
  var isOurs = false
  while fgets(&line, Int32(line.count), stream) != nil {
    let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    if text.contains(path) {
      isOurs = true
    } else if isOurs, text.hasPrefix("Rss:") {
      let digits = text.filter(\.isNumber)
      return try #require(Int(digits))
    }
  }
  return 0
}
