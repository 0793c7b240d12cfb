import CryptoPrimitives
import HouseholdTrust
import MeshModel

/// The rules of the membership log, written down as plainly as possible and as slowly as it gets.
///
/// It shares nothing with the log's own evaluation: the well-founded model is computed here by its first definition
/// (Van Gelder, Ross, Schlipf: "The well-founded semantics for general logic programs", J. ACM 38, 1991, §3), with
/// immediate consequences and greatest unfounded sets, there by the alternating fixpoint.
struct TrustModel {
  let entries: [LogEntry]
  private(set) var isTrue: Set<ContentDigest> = []
  private(set) var isFalse: Set<ContentDigest> = []

  /// One way in which an entry may count: all of `supports` must, none of `attackers` may.
  private struct Reason {
    var supports: [ContentDigest] = []
    var attackers: [ContentDigest] = []
  }

  init(_ entries: [LogEntry]) {
    self.entries = entries
    let reasons = Dictionary(uniqueKeysWithValues: entries.map { ($0.digest, self.reasons(for: $0)) })
    while true {
      let consequences = reasons.filter { _, all in
        all.contains { reason in
          reason.supports.allSatisfy { isTrue.contains($0) }
            && reason.attackers.allSatisfy { isFalse.contains($0) }
        }
      }.keys
      var unfounded = Set(reasons.keys).subtracting(isTrue)
      while let founded = unfounded.first(where: { digest in
        (reasons[digest] ?? []).contains { reason in
          reason.supports.allSatisfy { !isFalse.contains($0) && !unfounded.contains($0) }
            && reason.attackers.allSatisfy { !isTrue.contains($0) }
        }
      }) { unfounded.remove(founded) }
      let (nextTrue, nextFalse) = (isTrue.union(consequences), isFalse.union(unfounded))
      if nextTrue == isTrue && nextFalse == isFalse { return }
      (isTrue, isFalse) = (nextTrue, nextFalse)
    }
  }

  var revoked: [DeviceID] {
    Set(
      entries.compactMap { entry in
        guard case .revoke(let revocation) = entry.body, !isFalse.contains(entry.digest) else { return nil }
        return revocation.device
      }
    ).sorted()
  }

  var members: [DeviceID] {
    let out = Set(revoked)
    return Set(
      entries.compactMap { entry -> DeviceID? in
        guard case .addDevice(let certificate) = entry.body, isTrue.contains(entry.digest) else { return nil }
        return out.contains(certificate.device) ? nil : certificate.device
      }
    ).sorted()
  }

  var admins: [DeviceID] {
    members.filter { device in
      let ended = entries.compactMap { entry -> UInt32? in
        guard case .demote(let demotion) = entry.body, demotion.device == device,
          !isFalse.contains(entry.digest)
        else { return nil }
        return demotion.term
      }
      return grants(to: device).contains { grant in
        isTrue.contains(grant.entry.digest) && ended.allSatisfy { $0 < grant.term }
      }
    }
  }

  var networkKeys: [NetworkKeyID] {
    Set(
      entries.compactMap { entry -> NetworkKeyID? in
        guard case .networkKey(let copies) = entry.body, isTrue.contains(entry.digest) else { return nil }
        return copies.key
      }
    ).sorted(by: >)
  }

  private func grants(to device: DeviceID) -> [(entry: LogEntry, term: UInt32, after: UInt32)] {
    entries.compactMap { entry in
      switch entry.body {
      case .addDevice(let certificate) where certificate.device == device && certificate.isAdmin:
        (entry, 1, 0)
      case .promote(let promotion) where promotion.device == device:
        (entry, promotion.term, promotion.after)
      default: nil
      }
    }
  }

  private func reasons(for entry: LogEntry) -> [Reason] {
    guard case .device(let issuer) = entry.issuer else { return [Reason()] }
    let certificates = entries.filter { other in
      if case .addDevice(let certificate) = other.body { certificate.device == issuer } else { false }
    }
    var reasons: [Reason] = []
    for certificate in certificates {
      if case .revoke(let revocation) = entry.body, revocation.device == issuer {
        reasons.append(Reason(supports: [certificate.digest]))
      }
      for grant in grants(to: issuer) where entry.sequence > grant.after {
        reasons.append(
          Reason(
            supports: [certificate.digest, grant.entry.digest],
            attackers: entries.filter { ends($0, entry, grant.term) }.map(\.digest)))
      }
    }
    return reasons
  }

  /// Whether `other`, if it counts, keeps `entry` from counting by a time of its issuer as an admin.
  private func ends(_ other: LogEntry, _ entry: LogEntry, _ term: UInt32) -> Bool {
    let through: ChainPoint
    switch other.body {
    case .revoke(let revocation) where .device(revocation.device) == entry.issuer:
      through = revocation.through
    case .demote(let demotion) where .device(demotion.device) == entry.issuer && demotion.term >= term:
      through = demotion.through
    default: return false
    }
    var place = other.issuer == entry.issuer ? other : entries.first { $0.digest == through.digest }
    guard place?.issuer == entry.issuer else { return true }
    while let step = place {
      if step.digest == entry.digest { return false }
      place = entries.first { $0.digest == step.previous }
    }
    return true
  }
}
