import ActivationCache
import TensorKernels
import Testing

@Suite("The activation cache under faults")
struct CacheFaultTests {
  private let fixture = CacheFixture()

  @Test("cuts a torn record off and reports its bytes")
  func tornShard() throws {
    let storage = SimulatedStorage()
    try fill(storage, Array(0..<10))
    let shard = try storage.bytes("00000.shard")
    storage.setContents(shard + shard.prefix(77), of: "00000.shard")
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.tornShardBytes == 77)
    #expect(store.recovery.description == "cut 77 bytes of unfinished records")
    #expect(try storage.bytes("00000.shard") == shard)
    #expect(try fixture.readsBack(Array(0..<10), from: store))
  }

  @Test("finds records without index entry in the shard itself, for every length of the index")
  func tornIndex() throws {
    let original = SimulatedStorage()
    try fill(original, Array(0..<6))
    let index = try original.bytes("00000.index")
    for length in 0..<index.count {
      let storage = try original.copy()
      storage.setContents(Array(index.prefix(length)), of: "00000.index")
      let whole = length < 64 ? 0 : (length - 64) / 64
      func reopen() throws {
        let store = try ActivationCacheStore(storage, identity: fixture.identity)
        #expect(store.recovery.recoveredRecords == 6 - whole)
        #expect(store.recovery.damagedIndexBytes == (length < 64 ? length : length % 64))
        #expect(store.recovery.lostEntries == 0)
        #expect(try fixture.readsBack(Array(0..<6), from: store))
        try store.flush()
      }
      try reopen()
      #expect(try storage.bytes("00000.index") == index, "index cut to \(length)")
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      #expect(store.recovery.isClean)
    }
  }

  @Test("never returns a record with a flipped bit: it is dropped, missing, and can be appended again")
  func flippedPayloadBit() throws {
    let storage = SimulatedStorage()
    try fill(storage, [0, 1, 2])
    storage.flipBit((64 + fixture.recordBytes(0) + 64 + 5) * 8 + 3, of: "00000.shard")
    func recompute() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      #expect(store.recovery.isClean)
      let selection = store.resolve([0, 1, 2].map(fixture.key))
      let rows = PackedRows(fixture.identity, tokens: fixture.packedTokens([0, 1, 2]))
      #expect(try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch()) == .missing(1))
      #expect(store.statistics.recordsDropped == 1)
      #expect(store.resolve([0, 1, 2].map(fixture.key)).missing == [fixture.key(1)])
      // The old selection stays incomplete; a new one finds the new record.
      try fixture.append([1], to: store)
      #expect(try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch()) == .missing(1))
      #expect(try fixture.readsBack([0, 1, 2], from: store))
      try store.flush()
    }
    try recompute()
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isClean && store.entries == 3)
    #expect(try fixture.readsBack([2, 1, 0], from: store))
  }

  @Test("remembers a dropped record after a flush, and no data set is complete any more")
  func droppedIsRemembered() throws {
    let storage = SimulatedStorage()
    let dataSet = fixture.identity.digest
    func fillComplete() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      try fixture.append([0, 1, 2], to: store)
      #expect(store.markComplete(dataSet, covering: [0, 1, 2].map(fixture.key)))
      try store.flush()
    }
    try fillComplete()
    storage.flipBit((64 + 64 + 1) * 8, of: "00000.shard")
    func drop() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      #expect(store.isComplete(dataSet))
      #expect(try fixture.read([0], from: store) == nil)
      #expect(!store.isComplete(dataSet))
      try store.flush()
    }
    try drop()
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isClean, "\(store.recovery)")
    #expect(store.entries == 2 && !store.contains(fixture.key(0)) && !store.isComplete(dataSet))
    #expect(try fixture.readsBack([1, 2], from: store))
  }

  @Test("a full disk loses nothing that was there, and appending goes on when there is room")
  func fullDisk() throws {
    let room = 64 + [0, 1, 2].map(fixture.recordBytes).reduce(0, +)
    let manifestBytes = try emptyCacheBytes()
    for capacity in stride(from: manifestBytes, to: manifestBytes + room, by: 7) {
      let storage = SimulatedStorage(name: "c", capacity: capacity)
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      var stored: [Int] = []
      var failure: CacheFailure?
      do throws(CacheFailure) {
        for sample in 0..<3 {
          try fixture.append([sample], to: store)
          stored.append(sample)
        }
      } catch {
        failure = error
      }
      let needed = fixture.recordBytes(stored.count)
      #expect(
        failure
          == .diskFull(
            directory: "c", needed: needed, entries: stored.count, reason: "the simulated disk is full"))
      #expect(store.entries == stored.count)
      #expect(try fixture.readsBack(stored, from: store), "capacity \(capacity)")
      // The unfinished record is gone from the disk.
      #expect(storage.used == manifestBytes + store.bytes)
      storage.capacity = .max
      try fixture.append([0, 1, 2], to: store)
      try store.flush()
      #expect(try fixture.readsBack([0, 1, 2], from: store))
    }
  }

  @Test("a disk that is full at the flush keeps the entries, and a later flush saves them")
  func fullDiskAtFlush() throws {
    let storage = SimulatedStorage(name: "c")
    func attempt() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity)
      try fixture.append([0, 1], to: store)
      storage.capacity = storage.used + 10
      let full = CacheFailure.diskFull(
        directory: "c", needed: 192, entries: 2, reason: "the simulated disk is full")
      #expect(throws: full) { try store.flush() }
      #expect(try fixture.readsBack([0, 1], from: store))
      storage.capacity = .max
      try store.flush()
    }
    try attempt()
    storage.crash { false }
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isClean)
    #expect(try fixture.readsBack([0, 1], from: store))
  }

  @Test("drops what the disk refused to take when it is flushed, and keeps what was safe")
  func refusedSynchronization() throws {
    let storage = SimulatedStorage(name: "c")
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    try fixture.append([0, 1], to: store)
    try store.flush()
    try fixture.append([2, 3], to: store)
    let selection = store.resolve([2, 3].map(fixture.key))
    storage.refusesSynchronization = true
    #expect(throws: CacheFailure.storage(directory: "c", reason: "'00000.shard' cannot be synchronised")) {
      try store.flush()
    }
    #expect(store.entries == 2)
    let rows = PackedRows(fixture.identity, tokens: fixture.packedTokens([2, 3]))
    #expect(try store.read(selection, into: rows.blocks, scratch: store.makeReadScratch()) == .missing(2))
    #expect(try fixture.readsBack([0, 1], from: store))
    storage.refusesSynchronization = false
    try fixture.append([3, 2], to: store)
    try store.flush()
    #expect(try fixture.readsBack([0, 1, 2, 3], from: store))
  }

  @Test("a file of somebody else with a cache file's name is refused and stays as it is")
  func strangeDirectory() throws {
    let storage = SimulatedStorage(name: "web")
    let content = Array(#"{"name": "a web application"}"#.utf8)
    storage.setContents(content, of: CacheFormat.manifestName)
    #expect(
      throws: CacheFailure.notACache(
        directory: "web", file: "manifest.json",
        reason: "it is not the JSON of a manifest (key 'format' is missing)")
    ) { _ = try ActivationCacheStore(storage, identity: fixture.identity) }
    #expect(try storage.bytes(CacheFormat.manifestName) == content)
    let foreign = SimulatedStorage(name: "x")
    foreign.setContents([UInt8](repeating: 3, count: 100), of: "00000.shard")
    #expect(
      throws: CacheFailure.notACache(
        directory: "x", file: "00000.shard", reason: "it does not begin like one")
    ) { _ = try ActivationCacheStore(foreign, identity: fixture.identity) }
    #expect(try foreign.bytes("00000.shard").count == 100)
  }

  @Test("a lost manifest is made anew from shards that prove to be this cache's")
  func lostManifest() throws {
    let storage = SimulatedStorage()
    try fill(storage, [0, 1])
    try storage.remove(CacheFormat.manifestName)
    var other = fixture.identity
    other.maximumLength = 5
    #expect(throws: CacheFailure.self) { _ = try ActivationCacheStore(storage, identity: other) }
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    #expect(store.recovery.isManifestRebuilt && store.entries == 2)
    try store.flush()
    #expect(try CacheManifest.read(from: storage)?.entries == 2)
  }

  private func fill(_ storage: SimulatedStorage, _ samples: [Int]) throws {
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    try fixture.append(samples, to: store)
    try store.flush()
  }

  private func emptyCacheBytes() throws -> Int {
    let storage = SimulatedStorage()
    _ = try ActivationCacheStore(storage, identity: fixture.identity)
    return storage.used
  }
}
