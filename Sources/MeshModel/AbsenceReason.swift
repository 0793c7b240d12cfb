/// Why a device is not in the mesh as this device sees it; the raw values are stable and documented.
package enum AbsenceReason: String, Hashable, Sendable, CaseIterable {
  /// Nothing has been heard of it and no address of it is known.
  case neverHeard = "never-heard"
  /// Its addresses are known, and none has been tried yet.
  case notTried = "not-tried"
  /// Nothing answers at any of its addresses.
  case noAnswer = "no-answer"
  /// Its machine answers, but Hearth does not run there or a firewall rejects the port.
  case refused = "refused"
  /// The TCP connection stands, but the handshake did not finish in time.
  case handshakeTimeout = "handshake-timeout"
  /// Who answered could not prove that it is of this household.
  case handshakeFailed = "handshake-failed"
  /// Who answered is another device than the one looked for.
  case otherDevice = "other-device"
  /// It has been removed from the household, for ever.
  case revoked = "revoked"
  /// This device has been removed from the household.
  case selfRevoked = "self-revoked"
  /// Its network key is older than all that are kept; it must be invited again.
  case staleKey = "stale-key"
  /// It speaks only older wire versions.
  case tooOld = "too-old"
  /// It speaks only newer wire versions.
  case tooNew = "too-new"
  /// Two running devices have its identity.
  case clone = "clone"
  /// It was in and does not answer any more.
  case unreachable = "unreachable"
  /// It said that it goes to sleep.
  case asleep = "asleep"
  /// It said that it leaves.
  case left = "left"

  /// What the person can do about it, in one line.
  package var nextStep: String {
    switch self {
    case .neverHeard, .notTried: "start it, run 'hearth up' there, and check that both are on one network"
    case .noAnswer: "check that it is on and on this network; 'hearth doctor' there tells about its firewall"
    case .refused: "run 'hearth up' there; if it runs, open its TCP and UDP port in the firewall"
    case .handshakeTimeout: "the path loses packets or the device is overloaded; 'hearth doctor' measures it"
    case .handshakeFailed: "if it is yours, run 'hearth invite' here and 'hearth join CODE' there"
    case .otherDevice: "its address belongs to another device now; nothing to do, it is looked for elsewhere"
    case .revoked: "it stays out; to admit the machine again, give it a new identity and invite it"
    case .selfRevoked: "this device was removed; 'hearth leave', then join again with a new invitation"
    case .staleKey: "it was away too long; run 'hearth invite' here and 'hearth join CODE' there"
    case .tooOld: "update Hearth there"
    case .tooNew: "update Hearth here"
    case .clone: "a disk was copied; run 'hearth leave' on one of the two and join it again"
    case .unreachable: "it comes back by itself when it is on and on this network"
    case .asleep: "wake it; it comes back by itself"
    case .left: "run 'hearth up' there"
    }
  }
}
