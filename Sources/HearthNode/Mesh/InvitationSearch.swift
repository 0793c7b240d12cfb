import AvahiDiscovery
import Determinism
import MeshModel
import MeshTransport
import PeerDiscovery

/// Looks for devices with an open invitation, by multicast DNS and by beacons, before this device has a household.
///
/// An actor on a lane of its own, like the daemon: beacons, services, interfaces and alarms come one after the other.
actor InvitationSearch {
  nonisolated let lane: MeshLane
  nonisolated var unownedExecutor: UnownedSerialExecutor { lane.asUnownedSerialExecutor() }

  /// Places to try, as they are found, each once.
  nonisolated let offers: AsyncStream<PairingOffer>
  private let found: AsyncStream<PairingOffer>.Continuation
  private var plan: DiscoveryPlan
  private var seen: [PairingOffer] = []
  private let acceptsAny: Bool
  private var end: MonotonicInstant
  private let beacon: BeaconSocket?
  private let avahi: AvahiDiscovery?
  private var interfaces: [LocalInterface] = []
  private var isOver = false

  /// Places that are tried at most; more than a home has.
  private static let offerLimit = 32

  /// Starts to look for `time`; with `acceptsAny` every daemon of any household is an offer, for tokens.
  static func start(own: DeviceID, acceptsAny: Bool, time: Duration, seed: UInt64) async -> InvitationSearch {
    let lane = MeshLane()
    lane.start(name: "hearth-search")
    let search = InvitationSearch(
      own: own, acceptsAny: acceptsAny, time: time, seed: seed, lane: lane,
      beacon: try? await BeaconSocket(port: Beacon.port), avahi: AvahiDiscovery())
    await search.begin()
    return search
  }

  private init(
    own: DeviceID, acceptsAny: Bool, time: Duration, seed: UInt64, lane: MeshLane, beacon: BeaconSocket?,
    avahi: AvahiDiscovery?
  ) {
    self.lane = lane
    self.acceptsAny = acceptsAny
    self.beacon = beacon
    self.avahi = avahi
    (offers, found) = AsyncStream.makeStream(
      of: PairingOffer.self, bufferingPolicy: .bufferingOldest(Self.offerLimit))
    let now = DeviceClocks.now().monotonic
    end = now.advanced(by: time)
    plan = DiscoveryPlan(
      own: own, settings: DiscoveryPlan.Settings(port: MeshPaths.defaultPort),
      generator: SeededGenerator(seed: seed), at: now)
  }

  deinit { lane.stop() }

  private func begin() {
    lane.onAlarm { [weak self] in self?.assumeIsolated { $0.handle(.tick) } }
    interfaces = InterfaceWatch.current()
    handle(.seeksPairing(true))
    handle(.interfaces(interfaces))
    if let beacon {
      Task {
        for await received in beacon.received { handle(.beacon(received.bytes, from: received.source)) }
      }
    }
    if let avahi {
      Task {
        for await event in avahi.events {
          guard case .hint(let hint) = event else { continue }
          if acceptsAny, let instance = hint.instance {
            offer(PairingOffer(discriminator: 0, address: hint.address, instance: instance))
          }
          handle(.hint(hint))
        }
      }
    }
  }

  private func handle(_ input: DiscoveryInput) {
    guard !isOver else { return }
    let now = DeviceClocks.now().monotonic
    guard now < end else { return finish() }
    for effect in plan.handle(input, at: now) {
      switch effect {
      case .sendBeacon(let bytes, let target):
        Task { [beacon] in await beacon?.send(bytes, to: target.address, interface: target.interface) }
      case .listen(let indexes):
        beacon?.update(interfaces: interfaces.filter { indexes.contains($0.index) }.map(BeaconInterface.init))
      case .dial, .publish, .resolve, .dropped: break
      }
    }
    for new in plan.pairingOffers { offer(new) }
    lane.setAlarm(min(plan.nextDeadline ?? end, end))
  }

  private func offer(_ new: PairingOffer) {
    guard seen.count < Self.offerLimit, !seen.contains(where: { $0.address == new.address }) else { return }
    seen.append(new)
    found.yield(new)
  }

  /// Looks no longer than that from now on.
  func shorten(to time: Duration) {
    end = min(end, DeviceClocks.now().monotonic.advanced(by: time))
    handle(.tick)
  }

  private func finish() {
    isOver = true
    lane.setAlarm(nil)
    found.finish()
  }

  /// Ends the search and gives everything back.
  func stop() async {
    finish()
    await avahi?.stop()
    await beacon?.shutdown()
  }
}
