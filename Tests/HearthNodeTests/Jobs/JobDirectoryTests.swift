import CryptoPrimitives
import Glibc
import HearthNode
import HearthStorage
import HouseholdTrust
import MeshModel
import Testing
import TrainingCoordination
import WireCoding

@Suite struct JobDirectoryTests {
  private static func withState(_ body: (String) throws -> Void) throws {
    let path = "/tmp/hearth-jobs-\(getpid())-\(SystemEntropy.number())"
    defer { try? removeTree(path) }
    try body(path)
  }

  private static func record(_ number: UInt64) -> StoredJob {
    var entropy = SeededEntropy(seed: 3)
    let device = DeviceKeys(entropy: &entropy).device
    let blob = BlobReference(digest: ContentDigest(of: [1]), byteCount: 10)
    return StoredJob(
      JobSpecification(
        id: JobID(7, number), owner: device, name: "reviews", model: ContentDigest(of: [2]),
        modelFiles: blob, package: blob, roster: [device], leader: device, epochs: 3))
  }

  @Test("Records are found again after a restart, replaced whole, and removed with their job")
  func records() throws {
    try Self.withState { state in
      let directory = try JobDirectory(stateDirectory: state)
      var first = Self.record(1)
      try directory.store(first)
      try directory.store(Self.record(2))
      first.ledger.committedStep = 5
      try directory.store(first)
      let again = try JobDirectory(stateDirectory: state).records()
      #expect(again.records == [first, Self.record(2)] && again.damaged.isEmpty)
      directory.remove(first.specification.id)
      #expect(try directory.records().records == [Self.record(2)])
    }
  }

  @Test("A record that is damaged, of another job, or too long is told apart from those that are whole")
  func damage() throws {
    try Self.withState { state in
      let directory = try JobDirectory(stateDirectory: state)
      for number in 1...4 { try directory.store(Self.record(UInt64(number))) }
      func overwrite(_ number: UInt64, _ bytes: [UInt8]) throws {
        try AtomicFile.write(bytes, to: directory.path(of: JobID(7, number)) + "/record")
      }
      try overwrite(1, Self.record(1).encoded.dropLast())
      try overwrite(2, Self.record(3).encoded)
      try overwrite(3, [UInt8](repeating: 0, count: JobLimits.recordBytes + 1))
      try createDirectory(state + "/jobs/something else")
      let found = try directory.records()
      #expect(found.records == [Self.record(4)])
      #expect(found.damaged == [JobID(7, 1), JobID(7, 2), JobID(7, 3)])
    }
  }

  @Test("What a running job needs goes when it ends; links are removed, what they lead to stays")
  func work() throws {
    try Self.withState { state in
      let directory = try JobDirectory(stateDirectory: state)
      let record = Self.record(1)
      try directory.store(record)
      let id = record.specification.id
      try createDirectory(directory.cachePath(of: id) + "/shards")
      try AtomicFile.write([1], to: directory.cachePath(of: id) + "/shards/0")
      try createDirectory(directory.modelPath(of: id))
      try createDirectory(state + "/elsewhere")
      try AtomicFile.write([2], to: state + "/elsewhere/weights")
      for name in ["weights", "folder"] {
        let target = name == "weights" ? state + "/elsewhere/weights" : state + "/elsewhere"
        #expect(symlink(target, directory.modelPath(of: id) + "/\(name)") == 0)
      }
      directory.removeWork(of: id)
      #expect(try directoryNames(directory.path(of: id)) == ["record"])
      #expect(try readWholeFile(state + "/elsewhere/weights", limit: 10) == [2])
    }
  }
}

extension SystemEntropy {
  /// Some number, so that tests that run at once do not share a directory.
  fileprivate static func number() -> UInt32 {
    var entropy = SystemEntropy()
    return entropy.integer()
  }
}
