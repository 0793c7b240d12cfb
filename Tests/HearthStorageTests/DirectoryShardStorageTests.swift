import ActivationCache
import CryptoPrimitives
import Determinism
import Glibc
import HearthStorage
import TensorKernels
import Testing

@Suite("An activation cache on a real file system")
struct DirectoryShardStorageTests {
  private let identity = CacheIdentity(
    backboneDigest: ContentDigest(of: [1]), tokenizerDigest: ContentDigest(of: [2]), maximumLength: 32,
    element: .float16, stacks: [CachedStack(name: "encoder", width: 64, taps: [0, 1, 2])])

  @Test("is found again, bit for bit, and removed with its directory")
  func roundTrip() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/run/cache"
    func fill() throws {
      let store = try ActivationCacheStore(
        DirectoryShardStorage(path), identity: identity, shardLimit: 20_000)
      for sample in 0..<16 { try append(sample, to: store) }
      try store.flush()
    }
    try fill()
    #expect(try directoryNames(path).count { $0.hasSuffix(".shard") } > 2)
    let store = try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
    #expect(store.recovery.isClean)
    for sample in [15, 0, 7] { #expect(try read(sample, from: store) == content(sample)) }
    try store.removeAll()
    #expect(try directoryNames(directory.path + "/run") == [])
  }

  @Test("can be read by its owner only, because activations reveal text")
  func permissions() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/cache"
    let store = try ActivationCacheStore(DirectoryShardStorage(path), identity: identity)
    try append(0, to: store)
    try store.flush()
    for name in try directoryNames(path) + ["."] {
      var status = stat()
      #expect(stat(path + "/" + name, &status) == 0)
      #expect(status.st_mode & 0o077 == 0, "\(name) has mode \(String(status.st_mode, radix: 8))")
    }
  }

  @Test("is used by one store at a time, and is free again when that one goes")
  func locking() throws {
    let directory = try TemporaryDirectory()
    func use() throws {
      let store = try ActivationCacheStore(DirectoryShardStorage(directory.path), identity: identity)
      let failure = #expect(throws: CacheFailure.self) {
        _ = try ActivationCacheStore(DirectoryShardStorage(directory.path), identity: identity)
      }
      guard case .locked(directory.path, let reason) = failure else {
        Issue.record("\(String(describing: failure))")
        return
      }
      #expect(reason == FileFailure.locked(path: directory.path).description)
      withExtendedLifetime(store) {}
    }
    try use()
    try use()
  }

  @Test("loses its own unfinished files on opening, and nobody else's")
  func leftovers() throws {
    let directory = try TemporaryDirectory()
    for name in [".manifest.json.17.tmp", ".00003.index.9.tmp", ".notes.17.tmp", "notes.tmp"] {
      try AtomicFile.write([1], to: directory.path + "/" + name)
    }
    let store = try ActivationCacheStore(DirectoryShardStorage(directory.path), identity: identity)
    #expect(try directoryNames(directory.path) == [".notes.17.tmp", "lock", "manifest.json", "notes.tmp"])
    withExtendedLifetime(store) {}
  }

  @Test("recovers from files cut at random places, and returns right rows only")
  func tornFiles() throws {
    for seed in 0..<60 {
      var generator = SeededGenerator(seed: UInt64(seed))
      let directory = try TemporaryDirectory()
      func fill() throws {
        let store = try ActivationCacheStore(
          DirectoryShardStorage(directory.path), identity: identity, shardLimit: 9000)
        for sample in 0..<12 { try append(sample, to: store) }
        try store.flush()
      }
      try fill()
      let names = try directoryNames(directory.path).filter { $0 != CacheFormat.manifestName }
      let file = try OpenFile(
        directory.path + "/" + names[generator.uniform(below: names.count)], .updating)
      try file.truncate(to: generator.uniform(below: try file.byteCount()))
      let store = try ActivationCacheStore(DirectoryShardStorage(directory.path), identity: identity)
      #expect(!store.recovery.isClean, "seed \(seed)")
      for sample in 0..<12 where store.contains(key(sample)) {
        #expect(try read(sample, from: store) == content(sample), "seed \(seed), sample \(sample)")
      }
      for sample in 0..<12 { try append(sample, to: store) }
      for sample in 0..<12 {
        #expect(try read(sample, from: store) == content(sample), "seed \(seed), sample \(sample)")
      }
    }
  }

  @Test(
    "keeps everything that was there when the disk is full",
    .enabled(if: SmallDisk.isAvailable, "needs root to mount a tmpfs of one megabyte"))
  func fullDisk() throws {
    let disk = try SmallDisk(kilobytes: 1024)
    let store = try ActivationCacheStore(DirectoryShardStorage(disk.path + "/cache"), identity: identity)
    var stored = 0
    var failure: CacheFailure?
    do throws(CacheFailure) {
      while stored < 1000 {
        try append(stored, to: store)
        stored += 1
      }
    } catch {
      failure = error
    }
    guard case .diskFull(disk.path + "/cache", let needed, stored, let reason) = failure else {
      Issue.record("after \(stored) samples: \(String(describing: failure))")
      return
    }
    #expect(stored > 50 && store.entries == stored)
    #expect(needed == CacheFormat.headerBytes + content(stored).count)
    #expect(reason.hasSuffix("No space left on device; make room or choose another disk"))
    for sample in 0..<stored { #expect(try read(sample, from: store) == content(sample)) }
  }

  // MARK: Samples whose rows follow from a number

  private func key(_ sample: Int) -> SampleKey {
    SampleKey(encoderIDs: [Int32(sample)], types: [], decoderIDs: [])
  }

  private func tokens(_ sample: Int) -> Int { 5 + sample % 20 }

  private func content(_ sample: Int) -> [UInt8] {
    var generator = SeededGenerator(seed: UInt64(sample))
    return (0..<tokens(sample) * 64 * 2 * 3).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
  }

  private func append(_ sample: Int, to store: ActivationCacheStore) throws(CacheFailure) {
    let memory = TapMemory(content(sample))
    try store.append(
      key(sample), shape: CacheRecordShape(tokens: [tokens(sample)]), taps: memory.taps(tokens(sample)))
    withExtendedLifetime(memory) {}
  }

  private func read(_ sample: Int, from store: ActivationCacheStore) throws(CacheFailure) -> [UInt8]? {
    let memory = TapMemory([UInt8](repeating: 0, count: content(sample).count))
    let selection = store.resolve([key(sample)])
    store.prefetch(selection)
    let outcome = try store.read(
      selection, into: memory.taps(tokens(sample)), scratch: store.makeReadScratch())
    return outcome == .complete ? memory.bytes : nil
  }
}

/// The three taps of one sample in consecutive memory.
private final class TapMemory {
  private let memory: UnsafeMutableRawBufferPointer

  init(_ bytes: [UInt8]) {
    memory = .allocate(byteCount: bytes.count, alignment: 64)
    memory.copyBytes(from: bytes)
  }

  deinit { memory.deallocate() }

  var bytes: [UInt8] { Array(memory) }

  func taps(_ rows: Int) -> [[EncodedRows]] {
    [
      (0..<3).map {
        EncodedRows(memory.baseAddress! + $0 * rows * 128, rows: rows, width: 64, element: .float16)
      }
    ]
  }
}

/// A file system in memory that is full soon.
final class SmallDisk: Sendable {
  let path: String
  private let directory: TemporaryDirectory

  /// Whether this process may mount one.
  static let isAvailable = (try? SmallDisk(kilobytes: 64)) != nil

  init(kilobytes: Int) throws {
    directory = try TemporaryDirectory()
    path = directory.path
    let status = mount("tmpfs", path, "tmpfs", 0, "size=\(kilobytes)k")
    try #require(status == 0, "mount: errno \(errno)")
  }

  deinit { umount2(path, Int32(MNT_DETACH)) }
}
