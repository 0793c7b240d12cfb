import CryptoPrimitives
import Foundation
import HearthStorage
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

private let machine = Array("1f8e6b3c2d4a5968778695a4b3c2d1e0\n".utf8)

/// The failure of an operation on the state; nil when it worked.
private func failure(_ body: () throws -> Void) -> HouseholdStorageFailure? {
  do {
    try body()
    return nil
  } catch {
    return error as? HouseholdStorageFailure
  }
}

/// A state directory with a household in it.
private struct StoredHome {
  let temporary: TemporaryDirectory
  var entropy: SeededEntropy
  var household: Household
  var state: String { temporary.path + "/state" }
  var path: String { state + "/household" }

  init(seed: UInt64 = 1) throws {
    temporary = try TemporaryDirectory()
    entropy = SeededEntropy(seed: seed)
    household = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "desk",
      entropy: &entropy)
  }

  mutating func create(files: (any HouseholdFiles)? = nil) throws -> HouseholdDirectory {
    try HouseholdDirectory.create(
      stateDirectory: state, household: household, machineID: machine, entropy: &entropy, files: files)
  }

  func open(
    _ access: HouseholdDirectory.Access = .exclusive, machineID: [UInt8] = machine
  ) throws -> HouseholdDirectory {
    try HouseholdDirectory.open(stateDirectory: state, machineID: machineID, access: access)
  }

  mutating func admitDevice() throws {
    let request = try AdmissionRequest(keys: DeviceKeys(entropy: &entropy), name: "phone", binding: [])
    _ = try household.admit(request, binding: [], entropy: &entropy)
  }
}

private func permissions(_ path: String) throws -> Int {
  let value = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions]
  return try #require(value as? NSNumber).intValue
}

@Suite struct HouseholdDirectoryTests {
  @Test("A household is read back as it was written, keys included")
  func roundTrip() throws {
    var home = try StoredHome()
    try home.admitDevice()
    do { _ = try home.create() }
    let read = try home.open().household()
    #expect(read.log == home.household.log)
    #expect(read.certificate == home.household.certificate)
    #expect(read.keys.signing.publicKey == home.household.keys.signing.publicKey)
    #expect(read.keys.agreement.publicKey == home.household.keys.agreement.publicKey)
    #expect(read.ring.current?.epochHint == home.household.ring.current?.epochHint)
    #expect(read.isAdmin)
  }

  @Test("Directories have mode 0700 and files 0600, whatever the umask lets through")
  func modes() throws {
    var home = try StoredHome()
    let directory = try home.create()
    try directory.store([KnownPeer(device: home.household.device)])
    try directory.store(InviteBook(failures: [1]))
    #expect(try permissions(home.state) == 0o700)
    #expect(try permissions(home.path) == 0o700)
    let names = try FileManager.default.contentsOfDirectory(atPath: home.path).sorted()
    #expect(names == ["boot", "identity", "invites", "lock", "log", "peers"])
    for name in names { #expect(try permissions("\(home.path)/\(name)") == 0o600, "\(name)") }
  }

  @Test("The seed is in no file but the identity")
  func seedStaysInIdentity() throws {
    var home = try StoredHome()
    let directory = try home.create()
    try directory.store(home.household.log)
    let seed = home.household.keys.seedCopy().withUnsafeBytes { Data($0) }
    for name in try FileManager.default.contentsOfDirectory(atPath: home.path) {
      let data = try Data(contentsOf: URL(fileURLWithPath: "\(home.path)/\(name)"))
      #expect((data.range(of: seed) != nil) == (name == "identity"), "\(name)")
    }
  }

  @Test("Without a household it says so, and a second household is refused")
  func presence() throws {
    var home = try StoredHome()
    #expect(failure { _ = try home.open() } == .noHousehold(path: home.path))
    let directory = try home.create()
    #expect(failure { _ = try home.create() } == .inUse(path: home.path, process: getpid()))
    _ = directory
  }

  @Test("A household that is there is not overwritten")
  func alreadyThere() throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    #expect(failure { _ = try home.create() } == .alreadyThere(path: home.path))
  }

  @Test(
    "A directory or file that others may use is refused, with its mode",
    arguments: ["", "/household", "/household/identity", "/household/log", "/household/boot"])
  func openToOthers(_ part: String) throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    let path = home.state + part
    let mode = try permissions(path)
    for extra in [0o040, 0o020, 0o004, 0o001] {
      #expect(chmod(path, UInt32(mode | extra)) == 0)
      let found = failure {
        let directory = try home.open(.reading)
        _ = try directory.household()
        _ = try directory.bootCounter()
      }
      #expect(found == .openToOthers(path: path, mode: UInt32(mode | extra)))
      #expect(found?.description.contains("chmod go-rwx \(path)") == true)
    }
  }

  @Test(
    "A directory of another user is refused", .enabled(if: geteuid() == 0, "only root can give files away"))
  func otherOwner() throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    #expect(chown(home.path, 12_345, 12_345) == 0)
    #expect(
      failure { _ = try home.open() } == .otherOwner(path: home.path, owner: 12_345, expected: geteuid()))
  }

  @Test("A symbolic link in place of the directory or the identity is refused")
  func symbolicLinks() throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    let moved = home.temporary.path + "/elsewhere"
    try FileManager.default.moveItem(atPath: home.path, toPath: moved)
    try FileManager.default.createSymbolicLink(atPath: home.path, withDestinationPath: moved)
    #expect(
      failure { _ = try home.open() } == .file(.wrongKind(path: home.path, expected: "directory")))
  }

  @Test("Any place inside a git work tree is refused, also by way of links and before it is made")
  func gitWorkTree() throws {
    var home = try StoredHome()
    let tree = home.temporary.path
    try FileManager.default.createDirectory(atPath: tree + "/.git", withIntermediateDirectories: false)
    let real = try #require(realpath(tree, nil))
    defer { free(real) }
    let expected = HouseholdStorageFailure.insideGitWorkTree(
      path: home.state, workTree: String(cString: real))
    #expect(failure { _ = try home.create() } == expected)
    #expect(!FileManager.default.fileExists(atPath: home.state))
    // Linked work trees have a file instead.
    try FileManager.default.removeItem(atPath: tree + "/.git")
    do { _ = try home.create() }
    try "gitdir: elsewhere".write(toFile: tree + "/.git", atomically: false, encoding: .utf8)
    #expect(failure { _ = try home.open() } == expected)
    let outside = try TemporaryDirectory()
    let link = outside.path + "/link"
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: home.temporary.path)
    let found = failure {
      _ = try HouseholdDirectory.open(stateDirectory: link + "/state", machineID: machine, access: .reading)
    }
    #expect(found == .insideGitWorkTree(path: link + "/state", workTree: String(cString: real)))
  }

  @Test("On another machine the state looks like a copy, for reading too")
  func otherMachine() throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    let other = Array("00000000000000000000000000000001\n".utf8)
    for access in [HouseholdDirectory.Access.exclusive, .reading] {
      let found = failure { _ = try home.open(access, machineID: other) }
      #expect(found == .otherMachine(path: home.path))
      #expect(found?.description.contains("this looks like a copy") == true)
    }
    _ = try home.open()
  }

  @Test("A second user of the state is refused with the first one's process number; a reader is not")
  func lock() throws {
    var home = try StoredHome()
    var directory: HouseholdDirectory? = try home.create()
    let found = failure { _ = try home.open() }
    #expect(found == .inUse(path: home.path, process: getpid()))
    #expect(found?.description.contains("process \(getpid());") == true)
    let reader = try home.open(.reading)
    #expect(try reader.household().device == home.household.device)
    #expect(failure { try reader.store(home.household.log) } == .readingOnly(path: home.path))
    #expect(
      failure { _ = try reader.raiseBootCounter(entropy: &home.entropy) } == .readingOnly(path: home.path))
    #expect(directory != nil)
    directory = nil
    _ = try home.open()
  }

  @Test("The boot counter rises at every start and is on disk before it is given out")
  func bootCounter() throws {
    var home = try StoredHome()
    do { _ = try home.create() }
    var boots: [BootID] = []
    for _ in 0..<3 {
      let directory = try home.open()
      let boot = try directory.raiseBootCounter(entropy: &home.entropy)
      #expect(try home.open(.reading).bootCounter() == boot.counter)
      boots.append(boot)
    }
    #expect(boots.map(\.counter) == [1, 2, 3])
    #expect(Set(boots.map(\.nonce)).count == 3)
    #expect(boots == boots.sorted())
  }

  @Test("Known peers come back once each, in order; nothing is stored at first")
  func peers() throws {
    var home = try StoredHome()
    let directory = try home.create()
    #expect(try directory.knownPeers().isEmpty)
    let devices = (0..<300).map { _ in DeviceID(bytes: home.entropy.bytes(16))! }
    let peers = devices.map {
      KnownPeer(
        device: $0, addresses: [NetworkAddress(.v4(0xC0A8_0101), port: 7946)], lastContact: 17,
        roundTripMicroseconds: 300)
    }
    try directory.store(Array(peers[..<200]) + peers[..<10])
    #expect(try directory.knownPeers() == peers[..<200].sorted { $0.device < $1.device })
    try directory.store(peers)
    #expect(try directory.knownPeers().count == TrustLimits.devices)
    try directory.store([KnownPeer]())
    #expect(try directory.knownPeers().isEmpty)
  }

  @Test("Known peers of an earlier build, which kept a wire version after each, are read")
  func earlierPeers() throws {
    var home = try StoredHome()
    let directory = try home.create()
    let peers = [KnownPeer(device: home.household.device, lastContact: 1_700_000_000)]
    try directory.store(peers)
    let url = URL(fileURLWithPath: "\(home.path)/peers")
    var bytes = [UInt8](try Data(contentsOf: url))
    bytes.removeLast(ContentDigest.byteCount)
    #expect(bytes.last == 0)
    bytes[bytes.count - 1] = 1
    var hasher = ContentHasher()
    bytes.withUnsafeBytes { hasher.update($0) }
    try Data(bytes + hasher.finalize().bytes).write(to: url)
    try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: url.path)
    #expect(try directory.knownPeers() == peers)
  }

  @Test("Invitations are single use, end, and are limited; failures are forgotten after an hour")
  func invites() throws {
    var home = try StoredHome()
    let directory = try home.create()
    var book = try directory.inviteBook()
    for index in 0..<TrustLimits.openInvites {
      let token = Array("hearth1token\(index)".utf8)
      let invite = StoredInvite(
        id: [UInt8](repeating: UInt8(index), count: 16), expiry: 1000 + UInt64(index), makesAdmin: index == 3,
        token: SecretBytes(count: token.count) { $0.copyBytes(from: token) })
      let hasRoom = book.open(invite)
      #expect(hasRoom)
    }
    let excess = StoredInvite(
      id: [UInt8](repeating: 99, count: 16), expiry: 9, makesAdmin: false,
      token: SecretBytes(count: 4, entropy: &home.entropy))
    let hasRoom = book.open(excess)
    #expect(!hasRoom)
    for time in [100, 200, 3800] as [UInt64] { book.noteFailure(at: time) }
    try directory.store(book)
    var read = try directory.inviteBook()
    #expect(read.invites.count == TrustLimits.openInvites && read.failures == [100, 200, 3800])
    let found = read.take(id: [UInt8](repeating: 3, count: 16))
    let taken = try #require(found)
    #expect(taken.makesAdmin && taken.expiry == 1003)
    #expect(taken.token.withUnsafeBytes { String(decoding: $0, as: UTF8.self) } == "hearth1token3")
    let again = read.take(id: taken.id)
    #expect(again == nil)
    read.expire(now: 1010)
    #expect(read.invites.map(\.expiry).min() == 1011)
    read.expire(now: 3750)
    #expect(read.failures == [200, 3800] && read.invites.isEmpty)
    for time in 0..<100 as Range<UInt64> { read.noteFailure(at: time) }
    #expect(read.failures.count == InviteBook.failureLimit && read.failures.last == 99)
  }

  @Test("Changes of the invitations from several threads all count, and one that throws changes nothing")
  func changesOfInvites() async throws {
    struct Refused: Error {}
    var home = try StoredHome()
    let directory = try home.create()
    try await withThrowingTaskGroup(of: Void.self) { group in
      for thread in 0..<4 as Range<UInt64> {
        group.addTask {
          for guess in 0..<5 as Range<UInt64> {
            try directory.updateInvites { $0.noteFailure(at: 100 * thread + guess) }
          }
        }
      }
      try await group.waitForAll()
    }
    let failures = try directory.inviteBook().failures
    let expected: [UInt64] = [
      0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 200, 201, 202, 203, 204, 300, 301, 302, 303, 304,
    ]
    #expect(failures.sorted() == expected)
    #expect(throws: Refused.self) {
      try directory.updateInvites { (book: inout InviteBook) throws -> Void in
        book.noteFailure(at: 9)
        throw Refused()
      }
    }
    #expect(try directory.inviteBook().failures == failures)
  }

  @Test("Erasing leaves no key and no household, and another can be created")
  func erasing() throws {
    var home = try StoredHome()
    let first = home.household.device
    do {
      let directory = try home.create()
      try directory.erase()
    }
    #expect(try FileManager.default.contentsOfDirectory(atPath: home.path) == ["lock"])
    #expect(failure { _ = try home.open() } == .noHousehold(path: home.path))
    home.household = try Household(
      creating: RecoveryPhrase(entropy: &home.entropy), keys: DeviceKeys(entropy: &home.entropy),
      name: "desk",
      entropy: &home.entropy)
    #expect(try home.create().household().device != first)
  }

  @Test("A device whose membership was taken back still reads its state, and knows that it is out")
  func formerMember() throws {
    var home = try StoredHome()
    let keys = DeviceKeys(entropy: &home.entropy)
    _ = try home.household.admit(
      AdmissionRequest(keys: keys, name: "phone", binding: []), binding: [], entropy: &home.entropy)
    let phone = try Household(log: home.household.log, keys: keys)
    _ = try home.household.revoke(keys.device, reason: .lost, entropy: &home.entropy)
    var stored = home
    stored.household = phone
    let directory = try stored.create()
    try directory.store(home.household.log)
    let read = try directory.household()
    #expect(read.isRevoked && !read.isMember && read.device == keys.device)
  }

  @Test("A TEST-ONLY key is not taken for a real one")
  func testOnlyKeys() throws {
    var home = try StoredHome()
    let seed = Array("TEST-ONLY example household 0...".utf8)
    let keys = DeviceKeys(seed: SecretBytes(count: seed.count) { $0.copyBytes(from: seed) })
    home.household = try Household(
      creating: RecoveryPhrase(entropy: &home.entropy), keys: try #require(keys), name: "desk",
      entropy: &home.entropy)
    #expect(failure { _ = try home.create() } == .testOnlyKey(path: home.path + "/identity"))
    #expect(!FileManager.default.fileExists(atPath: home.path + "/identity"))
  }
}
