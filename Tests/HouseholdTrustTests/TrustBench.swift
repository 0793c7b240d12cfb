import CryptoPrimitives
import Determinism
import HouseholdTrust
import MeshModel

/// A household whose members' keys are all in the test's hands, so that anything can be signed, honest or not.
final class TrustBench {
  var entropy: SeededEntropy
  let root: RootHand
  let genesis: Genesis
  private(set) var devices: [DeviceKeys] = []
  /// Where each issuer's chain ends.
  private(set) var heads: [EntryIssuer: ChainPoint] = [:]

  /// Owns the root's key, which cannot be copied.
  final class RootHand {
    let root: HouseholdRoot
    init(entropy: inout SeededEntropy) { root = HouseholdRoot(RecoveryPhrase(entropy: &entropy)) }
  }

  init(seed: UInt64, devices count: Int) {
    entropy = SeededEntropy(seed: seed)
    root = RootHand(entropy: &entropy)
    genesis = Genesis(root: root.root, entropy: &entropy)
    for _ in 0..<count { devices.append(DeviceKeys(entropy: &entropy)) }
  }

  func id(_ index: Int) -> DeviceID { devices[index].device }

  /// An issuer by index; nil is the root.
  func issuer(_ index: Int?) -> EntryIssuer { index.map { .device(id($0)) } ?? .root }

  func head(_ index: Int?) -> ChainPoint { heads[issuer(index)] ?? genesis.origin }

  func request(_ index: Int, binding: [UInt8] = []) throws -> AdmissionRequest {
    try AdmissionRequest(keys: devices[index], name: "device \(index)", binding: binding)
  }

  func add(
    _ device: Int, admin: Bool = false, by index: Int? = nil, after: ChainPoint? = nil
  ) throws -> LogEntry {
    let (issuer, after) = (issuer(index), after ?? head(index))
    let request = try request(device)
    let certificate =
      if let index {
        DeviceCertificate(
          request, isAdmin: admin, household: genesis.household, issuer: issuer, after: after,
          key: devices[index].signing)
      } else {
        DeviceCertificate(
          request, isAdmin: admin, household: genesis.household, issuer: issuer, after: after,
          key: root.root.key)
      }
    return advance(LogEntry(certificate))
  }

  func issue(_ body: LogEntry.Body, by index: Int? = nil, after: ChainPoint? = nil) -> LogEntry {
    let (issuer, after) = (issuer(index), after ?? head(index))
    let entry =
      if let index {
        LogEntry(
          body, household: genesis.household, issuer: issuer, after: after, key: devices[index].signing)
      } else {
        LogEntry(body, household: genesis.household, issuer: issuer, after: after, key: root.root.key)
      }
    return advance(entry)
  }

  func revoke(
    _ device: Int, through: ChainPoint? = nil, by index: Int? = nil, after: ChainPoint? = nil
  ) -> LogEntry {
    issue(
      .revoke(Revocation(device: id(device), through: through ?? head(device), reason: .lost)), by: index,
      after: after)
  }

  func promote(_ device: Int, term: UInt32, by index: Int? = nil) -> LogEntry {
    issue(.promote(Promotion(device: id(device), term: term, after: head(device).sequence)), by: index)
  }

  func demote(_ device: Int, term: UInt32, by index: Int? = nil) -> LogEntry {
    issue(.demote(Demotion(device: id(device), term: term, through: head(device))), by: index)
  }

  func networkKey(_ epoch: UInt32, for members: [DeviceCertificate], by index: Int?) -> LogEntry {
    let key = NetworkKey(epoch: epoch, entropy: &entropy)
    return issue(.networkKey(NetworkKeyCopies(key, for: members, entropy: &entropy)), by: index)
  }

  func log(_ entries: [LogEntry]) -> MembershipLog {
    var log = MembershipLog(genesis: genesis)
    _ = log.merge(entries)
    return log
  }

  private func advance(_ entry: LogEntry) -> LogEntry {
    if entry.point > heads[entry.issuer] ?? genesis.origin { heads[entry.issuer] = entry.point }
    return entry
  }
}

extension MembershipLog {
  var memberIDs: [DeviceID] { members.map(\.device) }
}

/// All orders of a list (Heap's algorithm), one after another.
func forEachPermutation<Element>(of list: [Element], _ body: ([Element]) throws -> Void) rethrows {
  func visit(_ count: Int, _ list: inout [Element]) throws {
    if count <= 1 { return try body(list) }
    for index in 0..<count {
      try visit(count - 1, &list)
      list.swapAt(count.isMultiple(of: 2) ? index : 0, count - 1)
    }
  }
  var list = list
  try visit(list.count, &list)
}
