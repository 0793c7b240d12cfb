import ActivationCache
import Determinism
import Testing

@Suite("The activation cache in random histories")
struct CacheCrashTests {
  private let fixture = CacheFixture()

  @Test("survives a power cut at every byte that it writes, with everything flushed before still there")
  func everyPowerCut() throws {
    let whole = SimulatedStorage()
    whole.cutPower(afterWriting: 1 << 40)
    #expect(appendInSteps(whole).flushed == [0, 1, 2, 3])
    // Files that are replaced are written several times, hence more than the disk holds at the end.
    for cut in 1..<2 * whole.used {
      let storage = SimulatedStorage()
      storage.cutPower(afterWriting: cut)
      let history = appendInSteps(storage)
      // Of what was not synchronised, everything, nothing or some of it survives, in turn.
      var generator = SeededGenerator(seed: UInt64(cut))
      storage.crash { cut % 3 == 2 ? Bool.random(using: &generator) : cut % 3 == 1 }
      try verifyCache(
        storage, fixture, appended: history.appended, flushed: history.flushed, "cut at byte \(cut)")
    }
  }

  @Test("appends, flushes, crashes and reopenings in any order never give a wrong row or lose a flushed one")
  func interleavings() throws {
    for seed in 0..<400 {
      #expect(throws: Never.self, "seed \(seed)") { try runInterleaving(seed: UInt64(seed)) }
    }
  }

  @Test("damage to any file ends in a typed failure or in right rows only")
  func damage() throws {
    let original = SimulatedStorage()
    func fill() throws {
      let store = try ActivationCacheStore(original, identity: fixture.identity, shardLimit: 1500)
      try fixture.append(Array(0..<24), to: store)
      try store.flush()
    }
    try fill()
    var refused = 0
    for seed in 0..<600 {
      var generator = SeededGenerator(seed: UInt64(seed), 3)
      let storage = try original.copy()
      for _ in 0...generator.uniform(below: 3) { try damageOneFile(storage, &generator) }
      do throws(CacheFailure) {
        try verifyCache(storage, fixture, appended: Array(0..<24), flushed: [], "seed \(seed)")
      } catch {
        refused += 1
      }
    }
    // Only damage to the manifest can make the whole cache unusable, and not every such damage does.
    #expect(refused > 0 && refused < 300, "\(refused) of 600 were refused")
  }

  private func appendInSteps(_ storage: SimulatedStorage) -> (flushed: [Int], appended: [Int]) {
    var flushed: [Int] = []
    var appended: [Int] = []
    do throws(CacheFailure) {
      let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 700)
      for step in 0..<4 {
        appended.append(step)
        try fixture.append([step], to: store)
        if step % 2 == 1 {
          try store.flush()
          flushed = appended
        }
      }
    } catch {
      #expect(storage.isPowerCut, "\(error)")
    }
    return (flushed, appended)
  }

  private func runInterleaving(seed: UInt64) throws {
    var generator = SeededGenerator(seed: seed)
    let storage = SimulatedStorage()
    var appended: Set<Int> = []
    var flushed: Set<Int> = []
    for session in 0..<4 {
      let place = "seed \(seed), session \(session)"
      if generator.uniform(below: 2) == 0 {
        storage.cutPower(afterWriting: 1 + generator.uniform(below: 6000))
      }
      do throws(CacheFailure) {
        let store = try ActivationCacheStore(
          storage, identity: fixture.identity, shardLimit: 500 + generator.uniform(below: 3000))
        for _ in 0..<generator.uniform(below: 20) {
          switch generator.uniform(below: 6) {
          case 0:
            let present = (0..<60).filter { store.contains(fixture.key($0)) }
            try store.flush()
            flushed.formUnion(present)
          case 1:
            let present = (0..<60).filter { store.contains(fixture.key($0)) }
            let readsBack = try fixture.readsBack(present, from: store)
            #expect(readsBack, "\(place)")
          case 2:
            try appendToNearlyFullDisk(storage, store, &appended, &generator)
          default:
            let samples = (0...generator.uniform(below: 3)).map { _ in generator.uniform(below: 60) }
            appended.formUnion(samples)
            try fixture.append(samples, to: store)
            #expect(samples.allSatisfy { store.contains(fixture.key($0)) }, "\(place)")
          }
        }
      } catch {
        #expect(storage.isPowerCut, "\(place): \(error)")
      }
      // A clean restart, a killed process (nothing is lost) or a power cut.
      switch generator.uniform(below: 3) {
      case 0 where !storage.isPowerCut: break
      case 1: storage.crash { true }
      default: storage.crash { Bool.random(using: &generator) }
      }
      storage.cutPower(afterWriting: 1 << 40)
      try verifyCache(
        storage, fixture, appended: (appended.union([1000])).sorted(), flushed: flushed.sorted(), place)
      flushed.insert(1000)
    }
  }

  private func appendToNearlyFullDisk(
    _ storage: SimulatedStorage, _ store: ActivationCacheStore, _ appended: inout Set<Int>,
    _ generator: inout SeededGenerator
  ) throws(CacheFailure) {
    storage.capacity = storage.used + generator.uniform(below: 800)
    defer { storage.capacity = .max }
    let sample = generator.uniform(below: 60)
    do throws(CacheFailure) {
      try fixture.append([sample], to: store)
      appended.insert(sample)
    } catch {
      // A record may still be whole on the disk when the power went after its last byte.
      if storage.isPowerCut { appended.insert(sample) }
      guard case .diskFull = error else { throw error }
    }
  }

  private func damageOneFile(_ storage: SimulatedStorage, _ generator: inout SeededGenerator) throws {
    let names = try storage.names()
    guard !names.isEmpty else { return }
    let name = names[generator.uniform(below: names.count)]
    var bytes = try storage.bytes(name)
    switch generator.uniform(below: 5) {
    case 0:
      bytes.removeLast(generator.uniform(below: bytes.count + 1))
    case 1:
      bytes += (0..<generator.uniform(below: 200)).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
    case 2 where !bytes.isEmpty:
      let start = generator.uniform(below: bytes.count)
      let end = min(bytes.count, start + 1 + generator.uniform(below: 128))
      for index in start..<end { bytes[index] = UInt8(truncatingIfNeeded: generator.next()) }
    case 3:
      try storage.remove(name)
      return
    default:
      if bytes.isEmpty { return }
      for _ in 0...generator.uniform(below: 4) {
        bytes[generator.uniform(below: bytes.count)] ^= 1 << UInt8(generator.uniform(below: 8))
      }
    }
    storage.setContents(bytes, of: name)
  }
}
