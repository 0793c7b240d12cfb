package import CryptoPrimitives
package import MeshModel

/// What a device holds of its household: log, own certificate, private keys and network keys.
///
/// A value. Every operation that changes the household returns the new entries, which are in the log already: the
/// caller stores the log and then sends the entries to the others.
package struct Household: Sendable {
  /// The membership log.
  package private(set) var log: MembershipLog
  /// This device's certificate; it stays as it was when the device was admitted, also after a revocation.
  package private(set) var certificate: DeviceCertificate
  /// This device's private keys.
  package let keys: DeviceKeys
  /// The network keys that this device can use; they follow from the log and its sealing key.
  package private(set) var ring: NetworkKeyRing

  /// Makes a household whose first admin is this device; the phrase is its root and is to be shown once.
  package init(
    creating phrase: borrowing RecoveryPhrase, keys: DeviceKeys, name: String,
    entropy: inout some EntropySource
  ) throws(TrustFailure) {
    let root = HouseholdRoot(phrase)
    let request = try AdmissionRequest(keys: keys, name: name, binding: [])
    let genesis = Genesis(root: root, entropy: &entropy)
    let certificate = DeviceCertificate(
      request, isAdmin: true, household: genesis.household, issuer: .root, after: genesis.origin,
      key: root.key)
    var log = MembershipLog(genesis: genesis)
    _ = log.merge([LogEntry(certificate)])
    self.init(log: log, certificate: certificate, keys: keys)
    _ = try rotateNetworkKey(entropy: &entropy)
  }

  /// Takes up the membership that a log gives to the device with these keys.
  ///
  /// For a device that was just admitted.
  package init(log: MembershipLog, keys: DeviceKeys) throws(TrustFailure) {
    guard let certificate = log.certificate(of: keys.device),
      certificate.agreementKey == keys.agreement.publicKey, certificate.sealingKey == keys.sealing.publicKey
    else { throw .notAdmitted }
    self.init(log: log, certificate: certificate, keys: keys)
  }

  /// Takes up what was kept on disk, also when the log does not make this device a member any more.
  ///
  /// nil when keys, certificate and log do not belong together.
  package init?(stored log: MembershipLog, certificate: DeviceCertificate, keys: DeviceKeys) {
    guard certificate.household == log.genesis.household, certificate.device == keys.device,
      certificate.agreementKey == keys.agreement.publicKey, certificate.sealingKey == keys.sealing.publicKey
    else { return nil }
    self.init(log: log, certificate: certificate, keys: keys)
  }

  private init(log: MembershipLog, certificate: DeviceCertificate, keys: DeviceKeys) {
    self.log = log
    self.certificate = certificate
    self.keys = keys
    ring = NetworkKeyRing([])
    refresh()
  }

  /// This device.
  package var device: DeviceID { keys.device }
  /// The household's name.
  package var id: HouseholdID { log.genesis.household }
  /// Whether this device may change the household.
  package var isAdmin: Bool { log.view.isAdmin(device) }
  /// Whether the log makes this device a member: it was admitted by one who might, and is not revoked.
  package var isMember: Bool { log.isMember(device) }
  /// Whether this device has been removed.
  package var isRevoked: Bool { log.isRevoked(device) }

  /// What the handshake needs to know of this moment.
  package var snapshot: TrustSnapshot {
    TrustSnapshot(certificate: certificate, keys: keys, ring: ring, log: log)
  }

  /// Adds entries from another device.
  package mutating func merge(_ entries: [LogEntry]) -> MergeReport {
    let report = log.merge(entries)
    if report.hasChanged { refresh() }
    return report
  }

  /// Admits a device that has proved its keys for this binding; also seals the network key for it.
  package mutating func admit(
    _ request: AdmissionRequest, binding: [UInt8], isAdmin admin: Bool = false,
    entropy: inout some EntropySource
  ) throws(TrustFailure) -> [LogEntry] {
    try requireAdmin()
    guard request.isSigned(for: binding) else { throw .unprovenRequest }
    let device = DeviceID(of: request.signingKey)
    if log.isRevoked(device) { throw .revoked(device) }
    if log.isMember(device) { throw .alreadyMember(device) }
    guard log.members.count < TrustLimits.devices else { throw .tooManyDevices(limit: TrustLimits.devices) }
    guard ring.current != nil else { throw .noNetworkKey }
    try requireRoom(for: 2)
    guard NetworkKey(epoch: 1, entropy: &entropy).sealed(to: request.sealingKey, entropy: &entropy) != nil
    else {
      throw .unusableKey(device)
    }
    let certificate = DeviceCertificate(
      request, isAdmin: admin, household: id, issuer: .device(self.device),
      after: try lastPoint(.device(self.device)), key: keys.signing)
    let added = try add(LogEntry(certificate))
    return [added] + (try shareNetworkKey(entropy: &entropy))
  }

  /// Removes a device for ever and makes a new network key for those who stay.
  ///
  /// What the device did as an admin counts through `through`; by default everything that this device has seen.
  package mutating func revoke(
    _ device: DeviceID, reason: RevocationReason, through: ChainPoint? = nil,
    entropy: inout some EntropySource
  ) throws(TrustFailure) -> [LogEntry] {
    if device == self.device { return [try leave()] }
    try requireAdmin()
    try requireMember(device)
    try requireRoom(for: 2)
    let last = try checkedPoint(through, of: device)
    let entry = try makeEntry(.revoke(Revocation(device: device, through: last, reason: reason)))
    var trial = log
    _ = trial.merge([entry])
    guard trial.view.isAdmin(self.device) else { throw .wouldVoidItself(device) }
    let added = try add(entry)
    return [added, try rotateNetworkKey(entropy: &entropy)]
  }

  /// Removes this device itself, for ever.
  ///
  /// Any device may, but the last admin only when it is alone.
  package mutating func leave() throws(TrustFailure) -> LogEntry {
    if isRevoked { throw .revoked(device) }
    if log.view.admins == [device] && log.members.count > 1 { throw .lastAdmin(device) }
    let revocation = Revocation(device: device, through: log.head(of: .device(device)), reason: .left)
    return try add(try makeEntry(.revoke(revocation)))
  }

  /// Makes a member an admin.
  package mutating func promote(_ device: DeviceID) throws(TrustFailure) -> [LogEntry] {
    try requireAdmin()
    let keys = keys
    return [try promote(device, by: .device(self.device), key: keys.signing)]
  }

  /// Takes an admin's rights.
  ///
  /// It stays a member, and what it did so far counts.
  package mutating func demote(_ device: DeviceID) throws(TrustFailure) -> [LogEntry] {
    try requireAdmin()
    try requireMember(device)
    guard log.view.isAdmin(device) else { throw .notAnAdmin(device) }
    guard log.view.admins.count > 1 else { throw .lastAdmin(device) }
    try requireRoom(for: 1)
    let demotion = Demotion(
      device: device, term: log.lastTerm(of: device), through: log.head(of: .device(device)))
    return [try add(try makeEntry(.demote(demotion)))]
  }

  /// Makes the next network key and seals it for every member.
  @discardableResult
  package mutating func rotateNetworkKey(
    entropy: inout some EntropySource
  ) throws(TrustFailure) -> LogEntry {
    try requireAdmin()
    try requireRoom(for: 1)
    guard log.networkKeyEpoch < .max else { throw .exhausted }
    let key = NetworkKey(epoch: log.networkKeyEpoch + 1, entropy: &entropy)
    return try share(key, with: log.members, entropy: &entropy)
  }

  /// Seals the current network key for members who have no copy of it yet; no entries when there are none.
  package mutating func shareNetworkKey(
    entropy: inout some EntropySource
  ) throws(TrustFailure) -> [LogEntry] {
    try requireAdmin()
    let missing = Set(log.view.membersWithoutNetworkKey)
    if missing.isEmpty { return [] }
    guard let key = ring.current, key.id == log.view.networkKeys.first?.id else { throw .noNetworkKey }
    try requireRoom(for: 1)
    return [
      try share(key, with: log.members.filter { missing.contains($0.device) }, entropy: &entropy)
    ]
  }

  /// What an admin's device does by itself after a merge; no entries when nothing is due, or it is no admin.
  ///
  /// A new network key when a revoked device has the current one, else copies for members who lack it. Several admins may do so at once without harm; to save entries, only the smallest reachable one should.
  package mutating func maintain(entropy: inout some EntropySource) throws(TrustFailure) -> [LogEntry] {
    guard isAdmin else { return [] }
    if log.view.needsNewNetworkKey { return [try rotateNetworkKey(entropy: &entropy)] }
    guard !log.view.membersWithoutNetworkKey.isEmpty else { return [] }
    if ring.current?.id != log.view.networkKeys.first?.id {
      return [try rotateNetworkKey(entropy: &entropy)]
    }
    return try shareNetworkKey(entropy: &entropy)
  }

  /// Makes this device an admin by the household's root and removes lost devices, with a new network key.
  ///
  /// The root's word stands above that of all admins, and it decides who is right where admins contradict each other.
  package mutating func recover(
    with phrase: borrowing RecoveryPhrase, revoking lost: [LostDevice] = [],
    entropy: inout some EntropySource
  ) throws(RecoveryFailure) -> [LogEntry] {
    let root = HouseholdRoot(phrase)
    guard root.publicKey == log.genesis.root else { throw .phrase(.otherHousehold) }
    var trial = self
    do throws(TrustFailure) {
      let added = try trial.recover(root, lost, entropy: &entropy)
      self = trial
      return added
    } catch {
      throw .trust(error)
    }
  }

  private mutating func recover(
    _ root: borrowing HouseholdRoot, _ lost: [LostDevice], entropy: inout some EntropySource
  ) throws(TrustFailure) -> [LogEntry] {
    var added: [LogEntry] = []
    for device in lost {
      if device.device == self.device { throw .wouldVoidItself(device.device) }
      guard log.knows(device.device) else { throw .unknownDevice(device.device) }
      let through =
        try device.through.map { point throws(TrustFailure) in try checkedPoint(point, of: device.device) }
        ?? log.firstRevokedPoint(of: device.device) ?? log.head(of: .device(device.device))
      let revocation = Revocation(device: device.device, through: through, reason: .lost)
      added.append(
        try add(
          LogEntry(
            .revoke(revocation), household: id, issuer: .root, after: try lastPoint(.root), key: root.key)))
    }
    if !isAdmin { added.append(try promote(device, by: .root, key: root.key)) }
    added.append(try rotateNetworkKey(entropy: &entropy))
    return added
  }
}

/// A device that the root shall revoke.
package struct LostDevice: Hashable, Sendable {
  /// The device.
  package let device: DeviceID
  /// The last of its entries that counts.
  ///
  /// When nil, it is where the earliest revocation of it drew the line, else the last entry that is known.
  package let through: ChainPoint?

  /// A device whose entries count through a place of its chain.
  package init(_ device: DeviceID, through: ChainPoint? = nil) {
    self.device = device
    self.through = through
  }
}

/// Why a household could not be recovered.
package enum RecoveryFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The phrase is wrong.
  case phrase(RecoveryPhraseFailure)
  /// The phrase is right, but not what it should do.
  case trust(TrustFailure)

  /// What is wrong, and what to do.
  package var description: String {
    switch self {
    case .phrase(let failure): failure.description
    case .trust(let failure): failure.description
    }
  }
}

extension Household {
  private func requireAdmin() throws(TrustFailure) {
    if isRevoked { throw .revoked(device) }
    guard isAdmin else { throw .notAdmin }
  }

  /// Refuses what would go over the log's limits halfway.
  private func requireRoom(for count: Int) throws(TrustFailure) {
    let used = log.entries.count { $0.issuer != .root }
    guard used + count <= TrustLimits.deviceEntries else { throw .logFull(limit: TrustLimits.deviceEntries) }
  }

  private func requireMember(_ device: DeviceID) throws(TrustFailure) {
    guard log.certificate(of: device) != nil else { throw .unknownDevice(device) }
    if log.isRevoked(device) { throw .revoked(device) }
  }

  private func checkedPoint(_ point: ChainPoint?, of device: DeviceID) throws(TrustFailure) -> ChainPoint {
    guard let point else { return log.head(of: .device(device)) }
    guard log.hasPoint(point, of: .device(device)) else { throw .notInChain(device) }
    return point
  }

  private mutating func promote(
    _ device: DeviceID, by issuer: EntryIssuer, key: borrowing SigningKey
  ) throws(TrustFailure) -> LogEntry {
    try requireMember(device)
    if log.view.isAdmin(device) { throw .alreadyAdmin(device) }
    let term = log.lastTerm(of: device)
    guard term < .max else { throw .exhausted }
    if issuer != .root { try requireRoom(for: 1) }
    let promotion = Promotion(
      device: device, term: term + 1, after: log.head(of: .device(device)).sequence)
    return try add(
      LogEntry(
        .promote(promotion), household: id, issuer: issuer, after: try lastPoint(issuer), key: key))
  }

  private mutating func share(
    _ key: NetworkKey, with members: [DeviceCertificate], entropy: inout some EntropySource
  ) throws(TrustFailure) -> LogEntry {
    let copies = NetworkKeyCopies(key, for: members, entropy: &entropy)
    return try add(try makeEntry(.networkKey(copies)))
  }

  private func lastPoint(_ issuer: EntryIssuer) throws(TrustFailure) -> ChainPoint {
    let head = log.head(of: issuer)
    guard head.sequence < .max else { throw .exhausted }
    return head
  }

  private func makeEntry(_ body: LogEntry.Body) throws(TrustFailure) -> LogEntry {
    let last = try lastPoint(.device(device))
    return LogEntry(body, household: id, issuer: .device(device), after: last, key: keys.signing)
  }

  private mutating func add(_ entry: LogEntry) throws(TrustFailure) -> LogEntry {
    let report = merge([entry])
    guard report.accepted.contains(entry) else {
      precondition(
        report.refused.contains { $0.reason == .logFull }, "an own entry was refused: \(report.refused)")
      throw .logFull(limit: entry.issuer == .root ? TrustLimits.rootEntries : TrustLimits.logBytes)
    }
    return entry
  }

  /// Opens the copies of network keys that are sealed for this device.
  private mutating func refresh() {
    if let current = log.certificate(of: device) { certificate = current }
    var opened = ring.keys
    for known in log.view.networkKeys.prefix(2 * (TrustLimits.pastNetworkKeys + 1))
    where !opened.contains(where: { $0.id == known.id }) {
      for copy in known.copies where copy.device == device {
        guard let secret = keys.sealing.open(copy.box),
          let key = NetworkKey(opened: secret, as: known.id)
        else { continue }
        opened.append(key)
        break
      }
    }
    let counting = Set(log.view.networkKeys.map(\.id))
    ring = NetworkKeyRing(opened.filter { counting.contains($0.id) })
  }
}

extension MembershipLog {
  /// Whether the point is in the issuer's chain, or before its first entry.
  fileprivate func hasPoint(_ point: ChainPoint, of issuer: EntryIssuer) -> Bool {
    point.sequence == 0
      ? point == genesis.origin : entries.contains { $0.issuer == issuer && $0.point == point }
  }

  /// Whether the log has a certificate of the device, counting or not.
  fileprivate func knows(_ device: DeviceID) -> Bool {
    entries.contains { entry in
      if case .addDevice(let certificate) = entry.body { certificate.device == device } else { false }
    }
  }

  /// The earliest place that somebody else's revocation of the device names.
  fileprivate func firstRevokedPoint(of device: DeviceID) -> ChainPoint? {
    entries.compactMap { entry in
      guard case .revoke(let revocation) = entry.body, revocation.device == device,
        entry.issuer != .device(device), hasPoint(revocation.through, of: .device(device))
      else { return nil }
      return revocation.through
    }.min()
  }
}
