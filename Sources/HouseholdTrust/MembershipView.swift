import CryptoPrimitives
package import MeshModel

/// A device as the log describes it.
package struct MemberStatus: Hashable, Sendable {
  /// The certificate that counts; the latest when there are several.
  package let certificate: DeviceCertificate
  /// Whether the device is an admin now.
  package let isAdmin: Bool
  /// Its removal, if there was one.
  package let revocation: Revocation?

  /// The device.
  package var device: DeviceID { certificate.device }
  /// Whether it is a member now.
  package var isMember: Bool { revocation == nil }
}

/// What a membership log says: who is in, who is an admin, who is out for ever, and which network keys there are.
package struct MembershipView: Hashable, Sendable {
  /// A network key as the log knows it.
  package struct KnownNetworkKey: Hashable, Sendable {
    /// Which key.
    package let id: NetworkKeyID
    /// Its sealed copies in ascending order of the devices; a device may have several.
    package let copies: [NetworkKeyCopies.Copy]
  }

  /// All devices with a certificate that counts, revoked ones too, in ascending order.
  package let devices: [MemberStatus]
  /// Everybody who is revoked, in ascending order; also devices of which no certificate is known (yet).
  package let revoked: [DeviceID]
  /// The network keys, the newest first.
  package let networkKeys: [KnownNetworkKey]
  /// Whether admins contradict each other, so that only the recovery phrase can say who is right.
  package let isContested: Bool
  private let places: [DeviceID: Int]
  private let revokedSet: Set<DeviceID>
  private let counting: Set<ContentDigest>

  init(_ entries: [LogEntry], chains: ChainForest) {
    let evaluation = TrustEvaluation(entries, chains: chains)
    isContested = evaluation.certain != evaluation.possible
    var certificates: [DeviceID: (point: ChainPoint, certificate: DeviceCertificate)] = [:]
    var revocations: [DeviceID: Revocation] = [:]
    var copies: [NetworkKeyID: [NetworkKeyCopies.Copy]] = [:]
    var counting: Set<ContentDigest> = []
    for (index, entry) in entries.enumerated() {
      switch entry.body {
      case .addDevice(let certificate) where evaluation.certain[index]:
        counting.insert(entry.digest)
        if let known = certificates[certificate.device], known.point > entry.point { continue }
        certificates[certificate.device] = (entry.point, certificate)
      case .revoke(let revocation) where evaluation.possible[index]:
        if revocations[revocation.device] == nil { revocations[revocation.device] = revocation }
      case .networkKey(let sealed) where evaluation.certain[index]:
        copies[sealed.key, default: []] += sealed.copies
      default: break
      }
    }
    devices = certificates.values.map(\.certificate).sorted { $0.device < $1.device }.map { certificate in
      let revocation = revocations[certificate.device]
      return MemberStatus(
        certificate: certificate, isAdmin: revocation == nil && evaluation.isAdmin(certificate.device),
        revocation: revocation)
    }
    revoked = revocations.keys.sorted()
    revokedSet = Set(revoked)
    self.counting = counting
    networkKeys = copies.map { key, copies in
      KnownNetworkKey(id: key, copies: copies.sorted())
    }.sorted { $0.id > $1.id }
    places = Dictionary(uniqueKeysWithValues: devices.enumerated().map { ($1.device, $0) })
  }

  /// The device with this name, revoked or not.
  package func status(of device: DeviceID) -> MemberStatus? { places[device].map { devices[$0] } }

  /// The certificates of all members, in ascending order of the devices.
  package var members: [DeviceCertificate] { devices.filter(\.isMember).map(\.certificate) }

  /// The admins, in ascending order.
  package var admins: [DeviceID] { devices.filter(\.isAdmin).map(\.device) }

  /// Whether the device is in the household and not revoked.
  package func isMember(_ device: DeviceID) -> Bool { status(of: device)?.isMember ?? false }

  /// Whether the device is a member with the right to change the household.
  package func isAdmin(_ device: DeviceID) -> Bool { status(of: device)?.isAdmin ?? false }

  /// Whether the device is removed for ever.
  package func isRevoked(_ device: DeviceID) -> Bool { revokedSet.contains(device) }

  /// Whether this very certificate is in the log and counts; its device may be revoked all the same.
  package func counts(_ certificate: DeviceCertificate) -> Bool {
    counting.contains(LogEntry(certificate).digest)
  }

  /// Whether a new network key is due: a revoked device has the current one, or there is none.
  package var needsNewNetworkKey: Bool {
    guard let current = networkKeys.first else { return true }
    return current.copies.contains { isRevoked($0.device) }
  }

  /// Members for whom no copy of the current network key is sealed yet, in ascending order.
  package var membersWithoutNetworkKey: [DeviceID] {
    let holders = Set(networkKeys.first?.copies.map(\.device) ?? [])
    return devices.filter { $0.isMember && !holders.contains($0.device) }.map(\.device)
  }
}
