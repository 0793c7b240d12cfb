import CryptoPrimitives
package import HouseholdTrust
package import MeshModel

extension Household {
  /// The member with this name, id, or start of an id (four digits at least).
  package func member(named text: String) throws(HouseholdFailure) -> DeviceID {
    try one(of: log.members.map(\.device), named: text)
  }

  /// The device with this name, id or start of an id, members and former ones.
  package func device(named text: String) throws(HouseholdFailure) -> DeviceID {
    try one(of: log.view.devices.map(\.device), named: text)
  }

  /// A device's name for people, with the start of its id.
  package func shownName(of device: DeviceID) -> String {
    "\(log.certificate(of: device)?.name ?? "?") (\(device.short))"
  }

  private func one(of devices: [DeviceID], named text: String) throws(HouseholdFailure) -> DeviceID {
    let wanted = text.lowercased()
    let exact = devices.filter { $0.description == wanted }
    let found =
      exact.isEmpty
      ? devices.filter { device in
        log.certificate(of: device)?.name == text
          || (wanted.utf8.count >= 4 && device.description.hasPrefix(wanted))
      } : exact
    guard let first = found.first else { throw .unknownDevice(text) }
    guard found.count == 1 else { throw .ambiguousDevice(text, found.map { shownName(of: $0) }) }
    return first
  }

  /// Makes the change that a command asks for: the new entries, and the device that they are about.
  mutating func apply(
    _ request: ControlRequest, entropy: inout SystemEntropy
  ) throws -> (entries: [LogEntry], target: DeviceID?) {
    if request.command == .recover {
      let phrase = try RecoveryPhrase(typed: request.phrase ?? "")
      let lost = try (request.devices ?? []).map { LostDevice(try device(named: $0)) }
      return (try recover(with: phrase, revoking: lost, entropy: &entropy), nil)
    }
    let target = try member(named: request.device ?? "")
    switch request.command {
    case .promote: return (try promote(target), target)
    case .demote: return (try demote(target), target)
    default:
      // Leaving has more to it than a word in the log.
      guard target != device else {
        throw HouseholdFailure.refused("this device removes itself with 'hearth leave'")
      }
      let reason: RevocationReason = request.lost == true ? .lost : .retired
      return (try revoke(target, reason: reason, entropy: &entropy), target)
    }
  }
}
