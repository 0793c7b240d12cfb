import Determinism
import MeshModel

/// What this device says of itself, and what it hears others say.
extension DiscoveryPlan {
  /// Former instances of this daemon whose announcements may still be around.
  private static let formerInstanceLimit = 8

  /// Whether an instance is, or was, this daemon.
  func isOwn(_ instance: InstanceTag) -> Bool {
    instance == self.instance || instance == pastInstance || formerInstances.contains(instance)
  }

  /// Takes the household's keys; a new epoch gets a new instance, so that nothing joins the two.
  mutating func take(keys: [BeaconKey], at now: MonotonicInstant) {
    let before = self.keys.first?.householdTag
    self.keys = keys
    guard keys.first?.householdTag != before else { return }
    if before != nil {
      formerInstances = Array(([instance, pastInstance] + formerInstances).prefix(Self.formerInstanceLimit))
      instance = InstanceTag(from: &generator)
      pastInstance = InstanceTag(from: &generator)
    }
    beacons.restart(at: now)
  }

  /// Opens or closes the announcement of an invitation.
  mutating func setPairing(_ discriminator: UInt16?, at now: MonotonicInstant) {
    precondition((discriminator ?? 0) <= Beacon.discriminatorLimit, "discriminator \(discriminator ?? 0)")
    pairing = discriminator
    paceBeacons(at: now)
  }

  /// Starts or ends the search for an invitation.
  mutating func setSeeking(_ seeks: Bool, at now: MonotonicInstant) {
    seeksPairing = seeks
    offers = []
    paceBeacons(at: now)
  }

  private mutating func paceBeacons(at now: MonotonicInstant) {
    if pairing != nil || seeksPairing {
      beacons.interval = DiscoveryLimits.pairingBeaconInterval
      beacons.restart(at: now)
    } else {
      beacons.interval = DiscoveryLimits.beaconInterval
    }
  }

  /// Takes the interfaces; when those in use have changed, joins the groups, announces and dials anew.
  mutating func take(
    interfaces all: [LocalInterface], into effects: inout [DiscoveryEffect], at now: MonotonicInstant
  ) {
    interfaces = all
    let before = usable
    usable = settings.filter.usable(all)
    guard usable != before else { return }
    forgetScopes(except: Set(all.map(\.index)))
    effects.append(.listen(interfaces: usable.map(\.index)))
    renewAll(at: now)
  }

  /// What multicast DNS should say; nil outside a household.
  private var announcement: ServiceAnnouncement? {
    guard let key = keys.first else { return nil }
    return ServiceAnnouncement(
      record: ServiceRecord(householdTag: key.householdTag, instance: instance, pairing: pairing),
      port: settings.port)
  }

  /// Publishes what has changed and sends the round of beacons that is due.
  mutating func announce(into effects: inout [DiscoveryEffect], at now: MonotonicInstant) {
    let announcement = announcement
    if announcement != published {
      published = announcement
      effects.append(.publish(announcement))
    }
    guard hasBeacons, beacons.takeRound(at: now) else { return }
    let rounds = beaconRound
    for interface in usable {
      for target in targets(on: interface) {
        effects += rounds.map { .sendBeacon($0, to: target) }
      }
    }
  }

  /// When the next round is due.
  var announcementDeadline: MonotonicInstant? { hasBeacons ? beacons.next : nil }

  private var hasBeacons: Bool { !usable.isEmpty && (!keys.isEmpty || seeksPairing) }

  /// The datagrams of a round.
  private var beaconRound: [[UInt8]] {
    var datagrams: [[UInt8]] = []
    if !keys.isEmpty { datagrams.append(datagram(.member)) }
    // Two parts of a household that renewed the key apart have only a past key in common.
    if keys.count > 1, devices.contains(where: { $0.isListed && !$0.isConnected }) {
      datagrams.append(datagram(.member, under: 1 + Int(beacons.counter % UInt64(keys.count - 1))))
    }
    if !keys.isEmpty, pairing != nil { datagrams.append(datagram(.pairingOffer)) }
    if seeksPairing { datagrams.append(datagram(.pairingQuestion)) }
    return datagrams
  }

  /// A datagram under one of the keys, the current one unless told otherwise.
  private func datagram(_ kind: Beacon.Kind, under place: Int = 0) -> [UInt8] {
    let isQuestion = kind == .pairingQuestion
    let key = keys.indices.contains(place) ? keys[place] : nil
    return Beacon(
      kind: kind, householdTag: isQuestion ? 0 : key?.householdTag ?? 0,
      instance: place == 0 ? instance : pastInstance, port: isQuestion ? 0 : settings.port,
      discriminator: kind == .pairingOffer ? pairing ?? 0 : 0, counter: beacons.counter
    ).encoded(key: key)
  }

  /// The directed broadcast of every IPv4 network of an interface, and the group if it has IPv6.
  private func targets(on interface: LocalInterface) -> [BeaconTarget] {
    var targets: [BeaconTarget] = []
    var hasSix = false
    for address in interface.addresses {
      switch address.host {
      case .v4:
        let target = NetworkAddress(.v4(address.broadcast ?? .max), port: Beacon.port)
        targets.append(BeaconTarget(address: target, interface: interface.index))
      case .v6: hasSix = true
      }
    }
    if hasSix { targets.append(BeaconTarget(address: Beacon.group, interface: interface.index)) }
    return Set(targets).sorted { $0.address < $1.address }
  }

  /// Takes a beacon: a hint if a member sent it, an offer or a question if an invitation is about.
  mutating func take(
    beacon bytes: [UInt8], from sender: NetworkAddress, into effects: inout [DiscoveryEffect],
    at now: MonotonicInstant
  ) {
    let beacon: Beacon
    let authentication: [UInt8]
    do {
      (beacon, authentication) = try Beacon.decode(bytes)
    } catch {
      effects.append(.dropped(.malformed))
      return
    }
    guard !isOwn(beacon.instance) else { return }
    switch beacon.kind {
    case .member, .answer:
      if let drop = judge(beacon, datagram: bytes, authentication, at: now) {
        effects.append(.dropped(drop))
        return
      }
      hear(beacon, from: sender, into: &effects, at: now)
    case .pairingOffer:
      guard seeksPairing else { return }
      add(
        PairingOffer(
          discriminator: beacon.discriminator, address: NetworkAddress(sender.host, port: beacon.port),
          instance: beacon.instance))
    case .pairingQuestion:
      guard pairing != nil, !keys.isEmpty, beacons.takeAnswer(.pairingOffer, at: now) else { return }
      effects.append(.sendBeacon(datagram(.pairingOffer), to: BeaconTarget(address: sender, interface: 0)))
    }
  }

  /// Why a member's beacon is not believed; nil when it is.
  private mutating func judge(
    _ beacon: Beacon, datagram: [UInt8], _ authentication: [UInt8], at now: MonotonicInstant
  ) -> BeaconDrop? {
    guard let key = keys.first(where: { $0.householdTag == beacon.householdTag }) else { return .foreign }
    guard key.authenticates(datagram: datagram, authentication: authentication) else { return .forged }
    return instances.advance(beacon.instance, counter: beacon.counter, at: now) ? nil : .replayed
  }

  private mutating func hear(
    _ beacon: Beacon, from sender: NetworkAddress, into effects: inout [DiscoveryEffect],
    at now: MonotonicInstant
  ) {
    if beacon.kind == .member, !instances.isAnswered(beacon.instance), beacons.takeAnswer(.answer, at: now) {
      instances.setAnswered(beacon.instance, at: now)
      // Under the key that the other side has shown to know.
      let place = keys.firstIndex { $0.householdTag == beacon.householdTag } ?? 0
      let answer = datagram(.answer, under: place)
      effects.append(.sendBeacon(answer, to: BeaconTarget(address: sender, interface: 0)))
    }
    take(
      DiscoveryHint(
        address: NetworkAddress(sender.host, port: beacon.port), source: .beacon, instance: beacon.instance,
        householdTag: beacon.householdTag), at: now)
  }

  /// Keeps an offer; when there are too many, the first ones stay.
  mutating func add(_ offer: PairingOffer) {
    guard offers.count < DiscoveryLimits.pairingOffers, !offers.contains(offer) else { return }
    offers.append(offer)
  }
}
