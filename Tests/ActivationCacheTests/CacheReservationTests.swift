import ActivationCache
import Determinism
import TensorKernels
import Testing

@Suite("A reservation in the activation cache")
struct CacheReservationTests {
  private let fixture = CacheFixture()

  private func reserve(_ samples: [Int], in store: ActivationCacheStore) throws(CacheFailure)
    -> CacheReservation
  {
    try store.reserve(
      samples.map(fixture.key),
      sequences: samples.map { sample in fixture.tokens(sample).map { PackedSequences(lengths: [$0]) } })
  }

  /// Writes tap by tap, every sample's before the next tap, as a layer-by-layer forward does.
  private func fill(
    _ reservation: CacheReservation, _ samples: [Int], taps: Int = .max
  ) throws(CacheFailure) {
    let rows = samples.map { fixture.rows([$0]) }
    for tap in 0..<min(taps, rows[0].blocks.joined().count) {
      for (index, packed) in rows.enumerated() where reservation.needs(index) {
        try reservation.write(index, Array(packed.blocks.joined())[tap])
      }
      reservation.settle()
    }
    withExtendedLifetime(rows) {}
  }

  @Test("leaves the bytes on the disk that appending the same samples leaves", arguments: [700, 1 << 30])
  func sameFiles(shardLimit: Int) throws {
    let samples = Array(0..<12)
    let (appended, reserved) = (SimulatedStorage(), SimulatedStorage())
    let first = try ActivationCacheStore(appended, identity: fixture.identity, shardLimit: shardLimit)
    try fixture.append(samples, to: first)
    try first.flush()
    let second = try ActivationCacheStore(reserved, identity: fixture.identity, shardLimit: shardLimit)
    let reservation = try reserve(samples, in: second)
    try fill(reservation, samples)
    #expect(second.entries == 0, "nothing can be read before the commit")
    try reservation.commit()
    try second.flush()
    #expect(try fixture.readsBack(samples, from: second))
    #expect(second.statistics.bytesAppended == first.statistics.bytesAppended)
    let names = try appended.names()
    #expect(try reserved.names() == names)
    for name in names {
      #expect(
        try reserved.contents(name, limit: 1 << 30) == appended.contents(name, limit: 1 << 30), "\(name)")
    }
  }

  @Test("has no record for samples that are there already, or twice in the list")
  func onlyNew() throws {
    let store = try ActivationCacheStore(SimulatedStorage(), identity: fixture.identity)
    try fixture.append([1, 2], to: store)
    let samples = [1, 3, 3, 2, 4]
    let reservation = try reserve(samples, in: store)
    #expect(samples.indices.map(reservation.needs) == [false, true, false, false, true])
    try fill(reservation, samples)
    try reservation.commit()
    #expect(store.entries == 4)
    #expect(try fixture.readsBack([4, 3, 2, 1], from: store))
  }

  @Test(
    "that is abandoned, or forgotten, leaves the cache as it was and open for appends",
    arguments: [true, false])
  func abandoned(explicitly: Bool) throws {
    let storage = SimulatedStorage()
    func abandonOne() throws {
      let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 900)
      try fixture.append([0], to: store)
      try store.flush()
      do {
        let reservation = try reserve([1, 2, 3, 4, 5], in: store)
        try fill(reservation, [1, 2, 3, 4, 5], taps: 3)
        if explicitly { reservation.abandon() }
      }
      #expect(store.entries == 1)
      try fixture.append([6, 7], to: store)
      #expect(try fixture.readsBack([0, 6, 7], from: store))
      try store.flush()
    }
    try abandonOne()
    try verifyCache(
      storage, fixture, appended: [0, 6, 7], flushed: [0, 6, 7], "after an abandoned reservation")
  }

  @Test("cut off by a power cut at any byte costs nothing that was there before it")
  func powerCuts() throws {
    for cut in stride(from: 1, to: 6000, by: 7) {
      let storage = SimulatedStorage()
      var flushed: [Int] = []
      let samples = [2, 3, 4, 5, 6, 7]
      do throws(CacheFailure) {
        let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 900)
        try fixture.append([0, 1], to: store)
        try store.flush()
        flushed = [0, 1]
        storage.cutPower(afterWriting: cut)
        let reservation = try reserve(samples, in: store)
        try fill(reservation, samples)
        try reservation.commit()
        try store.flush()
        flushed += samples
      } catch {
        #expect(storage.isPowerCut, "\(error)")
      }
      var generator = SeededGenerator(seed: UInt64(cut))
      storage.crash { cut % 3 == 2 ? Bool.random(using: &generator) : cut % 3 == 1 }
      try verifyCache(
        storage, fixture, appended: [0, 1] + samples, flushed: flushed, "cut at byte \(cut)")
    }
  }

  @Test("on a disk that fills up ends in a typed failure that says how much was needed")
  func diskFull() throws {
    let storage = SimulatedStorage()
    let store = try ActivationCacheStore(storage, identity: fixture.identity)
    try fixture.append([0], to: store)
    try store.flush()
    storage.capacity = storage.used + 200
    let reservation = try reserve([1, 2, 3], in: store)
    #expect {
      try fill(reservation, [1, 2, 3])
    } throws: { error in
      if case .diskFull(_, let needed, let entries, _)? = error as? CacheFailure {
        needed > 0 && entries == 1
      } else {
        false
      }
    }
    reservation.abandon()
    #expect(try fixture.readsBack([0], from: store))
  }
}
