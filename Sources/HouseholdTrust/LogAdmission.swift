import CryptoPrimitives
import MeshModel

/// Decides which entries enter a log: those from which a proven chain leads to the genesis.
///
/// It starts from all entries every time and goes through them in a fixed order, so its result is a function of the
/// set, as long as no limit is reached.
struct LogAdmission {
  /// The entries of the log, each after those that it builds on.
  private(set) var admitted: [LogEntry] = []
  /// The entries that build on others that are not here.
  private(set) var waiting: [LogEntry] = []
  /// The entries that the root does not let count; they are right, take no room, and are kept as the waiting are.
  private(set) var voided: [LogEntry] = []
  /// The entries that do not enter.
  private(set) var refused: [MergeReport.RefusedEntry] = []
  /// Entries that were not known.
  private var fresh: Set<ContentDigest> = []

  private let genesis: Genesis
  private var candidates: [LogEntry]
  /// Entries that were in the log before; they keep their room.
  private let settled: Set<ContentDigest>
  /// Entries whose signature was found right before.
  private let proven: Set<ContentDigest>
  private var pass = Pass()

  /// Whether there is anything that was not known.
  var hasNews: Bool { !fresh.isEmpty }

  private enum Verdict {
    case entered, waits, hasNoRoom, isForged
  }

  /// What is known after some of the candidates.
  private struct Pass {
    var points: [ContentDigest: (issuer: EntryIssuer, sequence: UInt32)] = [:]
    var signingKeys: [DeviceID: SigningPublicKey] = [:]
    var mayIssue: Set<DeviceID> = []
    var room = Room()
    var withoutRoom: [LogEntry] = []
  }

  /// What may still enter.
  private struct Room {
    var rootEntries = TrustLimits.rootEntries
    var deviceEntries = TrustLimits.deviceEntries
    var bytes = TrustLimits.logBytes

    mutating func take(_ entry: LogEntry) -> Bool {
      if entry.issuer == .root {
        // The root's entries may exceed the bytes: they are few, and they are the repair.
        guard rootEntries > 0 else { return false }
        rootEntries -= 1
      } else {
        guard deviceEntries > 0, bytes >= entry.byteCount else { return false }
        deviceEntries -= 1
        bytes -= entry.byteCount
      }
      return true
    }
  }

  init(genesis: Genesis, entries: [LogEntry], pending: [LogEntry], voided: [LogEntry]) {
    self.genesis = genesis
    candidates = entries + pending + voided
    settled = Set(entries.map(\.digest))
    proven = settled.union(voided.map(\.digest))
  }

  /// Takes an entry that is not known yet.
  mutating func consider(_ entry: LogEntry) {
    if entry.household != genesis.household {
      refuse(entry, .otherHousehold)
    } else if entry.byteCount > TrustLimits.entryBytes {
      refuse(entry, .tooLong)
    } else {
      fresh.insert(entry.digest)
      candidates.append(entry)
    }
  }

  /// Admits what can enter; the rest waits or is refused.
  mutating func run() {
    candidates.sort { ($0.issuer, $0.point) < ($1.issuer, $1.point) }
    admitAll()
    // What the root takes out may have carried other entries, so what is left is gone through again.
    while case let out = voidedByRoot(), !out.isEmpty {
      for entry in admitted where out.contains(entry.digest) {
        voided.append(entry)
        if !proven.contains(entry.digest) { refuse(entry, .voided) }
      }
      candidates.removeAll { out.contains($0.digest) }
      admitAll()
    }
    for entry in pass.withoutRoom { refuse(entry, .logFull) }
    refuseForgedWaiting()
    for entry in waiting.dropFirst(TrustLimits.pendingEntries) { refuse(entry, .tooManyPending) }
    waiting = Array(waiting.prefix(TrustLimits.pendingEntries))
    voided = Array(voided.prefix(TrustLimits.pendingEntries))
  }

  /// Whoever makes entries up shall not fill the room of those that wait for good reason.
  private mutating func refuseForgedWaiting() {
    let forged = waiting.filter { entry in
      guard fresh.contains(entry.digest) else { return false }
      switch entry.issuer {
      case .root: return !entry.isSigned(by: genesis.root)
      case .device(let device): return pass.signingKeys[device].map { !entry.isSigned(by: $0) } ?? false
      }
    }
    for entry in forged { refuse(entry, .badSignature) }
    let digests = Set(forged.map(\.digest))
    waiting.removeAll { digests.contains($0.digest) }
  }

  private mutating func refuse(_ entry: LogEntry, _ reason: MergeReport.Refusal) {
    refused.append(MergeReport.RefusedEntry(digest: entry.digest, reason: reason))
  }

  private mutating func admitAll() {
    admitted = []
    pass = Pass()
    for entry in candidates where settled.contains(entry.digest) { _ = pass.room.take(entry) }
    var rest = candidates
    // An entry that a revocation counts through goes before it, so that whoever gets the entries one by one never
    // sees good ones void. Where entries wait for each other in a circle, one round goes without this.
    var holdsBack = true
    while !rest.isEmpty {
      let absent = holdsBack ? Set(rest.map(\.digest)) : []
      var left: [LogEntry] = []
      for entry in rest {
        if let through = entry.through?.digest, absent.contains(through), pass.points[through] == nil {
          left.append(entry)
          continue
        }
        switch enter(entry) {
        case .entered: break
        case .waits: left.append(entry)
        case .hasNoRoom: pass.withoutRoom.append(entry)
        case .isForged:
          refuse(entry, .badSignature)
          candidates.removeAll { $0.digest == entry.digest }
        }
      }
      if left.count == rest.count && !holdsBack { break }
      holdsBack = left.count < rest.count
      rest = left
    }
    waiting = rest
  }

  private mutating func enter(_ entry: LogEntry) -> Verdict {
    if entry.sequence == 1 {
      guard entry.header.previous == genesis.digest else { return .waits }
    } else {
      guard let before = pass.points[entry.header.previous], before.issuer == entry.issuer,
        before.sequence == entry.sequence - 1
      else { return .waits }
    }
    guard let key = signingKey(of: entry) else { return .waits }
    guard proven.contains(entry.digest) || entry.isSigned(by: key) else { return .isForged }
    guard settled.contains(entry.digest) || pass.room.take(entry) else { return .hasNoRoom }
    admitted.append(entry)
    pass.points[entry.digest] = (entry.issuer, entry.sequence)
    switch entry.body {
    case .addDevice(let certificate):
      pass.signingKeys[certificate.device] = certificate.signingKey
      if certificate.isAdmin { pass.mayIssue.insert(certificate.device) }
    case .promote(let promotion): pass.mayIssue.insert(promotion.device)
    case .revoke, .networkKey, .demote: break
    }
    return .entered
  }

  /// The key that must have signed the entry; nil while it is not known, or its issuer never had the right.
  private func signingKey(of entry: LogEntry) -> SigningPublicKey? {
    switch entry.issuer {
    case .root: return genesis.root
    case .device(let device):
      var removesItself = false
      if case .revoke(let revocation) = entry.body { removesItself = revocation.device == device }
      guard pass.mayIssue.contains(device) || removesItself else { return nil }
      return pass.signingKeys[device]
    }
  }

  /// Entries that no revocation of their issuer by the root lets count.
  ///
  /// The root is never wrong, so they can give up their room, and a full log can be repaired.
  private func voidedByRoot() -> Set<ContentDigest> {
    var lasts: [DeviceID: [Int]] = [:]
    var forest: ChainForest?
    for entry in admitted {
      guard entry.issuer == .root, case .revoke(let revocation) = entry.body else { continue }
      let chains = forest ?? ChainForest(admitted)
      forest = chains
      let through = chains.index(of: revocation.through.digest)
      // Without its last good entry a chain cannot be judged yet.
      guard through != nil || revocation.through.sequence == 0 else { continue }
      lasts[revocation.device, default: []] += through.map { [$0] } ?? []
    }
    guard let forest else { return [] }
    var voided: Set<ContentDigest> = []
    for (index, entry) in admitted.enumerated() {
      guard case .device(let issuer) = entry.issuer, let lasts = lasts[issuer] else { continue }
      if !lasts.contains(where: { forest.isAncestor(index, ofOrSame: $0) }) { voided.insert(entry.digest) }
    }
    return voided
  }
}

extension LogEntry {
  /// The last entry of its subject that a revocation or demotion lets count.
  var through: ChainPoint? {
    switch body {
    case .revoke(let revocation): revocation.through
    case .demote(let demotion): demotion.through
    case .addDevice, .networkKey, .promote: nil
    }
  }
}
