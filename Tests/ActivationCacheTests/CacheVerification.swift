import ActivationCache
import Testing

extension SimulatedStorage {
  /// All bytes of a file that must be there.
  func bytes(_ file: String) throws -> [UInt8] { try #require(try contents(file, limit: 1 << 24)) }

  /// A disk with the same files.
  func copy(name: String = "copy") throws -> SimulatedStorage {
    let copy = SimulatedStorage(name: name)
    for file in try names() { copy.setContents(try bytes(file), of: file) }
    return copy
  }
}

/// Opens the cache and checks that all flushed samples are there, that all that are there read back right,
/// and that what recovery left can be appended to, flushed and read again.
func verifyCache(
  _ storage: any ShardStorage, _ fixture: CacheFixture, appended: [Int], flushed: [Int], _ what: String
) throws(CacheFailure) {
  let store = try ActivationCacheStore(storage, identity: fixture.identity, shardLimit: 700)
  let present = appended.filter { store.contains(fixture.key($0)) }
  #expect(store.entries == present.count, "\(what): entries of nobody")
  let lost = Set(flushed).subtracting(present).sorted()
  #expect(lost.isEmpty, "\(what): lost flushed samples \(lost)")
  for sample in present {
    if let bytes = try fixture.read([sample], from: store) {
      #expect(bytes == fixture.rows([sample]).bytes, "\(what): sample \(sample) is wrong")
    } else {
      #expect(!flushed.contains(sample), "\(what): flushed sample \(sample) is damaged")
    }
  }
  let intact = present.filter { store.contains(fixture.key($0)) }
  try fixture.append([1000], to: store)
  try store.flush()
  let readsBack = try fixture.readsBack(intact + [1000], from: store)
  #expect(readsBack, "\(what): wrong after recovery")
}
