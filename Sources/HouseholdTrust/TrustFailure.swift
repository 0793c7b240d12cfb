package import MeshModel

/// Why something cannot be done in a household, or with what came from another device.
package enum TrustFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// A device's name is empty, too long, or would not show as plain text.
  case invalidName(byteCount: Int)
  /// This device is no admin.
  case notAdmin
  /// The device is not in the household's log.
  case unknownDevice(DeviceID)
  /// The device is revoked.
  case revoked(DeviceID)
  /// The device is a member already.
  case alreadyMember(DeviceID)
  /// The device is an admin already.
  case alreadyAdmin(DeviceID)
  /// The device is a member, but no admin.
  case notAnAdmin(DeviceID)
  /// The household would have no admin.
  case lastAdmin(DeviceID)
  /// The signature of an admission request does not fit this exchange.
  case unprovenRequest
  /// The household has as many devices as it may.
  case tooManyDevices(limit: Int)
  /// The log has as many entries or bytes as it may.
  case logFull(limit: Int)
  /// The log that another device sent does not make this device a member.
  case notAdmitted
  /// The log that another device sent belongs to another household.
  case otherHousehold(HouseholdID)
  /// This device has no network key, so it cannot give it to others.
  case noNetworkKey
  /// A device's sealing key is no usable key.
  case unusableKey(DeviceID)
  /// The entry that a revocation should count through is not in the device's chain.
  case notInChain(DeviceID)
  /// Revoking so far back would also take away this device's own right to revoke.
  case wouldVoidItself(DeviceID)
  /// Numbers of epochs or of an issuer's entries are used up.
  case exhausted

  /// What is wrong, where, and what to do.
  package var description: String {
    switch self {
    case .invalidName(let byteCount):
      "a device's name has 1 to \(TrustLimits.nameBytes) bytes of plain text, this one has \(byteCount) or odd "
        + "characters; choose another name"
    case .notAdmin:
      "this device is no admin of the household; do it on one that 'hearth peers' shows as admin"
    case .unknownDevice(let device):
      "no device \(device.short) is in the household; 'hearth peers' lists them"
    case .revoked(let device):
      "device \(device.short) has been removed for ever; give the machine a new identity and invite it"
    case .alreadyMember(let device): "device \(device.short) is in the household already; nothing to do"
    case .alreadyAdmin(let device): "device \(device.short) is an admin already; nothing to do"
    case .notAnAdmin(let device): "device \(device.short) is no admin; nothing to do"
    case .lastAdmin(let device):
      "device \(device.short) is the last admin; make another device an admin first"
    case .unprovenRequest:
      "the device that wants to join did not prove that it has its key; start the invitation again"
    case .tooManyDevices(let limit):
      "the household has \(limit) devices, which is the limit; remove one with 'hearth revoke'"
    case .logFull(let limit):
      "the household's log is full (limit \(limit)); create a new household and invite the devices to it"
    case .notAdmitted:
      "the invitation did not make this device a member; start the invitation again"
    case .otherHousehold(let household):
      "the other device is of household \(household.description.prefix(8)), not of this one; check the invitation"
    case .noNetworkKey:
      "this device has not received the household's network key yet; run 'hearth up' near another member"
    case .unusableKey(let device):
      "device \(device.short) has a sealing key that nothing can be sealed to; remove it with 'hearth revoke'"
    case .notInChain(let device):
      "the entry given is none of device \(device.short); 'hearth peers --log' lists them"
    case .wouldVoidItself(let device):
      "nothing that device \(device.short) did would count, not even making this device an admin; keep more of "
        + "its entries or use the recovery phrase"
    case .exhausted:
      "the household's running numbers are used up; create a new household and invite the devices to it"
    }
  }
}
