import AvahiDiscovery
import Determinism
import HearthStorage
import MeshTransport
import PeerDiscovery

/// What keeps this device's household from being together: network, multicast DNS, firewall, and the devices themselves.
package struct MeshExamination: Codable, Sendable, Equatable {
  /// Whether this device belongs to a household.
  package var hasHousehold: Bool
  /// Why the household's state cannot be used; nil when it can, or when there is none.
  package var stateFailure: String?
  /// What is seen of the network; by the daemon, or by this command while the daemon is down.
  package var network: MeshDiagnosis
  /// The household; from the disk while the daemon is down.
  package var household: HouseholdReport?
  /// The firewalls of this machine.
  package var firewall: FirewallReport

  /// Looks at the mesh of the device whose state directory is at this place; takes about a second.
  package static func examine(place: HouseholdPlace) -> MeshExamination {
    let office = HouseholdOffice(place)
    var examination: MeshExamination
    if let (network, household) = try? asked(place) {
      examination = MeshExamination(
        hasHousehold: true, stateFailure: nil, network: network, household: household, firewall: .examine())
    } else {
      examination = MeshExamination(
        hasHousehold: true, stateFailure: nil, network: seen(), household: nil, firewall: .examine())
      do throws(HouseholdStorageFailure) {
        examination.household = try office.storedReport()
      } catch {
        if case .noHousehold = error {
          examination.hasHousehold = false
        } else {
          examination.stateFailure = error.description
        }
      }
    }
    for index in examination.network.interfaces.indices
    where examination.network.interfaces[index].skipped == nil {
      let name = examination.network.interfaces[index].name
      examination.network.interfaces[index].multicastLoops = MulticastProbe.returns(on: name)
    }
    return examination
  }

  /// What the daemon says.
  private static func asked(_ place: HouseholdPlace) throws -> (MeshDiagnosis, HouseholdReport)? {
    var client = try HouseholdClient(ControlRequest(.diagnosis), place: place)
    guard let network = try client.answer().diagnosis else { return nil }
    var second = try HouseholdClient(ControlRequest(.status), place: place)
    guard let household = try second.answer().status else { return nil }
    return (network, household)
  }

  /// What this command sees without the daemon.
  private static func seen() -> MeshDiagnosis {
    MeshDiagnosis(
      isLive: false, port: nil, listening: [],
      interfaces: InterfaceFilter().report(InterfaceWatch.current()).map {
        MeshDiagnosis.Interface($0.interface, skip: $0.skip)
      }, avahi: MeshDiagnosis.Avahi(avahiReport()), beaconFailure: nil, beacons: [], drops: [:])
  }

  /// Longest wait for Avahi's daemon to answer.
  private static let avahiTime: Duration = .seconds(2)

  private static func avahiReport() -> AvahiReport? {
    try? waitForTask {
      guard let avahi = AvahiDiscovery() else { return nil }
      // The lane's alarm ends the wait, since an event may never come.
      let lane = MeshLane()
      lane.start(name: "hearth-doctor")
      lane.onAlarm { Task { await avahi.stop() } }
      lane.setAlarm(DeviceClocks.now().monotonic.advanced(by: avahiTime))
      var report = avahi.report
      for await event in avahi.events {
        guard case .report(let new) = event else { continue }
        if new.daemon != .stopped { report = new }
        if [.running, .noBus, .noDaemon, .failed, .hostNameCollision].contains(new.daemon) { break }
      }
      lane.stop()
      await avahi.stop()
      return report
    }
  }
}

// What follows from it.
extension MeshExamination {
  /// What is not as it should be; empty for a device without a household, which may be alone on purpose.
  package var findings: [Finding] {
    if let stateFailure {
      return [
        Finding(
          .advice, "the household's state cannot be used: \(stateFailure)", remedy: "see the text before")
      ]
    }
    guard hasHousehold else { return [] }
    return daemonFindings + networkFindings + avahiFindings + firewallFindings + deviceFindings
  }

  private var daemonFindings: [Finding] {
    guard !network.isLive else { return [] }
    return [
      Finding(
        .advice, "the daemon is not running, so this device is not in its household",
        remedy: "run 'hearth up', or let scripts/install make it a service")
    ]
  }

  private var networkFindings: [Finding] {
    var findings: [Finding] = []
    let used = network.interfaces.filter { $0.skipped == nil }
    if used.isEmpty {
      let reasons = network.interfaces.filter { $0.skipped != "loopback" }
        .map { "\($0.name): \($0.skipped ?? "")" }.joined(separator: ", ")
      findings.append(
        Finding(
          .advice, "no network interface is used\(reasons.isEmpty ? "" : " (\(reasons))")",
          remedy: network.interfaces.compactMap(\.nextStep).last ?? "connect this device to the home network")
      )
    }
    for interface in used where interface.multicastLoops == false {
      findings.append(
        Finding(
          .advice, "a multicast on \(interface.name) did not come back",
          remedy: "allow UDP \(Beacon.port) and 5353 in this device's firewall, or list devices with --peer"))
    }
    if let failure = network.beaconFailure {
      findings.append(Finding(.advice, "there are no beacons: \(failure)", remedy: "see the text before"))
    }
    return findings
  }

  private var avahiFindings: [Finding] {
    let avahi = network.avahi
    guard ["no-bus", "no-daemon", "failed", "host-name-collision"].contains(avahi.daemon) else { return [] }
    let error = avahi.lastError.map { " (\($0))" } ?? ""
    return [Finding(.advice, "multicast DNS: \(avahi.daemon)\(error)", remedy: avahi.nextStep)]
  }

  private var firewallFindings: [Finding] {
    guard firewall.mayBlock else { return [] }
    let port = network.port ?? Int(MeshPaths.defaultPort)
    return [
      Finding(
        .advice, "a firewall may turn others away: \(firewall.seen.joined(separator: "; "))",
        remedy: "allow TCP and UDP \(port), UDP \(Beacon.port) and UDP 5353 from the home network")
    ]
  }

  private var deviceFindings: [Finding] {
    guard network.isLive, let household else { return [] }
    var findings: [Finding] = []
    for device in household.devices where device.state != "revoked" {
      if let reason = device.reason, let nextStep = device.nextStep {
        findings.append(Finding(.advice, "\(device.name) is not in: \(reason)", remedy: nextStep))
      } else if device.path == "udp-blocked" {
        let port = device.address?.split(separator: ":").last.map(String.init) ?? "its port"
        findings.append(
          Finding(
            .advice, "datagrams between here and \(device.name) are lost; TCP carries them, later and slower",
            remedy: "allow UDP \(network.port ?? 0) in the firewall here and UDP \(port) in the one there"))
      }
    }
    return findings
  }
}

// What a person reads.
extension MeshExamination {
  var measurements: [(name: String, value: String)] {
    var lines: [(name: String, value: String)] = [("household", householdText)]
    for interface in network.interfaces where interface.skipped != "loopback" {
      let addresses = interface.addresses.isEmpty ? "no address" : interface.addresses.joined(separator: ", ")
      let loop = interface.multicastLoops.map { $0 ? ", multicast works" : ", multicast lost" } ?? ""
      let skip = interface.skipped.map { ", not used: \($0)" } ?? ""
      lines.append(("interface \(interface.name)", "\(addresses)\(loop)\(skip)"))
    }
    let version = network.avahi.version.map { ", \($0)" } ?? ""
    lines.append(("multicast DNS", "\(network.avahi.daemon)\(version)"))
    if network.isLive {
      let heard = network.beacons.map { "\($0.address.dropLast(2)) (\($0.count))" }.joined(separator: ", ")
      lines.append(("beacons heard from", heard.isEmpty ? "nobody" : heard))
    }
    lines.append(("firewall", firewall.seen.isEmpty ? "none seen" : firewall.seen.joined(separator: "; ")))
    return lines
  }

  private var householdText: String {
    guard hasHousehold else { return "none yet" }
    guard let household else { return "cannot be read" }
    let members = household.devices.filter { $0.state != "revoked" }
    guard network.isLive else { return "\(members.count) devices, the daemon is down" }
    let here = members.count { $0.state == "alive" }
    return "\(here) of \(members.count) devices here, TCP and UDP port \(network.port ?? 0)"
  }
}
