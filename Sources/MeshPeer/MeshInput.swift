package import HouseholdTrust
package import MeshModel
package import MeshProtocol
package import PeerDiscovery

/// What happens to a device in the mesh.
package enum MeshInput: Sendable {
  /// The first input: everything else waits for it.
  case start
  /// Time has passed; due at `nextDeadline`, harmless at any other time.
  case tick
  /// The transport tells something.
  case transport(TransportEvent)
  /// An address was heard of, by multicast DNS for instance.
  case hint(DiscoveryHint)
  /// A datagram arrived at the beacon socket, from this address (with the scope if it is link-local).
  case beacon([UInt8], from: NetworkAddress)
  /// The interfaces of this device, all of them: at the start and after every change.
  case interfaces([LocalInterface])
  /// A listed name was resolved.
  case resolved(StaticPeer, [NetworkAddress])
  /// An invitation was opened (its discriminator) or closed (nil).
  case pairing(UInt16?)
  /// Entries that were made on this device: a device admitted or revoked, a network key.
  case trust([LogEntry])
  /// What this device tells about itself changed.
  case traits(DeviceTraits)
  /// The operating system says that this device has just woken up; without it, it is noticed by the clocks.
  case resumed
  /// Measure the links to all devices with a session, and answer with `linksMeasured`.
  case measureLinks
  /// Dial a bulk session to a member; ends in `bulkOpened` or `bulkFailed`.
  case openBulk(DeviceID)
  /// Tell a member something about a job; nothing happens when no session leads there.
  case job(to: DeviceID, body: [UInt8])
  /// This device leaves: `shuttingDown` until the next start, `asleep`, or `left` for good.
  case leave(CloseReason)
}

/// What a device in the mesh wants done, in this order.
package enum MeshEffect: Sendable {
  /// Write these entries of the membership log and sync them before the effects after this one.
  case storeLog([LogEntry])
  /// Remember where a device was; may be lost.
  case storePeer(KnownPeer)
  /// Let a copy of `MeshPeer.household` do its `maintain(entropy:)` and hand the entries back as `trust`: an admin
  /// has a network key to make or to seal.
  case maintainHousehold
  /// Give the transport the new state of trust (`MeshPeer.trust`) before the effects after this one.
  case updateTrust
  /// Ask this of the transport.
  case transport(TransportCommand)
  /// Send a datagram from the beacon socket.
  case sendBeacon([UInt8], to: BeaconTarget)
  /// Be a member of the beacon group on exactly these interfaces.
  case listen(interfaces: [UInt32])
  /// Publish this in multicast DNS instead of what was published before; nil publishes nothing.
  case publish(ServiceAnnouncement?)
  /// Resolve a listed peer and answer with `resolved`.
  case resolve(StaticPeer)
  /// The links to all other members as `measureLinks` found them, by name of device.
  case linksMeasured([LinkMeasurement])
  /// A bulk session that `openBulk` asked for stands.
  case bulkOpened(SessionID, DeviceID)
  /// A bulk session that `openBulk` asked for could not be opened.
  case bulkFailed(DeviceID)
  /// A member said something about a job.
  case job(from: DeviceID, body: [UInt8])
  /// Log or show this.
  case report(MeshReport)
}
