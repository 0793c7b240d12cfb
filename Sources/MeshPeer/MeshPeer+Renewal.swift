import Determinism
import HouseholdTrust
import MeshModel
import MeshProtocol

/// Sessions that grow old get a successor with new keys, and end when nothing is on its way on them any more.
///
/// Of a pair the side that dialled the session dials again, so the two never do it at once; should it not get through
/// for an hour, the other side tries as well. Make before break: the old session carries everything until the new one
/// has carried a frame. From then on both sides send on the new one, and the side that dialled it asks for an echo on
/// the old one. What comes in before the answer was sent before; after it nothing comes, and the session is closed.
extension MeshPeer {
  /// Dials for the successors of old sessions, and ends those that are too old.
  mutating func renewOldSessions(at now: ClockReading) {
    for entry in table.entries where entry.info.purpose == .control {
      // By the clock that goes on in sleep: the keys lie in memory all the while.
      let age = entry.opened.sinceBoot.duration(to: now.sinceBoot)
      guard age >= MeshLimits.sessionAge else { continue }
      if age >= MeshLimits.sessionAgeLimit {
        close(entry.id, .renewed, at: now)
        continue
      }
      table[entry.id]?.isOld = true
      let isTurn = entry.info.isInitiator || age >= MeshLimits.sessionAge + MeshLimits.renewalGrace
      if isTurn, !hasYoungSession(with: entry.info.peer) { dialSuccessor(of: entry, at: now.monotonic) }
    }
  }

  private func hasYoungSession(with peer: DeviceID) -> Bool {
    table.controls(of: peer).contains { !$0.isOld }
  }

  private mutating func dialSuccessor(of entry: SessionTable.Entry, at now: MonotonicInstant) {
    if let last = entry.lastRenewal, last.duration(to: now) < MeshLimits.renewalRetry { return }
    guard nextRenewal <= now, table.entries.count < SessionLimits.sessions else { return }
    nextRenewal = now.advanced(by: MeshLimits.renewalSpacing)
    table[entry.id]?.lastRenewal = now
    let address = entry.info.isInitiator ? entry.info.remote : entry.info.listening
    effects.append(.transport(.dial(address, .control, expecting: entry.info.peer)))
  }

  /// Ends a session that another has followed, from the side that dialled the follower.
  mutating func retire(
    _ entry: SessionTable.Entry, for follower: SessionTable.Entry, at now: ClockReading
  ) {
    // The answer to an echo on the follower shows that the other side has heard something on it and sends there.
    guard follower.info.isInitiator, let switched = follower.answeredAtInput else { return }
    if let answered = entry.lastAnswered, answered >= switched {
      close(entry.id, entry.isOld ? .renewed : .duplicate, at: now)
    } else if !entry.echoes.contains(where: { $0.atInput >= switched }),
      entry.echoes.count < MeshLimits.echoesInFlight
    {
      sendEcho(on: entry.id, timeout: MeshLimits.echoTimeout, at: now.monotonic)
    }
  }

  /// Ends the sessions with devices that the log made members and makes none any more: their certificate has fallen
  /// with the admin who signed it, and a handshake would refuse them now.
  mutating func endSessionsOfFormerMembers(at now: ClockReading) {
    for entry in table.entries {
      if household.view.isMember(entry.info.peer) {
        table[entry.id]?.wasMember = true
      } else if entry.wasMember {
        close(entry.id, .revoked, at: now)
      }
    }
  }
}
