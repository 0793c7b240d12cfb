package import CryptoPrimitives
package import MeshModel

/// The household's signed, grow-only record of who belongs to it.
///
/// A value: two logs that have seen the same entries, in whatever order, are equal and say the same
/// (`TrustEvaluation` has the rules). An entry enters when its predecessor in its issuer's chain is here, its issuer
/// is known and was ever given the right to issue, and its signature is right; until then it waits, up to a limit.
package struct MembershipLog: Sendable, Equatable {
  /// What the log starts from.
  package let genesis: Genesis
  /// All entries, each after those that it builds on.
  package private(set) var entries: [LogEntry] = []
  /// What the entries say.
  package private(set) var view: MembershipView
  /// What this log has, for comparison with another device's.
  package private(set) var summary: LogSummary
  private var pending: [LogEntry] = []
  private var voided: [LogEntry] = []
  private var chains: ChainForest

  /// The log of a household in which nothing has happened.
  package init(genesis: Genesis) {
    self.genesis = genesis
    chains = ChainForest([])
    view = MembershipView([], chains: chains)
    summary = LogSummary(sortedDigests: [], heads: [])
  }

  /// Whether both have the same entries of the same household.
  package static func == (left: MembershipLog, right: MembershipLog) -> Bool {
    left.genesis == right.genesis && left.summary.digest == right.summary.digest
  }

  /// Adds entries from anywhere, in any order; what was known already does no harm.
  package mutating func merge(_ incoming: [LogEntry]) -> MergeReport {
    let before = view
    var known = Set(entries.map(\.digest))
    known.formUnion((pending + voided).map(\.digest))
    var admission = LogAdmission(genesis: genesis, entries: entries, pending: pending, voided: voided)
    var report = MergeReport()
    for entry in incoming {
      if known.insert(entry.digest).inserted {
        admission.consider(entry)
      } else {
        report.duplicates += 1
      }
    }
    guard admission.hasNews else {
      report.refused = admission.refused
      return report
    }
    let old = Set(entries.map(\.digest))
    admission.run()
    entries = admission.admitted
    pending = admission.waiting
    voided = admission.voided
    chains = ChainForest(entries)
    view = MembershipView(entries, chains: chains)
    summary = summarize()
    report.accepted = entries.filter { !old.contains($0.digest) }
    report.pending = pending.count
    report.refused = admission.refused
    report.joined = view.devices.filter { $0.isMember && !before.isMember($0.device) }.map(\.device)
    report.revoked = view.revoked.filter { !before.isRevoked($0) }
    report.isNetworkKeyNew = view.networkKeys.first?.id != before.networkKeys.first?.id
    return report
  }

  /// The entries that the log with that summary lacks, each after those that it builds on.
  ///
  /// An issuer's chain that ends further on there than here is not sent: the other side has more of it.
  package func entries(missingFrom other: LogSummary) -> [LogEntry] {
    if other.digest == summary.digest { return [] }
    let theirs = Dictionary(uniqueKeysWithValues: other.heads.map { ($0.issuer, $0.points) })
    let ours = Dictionary(uniqueKeysWithValues: summary.heads.map { ($0.issuer, $0.points) })
    var skipped: Set<EntryIssuer> = []
    var knownHeads: [EntryIssuer: [Int]] = [:]
    for (issuer, points) in theirs {
      let known = points.compactMap { chains.index(of: $0.digest) }
      knownHeads[issuer] = known
      let last = ours[issuer]?.last?.sequence ?? 0
      if known.isEmpty, points.allSatisfy({ $0.sequence > last }) { skipped.insert(issuer) }
    }
    return entries.enumerated().filter { index, entry in
      !skipped.contains(entry.issuer)
        && !(knownHeads[entry.issuer] ?? []).contains { chains.isAncestor(index, ofOrSame: $0) }
    }.map(\.element)
  }

  /// The end of an issuer's chain; the place before the first entry when there is none.
  package func head(of issuer: EntryIssuer) -> ChainPoint {
    chains.tips.map { entries[$0] }.filter { $0.issuer == issuer }.map(\.point).max()
      ?? genesis.origin
  }

  /// The place of an issuer's entry with this number; nil when there is none, or more than one.
  package func point(of issuer: EntryIssuer, sequence: UInt32) -> ChainPoint? {
    if sequence == 0 { return genesis.origin }
    let found = entries.filter { $0.issuer == issuer && $0.sequence == sequence }
    return found.count == 1 ? found.first?.point : nil
  }

  /// Issuers whose chain has more than one end: their disk was copied, or an older state was put back.
  package var forkedIssuers: [EntryIssuer] { summary.heads.filter { $0.points.count > 1 }.map(\.issuer) }

  /// The certificates of all members, in ascending order of the devices.
  package var members: [DeviceCertificate] { view.members }

  /// The certificate of a device that was ever a member.
  package func certificate(of device: DeviceID) -> DeviceCertificate? { view.status(of: device)?.certificate }

  /// Whether the device is removed for ever.
  package func isRevoked(_ device: DeviceID) -> Bool { view.isRevoked(device) }

  /// Whether the device is in the household and not revoked.
  package func isMember(_ device: DeviceID) -> Bool { view.isMember(device) }

  /// The epoch of the newest network key; 0 when there is none.
  package var networkKeyEpoch: UInt32 { view.networkKeys.first?.id.epoch ?? 0 }

  /// Whether the log has an entry.
  package func contains(_ digest: ContentDigest) -> Bool { chains.index(of: digest) != nil }

  /// The highest number that a time of the device as an admin has had, whether it counts or not.
  func lastTerm(of device: DeviceID) -> UInt32 {
    entries.reduce(0) { last, entry in
      switch entry.body {
      case .addDevice(let certificate) where certificate.device == device && certificate.isAdmin: max(last, 1)
      case .promote(let promotion) where promotion.device == device: max(last, promotion.term)
      case .demote(let demotion) where demotion.device == device: max(last, demotion.term)
      default: last
      }
    }
  }

  private func summarize() -> LogSummary {
    var points: [EntryIssuer: [ChainPoint]] = [:]
    for tip in chains.tips { points[entries[tip].issuer, default: []].append(entries[tip].point) }
    let heads = points.keys.sorted().map { issuer in
      LogSummary.Heads(
        issuer: issuer, points: Array((points[issuer] ?? []).sorted().suffix(TrustLimits.headsPerIssuer)))
    }
    return LogSummary(sortedDigests: entries.map(\.digest).sorted(), heads: heads)
  }
}

/// What merging entries did.
package struct MergeReport: Sendable, Equatable {
  /// Why an entry was refused.
  package enum Refusal: String, Hashable, Sendable {
    /// It belongs to another household.
    case otherHousehold = "other-household"
    /// Its signature is wrong.
    case badSignature = "bad-signature"
    /// It is too long.
    case tooLong = "too-long"
    /// The root has revoked its issuer and does not let it count.
    case voided = "voided"
    /// The log has as many entries or bytes as it may.
    case logFull = "log-full"
    /// Too many entries wait for others already.
    case tooManyPending = "too-many-pending"
  }

  /// A refused entry.
  package struct RefusedEntry: Hashable, Sendable {
    /// Its digest.
    package let digest: ContentDigest
    /// Why.
    package let reason: Refusal
  }

  /// The entries that are new in the log, each after those that it builds on.
  package var accepted: [LogEntry] = []
  /// Entries that were known already.
  package var duplicates = 0
  /// Entries that wait for others now.
  package var pending = 0
  /// Entries that were refused.
  package var refused: [RefusedEntry] = []
  /// Devices that are members now and were not before.
  package var joined: [DeviceID] = []
  /// Devices that are revoked now and were not before.
  package var revoked: [DeviceID] = []
  /// Whether there is a newer network key.
  package var isNetworkKeyNew = false

  /// Whether the log has changed.
  package var hasChanged: Bool { !accepted.isEmpty }
}
