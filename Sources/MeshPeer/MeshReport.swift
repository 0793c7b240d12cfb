package import MeshModel
package import MeshProtocol

/// Something that a person or a log wants to know, in the order in which it happened.
package enum MeshReport: Hashable, Sendable {
  /// A device is in.
  case joined(DeviceID)
  /// A device does not answer; it still counts as in.
  case suspected(DeviceID)
  /// A device has not answered for too long and counts as out.
  case unreachable(DeviceID)
  /// A device said that it leaves.
  case left(DeviceID)
  /// A device has been removed from the household.
  case revoked(DeviceID)
  /// Who should lead changed.
  case leaderSuggested(DeviceID?)
  /// This device was asleep or stopped for that long.
  case wasAway(Duration)
  /// The first control session to a device stands.
  case connected(DeviceID, NetworkAddress)
  /// The last control session to a device ended.
  case disconnected(DeviceID, CloseReason)
  /// Two starts of one device run at the same time.
  case clone(DeviceID)
  /// The household's log grew.
  case logGrew(entries: Int)
  /// The network key in use changed to this epoch.
  case networkKey(epoch: UInt32)
  /// This device itself has been removed.
  case selfRevoked
  /// Something from the network was dropped.
  case dropped(DropReason)
}
