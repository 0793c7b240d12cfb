import CryptoPrimitives
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

@Suite struct LogLimitTests {
  private func reasons(_ report: MergeReport) -> [MergeReport.Refusal] { report.refused.map(\.reason) }

  @Test("A full log says so, takes the root's revocation all the same, and has room again after it")
  func fullLog() throws {
    let bench = TrustBench(seed: 30, devices: 3)
    var entries = [try bench.add(0, admin: true), try bench.add(1, admin: true)]
    let good = bench.head(1)
    // A thief with device 1's key fills the log.
    for _ in 0..<TrustLimits.deviceEntries {
      entries.append(
        bench.issue(.promote(Promotion(device: bench.id(1), term: 1, after: 0)), by: 1))
    }
    var log = bench.log(entries)
    #expect(log.entries.count == TrustLimits.deviceEntries + 2)
    let excess = try bench.add(2, by: 0)
    #expect(reasons(log.merge([excess])) == [.logFull])
    #expect(!log.isMember(bench.id(2)))
    // What was refused is not remembered as known, so it may come again.
    #expect(reasons(log.merge([excess])) == [.logFull])
    let report = log.merge([bench.revoke(1, through: good)])
    #expect(report.revoked == [bench.id(1)])
    #expect(log.entries.count == 3)
    #expect(reasons(log.merge([excess])).isEmpty)
    #expect(log.isMember(bench.id(2)))
  }

  @Test("The root's entries have a limit of their own")
  func rootEntries() throws {
    let bench = TrustBench(seed: 31, devices: 1)
    var entries = [try bench.add(0, admin: true)]
    for _ in 0..<TrustLimits.rootEntries {
      entries.append(bench.issue(.promote(Promotion(device: bench.id(0), term: 1, after: 0))))
    }
    var log = MembershipLog(genesis: bench.genesis)
    #expect(reasons(log.merge(entries)) == [.logFull])
    #expect(log.entries.count == TrustLimits.rootEntries)
  }

  @Test("The log has a limit in bytes")
  func bytes() throws {
    let bench = TrustBench(seed: 32, devices: 1)
    var entries = [try bench.add(0, admin: true)]
    guard case .addDevice(let certificate) = entries[0].body else { return }
    let copies = NetworkKeyCopies(
      NetworkKey(epoch: 1, entropy: &bench.entropy),
      for: [DeviceCertificate](repeating: certificate, count: TrustLimits.devices), entropy: &bench.entropy)
    let size = bench.issue(.networkKey(copies), by: 0).encoded.count
    #expect(size <= TrustLimits.entryBytes)
    let fitting = TrustLimits.logBytes / size
    entries = [entries[0]]
    var last = bench.genesis.origin
    for _ in 0..<(fitting + 1) {
      let entry = bench.issue(.networkKey(copies), by: 0, after: last)
      last = entry.point
      entries.append(entry)
    }
    var log = MembershipLog(genesis: bench.genesis)
    #expect(reasons(log.merge(entries)) == [.logFull])
    #expect(log.entries.count == fitting + 1)
  }

  @Test("So many entries may wait for others, and no more; made-up ones do not wait at all")
  func pending() throws {
    let bench = TrustBench(seed: 33, devices: 2)
    let other = TrustBench(seed: 34, devices: 1)
    let start = try bench.add(0, admin: true)
    let middle = try bench.add(1, by: 0)
    var orphans: [LogEntry] = []
    for _ in 0..<(TrustLimits.pendingEntries + 5) {
      orphans.append(bench.issue(.promote(Promotion(device: bench.id(1), term: 1, after: 0)), by: 0))
    }
    var log = bench.log([start])
    let report = log.merge(orphans)
    #expect(report.pending == TrustLimits.pendingEntries)
    #expect(reasons(report) == [MergeReport.Refusal](repeating: .tooManyPending, count: 5))
    // Signed with another root's key, but naming this household.
    let forged = LogEntry(
      .revoke(Revocation(device: bench.id(0), through: bench.genesis.origin, reason: .lost)),
      household: bench.genesis.household, issuer: .root,
      after: ChainPoint(sequence: 7, digest: start.digest), key: other.root.root.key)
    #expect(reasons(log.merge([forged])) == [.badSignature])
    // The chain's missing link lets all in that waited.
    #expect(log.merge([middle]).accepted.count == TrustLimits.pendingEntries + 1)
  }

  @Test("Entries of another household and with a wrong signature are refused, and counted as such")
  func refusals() throws {
    let bench = TrustBench(seed: 35, devices: 2)
    let other = TrustBench(seed: 36, devices: 2)
    let start = try bench.add(0, admin: true)
    var log = bench.log([start])
    #expect(reasons(log.merge([try other.add(0, admin: true)])) == [.otherHousehold])
    let forged = LogEntry(
      .revoke(Revocation(device: bench.id(1), through: bench.genesis.origin, reason: .lost)),
      household: bench.genesis.household, issuer: .device(bench.id(0)), after: bench.genesis.origin,
      key: bench.devices[1].signing)
    #expect(reasons(log.merge([forged])) == [.badSignature])
    #expect(log.merge([start]).duplicates == 1)
    #expect(!log.merge([start]).hasChanged)
    #expect(log.entries == [start])
  }

  @Test("A household takes 256 devices and refuses the next by its number")
  func devices() throws {
    var home = try Home(seed: 37, devices: 1)
    for index in 1..<TrustLimits.devices {
      let keys = DeviceKeys(entropy: &home.entropy)
      let request = try AdmissionRequest(keys: keys, name: "d\(index)", binding: [])
      _ = try home.devices[0].admit(request, binding: [], entropy: &home.entropy)
    }
    #expect(home.devices[0].log.members.count == 256)
    let request = try AdmissionRequest(
      keys: DeviceKeys(entropy: &home.entropy), name: "one too many", binding: [])
    #expect(throws: TrustFailure.tooManyDevices(limit: 256)) {
      _ = try home.devices[0].admit(request, binding: [], entropy: &home.entropy)
    }
    // A network key for all of them fits one entry.
    let entry = try home.devices[0].rotateNetworkKey(entropy: &home.entropy)
    #expect(entry.encoded.count <= TrustLimits.entryBytes)
    #expect(home.devices[0].log.summary.encoded.count < 60_000)
    let welcome = Welcome(home.devices[0].log)
    #expect(try Welcome(decoding: welcome.encoded) == welcome)
  }
}
