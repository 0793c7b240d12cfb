import Determinism
import HouseholdTrust
import MeshModel
import MeshProtocol

/// A bulk session on its way: to whom, and what it is for.
///
/// The sessions of one device are alike, so the first that stands goes to who dialled first.
struct BulkDial: Hashable, Sendable {
  let device: DeviceID
  let address: NetworkAddress
  let isForSurvey: Bool
}

/// What jobs need of the mesh: bulk sessions between members, and their words on the control sessions.
///
/// What a bulk session carries for a job does not come here: the transport hands it to its `BulkReceiver` at once.
extension MeshPeer {
  // MARK: - Bulk sessions

  /// Dials a bulk session to a member with a session.
  mutating func openBulk(_ device: DeviceID) {
    guard device != own, household.view.isMember(device), bulkDials.count < MeshLimits.bulkDials,
      let control = table.preferred(of: device, own: own), control.carriedAtInput != nil,
      control.info.standing == .full
    else { return effects.append(.bulkFailed(device)) }
    dialBulk(device, at: control.info.listening, isForSurvey: false)
  }

  mutating func dialBulk(_ device: DeviceID, at address: NetworkAddress, isForSurvey: Bool) {
    bulkDials.append(BulkDial(device: device, address: address, isForSurvey: isForSurvey))
    effects.append(.transport(.dial(address, .bulk, expecting: device)))
  }

  /// The oldest dial to the device, which a session now ends.
  mutating func takeBulkDial(to device: DeviceID) -> BulkDial? {
    guard let index = bulkDials.firstIndex(where: { $0.device == device }) else { return nil }
    return bulkDials.remove(at: index)
  }

  /// The session that was dialled stands.
  mutating func opened(_ dial: BulkDial, _ session: SessionID, _ info: SessionInfo, at now: ClockReading) {
    let isFull = info.standing == .full
    if dial.isForSurvey {
      survey(.opened(session, info.peer, isFull: isFull), at: now.monotonic)
    } else if isFull, household.view.isMember(info.peer) {
      effects.append(.bulkOpened(session, info.peer))
    } else {
      close(session, .finished, at: now)
      effects.append(.bulkFailed(info.peer))
    }
  }

  mutating func bulkDialFailed(at address: NetworkAddress, now: MonotonicInstant) {
    guard let index = bulkDials.firstIndex(where: { $0.address == address }) else { return }
    fail(bulkDials.remove(at: index), at: now)
  }

  /// Tells who asked that nothing came of a dial.
  mutating func fail(_ dial: BulkDial, at now: MonotonicInstant) {
    if dial.isForSurvey {
      survey(.dialFailed(dial.address), at: now)
    } else {
      effects.append(.bulkFailed(dial.device))
    }
  }

  // MARK: - Words

  /// Says something about a job to a member.
  mutating func sendJob(_ body: [UInt8], to device: DeviceID) {
    guard household.view.isMember(device), let control = table.preferred(of: device, own: own),
      control.info.standing == .full
    else { return }
    send(MeshFrame(.job, body: body), on: control.id)
  }
}
