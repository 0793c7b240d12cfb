import ActivationCache
import CryptoPrimitives
import TensorKernels
import Testing

@Suite("The activation cache")
struct ActivationCacheStoreTests {
  @Test("reads back, bit for bit and in any order, what was appended", arguments: ActivationElement.allCases)
  func roundTrip(element: ActivationElement) throws {
    let fixture = CacheFixture(element: element)
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    try fixture.append([0, 1, 2], to: store)
    try fixture.append([3], to: store)
    for samples in [[0], [2, 0], [3, 1, 2, 0], [1, 1, 1]] {
      #expect(try fixture.readsBack(samples, from: store), "samples \(samples)")
    }
    #expect(store.entries == 4)
    #expect(store.statistics.recordsAppended == 4)
    #expect(store.statistics.recordsRead == 10)
  }

  @Test("has the same content after it is closed and opened again")
  func reopen() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage()
    try fillAndClose(storage, fixture, Array(0..<20))
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isClean, "\(store.recovery)")
    #expect(store.entries == 20)
    #expect(try fixture.readsBack(Array((0..<20).reversed()), from: store))
    try fixture.append([20], to: store)
    #expect(try fixture.readsBack([20, 3], from: store))
  }

  @Test("keeps one record of a sample that comes twice")
  func duplicates() throws {
    let fixture = CacheFixture()
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    try fixture.append([0, 1, 0], to: store)
    try fixture.append([1, 2], to: store)
    #expect(store.entries == 3)
    #expect(store.bytes == CacheFormat.headerBytes + [0, 1, 2].map(fixture.recordBytes).reduce(0, +))
    #expect(try fixture.readsBack([0, 1, 2], from: store))
  }

  @Test("says which samples are missing and reads nothing of a selection that lacks some")
  func missing() throws {
    let fixture = CacheFixture()
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    try fixture.append([0, 2], to: store)
    let selection = store.resolve([0, 1, 2, 3].map(fixture.key))
    #expect(!selection.isComplete)
    #expect(selection.missing == [fixture.key(1), fixture.key(3)])
    let rows = PackedRows(fixture.identity, tokens: fixture.packedTokens([0, 2]))
    #expect(try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch()) == .missing(2))
    #expect(rows.bytes.allSatisfy { $0 == 0xEE })
    #expect(store.contains(fixture.key(2)) && !store.contains(fixture.key(1)))
  }

  @Test("reads into blocks that have room to spare, and writes nothing behind the rows")
  func largerDestination() throws {
    let fixture = CacheFixture()
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    try fixture.append([4], to: store)
    let expected = fixture.rows([4])
    let rows = PackedRows(fixture.identity, tokens: [40, 40])
    let selection = store.resolve([fixture.key(4)])
    #expect(try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch()) == .complete)
    for (block, wanted) in zip(rows.blocks.joined(), expected.blocks.joined()) {
      let found = UnsafeRawBufferPointer(start: block.base, count: block.byteCount)
      let bytes = UnsafeRawBufferPointer(start: wanted.base, count: wanted.byteCount)
      #expect(found.prefix(bytes.count).elementsEqual(bytes))
      #expect(found.dropFirst(bytes.count).allSatisfy { $0 == 0xEE })
    }
    withExtendedLifetime((rows, expected)) {}
  }

  @Test("starts a new shard at the limit, and a record above it gets a shard of its own")
  func rollOver() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage()
    let samples = Array(0..<30)
    try fillAndClose(storage, fixture, samples, shardLimit: 1500)
    let shards = try storage.names().filter { $0.hasSuffix(".shard") }
    #expect(shards.count > 3)
    for shard in shards {
      #expect(try #require(try storage.contents(shard, limit: 1 << 20)).count <= 1500)
    }
    let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 1)
    #expect(try fixture.readsBack(samples, from: store))
    try fixture.append([30, 31], to: store)
    try store.flush()
    #expect(try storage.names().count { $0.hasSuffix(".shard") } == shards.count + 2)
    #expect(try fixture.readsBack([31, 0, 30], from: store))
  }

  @Test("refuses a cache of another model, tokenizer, length, element or tap set, and says what differs")
  func foreignIdentity() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage(name: "/caches/a")
    try fillAndClose(storage, fixture, [0])
    func expectForeign(_ field: String, _ change: (inout CacheIdentity) -> Void) throws {
      var identity = fixture.identity
      change(&identity)
      #expect(identity.digest != fixture.identity.digest)
      let failure = #expect(throws: CacheFailure.self) {
        _ = try ActivationCacheStore(storage, identity: identity)
      }
      guard case .foreign("/caches/a", let differences) = failure else {
        Issue.record("\(field): \(String(describing: failure))")
        return
      }
      #expect(differences.map(\.field) == [field])
    }
    try expectForeign("backbone weights") { $0.backboneDigest = ContentDigest(of: [1]) }
    try expectForeign("tokenizer") { $0.tokenizerDigest = ContentDigest(of: [1]) }
    try expectForeign("maximum length") { $0.maximumLength = 64 }
    try expectForeign("element") { $0.element = .int8 }
    try expectForeign("stacks") { $0.stacks[0].taps = [0, 1, 2] }
    try expectForeign("stacks") { $0.stacks[1].width = 8 }
    try expectForeign("stacks") { $0.stacks.removeLast() }
    // Refusing changes nothing.
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isClean && store.entries == 1)
  }

  @Test("describes a foreign cache in one line with both values and a next step")
  func foreignDescription() {
    let failure = CacheFailure.foreign(
      directory: "/c", differences: [CacheDifference(field: "element", cache: "int8", run: "float16")])
    #expect(
      failure.description
        == "the activation cache in '/c' is of another run (element: cache int8, run float16); "
        + "choose another cache directory or remove it")
  }

  @Test("refuses a cache of another format version")
  func otherVersion() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage(name: "/c")
    try fillAndClose(storage, fixture, [0])
    let manifest = try #require(try storage.contents(CacheFormat.manifestName, limit: 1 << 20))
    let text = String(decoding: manifest, as: UTF8.self)
    let changed = text.replacing("\"version\" : 1", with: "\"version\" : 7")
    #expect(changed != text)
    storage.setContents(Array(changed.utf8), of: CacheFormat.manifestName)
    #expect(throws: CacheFailure.unsupportedVersion(directory: "/c", found: 7, supported: 1)) {
      _ = try ActivationCacheStore(storage, identity: fixture.identity)
    }
  }

  @Test("has one user at a time")
  func locking() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage(name: "c")
    func open() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      #expect(throws: CacheFailure.locked(directory: "c", reason: "'c' is in use")) {
        _ = try ActivationCacheStore(storage, identity: fixture.identity)
      }
      withExtendedLifetime(store) {}
    }
    try open()
    try open()
  }

  @Test("is removed without a trace")
  func removal() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage()
    let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 1000)
    try fixture.append(Array(0..<20), to: store)
    try store.flush()
    #expect(try storage.names().count > 5)
    try store.removeAll()
    #expect(try storage.names() == [])
    #expect(store.entries == 0 && store.bytes == 0)
  }

  @Test("tells from its manifest what it holds")
  func manifest() throws {
    let fixture = CacheFixture()
    let storage = SimulatedStorage()
    #expect(try CacheManifest.read(from: storage) == nil)
    let dataSet = ContentDigest(of: [7])
    func fill() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 1000)
      try fixture.append(Array(0..<20), to: store)
      #expect(!store.markComplete(dataSet, covering: [fixture.key(99)]))
      #expect(!store.isComplete(dataSet))
      #expect(store.markComplete(dataSet, covering: (0..<20).map(fixture.key)))
      try store.flush()
    }
    try fill()
    let manifest = try #require(try CacheManifest.read(from: storage))
    #expect(manifest.identity == fixture.identity)
    #expect(manifest.entries == 20)
    #expect(manifest.completeDataSets == [dataSet])
    #expect(manifest.shards.allSatisfy { $0.taps == fixture.identity.stacks })
    let shards = try storage.names().filter { $0.hasSuffix(".shard") }
    #expect(manifest.shards.map(\.file) == shards)
    let bytes = try shards.reduce(0) { try $0 + (storage.contents($1, limit: 1 << 20)?.count ?? 0) }
    #expect(manifest.bytes == bytes)
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.isComplete(dataSet))
  }

  @Test("takes appends and reads from many threads at once")
  func threads() async throws {
    let fixture = CacheFixture()
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity, shardLimit: 4000)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for worker in 0..<4 {
        group.addTask {
          // Neighbours overlap, so that two workers append the same samples.
          for sample in stride(from: worker * 20, to: worker * 20 + 40, by: 2) {
            try fixture.append([sample, sample + 1], to: store)
            #expect(try fixture.readsBack([sample + 1, sample], from: store))
            if sample % 10 == 0 { try store.flush() }
          }
        }
      }
      try await group.waitForAll()
    }
    #expect(store.entries == 100)
    #expect(store.statistics.recordsAppended == 100)
    #expect(try fixture.readsBack(Array(0..<100), from: store))
  }

  private func fillAndClose(
    _ storage: SimulatedStorage, _ fixture: CacheFixture, _ samples: [Int],
    shardLimit: Int = CacheFormat.defaultShardLimit
  ) throws {
    let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: shardLimit)
    for sample in samples { try fixture.append([sample], to: store) }
    try store.flush()
  }
}

@Suite("Sample keys")
struct SampleKeyTests {
  @Test("differ when any id, its place or its list differs")
  func distinct() {
    let keys = [
      SampleKey(encoderIDs: [1, 2], types: [0, 0], decoderIDs: []),
      SampleKey(encoderIDs: [1, 2], types: [0, 1], decoderIDs: []),
      SampleKey(encoderIDs: [2, 1], types: [0, 0], decoderIDs: []),
      SampleKey(encoderIDs: [1, 2], types: [], decoderIDs: [0, 0]),
      SampleKey(encoderIDs: [1, 2, 0, 0], types: [], decoderIDs: []),
      SampleKey(encoderIDs: [1], types: [2], decoderIDs: []),
      SampleKey(encoderIDs: [], types: [], decoderIDs: []),
    ]
    #expect(Set(keys).count == keys.count)
    #expect(keys.sorted().map(\.description) == keys.map(\.description).sorted())
  }

  @Test("are BLAKE2b-128 of the length-prefixed lists")
  func definition() {
    var hasher = ContentHasher(digestByteCount: 16)
    hasher.update(bytes: [2, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 102, 0, 0, 0])
    hasher.update(bytes: [1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255])
    hasher.update(bytes: [0, 0, 0, 0, 0, 0, 0, 0])
    let expected = hexadecimal(hasher.finalizeBytes())
    #expect(SampleKey(encoderIDs: [101, 102], types: [-1], decoderIDs: []).description == expected)
  }
}
