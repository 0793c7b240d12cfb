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
  /// The beacon keys, the current epoch's first, past ones after it; empty outside a household, where nothing is
  /// dialled or published.
  case keys([BeaconKey])
  /// An invitation was opened (its discriminator) or closed (nil).
  case pairing(UInt16?)
  /// The addresses of a listed peer, as just resolved; empty when there are none.
  case resolved(StaticPeer, [NetworkAddress])
  /// This device looks for an open invitation, or has found one.
  case seeksPairing(Bool)
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
    package let port: UInt16
    /// Peers that the person listed, in order; at most `DiscoveryLimits.staticPeers`.
    package let staticPeers: [StaticPeer]
    /// Which interfaces are used.
    package let filter: InterfaceFilter

    /// Settings; peers over the limit are left out.
    package init(port: UInt16, staticPeers: [StaticPeer] = [], filter: InterfaceFilter = InterfaceFilter()) {
      precondition(port != 0, "a device that listens has a port")
      self.port = port
      self.staticPeers = Array(staticPeers.prefix(DiscoveryLimits.staticPeers))
      self.filter = filter
    }
  }

  /// A dial that has been asked for and has not been reported on.
  struct Flight: Sendable {
    let address: NetworkAddress
    let device: DeviceID?
    let since: MonotonicInstant
    /// Whether the network has changed since, so that a failure says nothing.
    var isOutdated = false
  }

  let own: DeviceID
  let settings: Settings
  var generator: SeededGenerator

  // Dialling. Devices in ascending order; strangers, the addresses of which no device is known, as they came.
  var devices: [SoughtDevice] = []
  var strangers: [Candidate] = []
  var flights: [Flight] = []
  var nextDial: MonotonicInstant
  var listedAddresses: [StaticPeer: Int] = [:]
  var nextResolution: MonotonicInstant?

  // Announcing.
  var keys: [BeaconKey] = []
  var instance: InstanceTag
  /// The instance that stands in beacons under past keys, so that nothing joins the epochs.
  var pastInstance: InstanceTag
  var formerInstances: [InstanceTag] = []
  var instances = InstanceBook()
  var beacons: BeaconSchedule
  var interfaces: [LocalInterface] = []
  var usable: [LocalInterface] = []
  var published: ServiceAnnouncement?
  var pairing: UInt16?
  var seeksPairing = false
  var offers: [PairingOffer] = []

  /// Devices of the household that are not looked for because there are too many.
  package private(set) var omittedDevices = 0
  /// Hints that could not be used: no port, no place to dial, foreign or this device's own.
  package internal(set) var refusedHints = 0

  /// A plan that knows nobody yet.
  package init(own: DeviceID, settings: Settings, generator: SeededGenerator, at now: MonotonicInstant) {
    self.own = own
    self.settings = settings
    self.generator = generator
    instance = InstanceTag(from: &self.generator)
    pastInstance = InstanceTag(from: &self.generator)
    nextDial = now
    beacons = BeaconSchedule(at: now)
    nextResolution = settings.staticPeers.isEmpty ? nil : now
  }

  /// Takes one input; the effects are in the order in which they are to be done.
  package mutating func handle(_ input: DiscoveryInput, at now: MonotonicInstant) -> [DiscoveryEffect] {
    var effects: [DiscoveryEffect] = []
    switch input {
    case .tick: break
    case .roster(let listed): list(listed, at: now)
    case .hint(let hint): take(hint, at: now)
    case .beacon(let bytes, let sender): take(beacon: bytes, from: sender, into: &effects, at: now)
    case .interfaces(let all): take(interfaces: all, into: &effects, at: now)
    case .resumed: renewAll(at: now)
    case .dialFailed(let address, let outcome): endDial(of: address, outcome, at: now)
    case .connected(let device, let dialled, let listening):
      connect(device, dialled: dialled, listening: listening, at: now)
    case .disconnected(let device, let said): disconnect(device, said: said, at: now)
    case .keys(let keys): take(keys: keys, at: now)
    case .pairing(let discriminator): setPairing(discriminator, at: now)
    case .resolved(let peer, let addresses): take(resolved: peer, addresses, at: now)
    case .seeksPairing(let seeks): setSeeking(seeks, at: now)
    }
    forgetStrangers(at: now)
    announce(into: &effects, at: now)
    resolveListed(into: &effects, at: now)
    dial(into: &effects, at: now)
    return effects
  }

  /// When the next `tick` is due; nil when nothing is planned.
  package var nextDeadline: MonotonicInstant? {
    [announcementDeadline, nextResolution, dialDeadline].compactMap(\.self).min()
  }

  /// Why a device is not in, from what was tried; nil while a control session stands.
  ///
  /// What only the household's log or a session can tell (revoked, too old) the owner says first.
  package func why(_ device: DeviceID) -> AbsenceReason? {
    guard let index = index(of: device) else { return .neverHeard }
    return devices[index].absence
  }

  /// What is known of one address, for `hearth peers` and `hearth doctor`.
  package struct Attempt: Hashable, Sendable {
    /// The address.
    package let address: NetworkAddress
    /// Who named it last.
    package let source: DiscoveryHint.Source
    /// How the last dial ended; nil before the first and after a session.
    package let outcome: DialOutcome?
    /// When it was last dialled.
    package let lastDialled: MonotonicInstant?
    /// When it will be dialled; nil while nothing is planned.
    package let due: MonotonicInstant?
  }

  /// What was tried to reach a device, the best address first.
  package func attempts(of device: DeviceID) -> [Attempt] {
    guard let index = index(of: device) else { return [] }
    return attempts(devices[index].candidates)
  }

  /// What was tried at addresses of no known device, the best first.
  package var strangerAttempts: [Attempt] { attempts(strangers) }

  private func attempts(_ candidates: [Candidate]) -> [Attempt] {
    candidates.sorted { $0.isBetter(than: $1) }.map {
      Attempt(
        address: $0.address, source: $0.source, outcome: $0.outcome, lastDialled: $0.lastDialled, due: $0.due)
    }
  }

  /// Every interface with the reason why it is not used, by index.
  package var interfaceReport: [(interface: LocalInterface, skip: InterfaceFilter.SkipReason?)] {
    settings.filter.report(interfaces)
  }

  /// The open invitations that were heard of while this device looked for one, in order.
  package var pairingOffers: [PairingOffer] { offers.sorted() }

  /// Listed peers with the number of addresses that they last resolved to; nil before the first answer.
  package var staticPeerReport: [(peer: StaticPeer, addresses: Int?)] {
    settings.staticPeers.map { ($0, listedAddresses[$0]) }
  }

  /// Where a device is kept.
  func index(of device: DeviceID) -> Int? {
    let place = devices.partitioningIndex { $0.id >= device }
    return place < devices.count && devices[place].id == device ? place : nil
  }

  /// Where a device is kept, after making a place for it.
  mutating func insert(_ device: DeviceID) -> Int {
    let place = devices.partitioningIndex { $0.id >= device }
    if place == devices.count || devices[place].id != device {
      devices.insert(SoughtDevice(id: device), at: place)
    }
    return place
  }

  private mutating func list(_ listed: [DeviceID], at now: MonotonicInstant) {
    let wanted = Set(listed).subtracting([own]).sorted()
    let kept = wanted.prefix(DiscoveryLimits.devices)
    omittedDevices = wanted.count - kept.count
    let members = Set(kept)
    devices.removeAll { !members.contains($0.id) && !$0.isConnected }
    for index in devices.indices where !members.contains(devices[index].id) {
      devices[index].isListed = false
    }
    var isNew = false
    for device in kept {
      let index = insert(device)
      isNew = isNew || !devices[index].isListed
      devices[index].isListed = true
    }
    guard isNew else { return }
    // Who was foreign a moment ago may be a member now.
    for place in strangers.indices where strangers[place].outcome?.isFinal == true {
      if strangers[place].outcome != .thisDevice { strangers[place].renew(at: now) }
    }
  }
}

extension Array {
  /// The first place whose element satisfies a predicate that holds from some place on.
  func partitioningIndex(where predicate: (Element) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if predicate(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
