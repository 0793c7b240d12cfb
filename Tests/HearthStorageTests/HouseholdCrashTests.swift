import CryptoPrimitives
import Foundation
import HearthStorage
import HouseholdTrust
import MeshModel
import Synchronization
import Testing
import WireCoding

/// Writes through to the disk and remembers every step.
private final class RecordingFiles: HouseholdFiles {
  enum Step: Sendable {
    case replace(String, [UInt8])
    case remove(String)
  }

  private let disk: DiskHouseholdFiles
  private let recorded = Mutex<[Step]>([])
  var steps: [Step] { recorded.withLock { $0 } }

  init(directory: String) { disk = DiskHouseholdFiles(directory: directory) }

  func replace(_ name: String, with bytes: [UInt8]) throws(FileFailure) {
    recorded.withLock { $0.append(.replace(name, bytes)) }
    try disk.replace(name, with: bytes)
  }

  func remove(_ name: String) throws(FileFailure) {
    recorded.withLock { $0.append(.remove(name)) }
    try disk.remove(name)
  }
}

@Suite struct HouseholdCrashTests {
  private let machine = Array("machine\n".utf8)

  /// The life of a state: created, started twice, changed, told of peers and invitations, erased.
  private func life(in state: String) throws -> (steps: [RecordingFiles.Step], logs: [MembershipLog]) {
    var entropy = SeededEntropy(seed: 60)
    var household = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "desk",
      entropy: &entropy)
    let files = RecordingFiles(directory: state + "/household")
    let directory = try HouseholdDirectory.create(
      stateDirectory: state, household: household, machineID: machine, entropy: &entropy, files: files)
    var logs = [household.log]
    for round in 0..<2 {
      _ = try directory.raiseBootCounter(entropy: &entropy)
      let keys = DeviceKeys(entropy: &entropy)
      let request = try AdmissionRequest(keys: keys, name: "device \(round)", binding: [])
      _ = try household.admit(request, binding: [], entropy: &entropy)
      try directory.store(household.log)
      logs.append(household.log)
      try directory.store([KnownPeer(device: keys.device)])
      try directory.store(InviteBook(failures: [UInt64(round)]))
    }
    try directory.erase()
    return (files.steps, logs)
  }

  /// What a crash can leave: the content of all files, and the hidden file of the interrupted write.
  private func materialize(_ content: [String: [UInt8]]) throws -> TemporaryDirectory {
    let temporary = try TemporaryDirectory()
    let path = temporary.path + "/state/household"
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o700], ofItemAtPath: temporary.path + "/state")
    for (name, bytes) in content {
      let made = FileManager.default.createFile(
        atPath: "\(path)/\(name)", contents: Data(bytes), attributes: [.posixPermissions: 0o600])
      try #require(made)
    }
    return temporary
  }

  private func open(
    _ temporary: TemporaryDirectory, _ access: HouseholdDirectory.Access = .exclusive
  ) throws -> HouseholdDirectory {
    try HouseholdDirectory.open(
      stateDirectory: temporary.path + "/state", machineID: machine, access: access)
  }

  @Test("After a crash in any step of any write there is a whole state, old or new, or none")
  func everyPrefix() throws {
    let temporary = try TemporaryDirectory()
    let (steps, logs) = try life(in: temporary.path + "/state")
    #expect(steps.count == 18)
    var content: [String: [UInt8]] = [:]
    var seen = Set<Int>()
    var lastBoot: UInt32 = 0
    for step in steps {
      // In the midst of the step: its hidden file is there with none, some or all of its bytes.
      if case .replace(let name, let bytes) = step {
        for count in [0, 1, bytes.count / 2, bytes.count] {
          var torn = content
          torn[".\(name).4711.tmp"] = Array(bytes[..<count])
          try check(torn, logs, &seen, &lastBoot)
        }
      }
      switch step {
      case .replace(let name, let bytes): content[name] = bytes
      case .remove(let name): content[name] = nil
      }
      try check(content, logs, &seen, &lastBoot)
    }
    // Every log of the life was seen, and so was having none.
    #expect(seen == [-1, 0, 1, 2])
  }

  private func check(
    _ content: [String: [UInt8]], _ logs: [MembershipLog], _ seen: inout Set<Int>, _ lastBoot: inout UInt32
  ) throws {
    let temporary = try materialize(content)
    let directory: HouseholdDirectory
    do {
      directory = try open(temporary)
    } catch let failure as HouseholdStorageFailure {
      #expect(failure == .noHousehold(path: temporary.path + "/state/household"))
      #expect(content["identity"] == nil)
      seen.insert(-1)
      return
    }
    let household = try directory.household()
    let index = try #require(logs.firstIndex(of: household.log))
    #expect(index >= (seen.max() ?? 0))
    seen.insert(index)
    let boot = try directory.bootCounter()
    #expect(boot >= lastBoot)
    lastBoot = boot
    #expect(try directory.knownPeers().count <= 1)
    #expect(try directory.inviteBook().failures.count <= 1)
    // No hidden file stays: one may hold a key.
    let names = try FileManager.default.contentsOfDirectory(atPath: directory.path)
    #expect(!names.contains { $0.hasSuffix(".tmp") })
  }

  @Test("An interrupted creation can be made again")
  func interruptedCreation() throws {
    let temporary = try TemporaryDirectory()
    let (steps, _) = try life(in: temporary.path + "/state")
    var content: [String: [UInt8]] = [:]
    for step in steps.prefix(while: { if case .replace("identity", _) = $0 { false } else { true } }) {
      if case .replace(let name, let bytes) = step { content[name] = bytes }
      let other = try materialize(content)
      var entropy = SeededEntropy(seed: 61)
      let household = try Household(
        creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "desk",
        entropy: &entropy)
      let directory = try HouseholdDirectory.create(
        stateDirectory: other.path + "/state", household: household, machineID: machine, entropy: &entropy)
      #expect(try directory.household().log == household.log)
      #expect(try directory.bootCounter() == 0)
    }
    #expect(content.count == 2)
  }

  @Test(
    "A file that was cut or changed anywhere is found out by its digest, and named",
    arguments: ["identity", "boot", "log", "peers", "invites"])
  func damage(_ name: String) throws {
    let temporary = try TemporaryDirectory()
    let (steps, _) = try life(in: temporary.path + "/state")
    var content: [String: [UInt8]] = [:]
    for step in steps { if case .replace(let name, let bytes) = step { content[name] = bytes } }
    let good = try #require(content[name])
    var bad: [[UInt8]] = [[], good + [0]]
    for count in stride(from: 0, to: good.count, by: max(1, good.count / 40)) {
      bad.append(Array(good[..<count]))
      var changed = good
      changed[count] ^= 0x10
      bad.append(changed)
    }
    let whole = try materialize(content)
    let path = whole.path + "/state/household/" + name
    for bytes in bad {
      try Data(bytes).write(to: URL(fileURLWithPath: path))
      do {
        let directory = try open(whole, .reading)
        _ = try directory.household()
        _ = try directory.bootCounter()
        _ = try directory.knownPeers()
        _ = try directory.inviteBook()
        Issue.record("\(name) of \(bytes.count) bytes was read")
      } catch let failure as HouseholdStorageFailure {
        switch failure {
        case .damaged(let found, _): #expect(found == path)
        case .file(.tooLarge(let found, _, _)): #expect(found == path)
        default: Issue.record("\(failure)")
        }
      }
    }
    // The undamaged file reads again.
    try Data(good).write(to: URL(fileURLWithPath: path))
    _ = try open(whole, .reading).household()
  }

  @Test("Files of one kind in another's place, and of another household, are refused")
  func exchangedFiles() throws {
    let temporary = try TemporaryDirectory()
    let (steps, _) = try life(in: temporary.path + "/state")
    var content: [String: [UInt8]] = [:]
    for step in steps { if case .replace(let name, let bytes) = step { content[name] = bytes } }
    var exchanged = content
    exchanged["log"] = content["peers"]
    let one = try materialize(exchanged)
    #expect(
      throws: HouseholdStorageFailure.damaged(
        path: one.path + "/state/household/log", reason: "it holds another kind of state")
    ) { _ = try open(one, .reading).household() }

    var entropy = SeededEntropy(seed: 62)
    let foreign = try Household(
      creating: RecoveryPhrase(entropy: &entropy), keys: DeviceKeys(entropy: &entropy), name: "desk",
      entropy: &entropy)
    let two = try materialize(content)
    try open(two).store(foreign.log)
    #expect(
      throws: HouseholdStorageFailure.damaged(
        path: two.path + "/state/household/identity",
        reason: "its keys, its certificate and the log do not belong together")
    ) { _ = try open(two, .reading).household() }
  }

  @Test("A file of a later format says so")
  func laterFormat() throws {
    let temporary = try TemporaryDirectory()
    let (steps, _) = try life(in: temporary.path + "/state")
    var content: [String: [UInt8]] = [:]
    for step in steps { if case .replace(let name, let bytes) = step { content[name] = bytes } }
    var boot = try #require(content["boot"])
    boot[12] = 2
    boot.replaceSubrange((boot.count - 32)..., with: ContentDigest(of: boot.dropLast(32)).bytes)
    content["boot"] = boot
    let whole = try materialize(content)
    #expect(
      throws: HouseholdStorageFailure.newerFormat(
        path: whole.path + "/state/household/boot", version: 2, known: 1)
    ) { _ = try open(whole, .reading).bootCounter() }
  }
}
