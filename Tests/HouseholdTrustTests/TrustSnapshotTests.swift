import CryptoPrimitives
import HouseholdTrust
import MeshModel
import Testing
import WireCoding

@Suite struct TrustSnapshotTests {
  private func snapshot(_ bench: TrustBench, _ device: Int, _ entries: [LogEntry]) throws -> TrustSnapshot {
    try Household(log: bench.log(entries), keys: bench.devices[device]).snapshot
  }

  private func certificate(_ entry: LogEntry) throws -> DeviceCertificate {
    guard case .addDevice(let certificate) = entry.body else { throw TrustFailure.notAdmitted }
    return certificate
  }

  @Test("Members and admins are recognised, the own identity too")
  func members() throws {
    let bench = TrustBench(seed: 20, devices: 3)
    let entries = [try bench.add(0, admin: true), try bench.add(1, by: 0), try bench.add(2, by: 0)]
    let snapshot = try snapshot(bench, 1, entries)
    #expect(snapshot.evaluate(try certificate(entries[0])) == .member(isAdmin: true))
    #expect(snapshot.evaluate(try certificate(entries[2])) == .member(isAdmin: false))
    #expect(snapshot.evaluate(try certificate(entries[1])) == .ownIdentity)
    #expect(snapshot.device == bench.id(1) && snapshot.household == bench.genesis.household)
  }

  @Test("The log's word counts before the certificate's: promoted, demoted, revoked")
  func logDecides() throws {
    let bench = TrustBench(seed: 21, devices: 4)
    var entries = [
      try bench.add(0, admin: true), try bench.add(1, by: 0), try bench.add(2, admin: true, by: 0),
      try bench.add(3, by: 0),
    ]
    entries += [bench.promote(1, term: 1, by: 0), bench.demote(2, term: 1, by: 0), bench.revoke(3, by: 0)]
    let snapshot = try snapshot(bench, 0, entries)
    #expect(snapshot.evaluate(try certificate(entries[1])) == .member(isAdmin: true))
    #expect(snapshot.evaluate(try certificate(entries[2])) == .member(isAdmin: false))
    #expect(snapshot.evaluate(try certificate(entries[3])) == .revoked)
  }

  @Test("A device of another household is foreign, whoever signed")
  func foreign() throws {
    let bench = TrustBench(seed: 22, devices: 2)
    let other = TrustBench(seed: 23, devices: 2)
    let snapshot = try snapshot(bench, 0, [try bench.add(0, admin: true)])
    #expect(snapshot.evaluate(try certificate(try other.add(0, admin: true))) == .foreign)
  }

  @Test("A certificate that the log does not have counts when a known admin signed it")
  func fresh() throws {
    let bench = TrustBench(seed: 24, devices: 5)
    let entries = [
      try bench.add(0, admin: true), try bench.add(1, by: 0), try bench.add(2, admin: true, by: 0),
    ]
    let demotion = bench.demote(2, term: 1, by: 0)
    let snapshot = try snapshot(bench, 1, entries + [demotion])
    #expect(snapshot.evaluate(try certificate(try bench.add(3, by: 0))) == .member(isAdmin: false))
    #expect(snapshot.evaluate(try certificate(try bench.add(4, admin: true))) == .member(isAdmin: true))
    // Device 2 is no admin any more; device 3 is not known at all; device 1 may have become one elsewhere.
    #expect(snapshot.evaluate(try certificate(try bench.add(3, by: 2))) == .issuerNotAdmin)
    #expect(snapshot.evaluate(try certificate(try bench.add(4, by: 3))) == .unknownIssuer)
  }

  @Test("An unknown issuer is proved by the entries that lead to it, in their order and from the root only")
  func chain() throws {
    let bench = TrustBench(seed: 25, devices: 6)
    let first = [try bench.add(0, admin: true)]
    var entries = first
    entries.append(try bench.add(1, by: 0))
    entries.append(bench.promote(1, term: 1, by: 0))
    entries.append(try bench.add(2, admin: true, by: 1))
    entries.append(try bench.add(3, by: 2))
    let newcomer = try snapshot(bench, 3, entries)
    let old = try snapshot(bench, 0, first)
    let own = newcomer.certificate
    #expect(newcomer.chain.map(\.digest) == entries[0...3].map(\.digest))
    #expect(old.evaluate(own) == .unknownIssuer)
    #expect(old.evaluate(own, chain: newcomer.chain) == .member(isAdmin: false))
    for missing in 1..<newcomer.chain.count {
      var chain = newcomer.chain
      chain.remove(at: missing)
      #expect(old.evaluate(own, chain: chain) == .unknownIssuer)
    }
    // A certificate from nowhere proves nothing: here one that device 4 signed for itself.
    let selfMade = try bench.add(4, admin: true, by: 4)
    let follower = try certificate(try bench.add(5, by: 4))
    #expect(old.evaluate(follower, chain: [selfMade, selfMade]) == .unknownIssuer)
  }

  @Test("A chain through a device that is revoked here proves nothing")
  func revokedChain() throws {
    let bench = TrustBench(seed: 26, devices: 4)
    let start = [try bench.add(0, admin: true), try bench.add(1, admin: true, by: 0)]
    let certificateOfTwo = try bench.add(2, admin: true, by: 1)
    let certificateOfThree = try bench.add(3, by: 2)
    let newcomer = try snapshot(bench, 3, start + [certificateOfTwo, certificateOfThree])
    let old = try snapshot(bench, 0, start + [bench.revoke(2, through: bench.genesis.origin, by: 0)])
    #expect(old.evaluate(newcomer.certificate, chain: newcomer.chain) == .issuerNotAdmin)
  }

  @Test("A demoted issuer is not brought back by the entry that once made it an admin")
  func demotedChain() throws {
    let bench = TrustBench(seed: 29, devices: 3)
    let start = [try bench.add(0, admin: true), try bench.add(1, admin: true, by: 0)]
    let demoted = try snapshot(bench, 0, start + [bench.demote(1, term: 1, by: 0)])
    let late = try certificate(try bench.add(2, by: 1))
    #expect(demoted.evaluate(late) == .issuerNotAdmin)
    #expect(demoted.evaluate(late, chain: start) == .issuerNotAdmin)
  }

  @Test("A certificate with any bit changed is refused")
  func forged() throws {
    let bench = TrustBench(seed: 27, devices: 3)
    let start = [try bench.add(0, admin: true), try bench.add(1, by: 0)]
    let snapshot = try snapshot(bench, 1, start)
    let good = try certificate(try bench.add(2, by: 0)).encoded
    var refused = 0
    for bit in 0..<(good.count * 8) {
      var bytes = good
      bytes[bit / 8] ^= 1 << UInt8(bit % 8)
      guard let changed = try? DeviceCertificate(decoding: bytes) else {
        refused += 1
        continue
      }
      if case .member = snapshot.evaluate(changed) { continue }
      refused += 1
    }
    #expect(refused == good.count * 8)
  }

  @Test("A certificate counts that a later-revoked admin issued in time, and not one that it issued after")
  func timelyCertificates() throws {
    let bench = TrustBench(seed: 28, devices: 4)
    let start = [
      try bench.add(0, admin: true), try bench.add(1, admin: true, by: 0), try bench.add(2, by: 1),
    ]
    let revocation = bench.revoke(1, by: 0)
    let late = try bench.add(3, by: 1)
    let snapshot = try snapshot(bench, 0, start + [revocation, late])
    #expect(snapshot.evaluate(try certificate(start[2])) == .member(isAdmin: false))
    #expect(snapshot.evaluate(try certificate(late)) == .issuerNotAdmin)
  }
}
