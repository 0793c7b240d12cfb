package import Determinism
package import MeshModel

/// What the world tells a discovery plan.
package enum DiscoveryInput: Sendable {
  /// Time has passed; due at `nextDeadline`.
  case tick
  /// The devices of the household, this one or not; revoked ones are left out.
  case roster([DeviceID])
  /// An address was heard of.
  case hint(DiscoveryHint)
  /// A beacon's datagram arrived; the address is its sender's, with the scope if link-local.
  case beacon([UInt8], from: NetworkAddress)
  /// The interfaces of this device, all of them, at the start and after every change.
  case interfaces([LocalInterface])
  /// This device was asleep, or has reason to believe that all it knows is old.
  case resumed
  /// A dial that the plan asked for ended without a session.
  case dialFailed(NetworkAddress, DialOutcome)
  /// A control session stands: the address that was dialled (nil when the other side dialled) and the one that
  /// the device says it listens at.
  case connected(DeviceID, dialled: NetworkAddress?, listening: NetworkAddress)
  /// No control session stands any more; `said` is what the device said when it went (left, asleep).
  case disconnected(DeviceID, said: AbsenceReason?)
  /// The beacon keys, the current epoch's first, past ones after it; empty outside a household.
  case keys([BeaconKey])
  /// An invitation was opened (its discriminator) or closed (nil).
  case pairing(UInt16?)
  /// The addresses of a listed peer, as just resolved.
  case resolved(StaticPeer, [NetworkAddress])
}

/// What a discovery plan asks of its owner.
package enum DiscoveryEffect: Sendable, Equatable {
  /// Dial for a control session; ends in `connected` or `dialFailed`.
  case dial(NetworkAddress, expecting: DeviceID?)
  /// Send a datagram from the beacon socket.
  case sendBeacon([UInt8], to: BeaconTarget)
  /// Be a member of the beacon group on exactly these interfaces.
  case listen(interfaces: [UInt32])
  /// Publish this in multicast DNS in place of what was published before; nil publishes nothing.
  case publish(ServiceAnnouncement?)
  /// Resolve a listed peer and report with `resolved`.
  case resolve(StaticPeer)
  /// A beacon was dropped.
  case dropped(BeaconDrop)
}

/// Where a beacon goes.
package struct BeaconTarget: Hashable, Sendable {
  /// A directed broadcast address, the beacon group, or one device.
  package let address: NetworkAddress
  /// The interface to send on; 0 leaves it to the routes.
  package let interface: UInt32

  /// A target.
  package init(address: NetworkAddress, interface: UInt32) {
    self.address = address
    self.interface = interface
  }
}

/// A service to publish: its record and the port behind it.
package struct ServiceAnnouncement: Hashable, Sendable {
  /// The TXT record.
  package let record: ServiceRecord
  /// The TCP and UDP port.
  package let port: UInt16

  /// An announcement.
  package init(record: ServiceRecord, port: UInt16) {
    self.record = record
    self.port = port
  }
}

/// Why a beacon was dropped.
package enum BeaconDrop: String, Hashable, Sendable, CaseIterable {
  /// It is no beacon of this version.
  case malformed = "malformed"
  /// It is of another household, or of an epoch that is not kept.
  case foreign = "foreign"
  /// Its authentication is wrong.
  case forged = "forged"
  /// Its counter is older than one already seen of its instance.
  case replayed = "replayed"
}

/// Looks for the devices of a household: gathers hints, decides when to dial whom, when to send beacons and what
/// to publish, and says of each device that is not in why it is not.
///
/// A value: the same inputs at the same instants give the same effects. It never decides who somebody is.
package struct DiscoveryPlan: Sendable {
  /// What a person can set.
  package struct Settings: Hashable, Sendable {
    /// Where this device listens for TCP and UDP.
    package var port: UInt16
    /// Peers that the person listed, in order; at most `DiscoveryLimits.staticPeers`.
    package var staticPeers: [StaticPeer]
    /// Which interfaces are used.
    package var filter: InterfaceFilter

    /// Settings; peers over the limit are left out.
    package init(port: UInt16, staticPeers: [StaticPeer] = [], filter: InterfaceFilter = InterfaceFilter()) {
      self.port = port
      self.staticPeers = Array(staticPeers.prefix(DiscoveryLimits.staticPeers))
      self.filter = filter
    }
  }

  let own: DeviceID
  let settings: Settings

  /// A plan that knows nobody yet.
  package init(own: DeviceID, settings: Settings, generator: SeededGenerator, at now: MonotonicInstant) {
    self.own = own
    self.settings = settings
  }

  /// When the next `tick` is due; nil when nothing is planned.
  package var nextDeadline: MonotonicInstant? { nil }

  /// Takes one input; the effects are in the order in which they are to be done.
  package mutating func handle(_ input: DiscoveryInput, at now: MonotonicInstant) -> [DiscoveryEffect] { [] }

  /// Why a device is not in, from what was tried; nil when a control session stands.
  package func why(_ device: DeviceID) -> AbsenceReason? { .neverHeard }
}
