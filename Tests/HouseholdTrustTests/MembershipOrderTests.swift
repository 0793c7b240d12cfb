import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel
import Testing

@Suite struct MembershipOrderTests {
  /// A mixed history of seven entries, small enough for all 5,040 orders of arrival.
  enum History: String, CaseIterable {
    case ordinaryLife, thiefAfterRevocation, forgedPast, mutualRevocation, mintedAccomplice
    case demotionAndReturn, rootRepair, copiedDisk, leaving, revokedBeforeAdded, rootTwice
  }

  static func entries(_ history: History) throws -> (TrustBench, [LogEntry]) {
    let bench = TrustBench(seed: 40, devices: 5)
    var entries = [try bench.add(0, admin: true)]
    try addHonest(history, bench, &entries)
    try addHostile(history, bench, &entries)
    return (bench, entries)
  }

  /// Histories without a stolen key.
  private static func addHonest(
    _ history: History, _ bench: TrustBench, _ entries: inout [LogEntry]
  ) throws {
    switch history {
    case .ordinaryLife:
      entries.append(try bench.add(1, by: 0))
      entries.append(try bench.add(2, by: 0))
      entries.append(bench.networkKey(1, for: bench.log(entries).members, by: 0))
      entries.append(bench.promote(1, term: 1, by: 0))
      entries.append(bench.revoke(2, by: 1))
      entries.append(bench.networkKey(2, for: bench.log(entries).members, by: 1))
    case .demotionAndReturn:
      entries.append(try bench.add(1, admin: true, by: 0))
      entries.append(try bench.add(2, by: 1))
      entries.append(bench.demote(1, term: 1, by: 0))
      entries.append(try bench.add(3, by: 1))
      entries.append(bench.promote(1, term: 2, by: 0))
      entries.append(try bench.add(4, by: 1))
    case .rootRepair:
      entries.append(try bench.add(1, admin: true, by: 0))
      let good = bench.head(0)
      entries.append(bench.revoke(1, by: 0))
      entries.append(try bench.add(2, admin: true, by: 0))
      entries.append(bench.revoke(0, through: good))
      entries.append(try bench.add(3, by: 1))
      entries.append(bench.networkKey(2, for: [], by: 1))
    case .leaving:
      entries.append(try bench.add(1, admin: true, by: 0))
      entries.append(try bench.add(2, by: 1))
      entries.append(bench.revoke(2, by: 2))
      entries.append(bench.revoke(1, through: bench.genesis.origin, by: 1))
      entries.append(try bench.add(3, by: 1))
      entries.append(bench.demote(0, term: 1, by: 0))
    case .rootTwice:
      // Two recoveries draw two lines through one admin's chain, which forks; the first ends the other's branch.
      let start = try bench.add(1, by: 0)
      entries.append(start)
      let one = try bench.add(2, by: 0, after: start.point)
      let other = try bench.add(3, by: 0, after: start.point)
      entries += [one, other]
      entries.append(bench.revoke(0, through: one.point))
      entries.append(bench.revoke(0, through: other.point))
      entries.append(try bench.add(4, admin: true))
    case .revokedBeforeAdded:
      entries.append(bench.revoke(1, by: 0))
      entries.append(try bench.add(1, admin: true, by: 0))
      entries.append(try bench.add(2, by: 1))
      entries.append(try bench.add(1, admin: true))
      entries.append(bench.revoke(3))
      entries.append(try bench.add(3, by: 0))
    default: break
    }
  }

  /// Histories in which somebody has the key of an admin, or a copy of its disk.
  private static func addHostile(
    _ history: History, _ bench: TrustBench, _ entries: inout [LogEntry]
  ) throws {
    switch history {
    case .thiefAfterRevocation:
      entries.append(try bench.add(1, admin: true, by: 0))
      entries.append(try bench.add(2, by: 1))
      entries.append(bench.revoke(1, by: 0))
      entries.append(try bench.add(3, admin: true, by: 1))
      entries.append(bench.revoke(2, by: 1))
      entries.append(bench.networkKey(9, for: [], by: 1))
    case .forgedPast:
      entries.append(try bench.add(1, admin: true, by: 0))
      let start = bench.head(1)
      entries.append(try bench.add(2, by: 1))
      entries.append(bench.revoke(1, by: 0))
      // The thief puts another first entry into the revoked chain, and goes on from it.
      let forged = try bench.add(3, admin: true, by: 1, after: start)
      entries.append(forged)
      entries.append(bench.revoke(0, by: 1, after: forged.point))
      entries.append(try bench.add(4, by: 3))
    case .mutualRevocation:
      entries.append(try bench.add(1, admin: true))
      entries.append(try bench.add(2, by: 0))
      entries.append(try bench.add(3, by: 1))
      let (first, second) = (bench.head(0), bench.head(1))
      entries.append(bench.revoke(1, through: second, by: 0))
      entries.append(bench.revoke(0, through: first, by: 1))
      entries.append(try bench.add(4, by: 1))
    case .mintedAccomplice:
      entries.append(try bench.add(1, admin: true))
      entries.append(try bench.add(2, by: 0))
      entries.append(bench.revoke(0, by: 1))
      entries.append(try bench.add(3, admin: true, by: 0))
      entries.append(bench.revoke(1, through: bench.genesis.origin, by: 3))
      entries.append(try bench.add(4, by: 3))
    case .copiedDisk:
      entries.append(try bench.add(1, admin: true, by: 0))
      let start = bench.head(1)
      entries.append(try bench.add(2, by: 1))
      entries.append(try bench.add(3, by: 1, after: start))
      entries.append(bench.revoke(1, through: entries[2].point, by: 0))
      entries.append(try bench.add(4, by: 1))
      entries.append(bench.revoke(0, by: 1))
    default: break
    }
  }

  /// Histories that are tried in all orders; of the others each seventh order is enough for the time it takes.
  private static let exhaustive: Set<History> = [.thiefAfterRevocation, .mutualRevocation, .rootTwice]

  @Test("Orders of arrival give one log: all 5,040, or 720 of them", arguments: History.allCases)
  func permutations(_ history: History) throws {
    let (bench, entries) = try Self.entries(history)
    #expect(entries.count == 7)
    let expected = bench.log(entries)
    let step = Self.exhaustive.contains(history) ? 1 : 7
    var orders = 0
    var different = 0
    forEachPermutation(of: entries) { order in
      orders += 1
      guard orders % step == 0 else { return }
      var log = MembershipLog(genesis: bench.genesis)
      // By turns one by one, and in batches of three and four.
      if orders.isMultiple(of: 2) {
        for entry in order { _ = log.merge([entry]) }
      } else {
        _ = log.merge(Array(order[..<3]))
        _ = log.merge(Array(order[3...]))
      }
      if log != expected || log.view != expected.view || log.summary != expected.summary
        || log.entries != expected.entries
      {
        different += 1
      }
    }
    #expect(orders == 5040)
    #expect(different == 0)
  }

  @Test("Each mixed history says what the rules say", arguments: History.allCases)
  func model(_ history: History) throws {
    let (bench, entries) = try Self.entries(history)
    let log = bench.log(entries)
    let model = TrustModel(log.entries)
    #expect(log.memberIDs == model.members)
    #expect(log.view.admins == model.admins)
    #expect(log.view.revoked == model.revoked)
    #expect(log.view.networkKeys.map(\.id) == model.networkKeys)
  }

  @Test("1,000 random histories agree with the model, in any order and any batches")
  func randomHistories() throws {
    var contested = 0
    var forked = 0
    for seed in 0..<1000 as Range<UInt64> {
      var generator = SeededGenerator(seed: seed, 1)
      let bench = TrustBench(seed: 3, devices: 4)
      var entries = try Self.randomEntries(bench, &generator)
      let log = bench.log(entries)
      let model = TrustModel(log.entries)
      let isRight =
        log.memberIDs == model.members && log.view.admins == model.admins
        && log.view.revoked == model.revoked && log.view.networkKeys.map(\.id) == model.networkKeys
      #expect(isRight, "seed \(seed)")
      if log.view.isContested { contested += 1 }
      if !log.forkedIssuers.isEmpty { forked += 1 }
      for _ in 0..<3 {
        generator.shuffle(&entries)
        var other = MembershipLog(genesis: bench.genesis)
        var rest = entries[...]
        while !rest.isEmpty {
          let count = 1 + generator.uniform(below: min(5, rest.count))
          _ = other.merge(Array(rest.prefix(count)))
          rest = rest.dropFirst(count)
        }
        let isSame = other == log && other.view == log.view && other.entries == log.entries
        #expect(isSame, "seed \(seed)")
      }
    }
    // The histories must reach the hard cases, or the test says little.
    #expect(contested > 25)
    #expect(forked > 25)
  }

  @Test("Two devices that have seen different parts are equal after a few exchanges of summaries")
  func synchronization() throws {
    var rounds: [Int] = []
    for seed in 0..<250 as Range<UInt64> {
      var generator = SeededGenerator(seed: seed, 2)
      let bench = TrustBench(seed: 5, devices: 4)
      let entries = try Self.randomEntries(bench, &generator)
      let parts = (0..<2).map { _ in entries.filter { _ in generator.next() & 3 != 0 } }
      var logs = parts.map { bench.log($0) }
      let union = bench.log(parts[0] + parts[1])
      var round = 0
      while logs[0].summary != logs[1].summary, round < 10 {
        let (first, second) = (logs[0], logs[1])
        _ = logs[0].merge(second.entries(missingFrom: first.summary))
        _ = logs[1].merge(first.entries(missingFrom: second.summary))
        round += 1
      }
      let areEqual = logs[0].summary == union.summary && logs[1].summary == union.summary
      #expect(areEqual, "seed \(seed)")
      #expect(logs[0].entries(missingFrom: logs[1].summary).isEmpty)
      rounds.append(round)
    }
    // One round carries what is seen to be missing; forks and entries that waited for others show others missing.
    #expect(rounds.max() ?? 0 <= 5)
    #expect(rounds.count { $0 <= 2 } > 200)
  }

  @Test("Entries come after those that they build on, so none waits when they are merged one by one")
  func dependencyOrder() throws {
    for seed in 0..<250 as Range<UInt64> {
      var generator = SeededGenerator(seed: seed, 3)
      let bench = TrustBench(seed: 6, devices: 4)
      let log = bench.log(try Self.randomEntries(bench, &generator))
      var other = MembershipLog(genesis: bench.genesis)
      for entry in log.entries {
        let report = other.merge([entry])
        let hasEntered = report.accepted == [entry] && report.pending == 0
        #expect(hasEntered, "seed \(seed)")
      }
    }
  }

  /// Up to sixteen entries by anybody about anybody, with forks, empty cuts and terms at random.
  static func randomEntries(
    _ bench: TrustBench, _ generator: inout SeededGenerator
  ) throws -> [LogEntry] {
    var entries = [try bench.add(0, admin: true)]
    if generator.next() & 1 == 0 { entries.append(try bench.add(1, admin: true)) }
    let count = bench.devices.count
    for _ in 0..<(4 + generator.uniform(below: 11)) {
      let choice = generator.uniform(below: count * 3 + 1)
      let issuer = choice == count * 3 ? nil : choice % count
      let target = generator.uniform(below: count)
      // Sometimes the issuer goes on from an earlier entry of its own, as a copied disk does.
      let own = entries.filter { $0.issuer == bench.issuer(issuer) }
      let after =
        generator.uniform(below: 8) == 0 && !own.isEmpty
        ? own[generator.uniform(below: own.count)].point : nil
      let targets = entries.filter { $0.issuer == bench.issuer(target) }.map(\.point) + [bench.genesis.origin]
      let through = targets[generator.uniform(below: targets.count)]
      let term = UInt32(1 + generator.uniform(below: 3))
      switch generator.uniform(below: 10) {
      case 0...3:
        entries.append(
          try bench.add(target, admin: generator.next() & 1 == 0, by: issuer, after: after))
      case 4...6: entries.append(bench.revoke(target, through: through, by: issuer, after: after))
      case 7:
        entries.append(
          bench.issue(
            .promote(
              Promotion(device: bench.id(target), term: term, after: UInt32(generator.uniform(below: 3)))),
            by: issuer, after: after))
      case 8:
        entries.append(
          bench.issue(
            .demote(Demotion(device: bench.id(target), term: term, through: through)), by: issuer,
            after: after))
      default: entries.append(bench.networkKey(term, for: [], by: issuer))
      }
    }
    return entries
  }
}
