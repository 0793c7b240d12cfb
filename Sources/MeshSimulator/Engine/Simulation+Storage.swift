import CryptoPrimitives
import Determinism
package import HouseholdTrust
import MeshModel
import MeshPeer
import PeerDiscovery

/// A file of a simulated disk.
package enum SimulatedFile: Sendable {
  /// The boot counter.
  case counter(UInt32)
  /// The membership log.
  case log(MembershipLog)
  /// What is known of others.
  case peers([KnownPeer])

  /// The log, when it is one.
  package var log: MembershipLog? { if case .log(let log) = self { log } else { nil } }
}

extension SimulatedDisk {
  /// The file of the boot counter.
  package static let bootFile = "boot"
  /// The file of the membership log.
  package static let logFile = "log"
  /// The file of known peers.
  package static let peersFile = "peers"
}

/// Starting processes from disks, and what they write.
extension Simulation {
  /// A process starts: it raises its boot counter, syncs it, and only then says anything.
  mutating func startProcess(_ device: Int) {
    let disk = devices[device].disk
    var counter: UInt32 = 0
    if case .counter(let last)? = disk.read(SimulatedDisk.bootFile) { counter = last }
    var log = disk.read(SimulatedDisk.logFile)?.log ?? family.log
    if devices[device].misbehaviour == .forgetsLog { log = family.log }
    var known: [KnownPeer] = []
    if case .peers(let peers)? = disk.read(SimulatedDisk.peersFile) { known = peers }
    let boot = BootID(
      counter: counter + 1, nonce: UInt32(truncatingIfNeeded: devices[device].chance.next()))
    guard store(.counter(boot.counter), SimulatedDisk.bootFile, of: device) else { return }
    guard store(.log(log), SimulatedDisk.logFile, of: device) else { return }
    checkStart(of: device, boot: boot, entries: log.entries.count)
    let household: Household
    do { household = try Household(log: log, keys: family.keys[devices[device].identity]) } catch {
      preconditionFailure("device \(device) finds no household on its disk: \(error)")
    }
    devices[device].boot = boot
    devices[device].process = .running
    let settings = MeshPeer.Settings(
      discovery: DiscoveryPlan.Settings(port: SimulatedDevice.port), traits: plan.traits(of: device))
    devices[device].peer = MeshPeer(
      household: household, boot: boot, settings: settings, known: known,
      generator: SeededGenerator(seed: devices[device].chance.next()),
      at: devices[device].clock.reading(at: now))
    deliver(.peer(.start), to: device)
    deliver(.peer(.interfaces([interface(of: device)])), to: device)
    browse(by: device)
  }

  func interface(of device: Int) -> LocalInterface {
    LocalInterface(
      name: "eth0", index: 2,
      addresses: [LocalInterface.Address(host: devices[device].host, prefixLength: 24)], isRunning: true,
      hasMulticast: true, isLoopback: false, isWireless: false)
  }

  /// Writes and syncs; false when power was lost in between.
  private mutating func store(_ file: SimulatedFile, _ name: String, of device: Int) -> Bool {
    devices[device].disk.write(file, to: name, at: now)
    if devices[device].losesPowerAtNextWrite {
      devices[device].losesPowerAtNextWrite = false
      checks.expectAbsence(of: device, at: now)
      losePower(device)
      return false
    }
    if devices[device].misbehaviour != .neverSyncs { devices[device].disk.sync(name) }
    return true
  }

  mutating func storeHousehold(of device: Int) {
    guard let log = devices[device].peer?.household.log else { return }
    _ = store(.log(log), SimulatedDisk.logFile, of: device)
  }

  /// Known peers are not synced: they are hints, and may be lost.
  mutating func store(_ known: KnownPeer, by device: Int) {
    var peers: [KnownPeer] = []
    if case .peers(let before)? = devices[device].disk.read(SimulatedDisk.peersFile) { peers = before }
    peers.removeAll { $0.device == known.device }
    peers.append(known)
    devices[device].disk.write(.peers(peers), to: SimulatedDisk.peersFile, at: now)
  }

  // MARK: - What admins do

  mutating func revoke(_ device: Int, by admin: Int) {
    let revoked = devices[device].id
    administer(by: admin) { household, entropy throws(TrustFailure) in
      try household.revoke(revoked, reason: .lost, entropy: &entropy)
    }
  }

  mutating func renewKey(by admin: Int) {
    administer(by: admin) { household, entropy throws(TrustFailure) in
      [try household.rotateNetworkKey(entropy: &entropy)]
    }
  }

  mutating func maintain(by device: Int) {
    administer(by: device) { household, entropy throws(TrustFailure) in
      try household.maintain(entropy: &entropy)
    }
  }

  /// Does something to a copy of a device's household and hands it the entries; what is refused is left out.
  private mutating func administer(
    by device: Int, _ change: (inout Household, inout SeededEntropy) throws(TrustFailure) -> [LogEntry]
  ) {
    guard isRunning(device), var household = devices[device].peer?.household else { return }
    var entropy = SeededEntropy(seed: devices[device].chance.next())
    guard let entries = try? change(&household, &entropy), !entries.isEmpty else { return }
    queue.plan(.process(device, life: devices[device].life, .peer(.trust(entries))), at: now)
  }
}
