import Determinism
package import HouseholdTrust
package import MeshModel
package import MeshPeer
import MeshProtocol

/// What `hearth peers` shows, as JSON has it.
package struct HouseholdReport: Codable, Sendable, Equatable {
  /// One device.
  package struct Device: Codable, Sendable, Equatable {
    /// Its name.
    package var name: String
    /// Its id, 32 hexadecimal digits.
    package var device: String
    /// Whether it is this one.
    package var isSelf: Bool
    /// Whether it may admit and remove devices.
    package var isAdmin: Bool
    /// Whether it is the suggested leader.
    package var isLeader: Bool
    /// alive, suspect, unreachable, left, revoked or unknown.
    package var state: String
    /// Seconds in this state.
    package var sinceSeconds: Double
    /// Why it is not in (docs/OPERATING.md lists the codes).
    package var reason: String?
    /// What to do about it.
    package var nextStep: String?
    /// Where its session leads, or where it was last.
    package var address: String?
    /// none, datagrams or udp-blocked.
    package var path: String
    /// Milliseconds of the last round trip.
    package var rttMilliseconds: Double?
    /// The version of Hearth there.
    package var version: String?
    /// The wire versions that it speaks.
    package var wireVersions: String?
    /// Cores that training may use.
    package var cores: Int?
    /// Bytes of memory.
    package var memoryBytes: Int?
    /// mains, battery or unknown.
    package var power: String?
    /// wired, wireless or unknown.
    package var attachment: String?
    /// Whether its person lets the household use it.
    package var isAvailable: Bool?
    /// Whether it takes no part in jobs for a while.
    package var isPaused: Bool?
    /// Why; told by the device itself alone.
    package var pauseReason: String?
  }

  /// The household's id.
  package var household: String
  /// Whether the daemon told this; false when it is what lies on the disk.
  package var isLive: Bool
  /// The network key's epoch.
  package var networkKeyEpoch: Int
  /// Entries of the membership log.
  package var logEntries: Int
  /// Sessions that stand.
  package var sessions: Int
  /// Every device of the household, this one first.
  package var devices: [Device]
  /// What was dropped, by reason.
  package var drops: [String: Int]

  /// What a running daemon sees.
  package init(_ status: MeshStatus) {
    household = status.household.description
    isLive = true
    networkKeyEpoch = Int(status.networkKeyEpoch)
    logEntries = status.logEntries
    sessions = status.sessions
    devices = status.devices.map { Device($0, leader: status.leader) }
    drops = [:]
    for drop in status.drops { drops[drop.reason.rawValue] = drop.count }
    devices.sort { ($0.isSelf ? 0 : 1, $0.name, $0.device) < ($1.isSelf ? 0 : 1, $1.name, $1.device) }
  }

  /// What lies on the disk while no daemon runs.
  package init(
    stored household: Household, addresses: [DeviceID: NetworkAddress] = [:], pause: String? = nil
  ) {
    self.household = household.id.description
    isLive = false
    networkKeyEpoch = Int(household.log.networkKeyEpoch)
    logEntries = household.log.entries.count
    sessions = 0
    drops = [:]
    devices = household.log.members.map { certificate in
      Device(
        name: certificate.name, device: certificate.device.description,
        isSelf: certificate.device == household.device,
        isAdmin: household.log.view.isAdmin(certificate.device), isLeader: false,
        state: PresenceState.unknown.rawValue, sinceSeconds: 0, reason: nil, nextStep: nil,
        address: addresses[certificate.device].map { "\($0)" }, path: GossipPath.none.rawValue)
    }
    devices.sort { ($0.isSelf ? 0 : 1, $0.name, $0.device) < ($1.isSelf ? 0 : 1, $1.name, $1.device) }
    guard let pause, devices.first?.isSelf == true else { return }
    (devices[0].isPaused, devices[0].pauseReason) = (true, pause)
  }
}

extension HouseholdReport {
  /// Whether more has changed than times, round trips and counters.
  func differs(from other: HouseholdReport) -> Bool { steady != other.steady }

  private var steady: HouseholdReport {
    var copy = self
    copy.drops = [:]
    for index in copy.devices.indices {
      copy.devices[index].sinceSeconds = 0
      copy.devices[index].rttMilliseconds = nil
    }
    return copy
  }
}

extension HouseholdReport.Device {
  init(_ status: DeviceStatus, leader: DeviceID?) {
    self.init(
      name: status.name, device: status.device.description, isSelf: status.isSelf, isAdmin: status.isAdmin,
      isLeader: status.device == leader, state: status.state.rawValue, sinceSeconds: status.since.inSeconds,
      reason: status.absence?.rawValue, nextStep: status.absence?.nextStep,
      address: status.address.map { "\($0)" }, path: status.path.rawValue,
      rttMilliseconds: status.roundTrip.map { $0.inSeconds * 1000 }, version: status.traits?.version,
      wireVersions: status.wireVersions.map { "\($0)" }, cores: status.traits.map { Int($0.cores) },
      memoryBytes: status.traits.map { Int($0.memoryMebibytes) << 20 },
      power: status.traits.map { "\($0.power)" }, attachment: status.traits.map { "\($0.attachment)" },
      isAvailable: status.traits?.isAvailable, isPaused: status.traits?.isPaused)
  }
}
