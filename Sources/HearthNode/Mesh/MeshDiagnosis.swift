import AvahiDiscovery
import Determinism
import MeshModel
import MeshPeer
import MeshProtocol
import MeshTransport
import PeerDiscovery

/// What a device sees of its network, for `hearth doctor`.
package struct MeshDiagnosis: Codable, Sendable, Equatable {
  /// An interface and whether it is used.
  package struct Interface: Codable, Sendable, Equatable {
    /// Its name.
    package var name: String
    /// Its addresses.
    package var addresses: [String]
    /// Whether it is wireless.
    package var isWireless: Bool
    /// Why it is not used; nil when it is.
    package var skipped: String?
    /// What to do about that.
    package var nextStep: String?
    /// Whether a multicast of its own came back: nil when not tried.
    package var multicastLoops: Bool?
  }

  /// Multicast DNS.
  package struct Avahi: Codable, Sendable, Equatable {
    /// How far the way to the daemon leads (`AvahiReport.Daemon`), or "off".
    package var daemon: String
    /// Its version.
    package var version: String?
    /// none, registering, established or failed.
    package var publication: String
    /// The last error.
    package var lastError: String?
    /// Services of other daemons that are seen.
    package var services: Int
    /// What to do.
    package var nextStep: String
  }

  /// A sender of beacons.
  package struct Heard: Codable, Sendable, Equatable {
    /// Its address.
    package var address: String
    /// How many came.
    package var count: Int
    /// Seconds since the last.
    package var secondsAgo: Double
  }

  /// Whether the daemon told this.
  package var isLive: Bool
  /// The port for TCP and UDP; nil while the daemon is down.
  package var port: Int?
  /// Where sessions are accepted.
  package var listening: [String]
  /// Every interface.
  package var interfaces: [Interface]
  /// Multicast DNS.
  package var avahi: Avahi
  /// Why there are no beacons; nil when there are.
  package var beaconFailure: String?
  /// From whom beacons came; this device's own count too.
  package var beacons: [Heard]
  /// What was dropped, by reason.
  package var drops: [String: Int]
}

extension MeshDiagnosis.Interface {
  init(_ interface: LocalInterface, skip: InterfaceFilter.SkipReason?) {
    self.init(
      name: interface.name,
      addresses: interface.addresses.map { address in
        // Without the port and the brackets around it.
        let text = "\(NetworkAddress(address.host, port: 0))".dropLast(2)
        return text.hasPrefix("[") ? String(text.dropFirst().dropLast()) : String(text)
      },
      isWireless: interface.isWireless, skipped: skip?.rawValue, nextStep: skip?.nextStep, multicastLoops: nil
    )
  }
}

extension MeshDiagnosis.Avahi {
  /// What Avahi's side reports; nil when multicast DNS is not used.
  init(_ report: AvahiReport?) {
    guard let report else {
      self.init(
        daemon: "off", version: nil, publication: "none", lastError: nil, services: 0,
        nextStep: "nothing to do")
      return
    }
    let publication: String
    switch report.publication {
    case .none: publication = "none"
    case .registering: publication = "registering"
    case .established: publication = "established"
    case .failed: publication = "failed"
    }
    self.init(
      daemon: report.daemon.rawValue, version: report.version, publication: publication,
      lastError: report.lastError?.description, services: report.services, nextStep: report.daemon.nextStep)
  }
}

extension HouseholdDaemon {
  /// What this daemon sees of the network.
  var meshDiagnosis: MeshDiagnosis {
    let now = DeviceClocks.now().monotonic
    let filter = InterfaceFilter(listed: options.interfaces)
    var drops: [String: Int] = [:]
    for (reason, count) in doors.transport.counters.drops { drops[reason.rawValue] = Int(clamping: count) }
    return MeshDiagnosis(
      isLive: true, port: Int(doors.transport.localPort),
      listening: doors.transport.listeningAddresses.map { "\($0)" },
      interfaces: filter.report(interfaces).map { MeshDiagnosis.Interface($0.interface, skip: $0.skip) },
      avahi: MeshDiagnosis.Avahi(doors.avahi?.report), beaconFailure: doors.beaconFailure,
      beacons: heard.senders.map {
        MeshDiagnosis.Heard(
          address: "\($0.address)", count: $0.count, secondsAgo: $0.last.duration(to: now).inSeconds)
      }, drops: drops)
  }
}
