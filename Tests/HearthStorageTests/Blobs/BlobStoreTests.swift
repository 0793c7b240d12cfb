import CryptoPrimitives
import Foundation
import HearthStorage
import Testing
import WireCoding

@Suite("Blobs on disk")
struct BlobStoreTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory() }

  private func store(_ budget: Int = 64 << 20) throws -> BlobStore {
    try BlobStore(stateDirectory: directory.path, budget: budget)
  }

  private func bytes(_ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 9 &+ ($0 >> 20) &* 5) }
  }

  /// Digests of `b2sum -l 256` over each MiB of the bytes.
  @Test("A manifest holds the length and BLAKE2b-256 of each MiB, and its digest names the blob")
  func manifest() throws {
    let store = try store()
    let zeros = [UInt8](repeating: 0, count: (1 << 20) + 1)
    let id = try store.add(bytes: zeros)
    let manifest = try #require(store.manifest(of: id))
    #expect(manifest.byteCount == (1 << 20) + 1)
    #expect(
      manifest.digests.map(\.description) == [
        "c74860dd7480e7f4b5ae705f9137e90a0aa0bc67d6e90cf8078dd6697dbdb6ad",
        "03170a2e7597b7b7e3d84c05391d139a62b157e78786d8c082f29dcf4c111314",
      ])
    #expect(manifest.encoded.count == 13 + 2 * 32)
    #expect(id == ContentDigest(of: manifest.encoded))
    #expect(try BlobManifest(decoding: manifest.encoded) == manifest)
    #expect(manifest.chunks(0..<1) == 0..<1 && manifest.chunks((1 << 20) - 1..<(1 << 20) + 1) == 0..<2)
  }

  @Test("A manifest of another version, chunk size or length is refused")
  func badManifests() throws {
    let good = BlobManifest(byteCount: 5, digests: [ContentDigest(of: [1])]).encoded
    var changed: [[UInt8]] = []
    for index in [0, 9, 12] {
      var bytes = good
      bytes[index] ^= 1
      changed.append(bytes)
    }
    // A length that asks for another number of digests, and one above all limits.
    changed.append([1] + [0, 0, 0x20, 0, 0, 0, 0, 0] + good[9...])
    changed.append([1] + [255, 255, 255, 255, 255, 255, 255, 127] + good[9...])
    changed.append(good + [0])
    for bytes in changed {
      #expect(throws: DecodingFailure.self) { try BlobManifest(decoding: bytes) }
    }
  }

  @Test("keeps a copy, gives its chunks, and forgets it with its bytes")
  func copy() throws {
    let store = try store()
    let content = bytes(3_000_000)
    let id = try store.add(bytes: content)
    #expect(try store.add(bytes: content) == id)
    #expect(store.isComplete(id) && store.usedBytes == 3_000_000)
    #expect(try store.read(2, of: id) == Array(content[2 << 20..<3_000_000]))
    #expect(try store.readAll(id, limit: 3_000_000) == content)
    #expect(throws: BlobFailure.self) { try store.readAll(id, limit: 2_999_999) }
    #expect(try store.verifiedPath(of: id, byteCount: 3_000_000) == store.dataPath(of: id))
    #expect(throws: BlobFailure.otherLength(id, found: 3_000_000, expected: 2_999_999)) {
      try store.verifiedPath(of: id, byteCount: 2_999_999)
    }
    #expect(try Data(contentsOf: URL(fileURLWithPath: store.dataPath(of: id))) == Data(content))
    try store.remove(id)
    #expect(store.ids.isEmpty && store.usedBytes == 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path + "/blobs").isEmpty)
    #expect(throws: BlobFailure.unknown(id)) { try store.read(0, of: id) }
  }

  @Test("keeps memory whose pages leave as soon as they were read, and gives no file that is not what it was")
  func memory() throws {
    let store = try store()
    let content = bytes(2_500_000)
    var passed: [Range<Int>] = []
    let id = try content.withUnsafeBytes { memory in try store.add(memory: memory) { passed.append($0) } }
    let once = [0..<1 << 20, 1 << 20..<2 << 20, 2 << 20..<2_500_000]
    #expect(passed == once + once)
    let path = try store.verifiedPath(of: id, byteCount: 2_500_000)
    #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(content))
    let handle = try #require(FileHandle(forWritingAtPath: path))
    try handle.seek(toOffset: 1 << 20 + 7)
    try handle.write(contentsOf: Data([content[1 << 20 + 7] ^ 1]))
    try handle.close()
    #expect(throws: BlobFailure.wrongBytes(id, chunk: 1)) {
      try store.verifiedPath(of: id, byteCount: 2_500_000)
    }
  }

  @Test("refers to a file without a copy, and refuses to give it when it has changed")
  func reference() throws {
    let store = try store(1 << 20)
    let file = directory.path + "/weights"
    try Data(bytes(5_000_000)).write(to: URL(fileURLWithPath: file))
    let id = try store.add(referenceTo: file)
    #expect(store.usedBytes == 0 && store.isComplete(id))
    #expect(try store.dataPath(of: id) == file)
    #expect(try store.read(4, of: id).count == 5_000_000 - 4 << 20)
    // After a restart it is known still, and it is not read again to be named.
    let again = try self.store(1 << 20)
    #expect(again.ids == [id] && again.isComplete(id))
    try Data(bytes(4_999_999)).write(to: URL(fileURLWithPath: file))
    #expect(throws: BlobFailure.changed(path: file)) { try again.read(0, of: id) }
    let changed = try again.add(referenceTo: file)
    #expect(changed != id)
    // One whose file has changed is not known after a restart.
    #expect(try self.store(1 << 20).ids == [changed])
    try again.remove(changed)
    #expect(FileManager.default.fileExists(atPath: file))
  }

  @Test(
    "takes only bytes that the manifest names, and resumes after a restart with what is whole on the disk")
  func resume() throws {
    let content = bytes(4 << 20)
    let source = try BlobStore(stateDirectory: directory.path + "/source", budget: 64 << 20)
    let id = try source.add(bytes: content)
    let manifest = try #require(source.manifest(of: id))
    do {
      let store = try store()
      try store.begin(manifest, for: BlobChunks(all: 4))
      #expect(throws: BlobFailure.wrongBytes(id, chunk: 1)) {
        try store.write(HashedChunk(try source.read(0, of: id)), as: 1, of: id)
      }
      for chunk in [0, 2, 3] {
        try store.write(HashedChunk(try source.read(chunk, of: id)), as: chunk, of: id)
      }
      #expect(store.held(of: id)?.chunks == [0, 2, 3] && !store.isComplete(id))
      #expect(throws: BlobFailure.missingChunk(id, chunk: 1)) { try store.read(1, of: id) }
      // Holes take no room on the disk.
      var status = stat()
      #expect(stat(try store.dataPath(of: id), &status) == 0)
      #expect(status.st_size == 4 << 20 && status.st_blocks * 512 <= 3 << 20 + 65_536)
    }
    // A crash left chunk 2 torn although its bit says that it is there.
    let path = "\(directory.path)/blobs/\(id)/data"
    let handle = try #require(FileHandle(forWritingAtPath: path))
    try handle.seek(toOffset: 2 << 20 + 7)
    try handle.write(contentsOf: Data([content[2 << 20 + 7] ^ 1]))
    try handle.close()
    let store = try store()
    #expect(store.held(of: id)?.chunks == [0, 3] && store.usedBytes == 2 << 20)
    for chunk in [1, 2] { try store.write(HashedChunk(try source.read(chunk, of: id)), as: chunk, of: id) }
    #expect(try store.readAll(id, limit: 4 << 20) == content)
  }

  @Test("says clearly that its budget is spent, before and while it writes")
  func budget() throws {
    let store = try store(2 << 20)
    let source = try BlobStore(stateDirectory: directory.path + "/source", budget: 64 << 20)
    let id = try source.add(bytes: bytes(5 << 20))
    let manifest = try #require(source.manifest(of: id))
    let failure = BlobFailure.overBudget(
      directory: directory.path + "/blobs", needed: 5 << 20, free: 2 << 20, budget: 2 << 20)
    #expect(throws: failure) { try store.begin(manifest, for: BlobChunks(all: 5)) }
    #expect(failure.description.contains("takes 5 MiB"))
    var two = BlobChunks(none: 5)
    two.insert(1..<3)
    try store.begin(manifest, for: two)
    for chunk in [1, 2] { try store.write(HashedChunk(try source.read(chunk, of: id)), as: chunk, of: id) }
    #expect(throws: BlobFailure.self) {
      try store.write(HashedChunk(try source.read(0, of: id)), as: 0, of: id)
    }
    #expect(store.held(of: id)?.chunks == [1, 2])
  }

  @Test("starts in spite of what it cannot read, and removes that")
  func damaged() throws {
    let store = try store()
    let id = try store.add(bytes: bytes(100))
    let other = try store.add(bytes: bytes(200))
    try Data([1, 2, 3]).write(to: URL(fileURLWithPath: "\(directory.path)/blobs/\(id)/manifest"))
    let again = try self.store()
    #expect(again.ids == [other])
    #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path + "/blobs") == ["\(other)"])
    var status = stat()
    #expect(stat(directory.path + "/blobs", &status) == 0 && status.st_mode & 0o777 == 0o700)
  }

  @Test("Sets of chunks travel as bits, the first lowest, and ignore bits behind the last chunk")
  func sets() throws {
    var set = BlobChunks(none: 11)
    set.insert(0)
    set.insert(9..<11)
    #expect(set.bits == [0b1, 0b110] && set.population == 3 && set.chunks == [0, 9, 10])
    #expect(BlobChunks(bits: [0b1, 0b1111_1110], count: 11) == set)
    #expect(BlobChunks(bits: [1], count: 11) == nil)
    #expect(BlobChunks(all: 11).subtracting(set).chunks == [1, 2, 3, 4, 5, 6, 7, 8])
    #expect(BlobChunks(all: 11).isSuperset(of: set) && !set.isSuperset(of: BlobChunks(all: 11)))
    #expect(set.bits(with: 0) == 0b1 && set.bits(with: 7) == 0b1 && set.bits(with: 8) == 0b110)
    #expect(set.first(in: 0..<11) == 0 && set.first(in: 1..<11) == 9 && set.first(in: 1..<9) == nil)
    #expect(set.first(in: 10..<99) == 10 && set.first(in: 4..<4) == nil)
    var long = BlobChunks(none: 200)
    long.insert(130)
    #expect(long.first(in: 3..<131) == 130 && long.first(in: 3..<130) == nil)
    #expect(long.bits(with: 130) == long.bits[16])
    let others = BlobChunks(all: 11)
    #expect(set.intersection(others) == set && set.intersection(others.subtracting(set)).isEmpty)
    #expect(set.symmetricDifference(others).chunks == Array(1...8))
    set.remove(9)
    #expect(!set.contains(9) && !set.contains(11) && !set.contains(-1))
    #expect(BlobChunks(all: 64).population == 64 && BlobChunks(none: 0).isEmpty)
  }
}
