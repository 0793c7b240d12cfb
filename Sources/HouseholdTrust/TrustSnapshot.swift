import CryptoPrimitives
package import MeshModel

/// What a certificate that somebody shows is worth.
package enum PeerStanding: Hashable, Sendable {
  /// A member of this household.
  case member(isAdmin: Bool)
  /// Removed from this household, for ever.
  case revoked
  /// Of another household.
  case foreign
  /// Signed by somebody whom this device does not know.
  case unknownIssuer
  /// Signed by a device that was no admin when it signed, or is not one any more.
  case issuerNotAdmin
  /// The signature is wrong.
  case forged
  /// This device's own identity, shown by somebody else.
  case ownIdentity
}

/// What the handshake needs to know, at one moment: who this device is, its keys, and whom it trusts.
package struct TrustSnapshot: Sendable {
  /// This device's own certificate.
  package let certificate: DeviceCertificate
  /// This device's private keys.
  package let keys: DeviceKeys
  /// The network keys that it can use.
  package let ring: NetworkKeyRing
  /// The membership log.
  package let log: MembershipLog
  /// The entries that prove this device's issuer to one who does not know it, from the root's on; maybe empty.
  package let chain: [LogEntry]

  init(certificate: DeviceCertificate, keys: DeviceKeys, ring: NetworkKeyRing, log: MembershipLog) {
    self.certificate = certificate
    self.keys = keys
    self.ring = ring
    self.log = log
    chain = Self.chain(of: certificate, in: log)
  }

  /// This device.
  package var device: DeviceID { keys.device }
  /// The household.
  package var household: HouseholdID { log.genesis.household }

  /// What the certificate is worth, together with the entries that its owner shows for its issuer.
  ///
  /// At most eight entries are looked at. Nothing of them is kept; the log comes with the session that follows.
  package func evaluate(_ certificate: DeviceCertificate, chain: [LogEntry] = []) -> PeerStanding {
    guard certificate.household == household else { return .foreign }
    if certificate.device == device { return .ownIdentity }
    if log.isRevoked(certificate.device) { return .revoked }
    if log.view.counts(certificate) { return .member(isAdmin: log.view.isAdmin(certificate.device)) }
    var issuers = KnownIssuers(log)
    for entry in chain.prefix(TrustLimits.chainEntries) { issuers.learn(entry) }
    switch issuers.standing(of: LogEntry(certificate)) {
    case .trusted:
      let isKnown = log.isMember(certificate.device)
      return .member(isAdmin: isKnown ? log.view.isAdmin(certificate.device) : certificate.isAdmin)
    case .unknown: return .unknownIssuer
    case .untrusted: return .issuerNotAdmin
    case .forged: return .forged
    }
  }

  /// The certificates and promotions that make the certificate's issuer an admin, the root's first.
  private static func chain(of certificate: DeviceCertificate, in log: MembershipLog) -> [LogEntry] {
    var needed: Set<ContentDigest> = []
    var seen: Set<DeviceID> = []
    var open = [certificate.issuer]
    while let issuer = open.popLast() {
      guard case .device(let device) = issuer, seen.insert(device).inserted,
        let own = log.certificate(of: device)
      else { continue }
      needed.insert(LogEntry(own).digest)
      open.append(own.issuer)
      if !own.isAdmin, let promotion = log.promotion(of: device) {
        needed.insert(promotion.digest)
        open.append(promotion.issuer)
      }
    }
    return Array(log.entries.filter { needed.contains($0.digest) }.prefix(TrustLimits.chainEntries))
  }
}

/// The issuers that a log knows, and those that shown entries lead to.
private struct KnownIssuers {
  enum Standing {
    case trusted, unknown, untrusted, forged
  }

  private let log: MembershipLog
  private var certificates: [DeviceID: DeviceCertificate] = [:]
  private var admins: Set<DeviceID> = []

  init(_ log: MembershipLog) { self.log = log }

  func standing(of entry: LogEntry) -> Standing {
    guard entry.household == log.genesis.household else { return .untrusted }
    switch entry.issuer {
    case .root: return entry.isSigned(by: log.genesis.root) ? .trusted : .forged
    case .device(let device):
      if let status = log.view.status(of: device) {
        guard status.isAdmin || admins.contains(device) else {
          return log.mayBecomeAdmin(device) ? .unknown : .untrusted
        }
        return entry.isSigned(by: status.certificate.signingKey) ? .trusted : .forged
      }
      if log.isRevoked(device) { return .untrusted }
      guard admins.contains(device), let certificate = certificates[device] else { return .unknown }
      return entry.isSigned(by: certificate.signingKey) ? .trusted : .forged
    }
  }

  /// Takes an entry whose issuer is trusted; others are passed over.
  mutating func learn(_ entry: LogEntry) {
    guard standing(of: entry) == .trusted else { return }
    switch entry.body {
    case .addDevice(let certificate) where !log.isRevoked(certificate.device):
      certificates[certificate.device] = certificate
      if certificate.isAdmin && log.view.status(of: certificate.device) == nil {
        admins.insert(certificate.device)
      }
    case .promote(let promotion)
    where !log.isRevoked(promotion.device) && promotion.term > log.lastTerm(of: promotion.device):
      admins.insert(promotion.device)
    default: break
    }
  }
}

extension MembershipLog {
  /// The latest promotion of a device.
  fileprivate func promotion(of device: DeviceID) -> LogEntry? {
    entries.filter { entry in
      if case .promote(let promotion) = entry.body { promotion.device == device } else { false }
    }.max { $0.term < $1.term }
  }

  /// Whether a device that is no admin here may have been made one elsewhere.
  fileprivate func mayBecomeAdmin(_ device: DeviceID) -> Bool {
    isMember(device) && lastTerm(of: device) == 0
  }
}

extension LogEntry {
  fileprivate var term: UInt32 {
    if case .promote(let promotion) = body { promotion.term } else { 0 }
  }
}
