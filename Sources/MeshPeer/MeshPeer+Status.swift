package import Determinism
import GossipMembership
import HouseholdTrust
package import MeshModel
import MeshProtocol
import PeerDiscovery

extension MeshPeer {
  /// Everything that `hearth peers` shows.
  package func status(at now: ClockReading) -> MeshStatus {
    MeshStatus(
      household: household.log.genesis.household, device: own, networkKeyEpoch: household.log.networkKeyEpoch,
      logEntries: household.log.entries.count, leader: membership.suggestedLeader,
      devices: household.view.devices.map { deviceStatus($0, at: now.monotonic) },
      sessions: table.entries.count,
      drops: drops.keys.sorted { $0.rawValue < $1.rawValue }.map {
        DropCount(reason: $0, count: drops[$0] ?? 0)
      })
  }

  /// What this device believes of another.
  package func presence(of device: DeviceID) -> PresenceState {
    if household.view.isRevoked(device) { return .revoked }
    if device == own { return .alive }
    guard let member = member(device) else { return .unknown }
    switch member.record.state {
    case .alive: return .alive
    case .suspect: return .suspect
    case .unreachable: return .unreachable
    case .left: return .left
    case .revoked: return .revoked
    }
  }

  /// Why a device is not in; nil when it is.
  package func absence(of device: DeviceID) -> AbsenceReason? {
    if household.view.isRevoked(own) { return device == own ? .selfRevoked : nil }
    if household.view.isRevoked(device) { return .revoked }
    if quarantine[device] != nil { return .clone }
    if device == own { return nil }
    if let session = table.preferred(of: device, own: own), let reason = absence(of: session) {
      return reason
    }
    switch presence(of: device) {
    case .alive, .suspect: return usable.contains(device) ? nil : discovery.why(device)
    case .left: return lastSaid[device] ?? .left
    case .unknown where usable.contains(device): return nil
    case .unreachable, .unknown, .revoked:
      if usable.contains(device) { return .unreachable }
      return lastSaid[device] ?? discovery.why(device) ?? .unreachable
    }
  }

  /// Addresses at which a device was; none of them need be right.
  package func knownAddresses(of device: DeviceID) -> [NetworkAddress] { known[device]?.addresses ?? [] }

  private func absence(of session: SessionTable.Entry) -> AbsenceReason? {
    switch session.info.standing {
    case .full: nil
    case .updateOnly: .staleKey
    case .statusOnly:
      session.info.offeredVersions.newest < settings.traits.wireVersions.oldest ? .tooOld : .tooNew
    }
  }

  private func deviceStatus(_ status: MemberStatus, at now: MonotonicInstant) -> DeviceStatus {
    let device = status.device
    let member = member(device)
    let session = table.preferred(of: device, own: own)
    return DeviceStatus(
      device: device, name: status.certificate.name, isAdmin: status.isAdmin, isSelf: device == own,
      state: presence(of: device), since: member.map { $0.since.duration(to: now) } ?? .zero,
      absence: absence(of: device), address: session?.info.listening ?? known[device]?.addresses.first,
      path: path(to: device), roundTrip: session?.roundTrip ?? member?.roundTrip,
      standing: session?.info.standing, wireVersions: session?.info.offeredVersions ?? lastVersions[device],
      traits: device == own ? membership.own.traits : member?.record.traits)
  }

  private func path(to device: DeviceID) -> GossipPath {
    guard usable.contains(device) else { return .none }
    return member(device)?.datagramsAreBlocked == true ? .udpBlocked : .datagrams
  }

  /// A table or queue, what it holds and what it may hold.
  package struct Load: Hashable, Sendable {
    /// Which.
    package let name: String
    /// What it holds.
    package let count: Int
    /// What it may hold.
    package let limit: Int
  }

  /// How full the tables are; none is ever over its limit.
  package var loads: [Load] {
    var loads = [
      Load(name: "sessions", count: table.entries.count, limit: SessionLimits.sessions),
      Load(name: "known peers", count: known.count, limit: MeshLimits.devices),
      Load(name: "quarantine", count: quarantine.count, limit: MeshLimits.devices),
      Load(
        name: "echoes", count: table.entries.map(\.echoes.count).max() ?? 0, limit: MeshLimits.echoesInFlight),
      Load(name: "senders of bursts", count: burstReceiver.rememberedCount, limit: MeshLimits.devices),
    ]
    for peer in table.peers {
      loads.append(
        Load(
          name: "control sessions", count: table.controls(of: peer).count,
          limit: MeshLimits.controlSessionsPerDevice))
    }
    return loads
  }
}
