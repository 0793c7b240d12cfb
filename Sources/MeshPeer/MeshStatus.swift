package import MeshModel
package import MeshProtocol

/// The state of a device of the household as this device sees it.
package enum PresenceState: String, Hashable, Sendable, CaseIterable {
  /// It answers.
  case alive
  /// It did not answer lately; others are asked.
  case suspect
  /// It has not answered for too long.
  case unreachable
  /// It said that it leaves.
  case left
  /// It has been removed from the household.
  case revoked
  /// Nothing has been heard of it since this device started.
  case unknown
}

/// How gossip reaches a device.
package enum GossipPath: String, Hashable, Sendable, CaseIterable {
  /// No session stands.
  case none
  /// As datagrams.
  case datagrams
  /// Datagrams do not arrive, in one direction at least; the session carries the gossip.
  case udpBlocked = "udp-blocked"
}

/// Everything that is shown about one device.
package struct DeviceStatus: Hashable, Sendable {
  /// The device.
  package var device: DeviceID
  /// Its name, from its certificate.
  package var name: String
  /// Whether it may admit and remove devices.
  package var isAdmin: Bool
  /// Whether it is this device.
  package var isSelf: Bool
  /// Its state.
  package var state: PresenceState
  /// How long it has been in this state, by this device's clock.
  package var since: Duration
  /// Why it is not in, for a device that is not.
  package var absence: AbsenceReason?
  /// Where its session leads, or where it was last.
  package var address: NetworkAddress?
  /// How gossip reaches it.
  package var path: GossipPath
  /// The last round trip on its session.
  package var roundTrip: Duration?
  /// How far the session reaches; nil without one.
  package var standing: SessionStanding?
  /// The wire versions that it offered last.
  package var wireVersions: WireVersions?
  /// What it told about itself.
  package var traits: DeviceTraits?
}

/// What `hearth peers` shows.
package struct MeshStatus: Hashable, Sendable {
  /// The household.
  package var household: HouseholdID
  /// This device.
  package var device: DeviceID
  /// The network key's epoch.
  package var networkKeyEpoch: UInt32
  /// Entries of the membership log.
  package var logEntries: Int
  /// Who should lead.
  package var leader: DeviceID?
  /// Every device of the household, by name of device; this one included, and those that were removed.
  package var devices: [DeviceStatus]
  /// Sessions that stand, of all purposes.
  package var sessions: Int
  /// What was dropped, by reason; reasons without a drop are left out.
  package var drops: [DropCount]
}

/// How often something was dropped.
package struct DropCount: Hashable, Sendable {
  /// Why.
  package var reason: DropReason
  /// How often.
  package var count: Int
}
